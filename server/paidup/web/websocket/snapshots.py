"""Snapshots: the rows that sockets begin with, read together for all that connect together.

Owns the queue of lines that have not seen their row yet, and the one reader that takes them,
up to five hundred a query. What arrives while it reads, it reads next: so a crowd costs a few
queries, and who comes alone waits for nobody. Refuses to retry: where the database is away,
the rereader tells the line once it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import structlog

from paidup.db.bulk import READ_AT_ONCE
from paidup.db.connection import OUTAGES
from paidup.domain.messages import encode
from paidup.realtime.hub import ACCOUNTS, INVOICES, Topic
from paidup.realtime.status_queries import read_balances, read_statuses
from paidup.web.websocket.session import WebSocketSession

log = structlog.get_logger(__name__)

GATHER_S = 0.005
"""How long a crowd gathers before the next query. Who comes alone is read at once."""


class Snapshots:
    """The rows of lines that connect together, read together."""

    def __init__(self) -> None:
        self._waiting: dict[Topic[Any, Any], list[WebSocketSession]] = {INVOICES: [], ACCOUNTS: []}
        self._reader: asyncio.Task[None] | None = None

    def offer_to(self, line: WebSocketSession) -> None:
        """Offer `line` its row as it is from now on. The subscription is acknowledged already."""
        self._waiting[line.topic].append(line)
        if self._reader is None:
            self._reader = asyncio.create_task(self._read_all(), name="snapshots")

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _read_all(self) -> None:
        crowd = False
        try:
            while any(self._waiting.values()):
                if crowd:
                    await asyncio.sleep(GATHER_S)
                crowd = True
                for topic, waiting in self._waiting.items():
                    lines, waiting[:READ_AT_ONCE] = waiting[:READ_AT_ONCE], []
                    if lines:
                        await self._read(topic, lines)
        finally:
            self._reader = None

    async def _read(self, topic: Topic[Any, Any], lines: list[WebSocketSession]) -> None:
        by_key: dict[Any, list[WebSocketSession]] = {}
        for line in lines:
            by_key.setdefault(line.key, []).append(line)
        try:
            for key, news in await _rows(topic, by_key):
                frame = encode(news)
                for line in by_key[key]:
                    line.offer(news, frame)
        except OUTAGES as error:
            log.warning("snapshots_failed", sockets=len(lines), error=str(error))


async def _rows(topic: Topic[Any, Any], keys: Iterable[Any]) -> list[tuple[Any, Any]]:
    if topic is INVOICES:
        return [(status.invoice, status) for status in await read_statuses(keys)]
    return await read_balances(keys)
