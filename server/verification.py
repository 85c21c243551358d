"""Verification: ask Stripe about one invoice, once, however many ask us.

Owns the lease that coalesces (a column of the invoice's row, so it holds across processes and
without Redis), and the schedule for an invoice that somebody watches: at once, and while the
answer is "not yet" again after 0.5, 1, 2, 4, 8 s and so on. Refuses to credit: what Stripe
says goes to `settlement.py` like everything else.
"""

from __future__ import annotations

import asyncio
import random
import time
from datetime import timedelta

import structlog
from tortoise.expressions import F, Q

from server.clock import now
from server.core.decisions import TERMINAL
from server.core.facts import Facts, Road
from server.core.messages import Stage
from server.core.pace import watched_delay_s
from server.core.stripe_shapes import Invoice as StripeInvoice
from server.database import storage_errors
from server.errors import PaidupError, StorageUnavailable, StripeError, StripeUnavailable
from server.hub import Hub
from server.models import Invoice
from server.prices import PriceBook
from server.settlement import Outcome, Settled, Settlement
from server.statuses import read_status
from server.stripe_gateway import StripeGateway
from server.timeline import Timeline, What

log = structlog.get_logger(__name__)

LEASE_S = 5.0
"""How long an asker that died keeps others from asking."""
REST_S = 0.4
"""How long an answer of "not yet" counts as fresh."""


class _Watch:
    __slots__ = ("attempt", "invoice", "task", "timer", "watchers")

    def __init__(self, invoice: str) -> None:
        self.invoice = invoice
        self.watchers = 1
        self.attempt = 0
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None


class Verification:
    def __init__(
        self, gateway: StripeGateway, settlement: Settlement, prices: PriceBook, hub: Hub, timeline: Timeline
    ) -> None:
        self._gateway = gateway
        self._settlement = settlement
        self._prices = prices
        self._hub = hub
        self._timeline = timeline
        self._watches: dict[str, _Watch] = {}

    # For those who wait

    def watch(self, invoice: str) -> None:
        """Somebody watches: verify now, and again until it is over or nobody does."""
        watch = self._watches.get(invoice)
        if watch is None:
            self._watches[invoice] = watch = _Watch(invoice)
        else:
            watch.watchers += 1
            watch.attempt = 0  # paced anew for whoever comes, or many tabs would put off the next question
        self._start(watch)

    def unwatch(self, invoice: str) -> None:
        watch = self._watches[invoice]
        watch.watchers -= 1
        if watch.watchers == 0:
            del self._watches[invoice]
            if watch.timer is not None:
                watch.timer.cancel()
            # A verification under way is let run: the customer may have closed the tab, not the payment.

    def hurry(self, invoice: str) -> None:
        """A watcher says that something may have happened: verify now, and pace anew."""
        watch = self._watches.get(invoice)
        if watch is not None:
            watch.attempt = 0
            self._start(watch)

    def asking(self, invoice: str) -> bool:
        """Whether this process is asking Stripe about the invoice right now."""
        watch = self._watches.get(invoice)
        return watch is not None and watch.task is not None

    async def close(self) -> None:
        """Give up what is under way; the leases run out by themselves."""
        tasks = []
        for watch in self._watches.values():
            if watch.timer is not None:
                watch.timer.cancel()
            if watch.task is not None:
                watch.task.cancel()
                tasks.append(watch.task)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, watch: _Watch) -> None:
        if watch.task is None:
            if watch.timer is not None:
                watch.timer.cancel()
                watch.timer = None
            watch.task = asyncio.create_task(self._run(watch), name=f"verify-{watch.invoice}")

    async def _run(self, watch: _Watch) -> None:
        try:
            over = await self._settled(watch.invoice) or await self._nothing_left(watch.invoice)
        finally:
            watch.task = None
        if over or self._watches.get(watch.invoice) is not watch:
            return
        delay = watched_delay_s(watch.attempt, random.random())  # noqa: S311
        watch.attempt += 1
        watch.timer = asyncio.get_running_loop().call_later(delay, self._start, watch)

    async def _settled(self, invoice: str) -> bool:
        try:
            settled = await self.verify(invoice)
            return settled is not None and settled.status is not None and settled.status.terminal
        except (StripeUnavailable, StorageUnavailable) as error:
            log.info("verification_postponed", invoice=invoice, error=str(error))
        except PaidupError as error:
            log.warning("verification_failed", invoice=invoice, error=str(error))
        return False

    async def _nothing_left(self, invoice: str) -> bool:
        """Whether there is nothing more to ask; where there is, the screens go back to their stage."""
        try:
            with storage_errors():
                status = await read_status(invoice)
        except StorageUnavailable:
            return False
        if status is None:
            return False  # its row is not committed yet (S04), and may come while somebody watches
        if not status.terminal:
            self._hub.tell_stage(invoice, status.stage)
        return status.terminal

    # For everybody

    async def verify(
        self, invoice: str, road: Road = Road.VERIFICATION, patience_s: float | None = None
    ) -> Settled | None:
        """Ask Stripe about `invoice` and settle what it says.

        None where it is over already, or where somebody else is asking or just did. Raises
        StripeUnavailable, StripeRefused, StorageUnavailable.
        """
        if not await self._lease(invoice):
            return None
        try:
            self._hub.tell_stage(invoice, Stage.VERIFYING)
            self._timeline.note(invoice, What.VERIFICATION_ASKED, road=road)
            began = time.monotonic()
            shape = await self._gateway.read_invoice(invoice, patience_s)
            facts = shape.facts()
            self._timeline.note(
                invoice,
                What.VERIFICATION_ANSWERED,
                road=road,
                took_ms=round((time.monotonic() - began) * 1000, 1),
                invoice_status=shape.status,
                payments=[payment.status for payment in facts.payments],
            )
            return await self.settle(facts, road)
        finally:
            await self._rest(invoice)

    async def read(
        self, invoice: str, road: Road, account_id: int | None = None
    ) -> tuple[Settled, StripeInvoice]:
        """Read an invoice that may be unknown here, without a lease, and settle it."""
        shape = await self._gateway.read_invoice(invoice)
        return await self.settle(shape.facts(), road, account_id), shape

    async def settle(self, facts: Facts, road: Road, account_id: int | None = None) -> Settled:
        """Settle, and learn the prices anew where one is unknown."""
        settled = await self._settlement.settle(facts, road, account_id)
        if settled.outcome is Outcome.UNKNOWN_PRICE and await self._learned():
            return await self._settlement.settle(facts, road, account_id)
        return settled

    async def _learned(self) -> bool:
        try:
            return await self._prices.refresh()
        except StripeError as error:
            log.warning("prices_not_refreshed", error=str(error))
            return False

    async def _lease(self, invoice: str) -> bool:
        """Claim the right to ask. True for one claimant at a time, across all processes."""
        at = now()
        free = Q(checking_until__isnull=True) | Q(checking_until__lte=at)
        claim = Invoice.filter(free, id=invoice).exclude(status__in=list(TERMINAL))
        with storage_errors():
            claimed = await claim.update(
                checking_until=at + timedelta(seconds=LEASE_S), checks_made=F("checks_made") + 1
            )
        return bool(claimed)

    async def _rest(self, invoice: str) -> None:
        """Shorten the lease to the time for which an answer counts as fresh."""
        asked = Invoice.filter(id=invoice).exclude(status__in=list(TERMINAL))
        with storage_errors():
            await asked.update(checking_until=now() + timedelta(seconds=REST_S))
