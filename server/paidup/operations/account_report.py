"""All that is known of one account: balance, grants, entries, payments, corrections, deliveries."""

from __future__ import annotations

from datetime import datetime

import msgspec

from paidup.credits.ledger import ends_at
from paidup.credits.reservations import key_of
from paidup.credits.shown_grants import expiring
from paidup.db.accounts import find_account
from paidup.db.connection import storage_errors
from paidup.db.customers import customers_of
from paidup.db.models import (
    Account,
    CreditGrant,
    GrantState,
    Invoice,
    LedgerEntry,
    Reservation,
    ReservationState,
    Subscription,
)
from paidup.db.unit_accounts import AnyAccount, in_all_units, quoted_of
from paidup.domain.decisions import InvoiceStatus
from paidup.errors import NotFound
from paidup.operations.audit_log import Corrected, list_corrections
from paidup.operations.event_deliveries import DeliveryDetails, DeliveryFilter, list_deliveries
from paidup.operations.newest_invoices import newest_invoices
from paidup.runtime.clock import now

ENTRIES = 25
GRANTS = INVOICES = 25
OTHERS = 20
"""Rows of each list."""


class GrantRow(msgspec.Struct, frozen=True):
    """`invoice` or `correction` gave it. `ends_at`: until when it can be spent; None: for ever.

    `unit` is empty for the default one, here and in the other rows.
    """

    invoice: str | None
    correction: str | None
    plan: str | None
    credits: int
    remaining: int
    frozen: int
    state: GrantState
    ends_at: datetime | None
    due_at: datetime | None
    unit: str


class EntryRow(msgspec.Struct, frozen=True):
    """A movement of the ledger. `key` is the SaaS's own."""

    id: int
    at: datetime
    kind: str
    credits: int
    balance: int
    reason: str
    key: str | None
    unit: str


class InvoiceRow(msgspec.Struct, frozen=True):
    id: str
    status: InvoiceStatus
    plan: str | None
    amount_minor: int
    currency: str
    credits: int
    via: str | None
    created_at: datetime
    units: dict[str, int]
    """What it gives of other units."""


class SubscriptionRow(msgspec.Struct, frozen=True):
    id: str
    status: str
    plan: str | None
    pending_plan: str | None
    quantity: int
    current_period_end: datetime | None
    cancel_at: datetime | None
    ended_at: datetime | None


class ReservationRow(msgspec.Struct, frozen=True):
    key: str
    credits: int
    expires_at: datetime
    unit: str


class Expiring(msgspec.Struct, frozen=True):
    """What expires if it is not spent."""

    at: datetime
    credits: int


class BalanceRow(msgspec.Struct, frozen=True):
    unit: str
    balance: int
    held: int
    low_balance: int | None
    expiring: list[Expiring]


class AccountReport(msgspec.Struct, frozen=True):
    """The newest of each list. `entries_after`: where the next page of entries begins, None after the last.

    `balances`: of the default unit, then of others.
    `account` may be another than the one that was asked for, where that was merged into it.
    """

    at: datetime
    account: str
    created_at: datetime
    customers: list[str]
    merged: list[str]
    balances: list[BalanceRow]
    subscriptions: list[SubscriptionRow]
    grants: list[GrantRow]
    grants_total: int
    invoices: list[InvoiceRow]
    invoices_total: int
    reservations: list[ReservationRow]
    entries: list[EntryRow]
    entries_after: int | None
    corrections: list[Corrected]
    deliveries: list[DeliveryDetails]


async def report_account(external_id: str, before: int | None = None) -> AccountReport:
    """The account of a user, with the entries before one. Raises NotFound, StorageUnavailable."""
    with storage_errors():
        account = await find_account(external_id)
        if account is None:
            raise NotFound(f"There is no account {external_id!r}.")
        grants = CreditGrant.filter(account_id=account.id)
        held = Reservation.filter(account_id=account.id, state=ReservationState.HELD)
        subscriptions = Subscription.filter(account_id=account.id).order_by("-created_at").limit(OTHERS)
        entries = await _entries(account, before)
        return AccountReport(
            at=now(),
            account=account.external_id,
            created_at=account.created_at,
            customers=sorted(await customers_of(account)),
            merged=[row.external_id for row in await Account.filter(merged_into=account.id).limit(OTHERS)],
            balances=[await _balance(own) for own in in_all_units(account)],
            subscriptions=[_subscription(row) for row in await subscriptions],
            grants=[_grant(row) for row in await grants.order_by("-id").limit(GRANTS)],
            grants_total=await grants.count(),
            invoices=[_invoice(row) for row in await newest_invoices(account.id, INVOICES)],
            invoices_total=await Invoice.filter(account_id=account.id).count(),
            reservations=[
                ReservationRow(row.key, row.credits, row.expires_at, row.unit)
                for row in await held.order_by("-id").limit(OTHERS)
            ],
            entries=entries[:ENTRIES],
            entries_after=entries[ENTRIES - 1].id if len(entries) > ENTRIES else None,
            corrections=await list_corrections(account, OTHERS),
            deliveries=(
                await list_deliveries(DeliveryFilter(account=account.external_id), None, OTHERS)
            ).deliveries,
        )


async def _entries(account: Account, before: int | None) -> list[EntryRow]:
    """One more than a page has."""
    query = LedgerEntry.filter(account_id=account.id)
    if before is not None:
        query = query.filter(id__lt=before)
    return [
        EntryRow(
            *(row.id, row.created_at, row.kind, row.credits, row.balance_after, row.reason, key_of(row)),
            unit=row.unit,
        )
        for row in await query.order_by("-id").limit(ENTRIES + 1)
    ]


async def _balance(own: AnyAccount) -> BalanceRow:
    ends = [Expiring(at, credits) for at, credits in await expiring(own, OTHERS)]
    return BalanceRow(own.unit, own.balance, own.held, own.low_balance, ends)


def _grant(row: CreditGrant) -> GrantRow:
    return GrantRow(
        invoice=row.invoice_id,
        correction=row.correction,
        plan=row.plan,
        credits=row.credits,
        remaining=row.remaining,
        frozen=row.frozen,
        state=row.state,
        ends_at=ends_at(row),
        due_at=row.due_at,
        unit=row.unit,
    )


def _invoice(row: Invoice) -> InvoiceRow:
    return InvoiceRow(
        id=row.id,
        status=row.status,
        plan=row.plan,
        amount_minor=row.amount_due_minor,
        currency=row.currency,
        credits=row.credits_quoted,
        units=quoted_of(row),
        via=row.settled_via,
        created_at=row.created_at,
    )


def _subscription(row: Subscription) -> SubscriptionRow:
    return SubscriptionRow(
        id=row.id,
        status=row.status,
        plan=row.plan,
        pending_plan=row.pending_plan,
        quantity=row.quantity,
        current_period_end=row.current_period_end,
        cancel_at=row.cancel_at,
        ended_at=row.ended_at,
    )
