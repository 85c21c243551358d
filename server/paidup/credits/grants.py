"""Creates the grants of paid invoices: with the payment, and month by month for yearly plans.

Stores what `domain/credit_schedule.py` computes. Invoices that affect each other are recomputed together, in
Stripe's order, and earlier grants are adjusted if the invoices arrived in another order. Runs inside the
settlement's transaction, with invoice and account locked. Whether an invoice is paid is decided before.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from paidup.credits import ledger, renewal_grace, reversals, trust
from paidup.db.models import Account, CreditGrant, GrantState, Invoice
from paidup.db.unit_accounts import (
    AnyAccount,
    AnyInvoice,
    in_unit,
    invoice_in_unit,
    invoice_row,
)
from paidup.db.unit_of_work import UnitOfWork, read_many
from paidup.domain.catalog import Catalogue
from paidup.domain.credit_schedule import (
    Money,
    PaidInvoice,
    Schedule,
    affects_other_invoices,
    grant_schedules,
    limit_free_credits,
)
from paidup.domain.payment_facts import InvoiceFacts, Source
from paidup.domain.quotes import CreditPart, Installment, Quote
from paidup.domain.renewals import grace_of
from paidup.domain.units import DEFAULT_UNIT
from paidup.runtime.clock import at_unix

_OTHERS = "account_id = $1 AND affects_others AND settled_at IS NOT NULL AND id <> $2"
CHANGE = "subscription_update"
"""The billing reason of an upgrade or downgrade (and of a trial's end)."""


def store_quote(row: Invoice, quoted: Quote, invoice: InvoiceFacts) -> None:
    """Set the columns of `row` that its credits are computed from. Does not save it."""
    row.quote = msgspec.to_builtins(quoted)
    if not quoted.units:
        del row.quote["units"]
    row.credits_quoted = quoted.at_once
    row.total_minor = invoice.total_minor
    row.from_balance_minor = invoice.from_balance_minor
    row.finalized_at = at_unix(invoice.finalized_at or invoice.created)
    row.sequence = invoice.sequence
    row.affects_others = affects_other_invoices(quoted, _money(row))


def is_independent(row: Invoice) -> bool:
    """Whether no other invoice or reversal affects its credits: then `create_grants` reads nothing."""
    return not (row.affects_others or row.has_reversals)


async def ends_other_grants(row: Invoice, account: Account, at: datetime) -> bool:
    """Whether its grants end others of its subscription, or are ended by them: see `renewal_grace`."""
    if row.subscription is None:
        return False
    if row.billing_reason == renewal_grace.RENEWAL:
        return await renewal_grace.awaits_renewal(account) or _is_late(row, at)
    return _is_late(row, at)


def _is_late(row: Invoice, at: datetime) -> bool:
    """Whether a period of it is over: a later invoice of its subscription may have been settled first."""
    parts = _quote_of(row).all_parts
    return any(part.expires and at_unix(part.period_end) <= at for part in parts)


async def create_grants(
    row: Invoice, account: Account, catalogue: Catalogue, at: datetime, writes: UnitOfWork
) -> None:
    """Create the grants of a paid invoice. Those of an independent invoice are left in `writes`, unsent.

    Raises tortoise's IntegrityError, here or when `writes` is sent, if they exist already.
    """
    others: list[Invoice] = []
    if row.affects_others:
        others = await read_many(Invoice, _OTHERS, account.id, row.id)
    in_order = sorted((row, *others), key=lambda each: (each.finalized_at or each.created_at, each.sequence))
    planned, number = _plan(in_order), 1
    for unit, of_unit in planned.items():
        schedule = of_unit.schedules[row.id]
        items = schedule.installments
        if unit == DEFAULT_UNIT:  # every paid invoice has a grant of it
            items = items or [Installment("", 0, None, None, 0)]
        if unit == DEFAULT_UNIT or items or schedule.offset:
            into, own = in_unit(account, unit), invoice_in_unit(row, unit)
            own.credits_offset = schedule.offset
            own.credits_quoted = sum(item.credits for item in items if item.due_at is None)
            numbered = list(enumerate(items, start=number))
            await _write_schedule(own, into, numbered, of_unit.quoted[row.id], catalogue, at, writes)
        number += len(items)
    note_low_balance(account, row.plan, catalogue, writes)
    if row.credits_on_trust:
        await writes.send()
        await trust.replace_by_payment(row, account, at)
    if is_independent(row):
        return
    await writes.send()  # the grants are read below
    after = catalogue.spent_then_refunded
    # A refund may be known before its payment is.
    why = "refunded or disputed before the payment was known"
    await reversals.apply(row, account, after, f"{row.id}:settled", why, at)
    for other in others:
        changed = [
            await _adjust(invoice_in_unit(other, unit), in_unit(account, unit), of_unit, row.id, at)
            for unit, of_unit in planned.items()
        ]
        if any(changed):
            await reversals.apply(other, account, after, f"{row.id}>{other.id}", "recalculated", at)
            await other.save(update_fields=("credits_offset", *reversals.COUNTS))


def note_low_balance(account: Account, plan: str | None, catalogue: Catalogue, writes: UnitOfWork) -> None:
    """Which balance is low is said by the plan of the newest grant; by a top-up, where it says so at all.

    It is said of the plan's own unit.
    """
    found = catalogue.find(plan)
    if found is None or (found.top_up and found.low_balance is None):
        return
    own = in_unit(account, found.unit)
    if own.low_balance != found.low_balance:
        own.low_balance = found.low_balance
        writes.update(account, "unit_balances" if found.unit else "low_balance")


async def give_on_trust(row: Invoice, account: Account, catalogue: Catalogue, at: datetime) -> None:
    """Grant what the policy allows of the credits that the payment will grant at once."""
    if not (catalogue.trust.cap(row.payment_method) and is_independent(row)):
        return
    for item in grant_schedules([_paid_invoice(row, DEFAULT_UNIT)])[row.id].installments[:1]:
        if item.due_at is None:
            terms = _terms(row, item, catalogue, ledger.ON_TRUST)
            await trust.give(row, account, terms, catalogue.trust, at)


async def end_subscription_grants(
    account: Account, subscription: str, plans: Sequence[str], at: datetime
) -> None:
    """End a subscription's live grants of these plans, and cancel its planned ones."""
    own = CreditGrant.filter(account_id=account.id, invoice__subscription=subscription, plan__in=list(plans))
    live = await own.filter(state=GrantState.LIVE).order_by("id")
    for unit in sorted({grant.unit for grant in live}):
        of_unit = [grant for grant in live if grant.unit == unit]
        await ledger.expire(in_unit(account, unit), of_unit, "the subscription has ended", at)
    await ledger.cancel_planned(await own.filter(state=GrantState.PLANNED))


class _Planned(msgspec.Struct, frozen=True):
    """What invoices give of one unit, by invoice. `quoted`: without free credits granted before."""

    schedules: dict[str, Schedule]
    quoted: dict[str, int]


def _plan(in_order: Sequence[Invoice]) -> dict[str, _Planned]:
    """What these invoices give, by unit. The units do not affect each other."""
    planned = {}
    others = {unit for row in in_order for unit in (row.quote or {}).get("units", ())}
    for unit in (DEFAULT_UNIT, *sorted(others)):
        paid = limit_free_credits([_paid_invoice(row, unit) for row in in_order])
        quoted = {each.invoice: each.quote.credits for each in paid}
        planned[unit] = _Planned(grant_schedules(paid), quoted)
    return planned


def _paid_invoice(row: Invoice, unit: str) -> PaidInvoice:
    at = row.finalized_at or row.created_at
    quoted = _quote_of(row).in_unit(unit)
    return PaidInvoice(row.id, row.subscription, int(at.timestamp()), quoted, _money(row))


def _quote_of(row: Invoice) -> Quote:
    if row.quote is not None:
        return msgspec.convert(row.quote, Quote)
    # A row from before quotes were stored.
    due_at = int(row.created_at.timestamp())
    part = CreditPart(row.plan or "", row.price or "", row.credits_quoted, (due_at,), due_at)
    return Quote(row.credits_quoted, row.plan, row.price, (part,))


def _money(row: Invoice) -> Money:
    return Money(row.total_minor, row.from_balance_minor, row.billing_reason == CHANGE)


async def _write_schedule(
    row: AnyInvoice,
    account: AnyAccount,
    items: Sequence[tuple[int, Installment]],
    limit: int,
    catalogue: Catalogue,
    at: datetime,
    writes: UnitOfWork,
) -> None:
    """Write the grants of `items`. `limit`: the quoted credits without free ones granted before."""
    invoice = invoice_row(row)
    quoted = _quote_of(invoice).in_unit(row.unit)
    free, less = quoted.credits - limit, limit - sum(item.credits for _, item in items)
    why = " outside of Stripe" if invoice.settled_via is Source.OPERATOR else ""
    why += f"; without {free} free credits, which are granted once per period" if free > 0 else ""
    why += f"; without {less} already granted before a downgrade" if less > 0 else ""
    for number, item in items:
        terms = _terms(invoice, item, catalogue, number)
        if terms.due_at is None:
            await ledger.grant(account, row.id, terms, at, why, writes)
        else:
            await ledger.plan_installment(account, row.id, terms, writes)


def _terms(row: Invoice, item: Installment, catalogue: Catalogue, number: int) -> ledger.GrantTerms:
    expires_at = at_unix(item.expires_at) if item.expires_at else None
    due_at = at_unix(item.due_at) if item.due_at is not None else None
    plan = item.plan or row.plan
    grace = grace_of(catalogue.find(plan))
    until = expires_at + grace if expires_at and grace and row.subscription else None
    return ledger.GrantTerms(item.credits, expires_at, number, plan, item.rollover_cap, due_at, until)


async def _adjust(row: AnyInvoice, account: AnyAccount, planned: _Planned, cause: str, at: datetime) -> bool:
    """Adjust an earlier invoice's grants to its recomputed schedule. True if one has changed."""
    schedule = planned.schedules[row.id]
    changed = bool(row.credits_offset != schedule.offset)
    if changed:
        row.credits_offset = schedule.offset
    of_payment = CreditGrant.filter(invoice_id=row.id, unit=row.unit).exclude(installment=ledger.ON_TRUST)
    grants = await of_payment.order_by("installment")
    for grant, item in zip(
        grants, schedule.installments, strict=False
    ):  # an invoice without items has one grant of zero
        if grant.credits == item.credits:
            continue
        changed = True
        if grant.state is GrantState.PLANNED:
            await ledger.resize_installment(grant, item.credits)
        elif grant.state is not GrantState.CANCELED:
            await ledger.adjust(account, grant, item.credits, f"{cause}>{grant.id}", at)
    return changed
