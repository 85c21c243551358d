"""The rows of Checkout Sessions: how one is kept up to what Stripe shows, and when it is read again."""

from __future__ import annotations

from datetime import datetime, timedelta

from paidup.db import outbox
from paidup.db.models import CheckoutSession
from paidup.domain.backoff import reconciler_delay_s
from paidup.domain.outbound_events import OutboundEventType
from paidup.domain.payment_facts import LineFacts
from paidup.runtime.clock import at_unix
from paidup.stripe_api.checkout_schemas import COMPLETE, EXPIRED, OPEN, PAID, StripeCheckoutSession
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.schemas import StripeInvoice


def lines_of(shown: StripeCheckoutSession) -> tuple[LineFacts, ...]:
    """What it sells, as far as it is shown: the lines of its invoice, or its own."""
    if shown.line_items is not None:
        return tuple(line.as_invoice_line(shown.created).facts() for line in shown.line_items.data)
    invoice = shown.invoice
    return tuple(line.facts() for line in invoice.lines.data) if isinstance(invoice, StripeInvoice) else ()


def new_row(shown: StripeCheckoutSession, at: datetime) -> CheckoutSession:
    return CheckoutSession(
        id=shown.id,
        mode=shown.mode,
        status=shown.status or OPEN,
        payment_status=shown.payment_status,
        expires_at=at_unix(shown.expires_at),
        created_at=at,
    )


def update_row(
    row: CheckoutSession, shown: StripeCheckoutSession, at: datetime, prices: PriceCatalog
) -> None:
    """Bring a row up to what is shown. An open session that was shown late opens no session that is over."""
    if row.fetched_at is None or row.client_reference:  # one that was emptied by an erasure stays empty
        row.client_reference = (shown.reference or row.client_reference or "")[:255] or None
    row.fetched_at = at
    if shown.status != OPEN or row.status == OPEN:
        row.status = shown.status or row.status
    if row.payment_status not in PAID:
        row.payment_status = shown.payment_status
    if row.status == COMPLETE and row.completed_at is None:
        row.completed_at = at
    row.customer = shown.customer_id or row.customer
    row.payment_intent = shown.intent_id or row.payment_intent
    row.subscription = shown.subscription_id or row.subscription
    row.currency = shown.currency or row.currency
    row.amount_minor = row.amount_minor if shown.amount_total is None else shown.amount_total
    for line in lines_of(shown):
        if row.plan is None and line.price is not None and line.price in prices:
            row.plan, row.price = prices[line.price].plan, line.price
        if line.price is not None and line.price == row.price:
            row.quantity = line.quantity  # the customer may have changed it on the page


def awaits_claim(row: CheckoutSession) -> bool:
    """Whether it is paid and belongs to nobody yet."""
    return row.status == COMPLETE and row.payment_status in PAID and row.account_id is None


async def announce_unclaimed(row: CheckoutSession) -> None:
    """Write the outbound event of a payment that belongs to nobody, in the transaction that saves its row."""
    await outbox.save_without_account(
        OutboundEventType.CHECKOUT_UNCLAIMED,
        checkout=row.id,
        plan=row.plan,
        mode=row.mode,
        amount_minor=row.amount_minor,
        currency=row.currency,
        customer=row.customer,
        client_reference=row.client_reference,
    )


def next_check(row: CheckoutSession, at: datetime) -> datetime | None:
    """When the reconciler reads it next: while it is open, or an invoice of its account is to come.

    No later read says whose a paid session is that is nobody's yet.
    """
    if row.status == EXPIRED or row.invoice is not None or awaits_claim(row):
        return None
    delay_s = reconciler_delay_s((at - row.created_at).total_seconds())
    return None if delay_s is None else at + timedelta(seconds=delay_s)


def told(row: CheckoutSession) -> tuple[str, str, bool]:
    """What browsers are told of a session that has no invoice yet."""
    return row.status, row.payment_status, row.account_id is not None
