"""Snapshots: the first row of each new session, of many sessions that start together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from paidup.db.bulk import ROWS_PER_TURN
from paidup.domain.messages import BalanceMessage
from paidup.realtime.hub import ACCOUNTS
from paidup.runtime.clock import now
from paidup.web.websocket import snapshots
from paidup.web.websocket.snapshots import Snapshots
from tests.support.waiting import wait_until

SESSIONS = 4 * ROWS_PER_TURN


class Confirmed:
    """A hub in which Redis has confirmed every channel."""

    def register(self, *_: Any) -> None:
        return None


class Session:
    """One that counts in which turn of the event loop it was offered its row."""

    topic = ACCOUNTS
    ended = False

    def __init__(self, key: int, turns: Counter[int], turn: list[int]) -> None:
        self.key = key
        self._turns = turns
        self._turn = turn

    def offer(self, _message: BalanceMessage, _frame: bytes) -> bool:
        self._turns[self._turn[0]] += 1
        return True


async def test_many_first_rows_leave_the_event_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read_current(_: Any, keys: Iterable[int]) -> list[tuple[int, BalanceMessage]]:
        return [(key, BalanceMessage(1, 0, now())) for key in keys]

    async def count_turns() -> None:
        while True:
            await asyncio.sleep(0)
            turn[0] += 1

    monkeypatch.setattr(snapshots, "read_current", read_current)
    turns, turn = Counter[int](), [0]
    reading, hub = asyncio.create_task(count_turns()), Confirmed()
    batch = Snapshots(hub)  # type: ignore[arg-type]
    for key in range(SESSIONS):
        batch.subscribe(Session(key, turns, turn))  # type: ignore[arg-type]
    await wait_until(lambda: turns.total() == SESSIONS)
    reading.cancel()
    await batch.close()
    assert max(turns.values()) <= ROWS_PER_TURN


async def test_a_row_that_cannot_be_read_keeps_no_later_session_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A later release may have written it, during a deploy."""

    async def read_current(_: Any, keys: Iterable[int]) -> list[tuple[int, BalanceMessage]]:
        if 0 in keys:
            batch.subscribe(Session(1, turns, [0]))  # type: ignore[arg-type] # it comes meanwhile
            raise ValueError("not a status of this release")
        return [(key, BalanceMessage(1, 0, now())) for key in keys]

    monkeypatch.setattr(snapshots, "read_current", read_current)
    turns, hub = Counter[int](), Confirmed()
    batch = Snapshots(hub)  # type: ignore[arg-type]
    batch.subscribe(Session(0, turns, [0]))  # type: ignore[arg-type]
    await wait_until(lambda: turns.total() == 1)
    await batch.close()
