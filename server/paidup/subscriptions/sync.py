"""Keeps the table of subscriptions in line with Stripe, and expires credits when one ends.

An event is a reason to read a subscription again, never the truth: event order is not guaranteed
(S18). A row that differs from the event is marked, and the reconciler reads it. Two reads at the
same time cannot overwrite each other in the wrong order: a row holds the time of its request.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import Enum

import structlog
from tortoise.expressions import Q

from paidup.credits import ledger
from paidup.db.accounts import find_account
from paidup.db.connection import locked, repeatable, storage_errors, write_transaction
from paidup.db.customers import link_customer, owner_of
from paidup.db.installation import installed_at
from paidup.db.instances import new_row
from paidup.db.models import Account, Invoice, Subscription
from paidup.db.unit_of_work import read_by_keys
from paidup.domain.backoff import FIRST_CHECK_S, reconciler_delay_s
from paidup.domain.entitlements import ENDED
from paidup.domain.payment_facts import Source
from paidup.errors import StripeRefused
from paidup.payments import entitlements
from paidup.payments.outcomes import EventOutcome
from paidup.payments.settlement import Settlement
from paidup.payments.verification import Verification
from paidup.runtime.clock import Clock, at_unix
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.rate_limiter import Purpose
from paidup.stripe_api.schemas import StripeInvoice, StripeSubscription, SubscriptionItem
from paidup.subscriptions.announcements import announce_changes, state_of
from paidup.subscriptions.renewals import Renewals

log = structlog.get_logger(__name__)

RENEWAL_GRACE = timedelta(minutes=90)
"""Stripe finalises a renewal an hour after the end of the period: its events should have arrived by then."""
PENDING_CHANGE_PAUSE = timedelta(hours=3)
"""How often a plan change that waits for its payment is read, in case its events are lost."""
MAX_LATE = timedelta(days=3)
"""Stripe finalises a renewal within 72 hours. After that one that is late (a paused one) is read daily."""
SHOWN = (
    *("status", "price", "quantity", "pending_plan", "latest_invoice"),
    *("current_period_end", "cancel_at", "ended_at", "collection_paused"),
)
"""The columns that an event shows; the plan follows from the price."""
BEGUN = (*SHOWN, "plan", "refresh_at")
"""The columns that are written when a subscription begins."""


class News(Enum):
    """What an event of a subscription says."""

    NONE = "nothing that is not known"
    BEGUN = "that it has begun"
    MORE = "something that Stripe is to be asked about, or that is written by itself"


class SubscriptionSync:
    def __init__(
        self,
        gateway: StripeGateway,
        prices: PriceCatalog,
        settlement: Settlement,
        verification: Verification,
        renewals: Renewals,
        clock: Clock,
    ) -> None:
        self._gateway = gateway
        self._prices = prices
        self._settlement = settlement
        self._verification = verification
        self._renewals = renewals
        self._clock = clock

    async def on_event(
        self, subscription: str, shown: StripeSubscription | None, created: bool = False
    ) -> EventOutcome:
        """Schedule a read, unless the event says only what is known. `shown` is the event's object.

        That it was `created` says nothing of a row that was read since, or is due.
        """
        with storage_errors():
            row = await Subscription.get_or_none(id=subscription)
        if row is None:
            return await self._register_unknown(shown) if shown else EventOutcome.IRRELEVANT
        if created and not self._waits(row):
            return EventOutcome.UNCHANGED
        if shown is not None:
            if self._is_unchanged(row, shown):
                return EventOutcome.UNCHANGED
            if self.may_begin(row, shown) and await self._save_begun(row, shown):
                return EventOutcome.UNCHANGED
        with storage_errors():
            await Subscription.filter(id=subscription).update(refresh_at=self._clock())
        return EventOutcome.REFRESH_SCHEDULED

    async def read_known(self, asked: Sequence[tuple[StripeSubscription, bool]]) -> list[News]:
        """What `on_event` would do, of several: what an event shows, and if it was created."""
        with storage_errors():
            rows = {row.id: row for row in await read_by_keys(Subscription, (shown.id for shown, _ in asked))}
        return [self._news(rows.get(shown.id), shown, created) for shown, created in asked]

    def _news(self, row: Subscription | None, shown: StripeSubscription, created: bool) -> News:
        if row is None:
            return News.MORE
        if (created and not self._waits(row)) or self._is_unchanged(row, shown):
            return News.NONE
        return News.BEGUN if self.may_begin(row, shown) else News.MORE

    def _waits(self, row: Subscription) -> bool:
        """Whether it was never read, and is not due either: its first invoice made the row."""
        return row.fetched_at is None and row.refresh_at is not None and row.refresh_at > self._clock()

    def may_begin(self, row: Subscription, shown: StripeSubscription) -> bool:
        """Whether `shown` says that a subscription, read before, has begun. Else it must be read again.

        It can have begun only once: no later state is overwritten, except one whose read is due.
        """
        due = row.refresh_at is None or row.refresh_at <= self._clock()
        first = row.status == "incomplete" and row.fetched_at is not None
        return first and shown.status == "active" and not due

    def begin(self, row: Subscription, shown: StripeSubscription) -> None:
        """Change the columns `BEGUN` of `row` to what is shown. Does not save it."""
        self._update_row(row, shown)
        row.refresh_at = self._next_refresh_at(row)

    @repeatable
    async def _save_begun(self, row: Subscription, shown: StripeSubscription) -> bool:
        begun = Subscription(id=row.id, account_id=row.account_id)
        self.begin(begun, shown)
        values = {name: getattr(begun, name) for name in BEGUN}
        async with write_transaction():
            account = await ledger.lock_account(row.account_id)
            since = account.version
            same = Subscription.filter(id=row.id, status="incomplete", refresh_at=row.refresh_at)
            saved = bool(await same.update(**values))
            announced = saved and await announce_changes(account, state_of(row), begun)
            changed = saved and await entitlements.refresh(account, since)
        if announced or changed:
            await self._settlement.publish_balance(account)
        return saved

    async def _register_unknown(self, shown: StripeSubscription) -> EventOutcome:
        """Register a subscription that was created directly in Stripe, where its account is known."""
        with storage_errors():
            owner = await owner_of(shown.named_account, None, shown.customer)
            account = await Account.get_or_none(id=owner) if owner else None
        if account is None or not await self.is_own(shown, account):
            return EventOutcome.IRRELEVANT
        # Our own checkout is about to save an incomplete one. Where it was made elsewhere, it can wait.
        pause_s = FIRST_CHECK_S if shown.status == "incomplete" else 0
        customer = shown.customer if shown.named_account else None  # else it is the account's already
        await self.register(shown.id, account, customer, self._clock() + timedelta(seconds=pause_s))
        return EventOutcome.REFRESH_SCHEDULED

    @repeatable
    async def register(
        self,
        subscription: str,
        account: Account,
        customer: str | None = None,
        refresh_at: datetime | None = None,
    ) -> None:
        """Make a row for a subscription of this account, to be read soon; remember its Stripe customer.

        `refresh_at`: when to read it, if not now. Checkout gives the time of its own request, whose
        answer it saves next: no read follows.
        """
        at = self._clock()
        async with write_transaction():
            # The account first, like the settlement, which makes the same row with an invoice.
            account = await ledger.lock_account(account.id)
            if customer is not None:
                await link_customer(account.id, customer)
            row = Subscription(id=subscription, account_id=account.id, refresh_at=refresh_at or at)
            await Subscription.bulk_create([row], ignore_conflicts=True)
            await entitlements.refresh(account)
            # Separately: its first invoice may have made the row meanwhile, with a later `refresh_at`.
            # One that an event has made due is kept.
            later = Q(refresh_at__isnull=True) | Q(refresh_at__gt=at)
            await Subscription.filter(later, id=subscription).update(refresh_at=refresh_at or at)

    async def take_up(
        self, current: StripeSubscription, account: Account, requested_at: datetime, imported: bool = False
    ) -> None:
        """Follow a running subscription that Stripe showed, from now on.

        Where it is new here, its latest invoice is credited, unless it was paid before this installation
        began, or it is `imported`: then nothing that was paid before the take-up is. Raises StripeError.
        """
        with storage_errors():
            known = await Subscription.exists(id=current.id)
        if not known:
            past = await self._settle_unless_past(current, account.id, imported)
            async with write_transaction():
                owner = await ledger.lock_account(account.id)
                row = Subscription(id=current.id, account_id=owner.id, paid_elsewhere=past)
                await Subscription.bulk_create([row], ignore_conflicts=True)
                await entitlements.refresh(owner)
            log.info("subscription_taken_up", subscription=current.id, account=account.id, not_credited=past)
        await self.save(current, requested_at)

    async def _settle_unless_past(
        self, current: StripeSubscription, account_id: int | None = None, imported: bool = False
    ) -> str | None:
        """Settle its latest invoice, if that is new here. Its id, if it was paid before this installation.

        A payment whose webhook was lost, or is late, looks like one from before a take-up: only the time
        tells them apart.
        """
        latest = current.latest_invoice_id
        with storage_errors():
            if latest is None or await Invoice.exists(id=latest):
                return None
        shown = current.latest_invoice
        if not isinstance(shown, StripeInvoice) or shown.lines.has_more:
            shown = await self._gateway.read_invoice(latest, purpose=Purpose.REQUEST)
        if shown.status == "paid" and (imported or at_unix(shown.finalized_at) < await installed_at()):
            return latest
        await self._verification.settle(shown.facts(), Source.RECONCILIATION, account_id)
        await self._renewals.on_draft(shown, Source.RECONCILIATION)
        return None

    async def is_own(self, shown: StripeSubscription, account: Account) -> bool:
        """Whether it is this account's and Paidup's, not one to another product of the same customer."""
        with storage_errors():
            if await Subscription.filter(id=shown.id).exclude(account_id=account.id).exists():
                return False
        if shown.named_account == account.external_id:
            return True
        if shown.named_account is None and self.sells_plan(shown):
            return True
        with storage_errors():
            named = await find_account(shown.named_account) if shown.named_account else None
            if named is not None and named.id == account.id:  # it was merged into this account
                return True
            return await Invoice.exists(subscription=shown.id, account_id=account.id)

    def sells_plan(self, shown: StripeSubscription) -> bool:
        return any(self._prices.is_ours(item.price.id, item.price.product) for item in shown.items.data)

    async def read(self, subscription: str, max_wait_s: float | None = None) -> Subscription | None:
        """Read it from Stripe and save that. None where Stripe has none. Raises StripeError."""
        requested_at = self._clock()
        try:
            current = await self._gateway.read_subscription(subscription, max_wait_s)
        except StripeRefused as error:
            if not error.is_missing:
                raise
            log.warning("subscription_missing", subscription=subscription)
            with storage_errors():
                await Subscription.filter(id=subscription).update(refresh_at=None)
            return None
        if not self.sells_plan(current) and not await self._is_known_as_own(current):
            await self._forget(subscription)
            log.info("subscription_not_own", subscription=subscription)
            return None
        # Saved last: where settling fails, it is read again.
        await self._settle_latest_invoice(current)
        return await self.save(current, requested_at)

    @repeatable
    async def save(self, current: StripeSubscription, requested_at: datetime) -> Subscription:
        """Save Stripe's answer to a request made at `requested_at`, unless a later one is saved already."""
        if current.status in ENDED:  # final, however old the answer; and first, in case the process dies here
            await self._settlement.end_subscription(current.id)
        async with write_transaction():
            known = await Subscription.get(id=current.id).only("id", "account_id")
            # The account first, like the settlement.
            account = await ledger.lock_account(known.account_id)
            since = account.version
            row = await locked(Subscription.filter(id=current.id)).get()
            if row.fetched_at is not None and row.fetched_at > requested_at:
                return row
            before = state_of(row)
            # A later event may have scheduled another read while Stripe was answering this one.
            scheduled_since = row.refresh_at is not None and requested_at < row.refresh_at <= self._clock()
            self._update_row(row, current)
            row.fetched_at = requested_at
            if not scheduled_since:
                row.refresh_at = self._next_refresh_at(row)
            await row.save()
            announced = await announce_changes(account, before, row)
            changed = await entitlements.refresh(account, since)
        if announced or changed:
            await self._settlement.publish_balance(account)
        if current.status not in ENDED:
            await self._settlement.update_grace(row)
        return row

    @repeatable
    async def _forget(self, subscription: str) -> None:
        """Delete the row of a subscription to another product."""
        async with write_transaction():
            row = await Subscription.get_or_none(id=subscription)
            if row is None:
                return
            account = await ledger.lock_account(row.account_id)
            await row.delete()
            changed = await entitlements.refresh(account)
        if changed:
            await self._settlement.publish_balance(account)

    async def _settle_latest_invoice(self, current: StripeSubscription) -> None:
        """Settle a renewal of which no event has arrived."""
        with storage_errors():
            if await Subscription.exists(id=current.id, paid_elsewhere=current.latest_invoice_id):
                return
        if past := await self._settle_unless_past(current):
            with storage_errors():
                await Subscription.filter(id=current.id).update(paid_elsewhere=past)

    async def _is_known_as_own(self, current: StripeSubscription) -> bool:
        account = await Account.filter(subscriptions__id=current.id).first()
        return account is not None and await self.is_own(current, account)

    def _update_row(self, row: Subscription, current: StripeSubscription) -> None:
        item, pending = self.item_of(current), self.pending_item_of(current)
        row.status = current.status
        row.cancel_at = at_unix(current.ends_at) if current.ends_at else None
        row.collection_paused = current.pause_collection is not None
        row.ended_at = at_unix(current.ended_at) if current.ended_at else None
        row.latest_invoice = current.latest_invoice_id
        row.pending_plan = self._plan(pending) if pending else None
        row.price, row.plan = item.price.id, self._plan(item)
        row.quantity = 1 if item.quantity is None else item.quantity
        row.current_period_end = at_unix(item.current_period_end) if item.current_period_end else None

    def _is_unchanged(self, row: Subscription, shown: StripeSubscription) -> bool:
        """Whether `shown` has the same values as the row."""
        seen = new_row(Subscription, id=row.id)
        self._update_row(seen, shown)
        return row.fetched_at is not None and all(getattr(row, name) == getattr(seen, name) for name in SHOWN)

    def _next_refresh_at(self, row: Subscription) -> datetime | None:
        if row.status in ENDED:
            return None
        if row.status == "incomplete" or row.current_period_end is None:
            delay_s = reconciler_delay_s((self._clock() - row.created_at).total_seconds())
            return None if delay_s is None else self._clock() + timedelta(seconds=delay_s)
        if row.pending_plan:  # it is paid, replaced, or over within a day
            return self._clock() + PENDING_CHANGE_PAUSE
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

    def plan_of(self, subscription: StripeSubscription) -> str | None:
        """The plan that it sells, where its price is known."""
        return self._plan(self.item_of(subscription))

    def _plan(self, item: SubscriptionItem) -> str | None:
        price = self._prices.get(item.price.id)
        return price.plan if price else None
