"""A verification waits for the settlement of its invoice by an event, within a limit. Time is virtual."""

from __future__ import annotations

import asyncio

from paidup.payments.settlements_under_way import WITHIN_S, SettlementsUnderWay
from tests.support.virtual_time import run


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _settle(under_way: SettlementsUnderWay, seconds: float) -> None:
    with under_way.settling("in_1"):
        await asyncio.sleep(seconds)


def test_a_settlement_is_waited_for_until_it_ends_or_fails() -> None:
    async def main() -> None:
        under_way = SettlementsUnderWay()

        async def settle() -> None:
            with under_way.settling("in_1"):
                await asyncio.sleep(0.1)
                raise OSError("the database is away")

        settling = asyncio.create_task(settle())
        await asyncio.sleep(0)
        assert not await under_way.ended("in_2")
        assert _now() < 0.1
        there_was_one, _ = await asyncio.gather(under_way.ended("in_1"), settling, return_exceptions=True)
        assert there_was_one
        assert not await under_way.ended("in_1"), "it would be kept for good"
        assert 0.1 <= _now() < WITHIN_S

    run(main())


def test_of_two_settlements_at_once_the_later_one_is_waited_for() -> None:
    async def main() -> None:
        under_way = SettlementsUnderWay()

        both = [asyncio.create_task(_settle(under_way, seconds)) for seconds in (0.1, 0.2)]
        await asyncio.sleep(0.15)
        await under_way.ended("in_1")
        assert all(settling.done() for settling in both)

    run(main())


def test_of_two_settlements_at_once_the_first_may_end_last() -> None:
    async def main() -> None:
        under_way = SettlementsUnderWay()

        await asyncio.gather(_settle(under_way, 0.2), _settle(under_way, 0.1))
        await under_way.ended("in_1")
        assert 0.2 <= _now() < WITHIN_S

    run(main())


def test_a_settlement_that_does_not_end_is_not_waited_for_long() -> None:
    async def main() -> None:
        under_way = SettlementsUnderWay()
        with under_way.settling("in_1"):
            await under_way.ended("in_1")
        assert WITHIN_S <= _now() < 2 * WITHIN_S

    run(main())
