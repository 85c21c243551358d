"""Reads the first row that each new session sends, in one query for sessions that start together.

Sessions wait until Redis has acknowledged their subscription, in one task for all that share the
acknowledgement; then in a queue. One task reads their rows, up to five hundred a query; those that
arrive meanwhile are read next. There are no retries: if the database is down, the resync delivers
the row once it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from paidup.db.bulk import KEYS_PER_QUERY, ROWS_PER_TURN
from paidup.db.connection import OUTAGES
from paidup.domain.messages import encode
from paidup.realtime.current_rows import TOPICS, read_current
from paidup.realtime.hub import Hub, Topic
from paidup.runtime.tasks import cancel_tasks
from paidup.web.websocket.session import WebSocketSession

log = structlog.get_logger(__name__)

GATHER_S = 0.005
"""Delay before each query but the first, so that sessions accumulate. The first is made at once."""


class Snapshots:
    """Batches the reads of first rows."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._subscribing: dict[asyncio.Future[None], list[WebSocketSession]] = {}
        self._waiting: dict[Topic[Any, Any], list[WebSocketSession]] = {topic: [] for topic in TOPICS}
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = False

    def subscribe(self, session: WebSocketSession) -> None:
        """Subscribe the session, await the acknowledgement, then read its row and offer it."""
        ack = self._hub.register(session.topic, session.key, session)
        if ack is None:
            self._enqueue([session])
        elif (subscribing := self._subscribing.get(ack)) is not None:
            subscribing.append(session)
        else:
            self._subscribing[ack] = [session]
            self._start(self._after(ack), "subscribing")

    async def close(self) -> None:
        await cancel_tasks(*self._tasks, again_after_s=0.1)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _after(self, ack: asyncio.Future[None]) -> None:
        try:
            await self._hub.acknowledged(ack)
        finally:
            sessions = self._subscribing.pop(ack)
        self._enqueue(sessions)

    def _enqueue(self, sessions: list[WebSocketSession]) -> None:
        for session in sessions:
            if not session.ended:
                self._waiting[session.topic].append(session)
        if not self._reading:
            self._reading = True
            self._start(self._read_all(), "snapshots")

    async def _read_all(self) -> None:
        first = True
        try:
            while any(self._waiting.values()):
                if not first:
                    await asyncio.sleep(GATHER_S)
                first = False
                for topic, waiting in self._waiting.items():
                    sessions, waiting[:KEYS_PER_QUERY] = waiting[:KEYS_PER_QUERY], []
                    if sessions:
                        await self._read(topic, sessions)
        finally:
            self._reading = False

    async def _read(self, topic: Topic[Any, Any], sessions: list[WebSocketSession]) -> None:
        by_key: dict[Any, list[WebSocketSession]] = {}
        for session in sessions:
            by_key.setdefault(session.key, []).append(session)
        try:
            for number, (key, message) in enumerate(await read_current(topic, by_key), start=1):
                if number % ROWS_PER_TURN == 0:
                    await asyncio.sleep(0)  # half a thousand frames take milliseconds
                frame = encode(message)
                for session in by_key[key]:
                    session.offer(message, frame)
        except OUTAGES as error:
            log.warning("snapshots_failed", sockets=len(sessions), error=str(error))
        except Exception:  # a row that cannot be read must not keep the others waiting
            log.exception("snapshots_failed", sockets=len(sessions))
