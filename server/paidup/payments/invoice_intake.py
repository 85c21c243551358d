"""Creates the row of an invoice that is new here, and finds the account that it belongs to.

Runs inside the settlement's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import structlog

from paidup.credits import grants, ledger
from paidup.db.customers import link_customer, owner_of
from paidup.db.models import Account, Invoice, Subscription
from paidup.domain.backoff import FIRST_CHECK_S
from paidup.domain.catalog import Catalogue, PriceBook, StripePrice
from paidup.domain.payment_facts import InvoiceFacts
from paidup.domain.quotes import Quote, quote
from paidup.payments.outcomes import PUBLISH_GRACE, Outcome, Settled
from paidup.payments.unclaimed import is_unclaimed
from paidup.runtime import tracing
from paidup.runtime.clock import at_unix, now

log = structlog.get_logger(__name__)

SESSION_PREFIX = "cs_"
CLOCK_DIFFERENCE = timedelta(minutes=5)
"""By how much Stripe's clock may be behind ours: a renewal just after the take-up is not one of the past."""


async def create_invoice(
    invoice: InvoiceFacts | None,
    account_id: int | None,
    catalogue: Catalogue,
    prices: Mapping[str, StripePrice],
) -> tuple[Account, Invoice] | Settled:
    """The account, locked, and its new row; or the outcome that says why there is none.

    `account_id` names the account where the caller knows it; otherwise the invoice's metadata,
    subscription or customer does.
    """
    if invoice is None:
        return Settled(Outcome.UNKNOWN_INVOICE, "no invoice is known for this payment")
    if invoice.status in (None, "draft"):
        return Settled(Outcome.NOT_YET, "the invoice is still a draft")
    if not invoice.lines_complete:
        return Settled(Outcome.NEEDS_REFETCH, "the invoice has more lines than shown")
    quoted = quote(invoice.lines, catalogue, prices)
    if not quoted.complete:
        return missing_price(quoted)
    if quoted.plan is None:
        return await _without_plan(invoice, quoted, prices)
    if account_id is None and await _was_paid_elsewhere(invoice):
        return Settled(Outcome.PAID_ELSEWHERE, "it was paid before its subscription was taken up")
    account = await _find_account(invoice, account_id)
    if account is None:
        if await is_unclaimed(invoice):
            return Settled(Outcome.UNCLAIMED, "its Checkout Session belongs to nobody yet")
        unknown = f"is named {invoice.account}" if invoice.account else f"has the customer {invoice.customer}"
        return Settled(Outcome.UNKNOWN_CUSTOMER, f"no account {unknown}")
    if twin := await _with_another_row(invoice, account):
        return twin
    row = await _insert_invoice(invoice, account, quoted)
    if invoice.subscription:
        await _insert_subscription(row, invoice.subscription)
    return account, row


async def _without_plan(invoice: InvoiceFacts, quoted: Quote, prices: Mapping[str, StripePrice]) -> Settled:
    """The outcome of an invoice none of whose lines sells a plan: a fault of ours, or another product's."""
    if not quoted.unknown_prices:
        return Settled(Outcome.IRRELEVANT, "no line of the invoice sells a plan")
    unknown = ", ".join(quoted.unknown_prices)
    if await _is_ours(invoice, prices):
        return Settled(Outcome.UNKNOWN_PRICE, f"unknown prices: {unknown}")
    return Settled(Outcome.NOT_OURS, f"prices of other products: {unknown}")


async def _is_ours(invoice: InvoiceFacts, prices: Mapping[str, StripePrice]) -> bool:
    """Whether the invoice is Paidup's: by a price or product, our metadata, or its subscription.

    Not by its customer, who may have other products on the same Stripe account.
    """
    if isinstance(prices, PriceBook) and any(
        prices.is_ours(each.price, each.product) for each in invoice.lines
    ):
        return True
    if invoice.account is not None and await Account.exists(external_id=invoice.account):
        return True
    followed = Subscription.filter(id=invoice.subscription, plan__isnull=False)
    return invoice.subscription is not None and await followed.exists()


def missing_price(quoted: Quote) -> Settled:
    """The outcome of an invoice whose credits cannot be computed yet."""
    if quoted.unpriced:
        text = ", ".join(quoted.unpriced)
        return Settled(Outcome.UNKNOWN_CURRENCY, f"prices without an amount in this currency: {text}")
    return Settled(Outcome.UNKNOWN_PRICE, f"prices that are not read yet: {', '.join(quoted.unread_prices)}")


async def _was_paid_elsewhere(invoice: InvoiceFacts) -> bool:
    """Whether its subscription was taken up after it: see `SubscriptionSync.take_up`."""
    taken_up = Subscription.filter(id=invoice.subscription, paid_elsewhere__not_isnull=True)
    row = await taken_up.only("id", "created_at", "paid_elsewhere").first() if invoice.subscription else None
    if row is None:
        return False
    finalized_at = invoice.finalized_at or invoice.created
    return invoice.id == row.paid_elsewhere or at_unix(finalized_at) < row.created_at - CLOCK_DIFFERENCE


async def _with_another_row(invoice: InvoiceFacts, account: Account) -> Settled | None:
    """The outcome where a session and an invoice stand for one payment, and the other has its row; else None.

    A bank debit's session has it from the start, and Stripe makes its invoice when it has succeeded. The
    account is locked, so that the two cannot be made at once. The other may be another account's, since a
    session may name one that is not its customer's.
    """
    sessions = Invoice.filter(id__startswith=SESSION_PREFIX)
    if invoice.intent is not None:
        known = Invoice.filter(payment_intent=invoice.intent) if _is_session(invoice) else sessions
        if await known.filter(payment_intent=invoice.intent).exclude(id=invoice.id).exists():
            return Settled(Outcome.PAID_ELSEWHERE, f"{invoice.intent} has its row already")
    elif not invoice.shows_payments and invoice.subscription is None:
        may_be = invoice.account is None or await sessions.filter(account_id=account.id).exists()
        return Settled(Outcome.NEEDS_REFETCH, "it may be the invoice of a session") if may_be else None
    return None


def _is_session(invoice: InvoiceFacts) -> bool:
    """Whether it stands for a Checkout Session that was paid without an invoice."""
    return invoice.id.startswith(SESSION_PREFIX)


async def _find_account(invoice: InvoiceFacts, account_id: int | None) -> Account | None:
    """The invoice's account, locked, which remembers the customer; None where it has none."""
    owner = account_id or await owner_of(invoice.account, invoice.subscription, invoice.customer)
    if owner is None:
        return None
    account = await ledger.lock_account(owner)
    customer, ours = invoice.customer, invoice.account is not None
    if customer and account.stripe_customer != customer and await link_customer(account.id, customer, ours):
        await account.refresh_from_db(fields=["stripe_customer"])
    return account


async def _insert_invoice(invoice: InvoiceFacts, account: Account, quoted: Quote) -> Invoice:
    at = now()
    row = Invoice(
        id=invoice.id,
        account_id=account.id,
        customer=invoice.customer or "",
        subscription=invoice.subscription,
        payment_intent=invoice.intent,
        checkout=invoice.id if _is_session(invoice) else invoice.checkout,
        plan=quoted.plan,
        price=quoted.price,
        billing_reason=invoice.billing_reason,
        currency=invoice.currency,
        amount_due_minor=invoice.amount_paid_minor + invoice.amount_remaining_minor,
        changed_at=at,
        publish_due_at=at + PUBLISH_GRACE,
        created_at=at,
        next_check_at=at + timedelta(seconds=FIRST_CHECK_S),
        traceparent=tracing.current_traceparent(),
    )
    grants.store_quote(row, quoted, invoice)
    await row.save()
    if quoted.unknown_prices:
        log.warning("unknown_prices", invoice=invoice.id, prices=quoted.unknown_prices)
    return row


async def _insert_subscription(row: Invoice, subscription: str) -> None:
    """A row for the invoice's subscription, unless it has one."""
    new = Subscription(
        id=subscription,
        account_id=row.account_id,
        plan=row.plan,
        price=row.price,
        refresh_at=row.next_check_at,
    )
    await Subscription.bulk_create([new], ignore_conflicts=True)
