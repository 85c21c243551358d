"""Read-only queries that turn invoices and accounts into the messages that browsers receive.

Thousands of rows are read at once when many clients connect or Redis was down, so these queries
bypass the models: they take a thirtieth of the time, most of it in the database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from paidup.db.bulk import select_by_keys
from paidup.db.models import Account, Invoice
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.delayed_methods import ProcessingPayment, Voucher, processing_payment
from paidup.domain.messages import BalanceMessage, StatusMessage, UnitBalance
from paidup.domain.payment_facts import PaymentError, Source
from paidup.domain.stages import Stage, is_provisioning, stage_of
from paidup.runtime.clock import now

# A void purchase may have been given up for another: the same kind, plan or top-up, that was credited.
_STATUSES = """
SELECT i.id, i.version, i.status, i.plan, i.credits_quoted, i.credits_reversed, i.settled_at,
       i.settled_via, i.changed_at, i.payment_seen_at, i.error, i.checkout,
       (SELECT n.id FROM invoices n
        WHERE i.status = 'void' AND n.account_id = i.account_id AND n.status = 'active'
        AND n.created_at >= i.created_at AND COALESCE(n.billing_reason, '') <> 'subscription_cycle'
        AND (n.subscription IS NULL) = (i.subscription IS NULL)
        ORDER BY n.created_at DESC LIMIT 1), a.balance, i.payment_method,
       i.processing_since, i.credits_on_trust, i.voucher, i.traceparent, i.provisioning_until,
       i.unit_credits, i.account_id, a.external_id, a.stripe_customer
FROM invoices i JOIN accounts a ON a.id = i.account_id WHERE i.id"""
# Of an account that was merged into another, the other one's.
_BALANCES = (
    "SELECT a.id, m.version, m.balance, m.held, m.unit_balances FROM accounts a"
    " JOIN accounts m ON m.id = COALESCE(a.merged_into, a.id) WHERE a.id"
)

# Versions of messages, at least: that of a payment that waits for the backend is one less than its row's.
STATUS_VERSIONS = "SELECT id, version FROM invoices"
BALANCE_VERSIONS = (
    "SELECT a.id, m.version FROM accounts a JOIN accounts m ON m.id = COALESCE(a.merged_into, a.id)"
)


class _StatusRow(msgspec.Struct, array_like=True):
    """The columns of `_STATUSES`, in their order."""

    id: str
    version: int
    status: InvoiceStatus
    plan: str | None
    credits_quoted: int
    credits_reversed: int
    settled_at: datetime | None
    settled_via: Source | None
    changed_at: datetime
    payment_seen_at: datetime | None
    error: str | None
    checkout: str | None
    replaced_by: str | None
    balance: int
    payment_method: str | None
    processing_since: datetime | None
    credits_on_trust: int
    voucher: str | None
    traceparent: str | None
    provisioning_until: datetime | None
    unit_credits: str | None
    account_id: int
    external_id: str
    stripe_customer: str | None


class OwnedStatus(msgspec.Struct, frozen=True):
    """The message for an invoice, and whose it is: the account, its id at the SaaS, and Stripe's customer."""

    status: StatusMessage
    account_id: int
    external_id: str
    stripe_customer: str | None


def status_of(row: Invoice, balance: int) -> StatusMessage:
    """The message for `row`. `balance` is its account's, read at the same time or later."""
    return _to_message(row, error_of(row), balance, None)


def balance_of(account: Account) -> BalanceMessage:
    units = units_in(account.unit_balances)
    return BalanceMessage(account.version, account.balance, now(), account.held, units)


def units_in(kept: Any) -> dict[str, UnitBalance] | msgspec.UnsetType:
    """The balances of other units, of the column `unit_balances`: as it is, or as the database returns it."""
    found = msgspec.json.decode(kept) if isinstance(kept, str | bytes) else kept
    if not found:
        return msgspec.UNSET
    return {unit: UnitBalance(of.get("balance", 0), of.get("held", 0)) for unit, of in sorted(found.items())}


def units_granted(kept: Any) -> dict[str, int] | msgspec.UnsetType:
    """What an invoice has granted of other units, of the column `unit_credits`: see `units_in`."""
    found = msgspec.json.decode(kept) if isinstance(kept, str | bytes) else kept
    if not found:
        return msgspec.UNSET
    return {
        unit: max(0, of.get("credits_quoted", 0) - of.get("credits_reversed", 0))
        for unit, of in sorted(found.items())
    }


def error_of(row: Invoice) -> PaymentError | None:
    return msgspec.convert(row.error, PaymentError) if row.error else None


def voucher_of(row: Invoice | _StatusRow) -> Voucher | None:
    if isinstance(row.voucher, str):  # as the database returns it
        return msgspec.json.decode(row.voucher, type=Voucher)
    return msgspec.convert(row.voucher, Voucher) if row.voucher else None


async def read_status(invoice_id: str) -> StatusMessage | None:
    """The message for one invoice, or None if there is no such row."""
    found = await read_statuses([invoice_id])
    return found[0] if found else None


async def read_own_status(invoice_id: str, account_id: int) -> StatusMessage | None:
    """The same, or None if the invoice is another account's."""
    async for row in _status_rows([invoice_id]):
        if row.account_id == account_id:
            return _message_of(row)
    return None


async def read_statuses(invoice_ids: Iterable[str]) -> list[StatusMessage]:
    """The messages for several invoices: one query per 500."""
    return [_message_of(row) async for row in _status_rows(invoice_ids)]


async def read_owned_statuses(invoice_ids: Sequence[str]) -> list[OwnedStatus | None]:
    """For each of these invoices; None where there is no such row."""
    found = {row.id: row async for row in _status_rows(set(invoice_ids))}
    rows = [found.get(invoice_id) for invoice_id in invoice_ids]
    return [
        OwnedStatus(_message_of(row), row.account_id, row.external_id, row.stripe_customer) if row else None
        for row in rows
    ]


async def _status_rows(invoice_ids: Iterable[str]) -> AsyncIterator[_StatusRow]:
    async for record in select_by_keys(_STATUSES, invoice_ids):
        yield msgspec.convert(record, _StatusRow, strict=False)


def _message_of(row: _StatusRow) -> StatusMessage:
    error = msgspec.json.decode(row.error, type=PaymentError) if row.error else None
    return _to_message(row, error, row.balance, row.replaced_by)


async def read_balances(account_ids: Iterable[int]) -> list[tuple[int, BalanceMessage]]:
    """Pairs of account id and message for several accounts: one query per 500."""
    at = now()
    return [
        (account_id, BalanceMessage(version, balance, at, held, units_in(units)))
        async for account_id, version, balance, held, units in select_by_keys(_BALANCES, account_ids)
    ]


def processing_of(row: Invoice | _StatusRow) -> ProcessingPayment | None:
    """What to tell of a payment of `row` that takes days."""
    if row.status is not InvoiceStatus.PROCESSING:
        return None
    return processing_payment(
        row.payment_method, row.processing_since, row.credits_on_trust, now(), voucher_of(row)
    )


def _to_message(
    row: Invoice | _StatusRow, error: PaymentError | None, balance: int, replaced_by: str | None
) -> StatusMessage:
    at = now()
    provisioning = is_provisioning(row.status, row.provisioning_until, at)
    told = row.settled_at is not None and not provisioning
    return StatusMessage(
        invoice=row.id,
        version=row.version - provisioning,  # the row's own is that of `active`, which no write may precede
        status=InvoiceStatus.OPEN if provisioning else row.status,
        stage=Stage.PROVISIONING if provisioning else stage_of(row.status, row.payment_seen_at, at),
        plan=row.plan,
        credits_granted=max(0, row.credits_quoted - row.credits_reversed) if told else 0,
        balance=balance,
        via=row.settled_via if told else None,
        at=row.changed_at,
        error=error,
        checkout=row.checkout,
        processing=processing_of(row),
        replaced_by=replaced_by,
        traceparent=row.traceparent or msgspec.UNSET,
        units_granted=units_granted(row.unit_credits) if told else msgspec.UNSET,
    )
