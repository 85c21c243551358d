"""The timeline: what happened to each invoice, and when. For `explain` and for the race view.

Owns a bounded queue and one task that writes it in batches, so that noting something costs
the road to a credit nothing. Refuses to be relied upon: a note may be lost with its process
or dropped when the queue is full (`dropped` counts), and no decision ever reads one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import datetime
from enum import StrEnum
from typing import Any

import structlog

from paidup.clock import now
from paidup.db.bulk import insert_many
from paidup.db.connection import OUTAGES
from paidup.db.models import TimelineEntry

log = structlog.get_logger(__name__)

QUEUE_LIMIT = 10_000
BATCH = 500
BATCH_EVERY_S = 0.05


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


_Note = tuple[str, datetime, TimelineEventType, dict[str, Any] | None]
"""A row of the timeline: invoice, at, what, detail."""


class Timeline:
    def __init__(self) -> None:
        self.dropped = 0
        self._waiting: deque[_Note] = deque()
        self._noted = asyncio.Event()
        self._closing = False
        self._writer: asyncio.Task[None] | None = None

    def note(self, invoice: str, what: TimelineEventType, at: datetime | None = None, **detail: Any) -> None:
        """Remember that `what` happened, now unless `at` says when. Never waits, never raises."""
        if len(self._waiting) >= QUEUE_LIMIT:
            self.dropped += 1
            return
        self._waiting.append((invoice, at or now(), what, detail or None))
        self._noted.set()

    def open(self) -> None:
        self._writer = asyncio.create_task(self._write_forever(), name="timeline")

    async def close(self) -> None:
        """Write what still waits, and stop. The writer is asked, not cut off: a batch would be lost."""
        self._closing = True
        self._noted.set()
        if self._writer is not None:
            await self._writer
        await self._write_all()

    async def _write_forever(self) -> None:
        while not self._closing:
            await self._noted.wait()
            await asyncio.sleep(BATCH_EVERY_S)
            self._noted.clear()
            await self._write_all()

    async def _write_all(self) -> None:
        while self._waiting:
            await self._write([self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))])

    async def _write(self, notes: list[_Note]) -> None:
        try:
            await insert_many(TimelineEntry, ("invoice", "at", "event_type", "detail"), notes)
        except OUTAGES as error:
            self.dropped += len(notes)
            log.warning("timeline_lost", entries=len(notes), error=str(error))
