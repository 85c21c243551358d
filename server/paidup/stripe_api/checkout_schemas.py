"""Checkout Sessions as Stripe shows them, and the facts of those that were paid without an invoice.

Stripe expands four levels at most, so a session that is read shows its invoice with the invoice's
payments, but not their intents. Amounts are in the currency of the price, whichever currency the
customer was shown (`presentment_details`).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from paidup.domain.payment_facts import PaymentFacts
from paidup.stripe_api.schemas import (
    ACCOUNT_METADATA_KEY,
    DiscountAmount,
    InvoicePayment,
    ItemPrice,
    Line,
    ListOf,
    ObjectId,
    Payment,
    PaymentIntent,
    Period,
    PriceDetails,
    Pricing,
    StatusTransitions,
    StripeInvoice,
)

SESSION_PREFIX = "cs_"
OPEN = "open"
COMPLETE = "complete"
EXPIRED = "expired"
PAID = frozenset({"paid", "no_payment_required"})
"""The payment statuses with which nothing is left to pay:
https://docs.stripe.com/api/checkout/sessions/object#checkout_session_object-payment_status"""
PAYABLE = frozenset({"requires_payment_method", "requires_confirmation", "canceled"})
"""The statuses of an intent with which no payment is under way."""
ONE_TIME = "manual"
"""The billing reason of an invoice for a one-time price, and of a session that stands for one."""


class SessionLine(msgspec.Struct, frozen=True):
    """A line item. `amount_subtotal` is before discounts and exclusive taxes."""

    id: str
    amount_subtotal: int
    currency: str
    amount_discount: int = 0
    quantity: int | None = None
    price: ItemPrice | None = None

    def as_invoice_line(self, at: int) -> Line:
        """A one-time price has no period: it begins and ends when it is bought."""
        price = self.price
        return Line(
            id=self.id,
            amount=self.amount_subtotal,
            period=Period(at, at),
            currency=self.currency,
            quantity=self.quantity,
            discount_amounts=[DiscountAmount(self.amount_discount)],
            pricing=Pricing(PriceDetails(price.id, price.product)) if price else None,
        )


class InvoiceCreation(msgspec.Struct, frozen=True):
    """Whether Stripe makes an invoice once a one-time payment has succeeded, and not before:
    https://docs.stripe.com/payments/checkout/post-payment-invoices
    """

    enabled: bool


class CustomerDetails(msgspec.Struct, frozen=True):
    """What the customer entered. Shown to nobody, and not kept."""

    email: str | None = None


class StripeCheckoutSession(msgspec.Struct, frozen=True):
    id: str
    mode: str
    payment_status: str
    created: int
    expires_at: int
    livemode: bool = False
    status: str | None = None
    currency: str | None = None
    amount_total: int | None = None
    customer: str | ObjectId | None = None
    client_reference_id: str | None = None
    metadata: dict[str, str] | None = None
    ui_mode: str | None = None
    url: str | None = None
    client_secret: str | None = None
    return_url: str | None = None
    success_url: str | None = None
    payment_link: str | ObjectId | None = None
    invoice_creation: InvoiceCreation | None = None
    customer_details: CustomerDetails | None = None
    customer_email: str | None = None
    invoice: str | StripeInvoice | None = None
    payment_intent: str | PaymentIntent | None = None
    subscription: str | ObjectId | None = None
    line_items: ListOf[SessionLine] | None = None

    @property
    def complete(self) -> bool:
        return self.status == COMPLETE

    @property
    def paid(self) -> bool:
        """Whether it was completed and nothing is left to pay."""
        return self.complete and self.payment_status in PAID

    @property
    def email(self) -> str | None:
        """The address that the customer entered, or that the page was made for."""
        return (self.customer_details and self.customer_details.email) or self.customer_email

    @property
    def customer_id(self) -> str | None:
        return id_of(self.customer)

    @property
    def invoice_id(self) -> str | None:
        return id_of(self.invoice)

    @property
    def subscription_id(self) -> str | None:
        return id_of(self.subscription)

    @property
    def intent_id(self) -> str | None:
        """Its PaymentIntent, in payment mode. A subscription's is its invoice's."""
        own = id_of(self.payment_intent)
        return own or (self.invoice.intent_id if isinstance(self.invoice, StripeInvoice) else None)

    @property
    def account(self) -> str | None:
        """The account that its metadata names, or its invoice's where that was expanded."""
        return self.invoice_account or (self.metadata or {}).get(ACCOUNT_METADATA_KEY)

    @property
    def invoice_account(self) -> str | None:
        """The account that the metadata of its invoice names; its own, where it will have no invoice."""
        if isinstance(self.invoice, StripeInvoice):
            return self.invoice.account
        stands_for_itself = self.has_no_invoice and not self._makes_invoice
        return (self.metadata or {}).get(ACCOUNT_METADATA_KEY) if stands_for_itself else None

    @property
    def reference(self) -> str | None:
        """Whom it names: in metadata, or else in `client_reference_id`."""
        return self.account or self.client_reference_id or None

    @property
    def _makes_invoice(self) -> bool:
        return self.invoice_creation is not None and self.invoice_creation.enabled

    @property
    def has_no_invoice(self) -> bool:
        """Whether it is itself what is paid: a one-time payment of which Stripe has made no invoice.

        Where it will make one, it does so at the payment. Until then a bank debit that is under way has none.
        """
        if self.mode != "payment" or self.invoice is not None:
            return False
        return not self._makes_invoice or (self.complete and not self.paid)

    def as_invoice(self) -> StripeInvoice:
        """As an invoice of the session's id, for a session that has no invoice."""
        total = self.amount_total or 0
        lines = self.line_items or ListOf(data=[], has_more=True)
        return StripeInvoice(
            id=self.id,
            status=self._invoice_status(),
            customer=self.customer_id,
            currency=self.currency or "",
            amount_due=total,
            amount_paid=total if self.paid else 0,
            amount_remaining=0 if self.paid else total,
            total=total,
            created=self.created,
            status_transitions=StatusTransitions(self.created),
            billing_reason=ONE_TIME,
            lines=ListOf([line.as_invoice_line(self.created) for line in lines.data], lines.has_more),
            payments=ListOf(self._payments()),
            metadata=self.metadata,
        )

    def _invoice_status(self) -> str:
        if self.paid:
            return "paid"
        if self.status == EXPIRED:
            return "void"
        intent = self.payment_intent
        over = self.complete and isinstance(intent, PaymentIntent) and intent.status in PAYABLE
        return "uncollectible" if over else "open"  # its page is closed: nobody can pay it any more

    def _payments(self) -> list[InvoicePayment]:
        if self.payment_intent is None:
            return []
        paid = Payment("payment_intent", self.payment_intent)
        return [InvoicePayment(self.id, self.id, self.payment_status, paid, self.created)]

    def facts(self) -> PaymentFacts:
        """The facts of `as_invoice`, or of the invoice where it was expanded."""
        shown = self.invoice if isinstance(self.invoice, StripeInvoice) else self.as_invoice()
        facts = shown.facts()
        assert facts.invoice is not None
        return replace(facts, invoice=replace(facts.invoice, checkout=self.id))


def id_of(expandable: Any) -> str | None:
    """The id of something that Stripe shows as its id, or in full where it was expanded."""
    return expandable if isinstance(expandable, str) or expandable is None else str(expandable.id)


def is_session(object_id: str) -> bool:
    return object_id.startswith(SESSION_PREFIX)
