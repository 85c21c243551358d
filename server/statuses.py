"""From the row of an invoice or an account to what a browser is told. Reads, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from server.clock import now
from server.core.facts import PaymentError
from server.core.messages import BalanceMessage, StatusMessage, stage_of
from server.models import Account, Invoice

READ_AT_ONCE = 500


def status_of(row: Invoice, balance: int) -> StatusMessage:
    """The message for `row`; `balance` is its account's, read at the same time or later."""
    return StatusMessage(
        invoice=row.id,
        version=row.version,
        status=row.status,
        stage=stage_of(row.status),
        plan=row.plan,
        credits_granted=max(0, row.credits_quoted - row.credits_reversed) if row.settled_at else 0,
        balance=balance,
        via=row.settled_via,
        at=row.changed_at,
        error=error_of(row),
    )


def balance_of(account: Account) -> BalanceMessage:
    return BalanceMessage(account.version, account.balance, now())


def error_of(row: Invoice) -> PaymentError | None:
    return msgspec.convert(row.error, PaymentError) if row.error else None


async def read_status(invoice_id: str) -> StatusMessage | None:
    """The message for one invoice, from its row; None where there is no such row."""
    found = await read_statuses([invoice_id])
    return found[0] if found else None


async def read_statuses(invoice_ids: Iterable[str]) -> list[StatusMessage]:
    """The messages for several invoices, a query for every 500."""
    ids = list(invoice_ids)
    messages: list[StatusMessage] = []
    for start in range(0, len(ids), READ_AT_ONCE):
        rows = await Invoice.filter(id__in=ids[start : start + READ_AT_ONCE]).select_related("account")
        messages.extend(status_of(row, row.account.balance) for row in rows)
    return messages


async def read_balances(account_ids: Iterable[int]) -> list[tuple[int, BalanceMessage]]:
    """The messages for several accounts, each with its account's id; a query for every 500."""
    ids = list(account_ids)
    messages: list[tuple[int, BalanceMessage]] = []
    for start in range(0, len(ids), READ_AT_ONCE):
        rows = Account.filter(id__in=ids[start : start + READ_AT_ONCE]).only("id", "version", "balance")
        messages.extend((row.id, balance_of(row)) for row in await rows)
    return messages
