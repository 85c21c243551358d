"""Subscriptions: what each is now, as Stripe says it, and what becomes of credits when one ends.

Owns the table of subscriptions. An event about one is a reason to look, never the truth: events
come in any order (S18). What differs from the row is marked, and the reconciler reads it; two
who read at once cannot write in the wrong order, since a row says when its answer was asked
for. Refuses to sell and to change one: `purchases.py` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog
from tortoise.expressions import Q

from paidup.clock import Clock, at_unix
from paidup.credits import ledger
from paidup.db.connection import locked, storage_errors, write_transaction
from paidup.db.models import Account, Invoice, Subscription
from paidup.domain.backoff import reconciler_delay_s
from paidup.domain.catalog import StripePrice
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import Source
from paidup.errors import StripeRefused
from paidup.payments.settlement import Settlement
from paidup.payments.verification import Verification
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.schemas import ACCOUNT_METADATA_KEY, SubscriptionItem
from paidup.stripe_api.schemas import Subscription as StripeSubscription

log = structlog.get_logger(__name__)

OVER = frozenset({"canceled", "incomplete_expired"})
AFTER_ITS_PERIOD = timedelta(minutes=90)
"""Stripe finalises a renewal an hour after the period's end: by then somebody should have told us."""


class SubscriptionSync:
    def __init__(
        self,
        gateway: StripeGateway,
        prices: Mapping[str, StripePrice],
        settlement: Settlement,
        verification: Verification,
        clock: Clock,
    ) -> None:
        self._gateway = gateway
        self._prices = prices
        self._settlement = settlement
        self._verification = verification
        self._clock = clock

    async def heard(self, subscription: str, shape: StripeSubscription | None) -> str:
        """An event spoke of it: look soon, unless it says what is known. `shape` is what it showed."""
        with storage_errors():
            row = await Subscription.get_or_none(id=subscription)
        if row is None:
            return await self._meet(shape) if shape else "not ours"
        if shape is not None and self._says(row, shape):
            return "as known"
        with storage_errors():
            await Subscription.filter(id=subscription).update(refresh_at=self._clock())
        return "to be read"

    async def _meet(self, shape: StripeSubscription) -> str:
        """One that was made past us."""
        named = (shape.metadata or {}).get(ACCOUNT_METADATA_KEY, "")
        with storage_errors():
            # In one query: a settlement may tie the account to the customer between two.
            named_so = Q(external_id=named, stripe_customer__isnull=True)
            found = await Account.filter(Q(stripe_customer=shape.customer) | named_so)
        account = next((one for one in found if one.stripe_customer), found[0] if found else None)
        if account is None:
            return "not ours"
        await self.meet(shape.id, account)
        return "to be read"

    async def meet(self, subscription: str, account: Account) -> None:
        """A row for one that is this account's, to be read soon."""
        async with write_transaction():
            # The account first, as the settlement does, which makes the same row with an invoice.
            await ledger.lock_account(account.id)
            row = Subscription(id=subscription, account_id=account.id)
            await Subscription.bulk_create([row], ignore_conflicts=True)
            # By itself: its first invoice may have brought the row meanwhile, to be read some time later.
            await Subscription.filter(id=subscription).update(refresh_at=self._clock())

    async def read(self, subscription: str, max_wait_s: float | None = None) -> Subscription | None:
        """Ask Stripe what it is now, and write that down. None where Stripe has none."""
        asked_at = self._clock()
        try:
            shape = await self._gateway.read_subscription(subscription, max_wait_s)
        except StripeRefused as error:
            if error.code != "resource_missing":
                raise
            log.warning("subscription_missing", subscription=subscription)
            with storage_errors():
                await Subscription.filter(id=subscription).update(refresh_at=None)
            return None
        # Written down last: where this fails, it is read again.
        await self._latest_invoice(shape)
        return await self.learn(shape, asked_at)

    async def learn(self, shape: StripeSubscription, asked_at: datetime) -> Subscription:
        """Write down what Stripe answered to a question of `asked_at`, unless something later is known."""
        if shape.status in OVER:  # for good, however old the answer; and before anybody may die here
            await self._settlement.end_subscription(shape.id)
        async with write_transaction():
            row = await locked(Subscription.filter(id=shape.id)).get()
            if row.fetched_at is not None and row.fetched_at > asked_at:
                return row
            # A later event may have asked for another look while Stripe was answering this one.
            heard_since = row.refresh_at is not None and asked_at < row.refresh_at <= self._clock()
            self._take(row, shape)
            row.fetched_at = asked_at
            if not heard_since:
                row.refresh_at = self._next_look(row)
            await row.save()
        return row

    async def _latest_invoice(self, shape: StripeSubscription) -> None:
        """A renewal that nobody told us of."""
        latest = shape.latest_invoice_id
        if latest and not await Invoice.exists(id=latest):
            await self._verification.read(latest, Source.RECONCILIATION)

    def _take(self, row: Subscription, shape: StripeSubscription) -> None:
        item, pending = self.item_of(shape), self.pending_item_of(shape)
        row.status = shape.status
        row.cancel_at = at_unix(shape.cancel_at) if shape.cancel_at else None
        row.ended_at = at_unix(shape.ended_at) if shape.ended_at else None
        row.latest_invoice = shape.latest_invoice_id
        row.pending_plan = self._plan(pending) if pending else None
        row.price, row.plan = item.price.id, self._plan(item)
        row.quantity = 1 if item.quantity is None else item.quantity
        row.current_period_end = at_unix(item.current_period_end) if item.current_period_end else None

    def _says(self, row: Subscription, shape: StripeSubscription) -> bool:
        """Whether `shape` shows nothing but what the row has."""
        seen = Subscription(id=row.id)
        self._take(seen, shape)
        names = (
            *("status", "price", "quantity", "pending_plan", "latest_invoice"),
            *("current_period_end", "cancel_at", "ended_at"),
        )
        return row.fetched_at is not None and all(getattr(row, name) == getattr(seen, name) for name in names)

    def _next_look(self, row: Subscription) -> datetime | None:
        if row.status in OVER:
            return None
        if row.status == "incomplete" or row.current_period_end is None:
            age_s = (self._clock() - row.created_at).total_seconds()
            return self._clock() + timedelta(seconds=reconciler_delay_s(age_s))
        # Never in the past: a renewal that is late would be asked about without end.
        return max(row.current_period_end + AFTER_ITS_PERIOD, self._clock() + timedelta(hours=1))

    def item_of(self, shape: StripeSubscription) -> SubscriptionItem:
        """The item that sells a plan; the first one where none does. Each subscription has one."""
        return self._item(shape.items.data) or shape.items.data[0]

    def pending_item_of(self, shape: StripeSubscription) -> SubscriptionItem | None:
        """The same of a change that waits for its payment."""
        items = shape.pending_update.subscription_items if shape.pending_update else None
        return self._item(items or [])

    def _item(self, items: list[SubscriptionItem]) -> SubscriptionItem | None:
        return next((item for item in items if item.price.id in self._prices), None)

    def _plan(self, item: SubscriptionItem) -> str | None:
        price = self._prices.get(item.price.id)
        return price.plan if price else None


async def current_subscription(account: Account) -> Subscription | None:
    """The account's subscription as it was last seen: the one that runs, else the newest."""
    with storage_errors():
        newest = Subscription.filter(account_id=account.id).order_by("-created_at", "-id")
        not_running = ("canceled", "incomplete_expired", "incomplete")
        row = await newest.exclude(status__in=not_running).first() or await newest.first()
    if row is not None and row.status == "incomplete":
        with storage_errors():
            # A trial's invoice of nothing says less: whether it is one, Stripe is asked.
            settled = Invoice.filter(subscription=row.id, status=InvoiceStatus.ACTIVE)
            paid = await settled.filter(total_minor__gt=0).exists()
        if paid:
            row.status = "active"  # which Stripe says as well, once it is asked
    return row
