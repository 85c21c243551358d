"""Backoff and retry schedules as pure functions, in seconds."""

from __future__ import annotations

WATCHED_DELAYS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Delays between verifications of an invoice with an open WebSocket; the last one repeats."""


WATCHED_DEBIT_S = 600.0
"""The least delay while a bank debit is under way: the webhook tells its outcome, days later."""


def watched_delay_s(attempt: int, chance: float) -> float:
    """The delay after verification `attempt` (from 0). `chance` in [0, 1) varies it by 10 % either way."""
    return WATCHED_DELAYS_S[min(attempt, len(WATCHED_DELAYS_S) - 1)] * (0.9 + 0.2 * chance)


FIRST_CHECK_S = 20.0
"""The delay before the reconciler verifies a new invoice."""
DAY_S = 24 * 3600.0
MAX_CHECKED_AGE_S = 62 * DAY_S
"""Stripe retries a renewal for two months at most; an older payment is found by its event."""


PROCESSING_CHECK_S = DAY_S / 2
"""How often a bank debit is verified that is under way, in case its events are lost."""


def reconciler_delay_s(age_s: float, processing: bool = False, takes_days: bool = False) -> float | None:
    """The delay before the reconciler verifies an open invoice of this age again; None for never.

    Half its age, within bounds: about forty calls on the first day, one a day after that, none after
    two months. https://docs.stripe.com/billing/revenue-recovery/smart-retries

    `processing`: a payment is under way, which is never given up. `takes_days`: it is a bank debit.
    """
    if takes_days:
        return PROCESSING_CHECK_S
    if age_s >= MAX_CHECKED_AGE_S and not processing:
        return None
    if age_s >= DAY_S:
        return DAY_S
    return min(max(FIRST_CHECK_S, age_s / 2), 3600.0)


MAX_EVENT_ATTEMPTS = 12


def event_retry_s(attempts: int) -> float | None:
    """The delay before a stored event is retried, or None after the last attempt."""
    return None if attempts >= MAX_EVENT_ATTEMPTS else min(5.0 * 2**attempts, 3600.0)


MAX_REFUSED_PAUSE_S = 30.0


def refused_pause_s(last_s: float, asked_s: float, chance: float) -> float:
    """The pause after a 429: twice the last one (0: none), at least what Stripe asks for, within bounds.

    `chance` in [0, 1) adds up to a fifth, so that processes do not resume together.
    """
    return min(max(1.0, 2 * last_s, asked_s), MAX_REFUSED_PAUSE_S) * (1.0 + 0.2 * chance)
