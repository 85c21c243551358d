"""Reads the first row that each new session sends, in one query for sessions that start together.

Sessions that have not been sent their row yet wait in a queue. One task reads them, up to five
hundred a query; those that arrive meanwhile are read next. There are no retries: if the database is
down, the resync delivers the row once it is back.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from paidup.db.bulk import KEYS_PER_QUERY
from paidup.db.connection import OUTAGES
from paidup.domain.messages import encode
from paidup.realtime.current_rows import TOPICS, read_current
from paidup.realtime.hub import Topic
from paidup.runtime.tasks import cancel_tasks
from paidup.web.websocket.session import WebSocketSession

log = structlog.get_logger(__name__)

GATHER_S = 0.005
"""Delay before each query but the first, so that sessions accumulate. The first is made at once."""


class Snapshots:
    """Batches the reads of first rows."""

    def __init__(self) -> None:
        self._waiting: dict[Topic[Any, Any], list[WebSocketSession]] = {topic: [] for topic in TOPICS}
        self._reader: asyncio.Task[None] | None = None

    def offer_to(self, session: WebSocketSession) -> None:
        """Read the session's row and offer it. Call after the subscription is acknowledged."""
        self._waiting[session.topic].append(session)
        if self._reader is None:
            self._reader = asyncio.create_task(self._read_all(), name="snapshots")

    async def close(self) -> None:
        if self._reader is not None:
            await cancel_tasks(self._reader, again_after_s=0.1)

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
            self._reader = None

    async def _read(self, topic: Topic[Any, Any], sessions: list[WebSocketSession]) -> None:
        by_key: dict[Any, list[WebSocketSession]] = {}
        for session in sessions:
            by_key.setdefault(session.key, []).append(session)
        try:
            for key, message in await read_current(topic, by_key):
                frame = encode(message)
                for session in by_key[key]:
                    session.offer(message, frame)
        except OUTAGES as error:
            log.warning("snapshots_failed", sockets=len(sessions), error=str(error))
