"""Verifies many waiting invoices at once, from Stripe's list of paid invoices: a hundred in one call.

One process at a time does so for all. The time in which the waiting invoices were created is cut
into windows, which are read side by side. While nobody pays, its newest page comes first, and is all
that is read where it is the only one. No watermark is kept: each pass looks at everything that is
still open, so an invoice that Stripe lists late is found by the next pass.

Invoices are listed, not events: events are rendered in the account's default API version, whichever
version the webhook endpoint has, and one of another version would have to be read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

import msgspec
import structlog

from paidup.db.bulk import select_by_keys
from paidup.db.connection import OUTAGES, storage_errors
from paidup.db.models import Watermark
from paidup.db.watermarks import claim_watermark
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import Source
from paidup.errors import PaidupError, StorageUnavailable
from paidup.payments.invoice_rows import CLOCK_LEEWAY_S
from paidup.payments.timeline import Timeline, TimelineEventType
from paidup.payments.verification import Verification
from paidup.runtime.clock import now
from paidup.stripe_api.checkout_schemas import is_session
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.pagination import pages
from paidup.stripe_api.schemas import ListOf, StripeInvoice

log = structlog.get_logger(__name__)

CLAIM_NAME = "bulk_verification"
MAX_PASS_S = 20.0
CLAIM = timedelta(seconds=30)
"""How long a process that died during a pass keeps the others from one. Longer than a pass."""
PAUSE = timedelta(seconds=0.5)
"""Between two passes, of any process."""
LONG_PAUSE = timedelta(seconds=5)
"""After a pass that settled nothing: the waiting customers have not paid."""
MAX_CONCURRENT_WINDOWS = 12
"""Fewer would leave slots of the rate limiter unused, since Stripe takes half a second for a page."""
MAX_CONCURRENT_SETTLEMENTS = 8
"""The webhooks need connections to the database as well."""
PAGE_SIZE = 100
FEWEST_IN_WINDOW = 10
"""Of the waiting invoices: a page for each few would be as many reads as verifying them one by one."""
MAX_PAGES_PER_WINDOW = 20
RECENT = timedelta(hours=1)
"""Older invoices are verified one by one: they are many pages away in the list."""
FAILURES: tuple[type[BaseException], ...] = (PaidupError, msgspec.DecodeError, *OUTAGES)
"""What may go wrong in one window without ending the pass."""

_ROWS = "SELECT id, status, created_at FROM invoices WHERE id"


class _Row(msgspec.Struct, array_like=True):
    """The columns of `_ROWS`. Not a model, for speed: each pass reads all waiting invoices."""

    id: str
    status: InvoiceStatus
    created_at: datetime


class TimeWindow(NamedTuple):
    """Invoices created from `since` on and before `until`, Unix seconds; without an end where None."""

    since: int
    until: int | None


ReadWindow = Callable[[TimeWindow], Awaitable[int]]
"""Reads the list of the invoices of one window, page by page, and returns how many it settled."""


@dataclass
class _Pass:
    """What one pass has found."""

    listed: set[str] = field(default_factory=set)
    """Those that wait, and that Stripe's list shows."""
    whole_windows: int = 0
    """Windows that were read to their end."""
    covered: list[str] = field(default_factory=list)


class BulkVerification:
    def __init__(self, gateway: StripeGateway, verification: Verification, timeline: Timeline) -> None:
        self._gateway = gateway
        self._verification = verification
        self._timeline = timeline
        self._settling = asyncio.Semaphore(MAX_CONCURRENT_SETTLEMENTS)
        self._nobody_pays = False
        """Whether the last pass of this process settled nothing."""
        self._paused_until = float("-inf")
        """Until when no process makes a pass, as far as this one knows (the loop's time)."""
        self._created: dict[str, int] = {}
        """When the invoices of the last pass were created, where they were still open (Unix seconds)."""

    def is_due(self) -> bool:
        """Whether a pass may be made, as far as this process knows."""
        return asyncio.get_running_loop().time() >= self._paused_until

    async def check(self, invoices: list[str]) -> Collection[str]:
        """Settle those of the invoices, and of all others that wait, that are paid. Never raises.

        Returns those that were looked for without fail, where nobody has paid: see `CoveredRetries`.
        """
        found = _Pass()
        if self.is_due():
            try:
                await run_exclusively(partial(self._run_pass, found, invoices))
            except StorageUnavailable as error:
                log.warning("bulk_verification_failed", error=str(error))
        return found.covered

    async def _run_pass(self, found: _Pass, invoices: list[str]) -> int:
        settled, all_read, pending = 0, False, dict[str, int]()
        if self._nobody_pays and (pending := await self._pending(invoices)):
            settled, all_read = await self._settle_newest(found, min(pending.values()) - CLOCK_LEEWAY_S)
        if not all_read:
            pending = await pending_invoices(invoices)
            windows = split_into_windows(list(pending.values()))
            settled += await read_windows(windows, partial(self._settle_window, found))
            all_read = found.whole_windows == len(windows)
        self._nobody_pays = not settled
        if self._nobody_pays:
            self._paused_until = asyncio.get_running_loop().time() + LONG_PAUSE.total_seconds()
            if all_read:
                unpaid = (each for each in pending if each not in found.listed)
                found.covered = [each for each in unpaid if not is_session(each)]  # no list shows these
        log.info("bulk_verified", waiting=len(invoices), settled=settled)
        return settled

    async def _pending(self, invoices: list[str]) -> dict[str, int]:
        """As `pending_invoices`, where only rows are read that were not in the last such pass."""
        read = await pending_invoices([each for each in invoices if each not in self._created])
        known = {each: self._created[each] for each in invoices if each in self._created}
        self._created = known | read
        since = (now() - RECENT).timestamp()
        return {each: at for each, at in self._created.items() if at >= since}

    async def _settle_newest(self, found: _Pass, since: int) -> tuple[int, bool]:
        """Settle from one page, instead of one or more for each window. Whether it shows all since then."""
        try:
            page = await self._gateway.list_paid_invoices(since)
            return await self._settle_page(found, page), not page.has_more
        except FAILURES as error:
            log.warning("bulk_window_failed", since=since, error=str(error))
            return 0, False

    async def _settle_window(self, found: _Pass, window: TimeWindow) -> int:
        async def fetch(after: str | None) -> ListOf[StripeInvoice]:
            return await self._gateway.list_paid_invoices(window.since, after, until=window.until)

        settled, has_more = 0, False
        async for page in pages(fetch, MAX_PAGES_PER_WINDOW):
            settled += await self._settle_page(found, page)
            has_more = page.has_more
        found.whole_windows += not has_more
        return settled

    async def _settle_page(self, found: _Pass, page: ListOf[StripeInvoice]) -> int:
        waiting = await pending_invoices([invoice.id for invoice in page.data])
        found.listed.update(waiting)
        return sum([await self._settle(invoice) for invoice in page.data if invoice.id in waiting])

    async def _settle(self, listed: StripeInvoice) -> bool:
        self._timeline.note(
            listed.id,
            TimelineEventType.VERIFICATION_ANSWERED,
            source=Source.VERIFICATION,
            by="list",
            invoice_status=listed.status,
        )
        try:
            async with self._settling:
                return (await self._verification.settle_paid(listed, Source.VERIFICATION)).outcome.done
        except PaidupError as error:
            # A failure of this invoice: the others on the page are still settled.
            log.warning("verification_failed", invoice=listed.id, error=str(error))
            return False


def split_into_windows(created: Sequence[int]) -> list[TimeWindow]:
    """Windows of at most a page each, that cover the given times (Unix seconds), the most crowded first.

    As many as can be read side by side, where there are enough invoices. There is no gap between
    them, so it does not matter that Stripe's times are a little earlier than ours.
    """
    if not created:
        return []
    ordered = sorted(created)
    step = max(FEWEST_IN_WINDOW, min(PAGE_SIZE, len(ordered) // MAX_CONCURRENT_WINDOWS))
    begins = sorted(set(ordered[::step]))
    begins[0] -= CLOCK_LEEWAY_S
    windows = [TimeWindow(*pair) for pair in zip(begins, [*begins[1:], None], strict=True)]
    return sorted(windows, key=lambda window: (window.until or ordered[-1]) - window.since)


async def read_windows(windows: Sequence[TimeWindow], read: ReadWindow) -> int:
    """Read all windows, a few side by side. The failure of one does not stop the others."""
    slots = asyncio.Semaphore(MAX_CONCURRENT_WINDOWS)

    async def read_one(window: TimeWindow) -> int:
        async with slots:
            try:
                return await read(window)
            except FAILURES as error:
                log.warning("bulk_window_failed", since=window.since, error=str(error))
                return 0

    return sum(await asyncio.gather(*(read_one(window) for window in windows)))


async def pending_invoices(invoices: Sequence[str]) -> dict[str, int]:
    """Those of the invoices that are recent and not final, with the times of their rows (Unix seconds)."""
    recent = now() - RECENT
    found: dict[str, int] = {}
    with storage_errors():
        async for cells in select_by_keys(_ROWS, invoices):
            row = msgspec.convert(cells, _Row, strict=False)
            if not row.status.terminal and row.created_at >= recent:
                found[row.id] = int(row.created_at.timestamp())
    return found


async def run_exclusively(run_pass: Callable[[], Awaitable[int]]) -> None:
    """Run a pass, if no other process does or just did. `run_pass` returns how many it settled."""
    at, settled = now(), 0
    with storage_errors():
        claimed = await claim_watermark(CLAIM_NAME, moved_before=at, moved_at=at + CLAIM)
    if not claimed:
        return
    try:
        async with asyncio.timeout(MAX_PASS_S):
            settled = await run_pass()
    except TimeoutError:
        settled = 1  # there is more: the next pass goes on with what is still open
    finally:
        with storage_errors():
            claim = Watermark.filter(name=CLAIM_NAME, moved_at=at + CLAIM)
            await claim.update(moved_at=now() + (PAUSE if settled else LONG_PAUSE))
