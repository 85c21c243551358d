"""Backoff and retry schedules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paidup.domain.backoff import (
    MAX_EVENT_ATTEMPTS,
    event_retry_s,
    reconciler_delay_s,
    refused_pause_s,
    watched_delay_s,
)

HOUR_S = 3600.0
VOIDED_AFTER_S = 23 * HOUR_S


def test_a_watched_invoice_is_verified_soon_and_then_less_often() -> None:
    assert [watched_delay_s(attempt, 0.5) for attempt in range(8)] == [0.5, 1, 2, 4, 8, 15, 30, 30]


@given(st.integers(0, 1000), st.floats(0, 1, exclude_max=True))
def test_chance_varies_a_delay_by_a_tenth_either_way(attempt: int, chance: float) -> None:
    middle = watched_delay_s(attempt, 0.5)
    assert 0.899 * middle <= watched_delay_s(attempt, chance) <= 1.101 * middle


@pytest.mark.parametrize(
    ("age_s", "delay_s"),
    [
        *[(0, 20), (40, 20), (100, 50), (7200, 3600), (80_000, 3600)],
        *[(25 * HOUR_S, 24 * HOUR_S), (1400 * HOUR_S, 24 * HOUR_S), (1500 * HOUR_S, None)],
    ],
)
def test_the_reconciler_waits_half_the_age_within_bounds(age_s: float, delay_s: float | None) -> None:
    assert reconciler_delay_s(age_s) == delay_s


def test_an_unpaid_invoice_costs_about_forty_calls_until_stripe_voids_it() -> None:
    assert 25 <= calls_until(VOIDED_AFTER_S) <= 40


def test_an_invoice_that_nobody_pays_costs_about_a_hundred_calls_in_all() -> None:
    """S55: it was hourly, for ever."""
    assert calls_until(10 * 365 * 24 * HOUR_S) <= 105


def calls_until(end_s: float) -> int:
    """How often an invoice that stays open is verified until it has this age."""
    age_s, calls = 0.0, 0
    while age_s < end_s and (delay_s := reconciler_delay_s(age_s)) is not None:
        age_s += delay_s
        calls += 1
    return calls


def test_an_event_is_retried_for_hours_and_then_given_to_operators() -> None:
    """S15: parked, not lost: an operator sees it."""
    delays = [event_retry_s(attempts) for attempts in range(MAX_EVENT_ATTEMPTS + 1)]
    waits = [delay for delay in delays if delay is not None]
    assert waits == sorted(waits)
    assert waits[0] == 5
    assert sum(waits) > 2 * HOUR_S
    assert delays[-1] is None


def test_the_pause_after_a_429_doubles_within_bounds_and_follows_retry_after() -> None:
    """S34."""
    pauses = [0.0]
    for _ in range(7):
        pauses.append(refused_pause_s(pauses[-1], 0, 0))
    assert pauses[1:] == [1, 2, 4, 8, 16, 30, 30]
    assert refused_pause_s(1, 7, 0) == 7
    assert refused_pause_s(0, 3600, 0.999) < 40
