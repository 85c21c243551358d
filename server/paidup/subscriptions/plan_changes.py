"""Changes of a running subscription: another plan, an end at once or with the period, and its undo.

One plan change at a time waits for its payment: the same change requested again is resumed, and
another one replaces it. Stripe applies a change only once it is paid (`pending_if_incomplete`), so
customers keep the plan that they have paid for. The change's invoice is settled like any other.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from paidup.db.connection import storage_errors
from paidup.db.models import Account, Invoice, Subscription
from paidup.domain.catalog import BillingCycle, Interval, Plan, PlanPrice
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import Source
from paidup.errors import (
    AlreadyOnPlan,
    Conflict,
    InvalidInput,
    InvoiceUnpaid,
    NotFound,
    PaymentUnderWay,
    StripeError,
    StripeUnavailable,
)
from paidup.payments.outcomes import Outcome
from paidup.payments.verification import Verification
from paidup.runtime.clock import Clock
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.rate_limiter import Purpose
from paidup.stripe_api.schemas import StripeInvoice, StripeSubscription, SubscriptionItem
from paidup.subscriptions.change_refusals import refusals, refuse_unchangeable
from paidup.subscriptions.checkout import Checkout, Purchase, secret_of
from paidup.subscriptions.own_subscriptions import OwnSubscriptions
from paidup.subscriptions.sync import SubscriptionSync

UNPAID = ("past_due", "unpaid")


class WantedChange(NamedTuple):
    """A change to `price` and `quantity`, from what `item` has. `pending` awaits its payment."""

    running: StripeSubscription
    item: SubscriptionItem
    pending: SubscriptionItem | None
    plan: Plan
    listed: PlanPrice
    price: str
    quantity: int

    def is_of(self, item: SubscriptionItem) -> bool:
        """Whether this item has the price and the quantity already."""
        return (item.price.id, item.quantity or 1) == (self.price, self.quantity)

    def refuse_unchanged(self) -> None:
        """Raises AlreadyOnPlan."""
        if self.is_of(self.item):
            raise AlreadyOnPlan(self.plan.id, self.running.latest_invoice_id)


class PlanChanges:
    def __init__(
        self,
        prices: PriceCatalog,
        gateway: StripeGateway,
        verification: Verification,
        checkout: Checkout,
        subscriptions: SubscriptionSync,
        own: OwnSubscriptions,
        clock: Clock,
    ) -> None:
        self._own = own
        self._catalogue = prices.catalogue
        self._prices = prices
        self._gateway = gateway
        self._verification = verification
        self._checkout = checkout
        self._subscriptions = subscriptions
        self._clock = clock

    async def change(
        self,
        account: Account,
        plan_id: str,
        interval: Interval | None = None,
        quantity: int | None = None,
        subscription: str | None = None,
    ) -> Purchase:
        """The invoice of an upgrade or downgrade, to be paid where something is due.

        Raises UnknownPlan, InvalidInput (quantity), NotFound, NotSubscribed, SeveralSubscriptions,
        AlreadyOnPlan, InvoiceUnpaid, PaymentUnderWay, StripeError.
        """
        wanted = await self.wanted(account, plan_id, interval, quantity, subscription)
        if wanted.pending and wanted.running.latest_invoice_id:
            waiting = wanted.running.latest_invoice_id
            same = wanted.is_of(wanted.pending)
            give_up = partial(self._gateway.void_invoice, waiting)
            again = await self._checkout.resume_pending(waiting, account, same, give_up)
            if again is not None and same:
                return again  # if the other change was paid meanwhile, this one follows it
        else:
            wanted.refuse_unchanged()
        return await self._change(account, wanted)

    async def wanted(
        self,
        account: Account,
        plan_id: str,
        interval: Interval | None,
        quantity: int | None,
        subscription: str | None,
    ) -> WantedChange:
        """The change that is requested, and the subscription as it is now. Raises as `change` does."""
        plan = self._catalogue.plan(plan_id)
        if plan.top_up:
            raise InvalidInput(f"{plan.id} is a top-up, not a plan to subscribe to.")
        running = await self._own.choose(account, subscription)
        refuse_unchangeable(running)
        if running.status in UNPAID and running.latest_invoice_id:
            raise InvoiceUnpaid(running.latest_invoice_id)
        await self._refuse_while_processing(running.id)
        item = self._subscriptions.item_of(running)
        listed = self._listed(plan, interval, item.price.id)
        price, quantity = await self._prices.id_for(listed), quantity or item.quantity or 1
        plan.check_quantity(quantity, listed)
        pending = self._subscriptions.pending_item_of(running)
        return WantedChange(running, item, pending, plan, listed, price, quantity)

    async def _refuse_while_processing(self, subscription: str) -> None:
        """A change would credit a period that a bank debit has not paid yet. Raises PaymentUnderWay."""
        with storage_errors():
            processing = Invoice.filter(subscription=subscription, status=InvoiceStatus.PROCESSING)
            unpaid = await processing.only("id").first()
        if unpaid is not None:
            raise PaymentUnderWay(unpaid.id)

    async def cancel(self, account: Account, at_once: bool, subscription: str | None = None) -> Subscription:
        """End the subscription with its period, or now. One that is named and has ended stays as it is.

        Raises NotFound, NotSubscribed, SeveralSubscriptions, StripeError.
        """
        try:
            running = await self._own.choose(account, subscription)
        except NotFound:
            if at_once and (ended := await self._own.ended(account, subscription)):
                return ended  # by an earlier attempt, whose answer was lost
            raise
        requested_at = self._clock()
        with refusals(running):
            if at_once:
                updated = await self._gateway.cancel_subscription(running.id)
            else:
                updated = await self._gateway.cancel_at_period_end(running.id, True)
        return await self._subscriptions.save(updated, requested_at)

    async def resume(self, account: Account, subscription: str | None = None) -> Subscription:
        """Undo a scheduled end. Raises NotFound, NotSubscribed, SeveralSubscriptions, StripeError."""
        running = await self._own.choose(account, subscription)
        requested_at, updated = self._clock(), running
        with refusals(running):
            # One after the other: Stripe refuses both parameters in one call. With classic billing
            # the first clears both.
            if updated.cancel_at_period_end:
                updated = await self._gateway.cancel_at_period_end(running.id, False)
            if updated.cancel_at is not None:
                updated = await self._gateway.clear_cancel_at(running.id)
        return await self._subscriptions.save(updated, requested_at)

    def _listed(self, plan: Plan, interval: Interval | None, current: str) -> PlanPrice:
        """The price for the requested interval, else for the current one, else the plan's first price."""
        known = self._prices.get(current)
        offered = [price.interval for price in plan.prices]
        if interval is None and known and known.interval in offered:
            interval = known.interval
        return plan.price(interval)

    async def _change(self, account: Account, wanted: WantedChange) -> Purchase:
        running, price, quantity = wanted.running, wanted.price, wanted.quantity
        number, requested_at = account.purchase_number, self._clock()
        key = f"paidup-change-{running.id}-{price}-{quantity}-{number}"
        restart = wanted.plan.change is BillingCycle.RESTART_CYCLE
        with refusals(running):
            try:
                changed = await self._gateway.change_subscription(
                    running.id, wanted.item.id, price, quantity, restart, key
                )
            except StripeError as error:
                await self._checkout.rotate_key_if_final(error, account.id, number)
                raise
        invoice = changed.latest_invoice
        if not isinstance(invoice, StripeInvoice):
            raise StripeUnavailable("the changed subscription shows no invoice")
        await self._subscriptions.save(changed, requested_at)
        settled = await self._verification.settle(invoice.facts(), Source.VERIFICATION, account.id)
        created = settled.created
        if settled.outcome is Outcome.NEEDS_REFETCH or invoice.status == "open":
            # The answer does not say how the attempt went: 3DS required, declined or processing.
            settled, invoice = await self._verification.read(
                invoice.id, Source.VERIFICATION, account.id, Purpose.REQUEST
            )
        await self._checkout.next_purchase(account.id, number)
        if settled.status is None:
            raise Conflict(f"The invoice cannot be taken up: {settled.reason}.")
        return Purchase(settled.status, secret_of(invoice), created)
