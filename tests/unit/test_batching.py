"""Batches: one statement does the work of many, and what fails fails alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from paidup.runtime.batching import AT_ONCE, BackgroundBatcher, BatchExecutor
from tests.support.waiting import wait_until


class Writer:
    """Doubles numbers once it may, and remembers which came together. Never 13."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may = asyncio.Event()

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.batches.append(list(numbers))
        await self.may.wait()
        if 13 in numbers:
            raise ValueError("13")
        return [2 * number for number in numbers]

    async def and_forget(self, numbers: Sequence[int]) -> None:
        await self(numbers)


async def under_way(numbers: Sequence[int], writer: Writer) -> list[asyncio.Task[int]]:
    """Calls of which the first is being written."""
    together = BatchExecutor(writer, max_items=3)
    calls = [asyncio.ensure_future(together(number)) for number in numbers]
    await wait_until(lambda: writer.batches)
    return calls


async def test_what_comes_while_a_batch_is_written_is_written_together_next() -> None:
    """At once where nothing is under way; never more than so many; each is told its own result."""
    writer = Writer()
    together = BatchExecutor(writer, max_items=3)
    first = asyncio.ensure_future(together(1))
    await wait_until(lambda: writer.batches)
    others = [asyncio.ensure_future(together(number)) for number in (2, 3, 4, 5)]
    writer.may.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6, 8, 10]
    assert writer.batches == [[1], [2, 3, 4], [5]]
    assert await together(6) == 12


async def test_what_cannot_be_done_fails_alone() -> None:
    writer = Writer()
    calls = await under_way((1, 13, 2), writer)
    writer.may.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [str(result) for result in results] == ["2", "13", "4"]


async def test_a_caller_who_gives_up_takes_nothing_from_the_others() -> None:
    writer = Writer()
    calls = await under_way((1, 2, 3), writer)
    calls[0].cancel()
    writer.may.set()
    assert await asyncio.gather(*calls[1:]) == [4, 6]
    with pytest.raises(asyncio.CancelledError):
        await calls[0]


async def test_a_batch_that_takes_long_keeps_no_others_waiting() -> None:
    """Those that wait already, and those that come later; but not without bound."""
    hanging, may = list[int](), asyncio.Event()

    async def double(numbers: Sequence[int]) -> list[int]:
        if min(numbers) <= AT_ONCE:
            hanging.extend(numbers)
            await may.wait()
        return [2 * number for number in numbers]

    together = BatchExecutor(double, beside_after_s=0.01)
    calls = [asyncio.ensure_future(together(1))]
    await wait_until(lambda: hanging)
    assert list(await asyncio.gather(together(10), together(11))) == [20, 22]
    assert await together(12) == 24
    for number in range(2, AT_ONCE + 1):
        calls.append(asyncio.ensure_future(together(number)))
        await wait_until(lambda: len(hanging) == len(calls))
    await wait_until(lambda: len(together._late) == AT_ONCE)
    calls.append(asyncio.ensure_future(together(13)))
    await asyncio.sleep(0)
    assert len(together._tasks) == AT_ONCE
    may.set()
    assert await asyncio.gather(*calls) == [2, 4, 6, 8, 26]
    await wait_until(lambda: not together._tasks | together._late)


async def test_later_writes_what_came_meanwhile_and_goes_on_after_a_failure() -> None:
    writer = Writer()
    writer.may.set()
    later = BackgroundBatcher(writer.and_forget, every_s=0.01)
    later.add(1)
    later.add(13)
    await wait_until(lambda: writer.batches)
    later.add(2)
    await wait_until(lambda: len(writer.batches) == 2)
    assert writer.batches == [[1, 13], [2]]
