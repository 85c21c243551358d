"""How long to wait: backoffs and schedules, as pure functions. All in seconds."""

from __future__ import annotations

WATCHED_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Between verifications of an invoice that somebody watches; the last one repeats."""

DELAYED_AFTER_S = 30.0
"""After so long a wait the screen says that it takes long: the same as in `paidup.js`."""


def watched_delay_s(attempt: int, chance: float) -> float:
    """Before verification `attempt` + 1 (from 0). `chance` in [0, 1) spreads it by a fifth."""
    return WATCHED_DELAYS_S[min(attempt, len(WATCHED_DELAYS_S) - 1)] * (0.9 + 0.2 * chance)


def reconciler_delay_s(age_s: float) -> float:
    """Before the reconciler asks again about an open invoice of this age.

    Half its age: soon at first, then rarer; about thirty calls until Stripe voids it after 23 h.
    """
    return min(max(20.0, age_s / 2), 3600.0)


MAX_EVENT_ATTEMPTS = 12


def event_retry_s(attempts: int) -> float | None:
    """Before a stored event is tried again, or None: parked, for an operator to see."""
    return None if attempts >= MAX_EVENT_ATTEMPTS else min(5.0 * 2**attempts, 3600.0)


MAX_REFUSED_PAUSE_S = 30.0


def refused_pause_s(last_s: float, asked_s: float, chance: float) -> float:
    """After a 429, given the pause before (0: none). Doubles; at least what Stripe asked for, within bounds.

    `chance` in [0, 1) adds up to a fifth, so that processes do not come back together.
    """
    return min(max(1.0, 2 * last_s, asked_s), MAX_REFUSED_PAUSE_S) * (1.0 + 0.2 * chance)
