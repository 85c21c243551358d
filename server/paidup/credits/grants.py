"""Granting: from what an account's invoices give to its grants, now and month by month.

Owns the tables' side of core/credits.py. What other invoices bear on is worked out anew for all
of them, in Stripe's order; where we heard of them in another, what was granted is adjusted.
Runs inside the settlement's transaction, on an invoice and an account that are locked. Refuses
to decide whether an invoice is paid.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from paidup.clock import at_unix
from paidup.credits import ledger, reversals
from paidup.db.models import Account, CreditGrant, GrantState, Invoice
from paidup.db.unit_of_work import UnitOfWork
from paidup.domain.catalog import AfterRefund
from paidup.domain.credit_schedule import (
    Money,
    PaidInvoice,
    affects_other_invoices,
    grant_schedules,
    limit_free_credits,
)
from paidup.domain.payment_facts import InvoiceFacts
from paidup.domain.quotes import CreditPart, Installment, Quote

CHANGE = "subscription_update"
"""The billing reason of an upgrade or downgrade (and of a trial's end)."""


def store_quote(row: Invoice, quoted: Quote, invoice: InvoiceFacts) -> None:
    """Put into `row` what its credits are computed from. Not saved here."""
    row.quote = msgspec.to_builtins(quoted)
    row.credits_quoted = quoted.at_once
    row.total_minor = invoice.total_minor
    row.from_balance_minor = invoice.from_balance_minor
    row.finalized_at = at_unix(invoice.finalized_at or invoice.created)
    row.sequence = invoice.sequence
    row.affects_others = affects_other_invoices(quoted, _money(row))


def is_independent(row: Invoice) -> bool:
    """Whether nothing else bears on what a paid invoice gives: then `give` reads nothing."""
    return not (row.affects_others or row.has_reversals)


async def create_grants(
    row: Invoice, account: Account, after: AfterRefund, at: datetime, writes: UnitOfWork
) -> None:
    """The grants of a paid invoice, left in `writes` where nothing else bears on them.

    Tortoise's IntegrityError comes, here or when they are sent, where they are there already.
    """
    others: list[Invoice] = []
    if row.affects_others:
        settled = Invoice.filter(account_id=account.id, affects_others=True, settled_at__not_isnull=True)
        others = await settled.exclude(id=row.id)
    in_order = sorted((row, *others), key=lambda each: (each.finalized_at or each.created_at, each.sequence))
    paid = limit_free_credits([_paid_invoice(each) for each in in_order])
    planned = grant_schedules(paid)
    row.credits_quoted = sum(item.credits for item in planned[row.id] if item.due_at is None)
    limit = next(each.quote.credits for each in paid if each.invoice == row.id)
    await _write_schedule(row, account, planned[row.id], limit, at, writes)
    if is_independent(row):
        return
    await writes.send()  # what follows reads them
    # Money may have gone back before we heard that it came.
    why = "its money went back before we heard that it came"
    await reversals.apply(row, account, after, f"{row.id}:settled", why, at)
    for other in others:
        if await _adjust(other, account, planned[other.id], row.id, at):
            await reversals.apply(other, account, after, f"{row.id}>{other.id}", "worked out again", at)
            await other.save(update_fields=reversals.COUNTS)


async def end_subscription_grants(
    account: Account, subscription: str, plans: Sequence[str], at: datetime
) -> None:
    """End what a subscription's grants of these plans still hold, and what was still to come of them."""
    own = CreditGrant.filter(account_id=account.id, invoice__subscription=subscription, plan__in=list(plans))
    live = await own.filter(state=GrantState.LIVE).order_by("id")
    await ledger.expire(account, live, "the subscription has ended", at)
    await ledger.cancel_planned(await own.filter(state=GrantState.PLANNED))


def _paid_invoice(row: Invoice) -> PaidInvoice:
    at = row.finalized_at or row.created_at
    return PaidInvoice(row.id, row.subscription, int(at.timestamp()), _quote_of(row), _money(row))


def _quote_of(row: Invoice) -> Quote:
    if row.quote is not None:
        return msgspec.convert(row.quote, Quote)
    # A row from before parts were kept.
    due_at = int(row.created_at.timestamp())
    part = CreditPart(row.plan or "", row.price or "", row.credits_quoted, (due_at,), due_at)
    return Quote(row.credits_quoted, row.plan, row.price, (part,))


def _money(row: Invoice) -> Money:
    return Money(row.total_minor, row.from_balance_minor, row.billing_reason == CHANGE)


async def _write_schedule(
    row: Invoice, account: Account, items: Sequence[Installment], limit: int, at: datetime, writes: UnitOfWork
) -> None:
    """`limit`: what of the quote is left where what no money pays for was given before."""
    free, less = _quote_of(row).credits - limit, limit - sum(item.credits for item in items)
    why = f"; not {free} that cost nothing: such credits are given once in a period" if free > 0 else ""
    why += f"; {less} of it had come before a downgrade" if less > 0 else ""
    for number, item in enumerate(items or [Installment("", 0, None, None, 0)], start=1):
        expires_at = at_unix(item.expires_at) if item.expires_at else None
        plan = item.plan or row.plan
        if item.due_at is None:
            terms = (expires_at, number, plan, item.rollover_cap)
            await ledger.grant(account, row.id, item.credits, *terms, at, why, writes)
            continue
        due_at = at_unix(item.due_at)
        coming = (due_at, expires_at, number, plan, item.rollover_cap)
        await ledger.plan_installment(account, row.id, item.credits, *coming, writes)


async def _adjust(
    row: Invoice, account: Account, items: Sequence[Installment], cause: str, at: datetime
) -> bool:
    """Bring an earlier invoice's grants in line with what is known of all of them now."""
    changed = False
    grants = await CreditGrant.filter(invoice_id=row.id).order_by("installment")
    for grant, item in zip(grants, items, strict=False):  # a grant of nothing stands for no item
        if grant.credits == item.credits:
            continue
        changed = True
        if grant.state is GrantState.PLANNED:
            await ledger.resize_installment(grant, item.credits)
        elif grant.state is not GrantState.CANCELED:
            await ledger.adjust(account, grant, item.credits, f"{cause}>{grant.id}", at)
    return changed
