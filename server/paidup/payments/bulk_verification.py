"""Crowds: many wait at once, and a list of a hundred paid invoices answers a hundred questions.

Owns the claim by which one process at a time goes through the list for all, and the cutting of
the time in which the invoices were made into parts that are read side by side. Keeps no
watermark: each pass looks at all that is still open, so what Stripe's list shows late is seen by
the next one. Refuses to settle: pages are handed on.

The list is that of invoices, not that of events: events are rendered in the account's default
API version, whichever the webhook endpoint has, and one of another version has to be read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
import structlog
from tortoise.exceptions import IntegrityError

from paidup.clock import now
from paidup.db.bulk import select_by_keys
from paidup.db.connection import OUTAGES, storage_errors
from paidup.db.models import Watermark
from paidup.domain.decisions import InvoiceStatus
from paidup.errors import PaidupError

log = structlog.get_logger(__name__)
CLAIM_NAME = "crowd"
PASS_S = 20.0
CLAIM = timedelta(seconds=30)
"""How long a process that died in a pass keeps the others from one. Longer than a pass."""
REST = timedelta(seconds=0.5)
"""Between two passes, whoever makes them."""
LONG_REST = timedelta(seconds=5)
"""After a pass that settled nobody: those who wait have not paid."""
AT_ONCE = 12
"""Pages read side by side: one that Stripe takes half a second for would otherwise leave budget unused."""
PAGE = 100
PAGES_A_PART = 20
RECENT = timedelta(hours=1)
"""Whose invoice is older is asked about by itself: the way to it through the list is long."""
EARLIER_S = 60
"""How much earlier Stripe may have made an invoice than its row was made here."""
FAILURES: tuple[type[BaseException], ...] = (PaidupError, msgspec.DecodeError, *OUTAGES)
"""What may go wrong with one part without ending the pass."""


_ROWS = "SELECT id, status, created_at FROM invoices WHERE id"


class _Row(msgspec.Struct, array_like=True):
    """The columns of `_ROWS`. Past the models: all that wait are read in each pass."""

    id: str
    status: InvoiceStatus
    created_at: datetime


class TimeWindow(NamedTuple):
    """Invoices created from `since` on and before `until`, Unix seconds; without an end where None."""

    since: int
    until: int | None


ReadPart = Callable[[TimeWindow], Awaitable[int]]
"""Goes through the list of the invoices of one part, page by page; how many it settled."""


def parts_of(created: Sequence[int]) -> list[TimeWindow]:
    """The time in which the invoices of a crowd were made (Unix seconds), in parts of a page each or less.

    As many as can be read side by side, where there are enough; the most crowded first. Without
    a gap, so it does not matter that Stripe's time of each is a little earlier than ours.
    """
    if not created:
        return []
    ordered = sorted(created)
    begins = sorted(set(ordered[:: max(1, min(PAGE, len(ordered) // AT_ONCE))]))
    begins[0] -= EARLIER_S
    parts = [TimeWindow(*pair) for pair in zip(begins, [*begins[1:], None], strict=True)]
    return sorted(parts, key=lambda part: (part.until or ordered[-1]) - part.since)


async def read_parts(parts: Sequence[TimeWindow], read: ReadPart) -> int:
    """Read all parts, a few side by side. What goes wrong with one keeps none from the others."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(part: TimeWindow) -> int:
        async with places:
            try:
                return await read(part)
            except FAILURES as error:
                log.warning("crowd_part_failed", since=part.since, error=str(error))
                return 0

    return sum(await asyncio.gather(*(one(part) for part in parts)))


async def pending_invoices(invoices: Sequence[str]) -> dict[str, int]:
    """Those of the invoices that are recent and not over, and when their rows were made (Unix seconds)."""
    recent = now() - RECENT
    found: dict[str, int] = {}
    with storage_errors():
        async for cells in select_by_keys(_ROWS, invoices):
            row = msgspec.convert(cells, _Row, strict=False)
            if not row.status.terminal and row.created_at >= recent:
                found[row.id] = int(row.created_at.timestamp())
    return found


async def run_exclusively(work: Callable[[], Awaitable[int]]) -> None:
    """Do `work` if no other process does it or just did. It says how many it settled."""
    at, settled = now(), 0
    with storage_errors():
        free = Watermark.filter(name=CLAIM_NAME, moved_at__lte=at)
        ours = bool(await free.update(moved_at=at + CLAIM)) or await _first(at + CLAIM)
    if not ours:
        return
    try:
        async with asyncio.timeout(PASS_S):
            settled = await work()
    except TimeoutError:
        settled = 1  # there is more: the next pass goes on with what is still open
    finally:
        with storage_errors():
            claim = Watermark.filter(name=CLAIM_NAME, moved_at=at + CLAIM)
            await claim.update(moved_at=now() + (REST if settled else LONG_REST))


async def _first(until: datetime) -> bool:
    if await Watermark.exists(name=CLAIM_NAME):
        return False
    try:
        await Watermark.create(name=CLAIM_NAME, value="", moved_at=until)
    except IntegrityError:
        return False  # somebody else was first this very moment
    return True
