"""The parts of Stripe's objects that are used, as typed structs, and their translation into facts.

For the API version that the SDK pins. Unknown fields are skipped while decoding, so a 20 kB event
costs only its few used fields. A payload of another API version is not decoded here: its object is
read through the API.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Generic, TypeVar

import msgspec

from paidup.domain.delayed_methods import DELAYED_METHODS, VOUCHER_METHODS, Voucher
from paidup.domain.payment_facts import IntentFacts, InvoiceFacts, LineFacts, PaymentError, PaymentFacts

ACCOUNT_METADATA_KEY = "paidup_account"
"""Where the account id is kept: subscription metadata, which Stripe copies into its invoices."""
PURCHASE_METADATA_KEY = "paidup_purchase"
"""Marks an invoice that Paidup made itself, and may void."""
TOP_UP = "top_up"

T = TypeVar("T")


class ListOf(msgspec.Struct, Generic[T], frozen=True):
    data: list[T]
    has_more: bool = False


class PriceDetails(msgspec.Struct, frozen=True):
    price: str | None = None
    product: str | None = None


class Pricing(msgspec.Struct, frozen=True):
    price_details: PriceDetails | None = None


class LineParentDetails(msgspec.Struct, frozen=True):
    proration: bool = False


class LineParent(msgspec.Struct, frozen=True):
    subscription_item_details: LineParentDetails | None = None
    invoice_item_details: LineParentDetails | None = None


class Period(msgspec.Struct, frozen=True):
    start: int
    end: int


class DiscountAmount(msgspec.Struct, frozen=True):
    amount: int


class Line(msgspec.Struct, frozen=True):
    id: str
    amount: int
    period: Period
    currency: str = ""
    quantity: int | None = None
    discount_amounts: list[DiscountAmount] | None = None
    pricing: Pricing | None = None
    parent: LineParent | None = None

    def facts(self) -> LineFacts:
        details = self.pricing.price_details if self.pricing else None
        parents = (
            (self.parent.subscription_item_details, self.parent.invoice_item_details) if self.parent else ()
        )
        return LineFacts(
            price=details.price if details else None,
            amount_minor=self.amount,
            quantity=1 if self.quantity is None else self.quantity,
            proration=any(parent.proration for parent in parents if parent),
            period_start=self.period.start,
            period_end=self.period.end,
            discount_minor=sum(each.amount for each in self.discount_amounts or ()),
            currency=self.currency,
            product=details.product if details else None,
        )


class PaymentMethod(msgspec.Struct, frozen=True):
    type: str


class StripeErrorBody(msgspec.Struct, frozen=True):
    code: str | None = None
    decline_code: str | None = None
    message: str | None = None
    type: str | None = None
    payment_method: PaymentMethod | None = None

    def facts(self) -> PaymentError:
        # https://docs.stripe.com/api/errors: only the messages of card errors are for customers. Bank debits
        # have this type, too, and tell the merchant to "collect a new mandate".
        method = self.payment_method.type if self.payment_method else "card"
        message = self.message if (self.type, method) == ("card_error", "card") else None
        return PaymentError(
            code=self.code or "payment_failed",
            message=message or _failed_text(method),
            decline_code=self.decline_code,
        )


def _failed_text(method: str) -> str:
    if voucher := VOUCHER_METHODS.get(method):
        return f"The {voucher.name} voucher was not paid in time."
    debit = DELAYED_METHODS.get(method)
    return f"The {debit.name if debit else 'payment'} did not go through."


class VoucherDetails(msgspec.Struct, frozen=True):
    """What Stripe shows of a voucher: `PaymentIntent.NextAction` in the SDK. OXXO says `expires_after`."""

    hosted_voucher_url: str | None = None
    expires_at: int | None = None
    expires_after: int | None = None


class NextAction(msgspec.Struct, frozen=True):
    """What the customer has to do. Only vouchers are read; `type` is the name of the member."""

    boleto_display_details: VoucherDetails | None = None
    konbini_display_details: VoucherDetails | None = None
    multibanco_display_details: VoucherDetails | None = None
    oxxo_display_details: VoucherDetails | None = None

    @property
    def voucher(self) -> Voucher | None:
        for method in VOUCHER_METHODS:
            details: VoucherDetails | None = getattr(self, f"{method}_display_details")
            if details is not None:
                expires_at = details.expires_at or details.expires_after
                return Voucher(method, expires_at, details.hosted_voucher_url)
        return None


class PaymentIntent(msgspec.Struct, frozen=True):
    id: str
    status: str
    currency: str
    amount: int
    amount_received: int = 0
    customer: str | None = None
    last_payment_error: StripeErrorBody | None = None
    payment_method: PaymentMethod | str | None = None
    next_action: NextAction | None = None

    @property
    def voucher(self) -> Voucher | None:
        """The voucher that its customer has to pay, if any."""
        return self.next_action.voucher if self.next_action else None

    @property
    def method(self) -> str | None:
        """The type of its payment method, where it is shown: expanded, or of an attempt that failed."""
        if isinstance(self.payment_method, PaymentMethod):
            return self.payment_method.type
        failed = self.last_payment_error and self.last_payment_error.payment_method
        return failed.type if failed and self.status == "requires_payment_method" else None

    def facts(self, invoice: str | None = None) -> IntentFacts:
        """`invoice` is what an InvoicePayment says, where one came along."""
        error = self.last_payment_error
        return IntentFacts(
            intent=self.id,
            status=self.status,
            customer=self.customer,
            currency=self.currency,
            amount_minor=self.amount,
            amount_received_minor=self.amount_received,
            invoice=invoice,
            error=error.facts() if error else None,
            method=self.method,
            voucher=self.voucher,
        )


class Payment(msgspec.Struct, frozen=True):
    type: str
    payment_intent: PaymentIntent | str | None = None


class InvoicePayment(msgspec.Struct, frozen=True):
    id: str
    invoice: str
    status: str
    payment: Payment
    created: int = 0

    @property
    def intent_id(self) -> str | None:
        intent = self.payment.payment_intent
        return intent.id if isinstance(intent, PaymentIntent) else intent


class SubscriptionDetails(msgspec.Struct, frozen=True):
    subscription: str | None = None
    metadata: dict[str, str] | None = None


class InvoiceParent(msgspec.Struct, frozen=True):
    subscription_details: SubscriptionDetails | None = None


class ConfirmationSecret(msgspec.Struct, frozen=True):
    client_secret: str


class StatusTransitions(msgspec.Struct, frozen=True):
    finalized_at: int | None = None


class StripeInvoice(msgspec.Struct, frozen=True):
    id: str
    currency: str
    amount_due: int
    amount_paid: int
    amount_remaining: int
    created: int
    lines: ListOf[Line]
    total: int
    pre_payment_credit_notes_amount: int = 0
    starting_balance: int = 0
    number: str | None = None
    status_transitions: StatusTransitions | None = None
    status: str | None = None
    customer: str | None = None
    billing_reason: str | None = None
    collection_method: str | None = None
    auto_advance: bool | None = None
    automatically_finalizes_at: int | None = None
    next_payment_attempt: int | None = None
    parent: InvoiceParent | None = None
    payments: ListOf[InvoicePayment] | None = None
    confirmation_secret: ConfirmationSecret | None = None
    metadata: dict[str, str] | None = None

    @property
    def subscription_id(self) -> str | None:
        details = self.parent.subscription_details if self.parent else None
        return details.subscription if details else None

    @property
    def finalized_at(self) -> int:
        """When it was finalized; when it was created, where that is not shown."""
        return (self.status_transitions and self.status_transitions.finalized_at) or self.created

    def facts(self) -> PaymentFacts:
        """The invoice, and the payments that were expanded with it, oldest first."""
        requested_minor = self.total - self.pre_payment_credit_notes_amount
        from_balance_minor = max(0, min(-self.starting_balance, requested_minor))
        invoice = InvoiceFacts(
            id=self.id,
            status=self.status,
            customer=self.customer,
            currency=self.currency,
            amount_due_minor=self.amount_due,
            amount_paid_minor=self.amount_paid,
            amount_remaining_minor=self.amount_remaining,
            total_minor=requested_minor,
            from_balance_minor=from_balance_minor,
            finalized_at=self.status_transitions.finalized_at if self.status_transitions else None,
            sequence=self.sequence,
            billing_reason=self.billing_reason,
            subscription=self.subscription_id,
            created=self.created,
            lines=tuple(line.facts() for line in self.lines.data),
            lines_complete=not self.lines.has_more,
            intent=self.intent_id,
            shows_payments=self.payments is not None,
            # https://docs.stripe.com/invoicing/integration/programmatic-credit-notes
            written_off=self.pre_payment_credit_notes_amount > 0
            and self.amount_paid == from_balance_minor == 0 == self.amount_remaining,
            account=self.account,
        )
        links = sorted(self.payments.data, key=lambda link: link.created) if self.payments else []
        payments = tuple(
            link.payment.payment_intent.facts(link.invoice)
            for link in links
            if isinstance(link.payment.payment_intent, PaymentIntent) and link.status != "canceled"
        )
        return PaymentFacts(invoice, payments)

    @property
    def account(self) -> str | None:
        """The account that its own metadata names, or else its subscription's."""
        details = self.parent.subscription_details if self.parent else None
        own, inherited = self.metadata or {}, (details.metadata if details else None) or {}
        return own.get(ACCOUNT_METADATA_KEY) or inherited.get(ACCOUNT_METADATA_KEY) or None

    @property
    def sequence(self) -> int:
        """The running part of the invoice's number, `ABCD1234-0007`."""
        digits = (self.number or "").rpartition("-")[2]
        return int(digits) if digits.isdecimal() and len(digits) < 10 else 0

    @property
    def intent_id(self) -> str | None:
        """The PaymentIntent of the default payment, from its expansion or its client secret."""
        if self.confirmation_secret:
            return self.confirmation_secret.client_secret.partition("_secret_")[0]
        links = self.payments.data if self.payments else []
        return next((link.intent_id for link in reversed(links) if link.intent_id), None)


class PreviewedLine(msgspec.Struct, frozen=True):
    amount: int
    description: str | None = None


class PreviewedInvoice(msgspec.Struct, frozen=True):
    """An invoice that a change would make. It is not stored; `lines` are its first ones."""

    currency: str
    amount_due: int
    total: int
    lines: ListOf[PreviewedLine]


class ObjectId(msgspec.Struct, frozen=True):
    """What every Stripe object has."""

    id: str = ""


class ItemPrice(msgspec.Struct, frozen=True):
    id: str
    product: str | None = None


class SubscriptionItem(msgspec.Struct, frozen=True):
    id: str
    price: ItemPrice
    quantity: int | None = None
    current_period_end: int | None = None


class PendingUpdate(msgspec.Struct, frozen=True):
    """A change that waits for its payment."""

    subscription_items: list[SubscriptionItem] | None = None


class PauseCollection(msgspec.Struct, frozen=True):
    """Its invoices are kept as drafts, voided or marked uncollectible; the status stays as it is."""

    behavior: str


class StripeSubscription(msgspec.Struct, frozen=True):
    id: str
    status: str
    customer: str
    items: ListOf[SubscriptionItem]
    latest_invoice: StripeInvoice | str | None = None
    pending_update: PendingUpdate | None = None
    cancel_at: int | None = None
    cancel_at_period_end: bool = False
    collection_method: str = "charge_automatically"
    pause_collection: PauseCollection | None = None
    schedule: str | None = None
    ended_at: int | None = None
    metadata: dict[str, str] | None = None

    @property
    def latest_invoice_id(self) -> str | None:
        latest = self.latest_invoice
        return latest.id if isinstance(latest, StripeInvoice) else latest

    @property
    def named_account(self) -> str | None:
        """The account that its metadata names."""
        return (self.metadata or {}).get(ACCOUNT_METADATA_KEY) or None

    @property
    def ends_at(self) -> int | None:
        """When it is going to be cancelled, by whichever of the two fields says so, the earlier of both.

        With flexible billing neither fills in the other, and the customer portal sets `cancel_at` alone:
        https://docs.stripe.com/billing/subscriptions/billing-mode/compare
        """
        ends = [item.current_period_end for item in self.items.data if item.current_period_end]
        dates = [self.cancel_at] if self.cancel_at else []
        if self.cancel_at_period_end and ends:
            dates.append(max(ends))
        return min(dates, default=None)


@cache
def _decoder(kind: Any) -> Any:
    return msgspec.json.Decoder(kind)


def decode(kind: type[T], data: bytes | str | msgspec.Raw) -> T:
    """Decode a struct of Stripe's. Raises msgspec.DecodeError or ValidationError."""
    key: Any = kind
    try:
        decoded: T = _decoder(key).decode(data)
    except RecursionError:
        raise msgspec.DecodeError("JSON is nested too deep") from None
    return decoded
