"""Records what happened to each invoice, and when, for `explain` and for the demo's timeline.

A bounded queue, and one task that writes it in batches, so that settling waits for none of it. An
entry may be lost with its process, or dropped when the queue is full (`dropped` counts): no
decision may depend on one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import datetime
from enum import StrEnum
from typing import Any

import structlog

from paidup.db.bulk import insert_many
from paidup.db.connection import OUTAGES
from paidup.db.models import TimelineEntry
from paidup.runtime.clock import now

log = structlog.get_logger(__name__)

QUEUE_LIMIT = 10_000
BATCH = 500
BATCH_EVERY_S = 0.5
"""Where 20 verifications a second make two entries each, twice as often is twice the statements."""


class TimelineEventType(StrEnum):
    CREATED = "created"
    SOCKET_OPENED = "socket_opened"
    SOCKET_LOST = "socket_lost"
    VERIFICATION_ASKED = "verification_asked"
    VERIFICATION_ANSWERED = "verification_answered"
    VERIFICATION_FAILED = "verification_failed"
    WEBHOOK_RECEIVED = "webhook_received"
    NOTIFIED = "notified"
    SETTLED = "settled"
    REFUSED = "refused"
    REVERSED = "reversed"
    PUBLISHED = "published"
    NOT_PUBLISHED = "not_published"
    DELIVERED = "delivered"


_Row = tuple[str, datetime, TimelineEventType, dict[str, Any] | None]
"""A row of the timeline: invoice, at, event_type, detail."""


class Timeline:
    def __init__(self) -> None:
        self.dropped = 0
        self._waiting: deque[_Row] = deque()
        self._added = asyncio.Event()
        self._closing = False
        self._writer: asyncio.Task[None] | None = None

    def note(
        self, invoice: str, event_type: TimelineEventType, at: datetime | None = None, **detail: Any
    ) -> None:
        """Add an entry, at the time `at` or now. Never waits, never raises."""
        if len(self._waiting) >= QUEUE_LIMIT:
            self.dropped += 1
            return
        self._waiting.append((invoice, at or now(), event_type, detail or None))
        self._added.set()

    def open(self) -> None:
        self._writer = asyncio.create_task(self._write_forever(), name="timeline")

    async def close(self) -> None:
        """Write what is queued, and stop. The writer is not cancelled: it would lose its batch."""
        self._closing = True
        self._added.set()
        if self._writer is not None:
            await self._writer
        while self._waiting:
            await self._write_all()

    async def _write_forever(self) -> None:
        while not self._closing:
            await self._added.wait()
            await asyncio.sleep(BATCH_EVERY_S)
            self._added.clear()
            await self._write_all()

    async def _write_all(self) -> None:
        """Write what is queued now. What comes meanwhile is gathered for the next time."""
        count = len(self._waiting)
        for start in range(0, count, BATCH):
            await self._write([self._waiting.popleft() for _ in range(min(BATCH, count - start))])

    async def _write(self, rows: list[_Row]) -> None:
        try:
            await insert_many(TimelineEntry, ("invoice", "at", "event_type", "detail"), rows, durable=False)
        except OUTAGES as error:
            self.dropped += len(rows)
            log.warning("timeline_lost", entries=len(rows), error=str(error))
