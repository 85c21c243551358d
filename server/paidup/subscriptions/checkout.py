"""Checkout: an account, its Stripe customer, and the subscription or invoice that it is about to pay.

One pending payment is one subscription and one PaymentIntent, however often the button is pressed
(S08). No lock is needed: two requests at once send Stripe the same idempotency key and get the same
subscription. The key is rotated once that payment is known here, or once Stripe's answer to it is a
final error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import msgspec
import structlog
from tortoise.expressions import F, Q

from paidup.db.connection import storage_errors
from paidup.db.customers import owner_of
from paidup.db.models import Account, Invoice, Subscription
from paidup.db.own_purchases import of_own_purchases
from paidup.domain.catalog import Interval
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import StatusMessage
from paidup.domain.payment_facts import InvoiceFacts, Source
from paidup.domain.stages import Stage
from paidup.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    PaymentUnderWay,
    StripeError,
    StripeRefused,
    StripeUnavailable,
)
from paidup.payments.invoice_intake import SESSION_PREFIX
from paidup.payments.verification import Verification
from paidup.runtime.clock import Clock
from paidup.stripe_api.checkout_sessions import SUBSCRIPTION
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.rate_limiter import Purpose
from paidup.stripe_api.schemas import StripeInvoice
from paidup.subscriptions.customers import StripeCustomers, digest
from paidup.subscriptions.open_sessions import OpenSessions
from paidup.subscriptions.own_subscriptions import OwnSubscriptions
from paidup.subscriptions.sync import SubscriptionSync

log = structlog.get_logger(__name__)

PENDING = [
    InvoiceStatus.OPEN,
    InvoiceStatus.REQUIRES_ACTION,
    InvoiceStatus.PROCESSING,
    InvoiceStatus.FAILED,
]


class Purchase(msgspec.Struct, frozen=True):
    """What the browser needs to pay. `client_secret` is None where nothing is due."""

    status: StatusMessage
    client_secret: str | None
    created: bool


Create = Callable[[str, str], Awaitable[StripeInvoice]]
"""Creates the invoice to pay, for a customer and an idempotency key."""


class Checkout:
    def __init__(
        self,
        prices: PriceCatalog,
        gateway: StripeGateway,
        verification: Verification,
        subscriptions: SubscriptionSync,
        own: OwnSubscriptions,
        sessions: OpenSessions,
        clock: Clock,
    ) -> None:
        self._sessions = sessions
        self._subscriptions = subscriptions
        self._own = own
        self._clock = clock
        self._catalogue = prices.catalogue
        self._prices = prices
        self._gateway = gateway
        self._verification = verification
        self._customers = StripeCustomers(gateway, clock)

    async def buy(
        self, account: Account, plan_id: str, interval: Interval | None = None, quantity: int = 1
    ) -> Purchase:
        """A subscription to pay, or the same pending one again.

        Raises UnknownPlan, InvalidInput (quantity), AlreadySubscribed, PaymentUnderWay, StripeError.
        """
        plan = self._catalogue.plan(plan_id)
        if plan.top_up:
            raise InvalidInput(f"{plan.id} is a top-up: it is bought by itself.")
        listed = plan.price(interval)
        plan.check_quantity(quantity, listed)
        wanted = (await self._prices.id_for(listed), quantity)
        pending = await self.pending_subscription(account)
        running = await self._own.running(account, of_own_purchases=True)
        if others := [each for each in running if pending is None or each.id != pending.subscription]:
            raise self._own.refused(others, wanted)
        if pending is not None:
            same = await self._same(pending, wanted)
            again = await self.resume_pending(pending.id, account, same, partial(self._give_up, pending))
            if again is not None:
                return again
        # The pending one runs after a bank debit. If its invoice is void and it still does, nothing is sold.
        if running and (running := await self._own.running(account, of_own_purchases=True)):
            raise self._own.refused(running, wanted)
        await self._sessions.close_all(account, SUBSCRIPTION)
        made = await self._subscribe(account, *wanted)
        await self._sessions.close_known(account, SUBSCRIPTION)  # of a request at the same time
        return made

    async def top_up(self, account: Account, plan_id: str, quantity: int = 1) -> Purchase:
        """An invoice for credits bought once, or the same pending one again.

        Raises UnknownPlan, InvalidInput (quantity), PaymentUnderWay, StripeError.
        """
        plan = self._catalogue.plan(plan_id)
        if not plan.top_up:
            raise InvalidInput(f"{plan.id} is a plan to subscribe to, not a top-up.")
        listed = plan.price()
        plan.check_quantity(quantity, listed)
        price = await self._prices.id_for(listed)
        pending = await self.pending_top_up(account, price)
        if pending is not None:
            unit_minor = self._prices[price].unit_amount_in(pending.currency)
            same = unit_minor is not None and pending.amount_due_minor == unit_minor * quantity
            again = await self.resume_pending(pending.id, account, same, partial(self._give_up, pending))
            if again is not None:
                return again
        await self._sessions.close_all(account, plan.id)
        made = await self._invoice(account, price, quantity)
        await self._sessions.close_known(account, plan.id)  # of a request at the same time
        return made

    async def pending_subscription(self, account: Account) -> Invoice | None:
        """The newest first invoice of a subscription that may still be paid, or None."""
        first = Invoice.filter(
            of_own_purchases(account.id),
            account_id=account.id,
            status__in=PENDING,
            billing_reason="subscription_create",
        )
        with storage_errors():
            return await first.order_by("-created_at").first()

    async def pending_top_up(self, account: Account, price: str) -> Invoice | None:
        """The newest invoice for this one-time price that may still be paid, or None.

        A Checkout Session that stands for one is over once its payment has failed: its page is closed.
        """
        payable = ~Q(id__startswith=SESSION_PREFIX) | Q(status=InvoiceStatus.PROCESSING)
        own = of_own_purchases(account.id)
        waiting = Invoice.filter(payable, own, account_id=account.id, status__in=PENDING, price=price)
        with storage_errors():
            return await waiting.filter(subscription__isnull=True).order_by("-created_at").first()

    async def pending(self, account: Account, price: str | None) -> Invoice | None:
        """The pending top-up at this price, or subscription where it is None."""
        if price is None:
            return await self.pending_subscription(account)
        return await self.pending_top_up(account, price)

    async def give_up_pending(self, account: Account, pending: Invoice) -> None:
        """Give up a pending purchase in favour of a Checkout Session.

        Raises PaymentUnderWay where it is paid, or may be at any moment.
        """
        if await self.resume_pending(pending.id, account, False, partial(self._give_up, pending)) is not None:
            raise PaymentUnderWay(pending.id)  # paid at this moment

    async def adopt(self, account: Account, invoice_id: str) -> Purchase:
        """Follow an invoice that the SaaS created itself. Raises NotFound where it is not this account's."""
        with storage_errors():
            known = await Invoice.filter(id=invoice_id).exclude(account_id=account.id).exists()
        if known:
            raise NotFound(f"There is no invoice {invoice_id} for this customer.")
        try:
            invoice = await self._gateway.read_invoice(invoice_id, purpose=Purpose.REQUEST)
        except StripeRefused as error:
            if error.is_missing:
                raise NotFound(f"There is no invoice {invoice_id} for this customer.") from error
            raise
        facts = invoice.facts()
        assert facts.invoice is not None
        if invoice.customer is None or account.id != await self._owner(facts.invoice, invoice.customer):
            raise NotFound(f"There is no invoice {invoice_id} for this customer.")
        settled = await self._verification.settle(facts, Source.VERIFICATION, account.id)
        if settled.status is None:
            raise Conflict(f"The invoice cannot be taken up: {settled.reason}.")
        return Purchase(settled.status, secret_of(invoice), created=settled.created)

    async def _owner(self, invoice: InvoiceFacts, customer: str) -> int | None:
        with storage_errors():
            return await owner_of(invoice.account, invoice.subscription, customer)

    async def _same(self, pending: Invoice, wanted: tuple[str, int]) -> bool:
        """Whether the pending subscription is for this price and quantity."""
        with storage_errors():
            row = await Subscription.get_or_none(id=pending.subscription)
        return row is not None and (row.price, row.quantity) == wanted

    async def resume_pending(
        self, invoice_id: str, account: Account, same: bool, give_up: Callable[[], Awaitable[object]]
    ) -> Purchase | None:
        """The pending payment as it is now; None where it is void, or was cancelled in favour of another.

        Raises PaymentUnderWay where another is requested and this one may be paid at any moment.
        """
        try:
            settled, invoice = await self._verification.read(
                invoice_id, Source.VERIFICATION, account.id, Purpose.REQUEST
            )
        except StripeRefused as error:
            if not await self._is_missing(invoice_id, error):
                raise
            return None
        status = settled.status
        if status is None or status.status is InvoiceStatus.VOID:
            return None
        if not status.credited and await self._is_unpayable(invoice, status.status):
            with suppress(StripeRefused):  # it may be void already, with its subscription
                await give_up()
            return None
        if same or status.credited:
            return Purchase(status, secret_of(invoice), created=False)
        if status.stage not in (Stage.AWAITING_PAYMENT, Stage.FAILED):
            raise PaymentUnderWay(invoice_id)
        refused = False
        try:
            await give_up()  # another purchase was requested, and this one is not paid
        except StripeRefused as error:  # given up by another request, or paid, at this moment
            log.info("pending_payment_not_given_up", invoice=invoice_id, error=str(error))
            refused = True
        settled, _ = await self._verification.read(
            invoice_id, Source.VERIFICATION, account.id, Purpose.REQUEST
        )
        status = settled.status
        is_void = status is not None and status.status is InvoiceStatus.VOID
        if (refused and not is_void) or (status is not None and status.credited):
            raise PaymentUnderWay(invoice_id)  # paid at this moment
        return None

    async def _is_missing(self, invoice_id: str, error: StripeRefused) -> bool:
        """Whether Stripe has deleted this invoice, with its customer, as "delete all test data" does."""
        with storage_errors():
            row = await Invoice.get(id=invoice_id)
            gone = error.is_missing and await self._customers.is_gone(row.customer)
            if gone:
                await self._verification.void_missing(row)
        return gone

    async def _is_unpayable(self, invoice: StripeInvoice, status: InvoiceStatus) -> bool:
        """Whether nobody can pay this invoice, since its customer was deleted."""
        if status not in (InvoiceStatus.OPEN, InvoiceStatus.FAILED) or invoice.customer is None:
            return False
        return await self._customers.is_gone(invoice.customer)

    async def _give_up(self, pending: Invoice) -> None:
        if pending.subscription is not None:
            ended = await self._gateway.cancel_subscription(pending.subscription)
            if ended.status != "canceled":
                return  # it was incomplete: Stripe voids its first invoice with it
        # After a bank debit that failed, the subscription was past due, and its invoice can still be paid.
        await self._gateway.void_invoice(pending.id)

    async def _subscribe(self, account: Account, price: str, quantity: int) -> Purchase:
        async def create(customer: str, key: str) -> StripeInvoice:
            requested_at = self._clock()
            currency = await self.currency(account, customer, price)
            key = f"paidup-subscription-{key}-{currency}"
            made = await self._gateway.create_subscription(
                customer, price, quantity, currency, account.external_id, key
            )
            if not isinstance(made.latest_invoice, StripeInvoice):
                raise StripeUnavailable("the new subscription shows no invoice")
            await self._subscriptions.register(made.id, account, refresh_at=requested_at)
            await self._subscriptions.save(made, requested_at)
            return made.latest_invoice

        return await self._create_fresh(account, price, quantity, create)

    async def _invoice(self, account: Account, price: str, quantity: int) -> Purchase:
        async def create(customer: str, key: str) -> StripeInvoice:
            currency = await self.currency(account, customer, price)
            key = f"paidup-top-up-{key}-{currency}"
            return await self._gateway.one_time_invoices.create(
                customer, price, quantity, currency, account.external_id, key
            )

        return await self._create_fresh(account, price, quantity, create)

    async def currency(self, account: Account, customer: str, price: str) -> str:
        """The currency that the customer pays in, if the price is sold in it; else the price's own."""
        known = self._prices[price]
        with storage_errors():
            paid_by = Invoice.filter(account_id=account.id, customer=customer)
            last = await paid_by.order_by("-created_at").only("id", "currency").first()
        sold = last is not None and known.unit_amount_in(last.currency) is not None
        return last.currency if last is not None and sold else known.currency

    async def _create_fresh(self, account: Account, price: str, quantity: int, create: Create) -> Purchase:
        customer = await self.customer(account)
        try:
            made = await self._create(account, customer, price, quantity, create)
        except StripeRefused as error:
            if not await self._customers.forget_if_gone(customer, error):
                raise
            account = await Account.get(id=account.id)
            customer = await self.customer(account)
            made = await self._create(account, customer, price, quantity, create)
        if made.status.status is InvoiceStatus.VOID:
            # The key belonged to a payment that is void; it has been rotated.
            account = await Account.get(id=account.id)
            made = await self._create(account, customer, price, quantity, create)
        return made

    async def _create(
        self, account: Account, customer: str, price: str, quantity: int, create: Create
    ) -> Purchase:
        number = account.purchase_number
        key = f"{digest(account)}-{price}-{quantity}-{number}"
        try:
            invoice = await create(customer, key)
        except StripeError as error:
            await self.rotate_key_if_final(error, account.id, number)
            raise
        settled = await self._verification.settle(invoice.facts(), Source.VERIFICATION, account.id)
        await self.next_purchase(account.id, number)
        if settled.status is None:
            raise Conflict(f"The invoice cannot be taken up: {settled.reason}.")
        return Purchase(settled.status, secret_of(invoice), created=settled.created)

    async def forget_if_gone(self, customer: str, error: StripeRefused) -> bool:
        """See `StripeCustomers.forget_if_gone`."""
        return await self._customers.forget_if_gone(customer, error)

    async def is_gone(self, customer: str) -> bool:
        """See `StripeCustomers.is_gone`."""
        return await self._customers.is_gone(customer)

    async def customer(self, account: Account) -> str:
        """The customer that the account's purchases use, made at Stripe where it has none."""
        number = account.purchase_number
        try:
            return await self._customers.for_purchase(account)
        except StripeError as error:
            await self.rotate_key_if_final(error, account.id, number)
            raise

    async def rotate_key_if_final(self, error: StripeError, account_id: int, number: int) -> None:
        """Rotate a key whose answer is final, since Stripe would replay that answer for a day."""
        if error.final:
            await self.next_purchase(account_id, number)

    async def next_purchase(self, account_id: int, number: int) -> None:
        """Rotate the idempotency key, once, even if several requests do so at a time."""
        with storage_errors():
            await Account.filter(id=account_id, purchase_number=number).update(
                purchase_number=F("purchase_number") + 1
            )


def secret_of(invoice: StripeInvoice) -> str | None:
    return invoice.confirmation_secret.client_secret if invoice.confirmation_secret else None
