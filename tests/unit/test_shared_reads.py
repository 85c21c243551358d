"""Reads by key: one that comes alone is made at once, and those that come together share a statement."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from paidup.db.shared_reads import SharedRead
from paidup.errors import StorageUnavailable
from tests.support.waiting import wait_until


class Rows:
    """The table that is read: each statement is held while `open` is not set."""

    def __init__(self) -> None:
        self.statements: list[list[int]] = []
        self.open = asyncio.Event()
        self.read = SharedRead(self._read, within_s=60.0)

    async def _read(self, keys: Sequence[int]) -> list[str]:
        self.statements.append(list(keys))
        await self.open.wait()
        if -1 in keys:
            raise OSError("the connection is lost")
        return [f"row {key}" for key in keys]


async def test_those_that_come_at_the_same_moment_share_a_statement() -> None:
    rows = Rows()
    rows.open.set()
    assert await asyncio.gather(*map(rows.read, range(16))) == [f"row {key}" for key in range(16)]
    assert await rows.read(16) == "row 16"
    assert [sorted(keys) for keys in rows.statements] == [list(range(16)), [16]]


async def test_those_that_come_while_one_is_under_way_share_the_next_and_do_not_wait_for_it() -> None:
    rows = Rows()
    first = asyncio.create_task(rows.read(1))
    await wait_until(lambda: rows.statements)
    others = asyncio.gather(rows.read(2), rows.read(3))
    await wait_until(lambda: len(rows.statements) == 2)
    rows.open.set()
    assert tuple(await others) == ("row 2", "row 3")
    assert await first == "row 1"
    assert rows.statements == [[1], [2, 3]]


@pytest.mark.parametrize("reading", [False, True])
async def test_one_whose_caller_leaves_keeps_no_other_from_reading(reading: bool) -> None:
    rows = Rows()
    first = asyncio.create_task(rows.read(1))
    await (wait_until(lambda: rows.statements) if reading else asyncio.sleep(0))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    rows.open.set()
    assert await rows.read(2) == "row 2"
    assert rows.statements == [*([[1]] if reading else []), [2]]


async def test_one_that_fails_fails_alone() -> None:
    rows = Rows()
    rows.open.set()
    with pytest.raises(StorageUnavailable):
        await rows.read(-1)
    answers = await asyncio.gather(rows.read(1), rows.read(-1), rows.read(2), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["row 1", "OSError: the connection is lost", "row 2"]
