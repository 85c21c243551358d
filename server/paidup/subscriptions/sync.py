"""Keeps the table of subscriptions in line with Stripe, and expires credits when one ends.

An event is a reason to read a subscription again, never the truth: event order is not guaranteed
(S18). A row that differs from the event is marked, and the reconciler reads it. Two reads at the
same time cannot overwrite each other in the wrong order: a row holds the time of its request.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog
from tortoise.expressions import Q

from paidup.credits import ledger
from paidup.db.connection import locked, storage_errors, write_transaction
from paidup.db.models import Account, Invoice, Subscription
from paidup.domain.backoff import reconciler_delay_s
from paidup.domain.catalog import StripePrice
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import Source
from paidup.errors import StripeRefused
from paidup.payments.outcomes import EventOutcome
from paidup.payments.settlement import Settlement
from paidup.payments.verification import Verification
from paidup.runtime.clock import Clock, at_unix
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.schemas import ACCOUNT_METADATA_KEY, StripeSubscription, SubscriptionItem

log = structlog.get_logger(__name__)

ENDED = frozenset({"canceled", "incomplete_expired"})
RENEWAL_GRACE = timedelta(minutes=90)
"""Stripe finalises a renewal an hour after the end of the period: its events should have arrived by then."""
MAX_LATE = timedelta(days=3)
"""Stripe finalises a renewal within 72 hours. After that one that is late (a paused one) is read daily."""


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

    async def on_event(self, subscription: str, shown: StripeSubscription | None) -> EventOutcome:
        """Schedule a read, unless the event says only what is known. `shown` is the event's object."""
        with storage_errors():
            row = await Subscription.get_or_none(id=subscription)
        if row is None:
            return await self._register_unknown(shown) if shown else EventOutcome.IRRELEVANT
        if shown is not None and self._is_unchanged(row, shown):
            return EventOutcome.UNCHANGED
        with storage_errors():
            await Subscription.filter(id=subscription).update(refresh_at=self._clock())
        return EventOutcome.REFRESH_SCHEDULED

    async def _register_unknown(self, shown: StripeSubscription) -> EventOutcome:
        """Register a subscription that was created directly in Stripe, where its account is known."""
        named = (shown.metadata or {}).get(ACCOUNT_METADATA_KEY, "")
        with storage_errors():
            # In one query: a settlement may link the account to the customer between two.
            by_name = Q(external_id=named, stripe_customer__isnull=True)
            found = await Account.filter(Q(stripe_customer=shown.customer) | by_name)
        account = next((one for one in found if one.stripe_customer), found[0] if found else None)
        if account is None:
            return EventOutcome.IRRELEVANT
        await self.register(shown.id, account)
        return EventOutcome.REFRESH_SCHEDULED

    async def register(self, subscription: str, account: Account) -> None:
        """Make a row for a subscription of this account, to be read soon."""
        async with write_transaction():
            # The account first, like the settlement, which makes the same row with an invoice.
            await ledger.lock_account(account.id)
            row = Subscription(id=subscription, account_id=account.id)
            await Subscription.bulk_create([row], ignore_conflicts=True)
            # Separately: its first invoice may have made the row meanwhile, with a later `refresh_at`.
            await Subscription.filter(id=subscription).update(refresh_at=self._clock())

    async def read(self, subscription: str, max_wait_s: float | None = None) -> Subscription | None:
        """Read it from Stripe and save that. None where Stripe has none. Raises StripeError."""
        requested_at = self._clock()
        try:
            current = await self._gateway.read_subscription(subscription, max_wait_s)
        except StripeRefused as error:
            if error.code != "resource_missing":
                raise
            log.warning("subscription_missing", subscription=subscription)
            with storage_errors():
                await Subscription.filter(id=subscription).update(refresh_at=None)
            return None
        # Saved last: where settling fails, it is read again.
        await self._settle_latest_invoice(current)
        return await self.save(current, requested_at)

    async def save(self, current: StripeSubscription, requested_at: datetime) -> Subscription:
        """Save Stripe's answer to a request made at `requested_at`, unless a later one is saved already."""
        if current.status in ENDED:  # final, however old the answer; and first, in case the process dies here
            await self._settlement.end_subscription(current.id)
        async with write_transaction():
            row = await locked(Subscription.filter(id=current.id)).get()
            if row.fetched_at is not None and row.fetched_at > requested_at:
                return row
            # A later event may have scheduled another read while Stripe was answering this one.
            scheduled_since = row.refresh_at is not None and requested_at < row.refresh_at <= self._clock()
            self._update_row(row, current)
            row.fetched_at = requested_at
            if not scheduled_since:
                row.refresh_at = self._next_refresh_at(row)
            await row.save()
        return row

    async def _settle_latest_invoice(self, current: StripeSubscription) -> None:
        """Settle a renewal of which no event has arrived."""
        latest = current.latest_invoice_id
        if latest and not await Invoice.exists(id=latest):
            await self._verification.read(latest, Source.RECONCILIATION)

    def _update_row(self, row: Subscription, current: StripeSubscription) -> None:
        item, pending = self.item_of(current), self.pending_item_of(current)
        row.status = current.status
        row.cancel_at = at_unix(current.cancel_at) if current.cancel_at else None
        row.ended_at = at_unix(current.ended_at) if current.ended_at else None
        row.latest_invoice = current.latest_invoice_id
        row.pending_plan = self._plan(pending) if pending else None
        row.price, row.plan = item.price.id, self._plan(item)
        row.quantity = 1 if item.quantity is None else item.quantity
        row.current_period_end = at_unix(item.current_period_end) if item.current_period_end else None

    def _is_unchanged(self, row: Subscription, shown: StripeSubscription) -> bool:
        """Whether `shown` has the same values as the row."""
        seen = Subscription(id=row.id)
        self._update_row(seen, shown)
        names = (
            *("status", "price", "quantity", "pending_plan", "latest_invoice"),
            *("current_period_end", "cancel_at", "ended_at"),
        )
        return row.fetched_at is not None and all(getattr(row, name) == getattr(seen, name) for name in names)

    def _next_refresh_at(self, row: Subscription) -> datetime | None:
        if row.status in ENDED:
            return None
        if row.status == "incomplete" or row.current_period_end is None:
            delay_s = reconciler_delay_s((self._clock() - row.created_at).total_seconds())
            return None if delay_s is None else self._clock() + timedelta(seconds=delay_s)
        # Never in the past: a late renewal would be read again without pause.
        late = self._clock() - row.current_period_end > MAX_LATE
        pause = timedelta(days=1) if late else timedelta(hours=1)
        return max(row.current_period_end + RENEWAL_GRACE, self._clock() + pause)

    def item_of(self, subscription: StripeSubscription) -> SubscriptionItem:
        """The item that sells a plan; the first one where none does. Each subscription has one."""
        return self._item(subscription.items.data) or subscription.items.data[0]

    def pending_item_of(self, subscription: StripeSubscription) -> SubscriptionItem | None:
        """The item of a plan change that waits for its payment."""
        pending = subscription.pending_update
        items = pending.subscription_items if pending else None
        return self._item(items or [])

    def _item(self, items: list[SubscriptionItem]) -> SubscriptionItem | None:
        return next((item for item in items if item.price.id in self._prices), None)

    def _plan(self, item: SubscriptionItem) -> str | None:
        price = self._prices.get(item.price.id)
        return price.plan if price else None


async def current_subscription(account: Account) -> Subscription | None:
    """The account's subscription as last read: the running one, else the newest."""
    with storage_errors():
        newest = Subscription.filter(account_id=account.id).order_by("-created_at", "-id")
        not_running = ("canceled", "incomplete_expired", "incomplete")
        row = await newest.exclude(status__in=not_running).first() or await newest.first()
    if row is not None and row.status == "incomplete":
        with storage_errors():
            # Not an invoice of zero: whether the subscription is in a trial is read from Stripe.
            settled = Invoice.filter(subscription=row.id, status=InvoiceStatus.ACTIVE)
            paid = await settled.filter(total_minor__gt=0).exists()
        if paid:
            row.status = "active"  # as Stripe will say once it is read
    return row
