"""Asserts the ledger's invariants: balances, entries and grants agree."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from paidup.db.models import (
    Account,
    Correction,
    CreditGrant,
    GrantState,
    Invoice,
    LedgerEntry,
    Reservation,
    ReservationState,
    StripeEvent,
    Subscription,
)
from paidup.db.unit_accounts import in_all_units
from paidup.domain.decisions import InvoiceStatus


async def assert_books_balance(grants: int | None = None) -> None:
    """For every account and unit, balance = sum of the entries = what remains in live grants, minus the debt.

    Each settled invoice has one first grant, and no grant holds more than it granted. What each account's row
    has of its subscriptions and reservations is what these say. `grants` is the expected number of first
    grants, if given. Uses this process's database connection: a server must run
    here, or `open_database` be open.
    """
    for account in await Account.all():
        entries = await LedgerEntry.filter(account_id=account.id).order_by("id")
        live = await CreditGrant.filter(account_id=account.id, state=GrantState.LIVE)
        kept = {own.unit for own in in_all_units(account)}
        assert {row.unit for row in entries} | {row.unit for row in live} <= kept, account.external_id
        for own in in_all_units(account):
            of_unit = [entry for entry in entries if entry.unit == own.unit]
            summed = sum(entry.credits for entry in of_unit)
            remaining = sum(grant.remaining for grant in live if grant.unit == own.unit)
            name = (account.external_id, own.unit)
            assert own.balance == summed, (name, own.balance, summed)
            # A balance below zero is a debt, and an account in debt has no live grants.
            assert max(0, own.balance) == remaining, (name, own.balance, remaining)
            assert own.balance == (of_unit[-1].balance_after if of_unit else 0), name
    await assert_rows_know_all()
    for grant in await CreditGrant.all():
        held = grant.remaining + grant.frozen + grant.expired
        assert min(grant.remaining, grant.frozen, grant.expired) >= 0
        assert held <= grant.credits, (grant.id, held, grant.credits)
    given = await CreditGrant.filter(invoice_id__isnull=True)
    assert {each.correction for each in given} <= {row.id for row in await Correction.all()}
    paid = CreditGrant.filter(installment=1, invoice_id__not_isnull=True)
    granted = sorted([str(grant.invoice_id) for grant in await paid])
    settled = Invoice.filter(status__in=[InvoiceStatus.ACTIVE, InvoiceStatus.REVERSED])
    assert granted == sorted([invoice.id for invoice in await settled])
    assert grants is None or len(granted) == grants, granted


async def assert_rows_know_all() -> None:
    """Each account's row says what its subscriptions, their paid invoices and its reservations say now."""
    subscriptions = await Subscription.all().order_by("-created_at", "-id")
    active = await Invoice.filter(status=InvoiceStatus.ACTIVE)
    held = await Reservation.filter(state=ReservationState.HELD)
    for account in await Account.all():
        name = account.external_id
        for each in in_all_units(account):
            reserved = [row for row in held if (row.account_id, row.unit) == (account.id, each.unit)]
            assert each.held == sum(row.credits for row in reserved), (name, each.unit)
        own = [row for row in subscriptions if row.account_id == account.id]
        open_ones = [row for row in own if row.status not in ("canceled", "incomplete_expired")]
        expected = [_as_paid(row, active) for row in open_ones[:20] or own[:1]]
        if account.known_subscriptions is None:  # it is written when it is first needed
            assert not any(status != "incomplete" for _, status, *_ in expected), (name, expected)
        else:
            kept = [_as_kept(each) for each in account.known_subscriptions]
            assert kept == expected, (name, kept, expected)


def _as_paid(row: Subscription, active: list[Invoice]) -> tuple[Any, ...]:
    """The subscription as Stripe will show it after what is credited."""
    status, plan, pending = row.status, row.plan, row.pending_plan
    paid = [invoice for invoice in active if invoice.subscription == row.id and invoice.total_minor > 0]
    changes = [each for each in active if each.id == row.latest_invoice]
    if status == "incomplete" and paid:
        status, plan = "active", plan or paid[-1].plan
    if pending and any(each.billing_reason == "subscription_update" for each in changes):
        plan, pending = pending, None
    ends = [each and each.timestamp() for each in (row.current_period_end, row.cancel_at)]
    return (row.id, status, plan, pending, row.quantity, *ends)


def _as_kept(kept: dict[str, Any]) -> tuple[Any, ...]:
    dates = [kept["current_period_end"], kept["cancel_at"]]
    ends = [each and datetime.fromisoformat(each).timestamp() for each in dates]
    return (*(kept[name] for name in ("id", "status", "plan", "pending_plan", "quantity")), *ends)


async def row_counts() -> dict[str, int]:
    """The number of rows in each table of money and events."""
    tables = (Account, Invoice, CreditGrant, LedgerEntry, StripeEvent)
    return {table.__name__: await table.all().count() for table in tables}
