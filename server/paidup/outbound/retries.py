"""When a delivery that has failed is tried again: over three days, as Standard Webhooks proposes."""

from __future__ import annotations

# https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md (retries)
_HOUR_S = 3600.0
DELAYS_S = (5.0, 300.0, 1800.0, *(hours * _HOUR_S for hours in (2, 5, 10, 14, 20, 24)))
MAX_ATTEMPTS = len(DELAYS_S) + 1
MAX_RETRY_AFTER_S = 24 * _HOUR_S

OPENS_AFTER = 5
"""After so many failures in a row, an endpoint is asked by one delivery at a time, with pauses."""
MAX_PAUSE_S = 60.0


def retry_delay_s(attempts: int, chance: float, retry_after_s: float | None = None) -> float | None:
    """The delay after so many attempts (from 1); None after the last. `chance` in [0, 1) varies it by 20 %.

    An endpoint may ask for a longer one.
    """
    if attempts >= MAX_ATTEMPTS:
        return None
    delay_s = DELAYS_S[max(attempts, 1) - 1] * (0.8 + 0.4 * chance)
    return max(delay_s, min(retry_after_s or 0.0, MAX_RETRY_AFTER_S))


def endpoint_pause_s(failures: int, chance: float) -> float | None:
    """How long nothing is sent to an endpoint after so many failures in a row; None while they are few."""
    if failures < OPENS_AFTER:
        return None
    return float(min(MAX_PAUSE_S, 2.0 ** (failures - OPENS_AFTER + 1))) * (0.8 + 0.4 * chance)
