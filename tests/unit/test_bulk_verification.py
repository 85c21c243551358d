"""Crowds: the time in which their invoices were made, cut into parts; and one process at a time."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paidup.clock import now
from paidup.db.models import Watermark
from paidup.errors import StripeUnavailable
from paidup.payments import bulk_verification as crowds
from paidup.payments.bulk_verification import TimeWindow, parts_of, read_parts
from tests.support.waiting import wait_until


@given(st.lists(st.integers(1_700_000_000, 1_700_001_000), max_size=2000))
def test_the_parts_follow_each_other_without_a_gap_and_hold_everybody(created: list[int]) -> None:
    parts = sorted(parts_of(created))
    assert bool(parts) == bool(created)
    if parts:
        assert parts[0].since <= min(created) - crowds.EARLIER_S
        assert [part.until for part in parts] == [*(part.since for part in parts[1:]), None]
        assert all(part.until is None or part.since < part.until for part in parts)


def test_a_crowd_is_cut_into_parts_of_a_page_or_less() -> None:
    assert len(parts_of(range(10_000))) == 100
    assert len(parts_of(range(10 * crowds.AT_ONCE))) == crowds.AT_ONCE


def test_the_most_crowded_parts_come_first() -> None:
    """A few who wait for long make long parts; they are asked about one by one meanwhile."""
    parts = parts_of([*range(0, 1000, 100), *range(1000, 1100)])
    assert parts[-1].since == -crowds.EARLIER_S
    assert all(part.since >= 800 for part in parts[:-2])


async def test_what_goes_wrong_with_one_part_keeps_none_from_the_others() -> None:
    read: list[TimeWindow] = []

    async def take(part: TimeWindow) -> int:
        if part.since == 2:
            raise StripeUnavailable("rate limited")
        read.append(part)
        return 10

    assert await read_parts([TimeWindow(number, number + 1) for number in range(5)], take) == 40
    assert sorted(part.since for part in read) == [0, 1, 3, 4]


async def passes(settled: int = 0) -> bool:
    """Whether a pass was made, now."""
    made = []

    async def work() -> int:
        made.append(now())
        return settled

    await crowds.run_exclusively(work)
    return bool(made)


@pytest.mark.usefixtures("database")
async def test_one_process_at_a_time_goes_through_the_list() -> None:
    async def work() -> int:
        assert not await passes()
        return 1

    await crowds.run_exclusively(work)
    assert not await passes(), "it rests first"
    await wait_until(passes, within=3)


@pytest.mark.usefixtures("database")
async def test_after_a_pass_that_settled_nobody_the_rest_is_longer() -> None:
    """They wait before they have paid: the list of those who have is no help."""
    assert await passes(settled=0)
    claim = await Watermark.get(name=crowds.CLAIM_NAME)
    assert claim.moved_at > now() + crowds.LONG_REST / 2


@pytest.mark.usefixtures("database")
async def test_a_pass_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its claim runs out, so that there are never two."""
    monkeypatch.setattr(crowds, "PASS_S", 0.05)

    async def work() -> int:
        await asyncio.Event().wait()
        return 0

    await crowds.run_exclusively(work)
    await wait_until(passes, within=3)


@pytest.mark.usefixtures("database")
async def test_a_process_that_died_in_a_pass_keeps_the_others_from_one_for_a_while() -> None:
    """S13: its claim runs out."""
    claim = await Watermark.create(name=crowds.CLAIM_NAME, value="", moved_at=now() + timedelta(seconds=5))
    assert not await passes()
    claim.moved_at = now()
    await claim.save()
    assert await passes()
