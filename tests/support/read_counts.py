"""Counts the reads that a server makes of Stripe: of one payment, and in a day without any."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import patch

from paidup.db.models import Invoice, Subscription, Watermark
from paidup.reconciliation import list_scanner, list_sweeps
from paidup.reconciliation.list_sweeps import ListSweeps
from paidup.runtime.clock import now
from tests.support.paidup import Customer, status_with
from tests.support.stripe_sandbox import StripeSide
from tests.support.subscription_lifecycle import Life
from tests.support.waiting import wait_until

STEP = timedelta(minutes=10)
"""Of the simulated clock; each pace of a scan at rest is a multiple of it."""


async def reads_of(stripe: StripeSide, act: Callable[[], Awaitable[Any]]) -> int:
    """How often Stripe is read while `act` runs."""
    before = await count_reads(stripe)
    await act()
    return await count_reads(stripe) - before


async def count_reads(stripe: StripeSide) -> int:
    """All reads with the secret key since the sandbox's counts were reset."""
    counted = (await stripe.look("calls"))["secret"]
    return sum(number for endpoint, number in counted.items() if endpoint.startswith("GET "))


async def activate(life: Life, customer: Customer, *, pay_first: bool = False) -> None:
    """Buy and pay with an open page, until every event is handled and nothing is due.

    An open page is verified at once, which may be before Stripe has the payment, unless that is made first.
    """
    purchase = await customer.buy()
    if pay_first:
        await life.stripe.confirm(purchase["client_secret"])
    async with customer.watch(purchase) as socket:
        if not pay_first:
            await life.stripe.confirm(purchase["client_secret"])
        await status_with(socket, status="active")
    await settle_down(life)


async def renew(life: Life) -> None:
    """A month passes: Stripe renews, and all that the events call for is done."""
    life.clock.ahead += timedelta(days=32)
    await life.stripe.control("clock", {"advance_seconds": 32 * 24 * 3600})
    await settle_down(life)


async def settle_down(life: Life) -> None:
    """Until every event is handled, and what is due for the reconciler is done."""
    await life.calm()
    due = life.paidup.services.reconciler.due

    async def nothing_due() -> bool:
        await due.subscriptions()
        await due.invoices()
        waiting = Subscription.filter(refresh_at__lte=life.clock())
        return not await waiting.exists() and not await Invoice.exists(next_check_at__lte=now())

    await wait_until(nothing_due)


async def a_day_at_rest(lists: ListSweeps, step: timedelta = STEP) -> None:
    """What the scans of Stripe's lists do in 24 hours, on a clock of their own, begun after all scans."""
    last = await Watermark.all().order_by("-moved_at").first()
    start = max(now(), last.moved_at if last else now()) + timedelta(days=1)
    clock = SimulatedClock(start)
    with ExitStack() as stack:
        for module in (list_scanner, list_sweeps):
            stack.enter_context(patch.object(module, "now", clock))
        while clock.at < start + timedelta(days=1):
            await lists.undelivered_events()
            await lists.paid_invoices()
            await lists.reversals()
            await lists.leftover_drafts()
            clock.at += step


class SimulatedClock:
    """A clock that moves only when it is told to."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at
