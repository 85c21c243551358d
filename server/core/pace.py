"""How long to wait: backoffs and schedules, as pure functions. All in seconds."""

from __future__ import annotations

WATCHED_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Between verifications of an invoice that somebody watches; the last one repeats."""


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
