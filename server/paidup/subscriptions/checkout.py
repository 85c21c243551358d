"""Checkout: an account, its Stripe customer, and the subscription or invoice that it is about to pay.

One pending payment is one subscription and one PaymentIntent, however often the button is pressed
(S08). No lock is needed: two requests at once send Stripe the same idempotency key and get the same
subscription. The key is rotated once that payment is known here, or once Stripe's answer to it is a
final error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import structlog
from tortoise.exceptions import IntegrityError
from tortoise.expressions import F

from paidup.db.connection import storage_errors
from paidup.db.models import Account, Invoice, Subscription
from paidup.domain.catalog import Interval
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import StatusMessage
from paidup.domain.payment_facts import Source
from paidup.errors import (
    AlreadySubscribed,
    Conflict,
    InvalidInput,
    NotFound,
    PaymentUnderWay,
    StripeError,
    StripeRefused,
    StripeUnavailable,
)
from paidup.payments.outcomes import Outcome
from paidup.payments.verification import Verification
from paidup.runtime.clock import Clock
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.rate_limiter import Purpose
from paidup.stripe_api.schemas import StripeInvoice
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
        clock: Clock,
    ) -> None:
        self._subscriptions = subscriptions
        self._own = own
        self._clock = clock
        self._catalogue = prices.catalogue
        self._prices = prices
        self._gateway = gateway
        self._verification = verification

    async def account(self, external_id: str, stripe_customer: str | None = None) -> Account:
        """The account of a SaaS user, created on first use; linked to `stripe_customer` if it has none."""
        with storage_errors():
            account, _ = await Account.get_or_create(external_id=external_id)
            if stripe_customer and account.stripe_customer is None:
                account = await self._link_customer(account, stripe_customer)
        return account

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
        with storage_errors():
            pending = (
                await Invoice.filter(
                    account_id=account.id, status__in=PENDING, billing_reason="subscription_create"
                )
                .order_by("-created_at")
                .first()
            )
        running = await self._own.running(account)
        if others := [each for each in running if pending is None or each.id != pending.subscription]:
            raise AlreadySubscribed(self._own.described(others))
        if pending is not None:
            same = await self._same(pending, wanted)
            again = await self.resume_pending(pending.id, account, same, partial(self._give_up, pending))
            if again is not None:
                return again
        if running:  # the pending one: its invoice is void, and it runs all the same
            raise AlreadySubscribed(self._own.described(running))
        return await self._subscribe(account, *wanted)

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
        with storage_errors():
            waiting = Invoice.filter(account_id=account.id, status__in=PENDING, price=price)
            pending = await waiting.filter(subscription__isnull=True).order_by("-created_at").first()
        if pending is not None:
            same = pending.amount_due_minor == listed.amount_minor * quantity
            again = await self.resume_pending(pending.id, account, same, partial(self._give_up, pending))
            if again is not None:
                return again
        return await self._invoice(account, price, quantity)

    async def adopt(self, account: Account, invoice_id: str) -> Purchase:
        """Follow an invoice that the SaaS created itself. Raises NotFound where it is not this account's."""
        with storage_errors():
            known = await Invoice.filter(id=invoice_id).exclude(account_id=account.id).exists()
        if known:
            raise NotFound(f"There is no invoice {invoice_id} for this customer.")
        try:
            invoice = await self._gateway.read_invoice(invoice_id, purpose=Purpose.REQUEST)
        except StripeRefused as error:
            if error.code == "resource_missing":
                raise NotFound(f"There is no invoice {invoice_id} for this customer.") from error
            raise
        facts = invoice.facts()
        assert facts.invoice is not None
        named = facts.invoice.account == account.external_id
        if invoice.customer is None or not (named or invoice.customer == account.stripe_customer):
            raise NotFound(f"There is no invoice {invoice_id} for this customer.")
        settled = await self._verification.settle(facts, Source.VERIFICATION, account.id)
        if (
            settled.outcome is Outcome.UNKNOWN_CUSTOMER
        ):  # it names this account, its Stripe customer is another's
            raise NotFound(f"There is no invoice {invoice_id} for this customer.")
        if settled.status is None:
            raise Conflict(f"The invoice cannot be taken up: {settled.reason}.")
        return Purchase(settled.status, secret_of(invoice), created=settled.created)

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
        settled, invoice = await self._verification.read(
            invoice_id, Source.VERIFICATION, account.id, Purpose.REQUEST
        )
        status = settled.status
        if status is None or status.status is InvoiceStatus.VOID:
            return None
        if same or status.status is InvoiceStatus.ACTIVE:
            return Purchase(status, secret_of(invoice), created=False)
        if status.status not in (InvoiceStatus.OPEN, InvoiceStatus.FAILED):
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
        if (refused and not is_void) or (status is not None and status.status is InvoiceStatus.ACTIVE):
            raise PaymentUnderWay(invoice_id)  # paid at this moment
        return None

    async def _give_up(self, pending: Invoice) -> None:
        if pending.subscription is None:
            await self._gateway.void_invoice(pending.id)
        else:  # Stripe voids a first invoice with its subscription
            await self._gateway.cancel_subscription(pending.subscription)

    async def _subscribe(self, account: Account, price: str, quantity: int) -> Purchase:
        async def create(customer: str, key: str) -> StripeInvoice:
            requested_at = self._clock()
            made = await self._gateway.create_subscription(
                customer, price, quantity, account.external_id, f"paidup-subscription-{key}"
            )
            if not isinstance(made.latest_invoice, StripeInvoice):
                raise StripeUnavailable("the new subscription shows no invoice")
            await self._subscriptions.register(made.id, account)
            await self._subscriptions.save(made, requested_at)
            return made.latest_invoice

        return await self._create_fresh(account, price, quantity, create)

    async def _invoice(self, account: Account, price: str, quantity: int) -> Purchase:
        async def create(customer: str, key: str) -> StripeInvoice:
            return await self._gateway.create_invoice(
                customer, price, quantity, account.external_id, f"paidup-top-up-{key}"
            )

        return await self._create_fresh(account, price, quantity, create)

    async def _create_fresh(self, account: Account, price: str, quantity: int, create: Create) -> Purchase:
        customer = await self._customer(account)
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
        key = f"{_digest(account)}-{price}-{quantity}-{number}"
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

    async def _customer(self, account: Account) -> str:
        if account.stripe_customer is not None:
            return account.stripe_customer
        number = account.purchase_number
        key = f"paidup-customer-{_digest(account)}-{number}"
        try:
            made = await self._gateway.create_customer(account.external_id, key)
        except StripeError as error:
            await self.rotate_key_if_final(error, account.id, number)
            raise
        tied = await self._link_customer(account, made)
        assert tied.stripe_customer is not None
        return tied.stripe_customer

    async def _link_customer(self, account: Account, customer: str) -> Account:
        """Link the account to its Stripe customer, unless it was linked meanwhile."""
        with storage_errors():
            try:
                await Account.filter(id=account.id, stripe_customer__isnull=True).update(
                    stripe_customer=customer
                )
            except IntegrityError:
                raise Conflict(f"The Stripe customer {customer} belongs to another account.") from None
            return await Account.get(id=account.id)

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


def _digest(account: Account) -> str:
    """The account in an idempotency key, which holds 255 ASCII characters. Outlives the database."""
    return hashlib.sha256(account.external_id.encode()).hexdigest()[:32]


def secret_of(invoice: StripeInvoice) -> str | None:
    return invoice.confirmation_secret.client_secret if invoice.confirmation_secret else None
