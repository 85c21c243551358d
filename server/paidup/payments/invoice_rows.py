"""Reads, locks and writes the rows of invoices for the settlement."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from paidup.credits import ledger, reversals
from paidup.db.bulk import update_many
from paidup.db.connection import locked, storage_errors
from paidup.db.models import Account, Invoice
from paidup.db.shared_writes import ReadCells
from paidup.db.unit_of_work import UnitOfWork
from paidup.domain.backoff import FIRST_CHECK_S
from paidup.domain.decisions import UNCOLLECTIBLE, Decision, InvoiceSnapshot, InvoiceStatus
from paidup.domain.delayed_methods import DELAYED_METHODS
from paidup.domain.payment_facts import PaymentFacts
from paidup.payments.outcomes import PUBLISH_GRACE
from paidup.realtime.status_queries import error_of, voucher_of
from paidup.runtime.clock import now

IN_LOCK_ORDER = (Account, Invoice)
"""The holder of an account may write each of its invoices: nobody may hold one and wait for the account."""
OF_ITS_ACCOUNT = "accounts.id = invoices.account_id"
"""The SQL condition that joins both."""

CLOCK_LEEWAY_S = 60
"""How much earlier Stripe may have created an invoice than its row was made here."""


def is_older(read: ReadCells, facts: PaymentFacts) -> bool:
    """Whether Stripe has created the invoice long before the row of it, which is the last of those read.

    Where Paidup has taken it up later, or this host's clock is ahead.
    """
    _, row = read.rows().rows
    assert isinstance(row, Invoice)
    since = row.created_at.timestamp() - CLOCK_LEEWAY_S
    return facts.invoice is not None and facts.invoice.created < since


async def lock_invoice(invoice: str) -> tuple[Invoice, Account]:
    """An invoice and its account, locked. The account first: see `IN_LOCK_ORDER`."""
    query = Invoice.filter(id=invoice)
    account = await ledger.lock_account((await query.get()).account_id)
    return await locked(query).get(), account


def lookup_condition(facts: PaymentFacts) -> tuple[str, list[str]]:
    """The SQL condition, and its values, that select the invoice that `facts` are about, and its account."""
    if facts.invoice:
        return f"invoices.id = $1 AND {OF_ITS_ACCOUNT}", [facts.invoice.id]
    intents = [payment.intent for payment in facts.payments]
    marks = ", ".join(f"${number}" for number in range(1, len(intents) + 1))
    return f"invoices.payment_intent IN ({marks}) AND {OF_ITS_ACCOUNT}", intents


def is_uncollectible(row: Invoice) -> bool:
    """Whether Stripe has given up collecting it. It may still be paid, which an event reports."""
    error = error_of(row)
    return row.status is InvoiceStatus.FAILED and error is not None and error.code == UNCOLLECTIBLE.code


def write_change(row: Invoice, writes: UnitOfWork) -> None:
    """Write a change that browsers should be notified of."""
    row.version += 1
    row.changed_at = now()
    row.publish_due_at = row.changed_at + PUBLISH_GRACE
    if row.status.terminal or is_uncollectible(row):
        row.next_check_at = None
    elif row.next_check_at is None:  # a payment is tried after all
        row.next_check_at = row.changed_at + timedelta(seconds=FIRST_CHECK_S)
    writes.update(
        row,
        *("status", "error", "version", "changed_at", "publish_due_at", "next_check_at"),
        *(
            "credits_quoted",
            "credits_offset",
            "quote",
            "total_minor",
            "from_balance_minor",
            "settled_via",
            "settled_at",
            "payment_seen_at",
        ),
        *("finalized_at", "sequence", "affects_others", "has_reversals", *reversals.COUNTS),
        *("payment_method", "processing_since", "voucher", "debit_failed", "credits_on_trust"),
    )


def note_attempt(row: Invoice, decision: Decision, at: datetime) -> None:
    """Set the status, and what is known of the payment under way: its method, since when, its voucher."""
    status, method = decision.status, decision.method
    was_processing = row.status is InvoiceStatus.PROCESSING
    row.voucher = msgspec.to_builtins(decision.voucher) if decision.voucher else None
    if status is InvoiceStatus.PROCESSING:
        row.payment_method = method if method or not was_processing else row.payment_method
        row.processing_since = row.processing_since or at
    elif status is InvoiceStatus.FAILED:
        row.payment_method = method or (row.payment_method if was_processing else None)
        row.debit_failed = row.debit_failed or row.payment_method in DELAYED_METHODS
        row.processing_since = None
    else:
        row.payment_method = row.processing_since = None
    row.status = status


async def record_published(published: Sequence[tuple[str, int]]) -> None:
    """Record that Redis has taken these versions of these invoices."""
    # Where a newer version exists, its own publisher clears the due time. A locked row is skipped, since
    # the transaction that holds it may wait for another of these rows; it is then published again.
    changes = "published_version = {version}, publish_due_at = NULL"
    where = "invoices.version = {version}"
    with storage_errors():
        await update_many(
            Invoice, changes, where, ("id", "version"), published, skip_locked=True, durable=False
        )


def snapshot(row: Invoice) -> InvoiceSnapshot:
    return InvoiceSnapshot(
        invoice=row.id,
        status=row.status,
        customer=row.customer,
        currency=row.currency,
        amount_due_minor=row.amount_due_minor,
        intent=row.payment_intent,
        error=error_of(row),
        method=row.payment_method if row.status is InvoiceStatus.PROCESSING else None,
        voucher=voucher_of(row),
    )
