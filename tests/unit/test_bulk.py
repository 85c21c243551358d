"""Rows read and written in few round trips: the same rows as Tortoise's, on both databases."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Any

import pytest
from tortoise.exceptions import IntegrityError

from paidup.clock import now
from paidup.db.bulk import UnitOfWork, VersionedRows, first_locked, first_seen, update_many
from paidup.db.connection import connection, write_transaction
from paidup.db.models import Account, CreditGrant, EntryKind, Invoice, LedgerEntry
from tests.support.factories import an_account, an_invoice
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("database")

on_postgres = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
SOLD_BESIDES = "in_besides"
BY_ID = "invoices.id = $1 AND accounts.id = invoices.account_id"


def a_grant(account: Account, invoice: Invoice) -> UnitOfWork:
    """A grant, its entry, the account and the invoice: each changed as the settlement does."""
    writes = UnitOfWork()
    terms: dict[str, Any] = {"plan": "pro", "credits": 2000, "remaining": 2000}
    grant = CreditGrant(account_id=account.id, invoice_id=invoice.id, **terms)
    account.balance += 2000
    writes.insert(grant)
    said: dict[str, Any] = {
        "reference": f"{invoice.id}:1",
        "balance_after": account.balance,
        "created_at": now(),
    }
    writes.insert(
        LedgerEntry(account_id=account.id, kind=EntryKind.GRANT, credits=2000, **said), grant_id=grant
    )
    writes.update(account, "balance")
    invoice.quote = {"credits": 2000}
    writes.update(invoice, "quote")
    invoice.version += 1
    writes.update(invoice, "quote", "version")
    writes.change(Invoice, "checks_made = checks_made + 1, plan = {plan}", id=SOLD_BESIDES, plan="max")
    return writes


async def test_rows_are_read_as_tortoise_reads_them() -> None:
    invoice = await an_invoice(await an_account(), quote={"parts": [1]}, settled_at=now())
    async with write_transaction():
        found = await first_locked(BY_ID, [invoice.id], Invoice, Account)
        assert await first_locked(BY_ID, ["in_none"], Invoice, Account) is None
    assert found is not None
    for row, same in zip(found, (await Invoice.get(), await Account.get()), strict=True):
        assert dict(row) == dict(same)  # type: ignore[call-overload]
        assert row._saved_in_db


async def test_what_is_sent_together_refers_to_each_other_and_is_written_once() -> None:
    account = await an_account()
    invoice, besides = await an_invoice(account), await an_invoice(account, id=SOLD_BESIDES)
    writes = a_grant(account, invoice)
    async with write_transaction():
        await writes.send()
        assert writes.empty
        await writes.send()
    grant, entry, kept = await CreditGrant.get(), await LedgerEntry.get(), await Invoice.get(id=invoice.id)
    assert entry.grant_id == grant.id  # type: ignore[attr-defined]
    assert (grant.remaining, grant.state, entry.kind) == (2000, "live", "grant")
    assert grant.created_at is not None
    assert (kept.quote, kept.version) == ({"credits": 2000}, 2)
    assert (await Account.get()).balance == 2000
    await besides.refresh_from_db()
    assert (besides.plan, besides.checks_made) == ("max", 1)
    with pytest.raises(IntegrityError):
        async with write_transaction():
            await a_grant(account, invoice).send()
    assert (await Account.get()).balance == 2000


async def test_many_rows_are_changed_where_the_condition_holds() -> None:
    account = await an_account()
    told = [await an_invoice(account, publish_due_at=now()) for _ in range(3)]
    rows = [(told[0].id, 1), (told[1].id, 7)]
    changes = "published_version = {version}, publish_due_at = NULL"
    await update_many(Invoice, changes, "invoices.version = {version}", ("id", "version"), rows, True)
    kept = {row.id: (row.published_version, row.publish_due_at is None) for row in await Invoice.all()}
    assert [kept[row.id] for row in told] == [(1, True), (0, False), (0, False)]


async def seen_rows(invoice: Invoice) -> tuple[VersionedRows, UnitOfWork]:
    seen = await first_seen(BY_ID, [invoice.id], Invoice, Account)
    assert seen is not None
    row, account = seen.rows
    return seen, a_grant(account, row)


@on_postgres
async def test_what_was_seen_is_written_upon_while_nobody_has_changed_it() -> None:
    seen, writes = await seen_rows(await an_invoice(await an_account()))
    assert await writes.send_if_unchanged(seen)
    assert (await LedgerEntry.get()).grant_id == (await CreditGrant.get()).id  # type: ignore[attr-defined]
    assert ((await Account.get()).balance, (await Invoice.get()).version) == (2000, 2)


@on_postgres
@pytest.mark.parametrize("changed", [Invoice, Account])
async def test_nothing_is_written_upon_what_somebody_has_changed(changed: type[Invoice | Account]) -> None:
    """S10: whatever of the row it was, and though its version is the same."""
    seen, writes = await seen_rows(await an_invoice(await an_account()))
    await changed.all().update(created_at=now())
    assert not await writes.send_if_unchanged(seen)
    assert (await CreditGrant.exists(), await LedgerEntry.exists()) == (False, False)
    assert ((await Account.get()).balance, (await Invoice.get()).version) == (0, 1)


async def somebody_waits() -> bool:
    waiting, _ = await connection().execute_query("SELECT pid FROM pg_locks WHERE NOT granted")
    return waiting > 0


@on_postgres
@pytest.mark.parametrize("changed", [Invoice, Account])
async def test_whoever_holds_a_row_is_waited_for_and_his_change_is_respected(
    changed: type[Invoice | Account],
) -> None:
    """S10: the lock is taken first, and what was seen is compared with the row as it is then."""
    seen, writes = await seen_rows(await an_invoice(await an_account()))
    async with write_transaction():
        await changed.all().update(created_at=now())
        # A context of its own, so a connection of its own.
        writing = asyncio.create_task(writes.send_if_unchanged(seen), context=Context())
        await wait_until(somebody_waits)
    assert await writing is False
    assert not await CreditGrant.exists()
