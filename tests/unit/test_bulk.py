"""Bulk statements and the unit of work read and write the same rows as Tortoise, on both databases."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

import pytest
from tortoise.exceptions import IntegrityError, OperationalError
from tortoise.models import Model

from paidup.db import sqlite
from paidup.db.bulk import execute, insert_many, select_by_keys, select_exceeding, update_many
from paidup.db.connection import connection, is_sqlite, write_transaction
from paidup.db.instances import new_row
from paidup.db.models import Account, CreditGrant, EntryKind, Invoice, LedgerEntry, StripeEvent, TimelineEntry
from paidup.db.outbound_models import OutboundEvent
from paidup.db.shared_writes import VersionedRows, read_versioned, write_unchanged
from paidup.db.unit_of_work import UnitOfWork, read_locked, read_rows
from paidup.runtime.clock import now
from tests.support.factories import an_account, an_invoice

pytestmark = pytest.mark.usefixtures("database")

on_postgres = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
OTHER_INVOICE = "in_other"
BY_ID = "invoices.id = $1 AND accounts.id = invoices.account_id"
SEVERAL = "invoices.id = ANY($1) AND accounts.id = invoices.account_id"


def a_grant(account: Account, invoice: Invoice) -> UnitOfWork:
    """A grant, its entry, the account and the invoice, written as a settlement writes them."""
    writes = UnitOfWork()
    terms: dict[str, Any] = {"plan": "pro", "credits": 2000, "remaining": 2000}
    grant = CreditGrant(account_id=account.id, invoice_id=invoice.id, **terms)
    account.balance += 2000
    writes.insert(grant)
    values: dict[str, Any] = {
        "reference": f"{invoice.id}:1",
        "balance_after": account.balance,
        "created_at": now(),
    }
    writes.insert(
        LedgerEntry(account_id=account.id, kind=EntryKind.GRANT, credits=2000, **values), grant_id=grant
    )
    writes.update(account, "balance")
    invoice.quote = {"credits": 2000}
    writes.update(invoice, "quote")
    invoice.version += 1
    writes.update(invoice, "quote", "version")
    writes.update_unread(
        Invoice, "checks_made = checks_made + 1, plan = {plan}", id=OTHER_INVOICE, plan="max"
    )
    return writes


async def test_rows_are_read_as_tortoise_reads_them() -> None:
    invoice = await an_invoice(await an_account(), quote={"parts": [1]}, settled_at=now())
    async with write_transaction():
        found = await read_locked(BY_ID, [invoice.id], Invoice, Account)
        assert await read_locked(BY_ID, ["in_none"], Invoice, Account) is None
    assert found is not None
    for row, same in zip(found, (await Invoice.get(), await Account.get()), strict=True):
        assert dict(row) == dict(same)  # type: ignore[call-overload]
        assert row._saved_in_db


async def test_a_unit_of_work_links_its_rows_and_writes_each_once() -> None:
    account = await an_account()
    invoice, other = await an_invoice(account), await an_invoice(account, id=OTHER_INVOICE)
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
    await other.refresh_from_db()
    assert (other.plan, other.checks_made) == ("max", 1)
    with pytest.raises(IntegrityError):
        async with write_transaction():
            await a_grant(account, invoice).send()
    assert (await Account.get()).balance == 2000


async def test_update_many_changes_the_rows_for_which_the_condition_holds() -> None:
    account = await an_account()
    published = [await an_invoice(account, publish_due_at=now()) for _ in range(3)]
    rows = [(published[0].id, 1), (published[1].id, 7)]
    changes = "published_version = {version}, publish_due_at = NULL"
    await update_many(Invoice, changes, "invoices.version = {version}", ("id", "version"), rows, True)
    kept = {row.id: (row.published_version, row.publish_due_at is None) for row in await Invoice.all()}
    assert [kept[row.id] for row in published] == [(1, True), (0, False), (0, False)]


ODD_TEXTS = [
    "",
    "NULL",
    "null",
    "None",
    "1",
    '"',
    "\\",
    '\\"',
    "{}",
    "{a,b}",
    "a\nb\tc",
    "\x01\x7f\u2028",
    "é😀",
]


async def test_rows_beyond_the_known_versions_are_found_whatever_their_keys_are() -> None:
    """Texts of any characters, and whole numbers as large as the database has them."""
    texts = {*ODD_TEXTS, *("".join(random.choices("".join(ODD_TEXTS), k=9)) for _ in range(60))}
    versions = [-(2**63) + 1, -1, 0, 2**53, 2**53 + 1, 2**63 - 1, *range(1, len(texts) - 5)]
    known = dict(zip(texts, versions, strict=True))
    rows = [(version, text, now(), "created") for text, version in known.items()]
    await insert_many(TimelineEntry, ("id", "invoice", "at", "event_type"), rows)
    by_text, by_number = (f"SELECT {key} AS id, id AS version FROM timeline" for key in ("invoice", "id"))
    assert await select_exceeding(by_text, known) == []
    assert await select_exceeding(by_number, {version: version for version in versions}) == []
    older = {text: version - 1 for text, version in known.items()}
    assert set(await select_exceeding(by_text, {"in_none": -5, **older})) == texts
    assert set(await select_exceeding(by_number, {version: version - 1 for version in versions})) == {
        *versions
    }


@on_postgres
async def test_a_key_that_no_text_can_be_is_refused() -> None:
    await an_open_invoice()
    with pytest.raises(OperationalError):
        await select_exceeding("SELECT id, version FROM invoices", {"in_\0": 0})


@on_postgres
async def test_a_read_by_keys_is_not_planned_again_each_time() -> None:
    """https://www.postgresql.org/docs/current/sql-prepare.html#SQL-PREPARE-NOTES: five times at first."""
    await connection().execute_script(
        "INSERT INTO accounts (external_id, balance, purchase_number, created_at)"
        " SELECT 'user-' || n, 0, 0, now() FROM generate_series(1, 5000) n; ANALYZE accounts"
    )
    query = "SELECT external_id FROM accounts WHERE id"
    async with write_transaction():
        for number in range(1, 9):
            assert [name async for (name,) in select_by_keys(query, [number])] == [f"user-{number}"]
        plans = (
            "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE starts_with(statement, $1)"
        )
        _, ((kept, made),) = await connection().execute_query(plans, [query])
    assert (kept, made) == (3, 5)


async def test_what_must_be_durable_waits_for_the_disk_and_the_rest_does_not() -> None:
    """Of PostgreSQL: what the setting is when each transaction is committed."""
    invoice = await an_invoice(await an_account())
    settings = await (_traced_settings() if is_sqlite() else _settings_at_commit())
    change = "UPDATE invoices SET checks_made = checks_made + 1 WHERE id = $1"
    assert await execute(change, invoice.id) == 1
    assert await settings() == [SYNCED]
    assert await execute(change, invoice.id, durable=False) == 1
    assert await execute(change, "in_none", durable=False) == 0
    changes = ("version = version", "TRUE", ("id",), [(invoice.id,)], True)
    await update_many(Invoice, *changes, durable=False)
    assert set(await settings()) == {UNSYNCED}
    async with write_transaction():
        await execute(change, invoice.id, durable=False)
        await update_many(Invoice, *changes, durable=False)
    await execute(change, invoice.id)
    assert set(await settings()) == {SYNCED}
    kept = await Invoice.get()
    assert (kept.checks_made, kept.version) == (4, 1)


async def test_after_a_failed_change_that_need_not_be_durable_others_are() -> None:
    invoice = await an_invoice(await an_account())
    settings = await (_traced_settings() if is_sqlite() else _settings_at_commit())
    row = (7, invoice.id, now(), "created")
    with pytest.raises(IntegrityError):
        await insert_many(
            TimelineEntry, ("id", "invoice", "at", "event_type"), [row, (8, *row[1:]), row], durable=False
        )
    assert not await TimelineEntry.exists()
    await settings()
    assert await execute("UPDATE invoices SET plan = 'max' WHERE id = $1", invoice.id) == 1
    assert await settings() == [SYNCED]


SYNCED, UNSYNCED = "synced", "not synced"
Settings = Callable[[], Awaitable[list[str]]]
"""How each change of an invoice since the last call is committed."""


async def _settings_at_commit() -> Settings:
    await connection().execute_script(
        "CREATE TABLE commits (setting text);"
        "CREATE FUNCTION note_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO commits VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;"
        "CREATE CONSTRAINT TRIGGER note_commit AFTER UPDATE ON invoices DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION note_commit();"
    )

    async def settings() -> list[str]:
        found = await connection().execute_query_dict("SELECT setting FROM commits")
        await connection().execute_script("TRUNCATE commits")
        return [UNSYNCED if row["setting"] == "off" else SYNCED for row in found]

    return settings


async def _traced_settings() -> Settings:
    statements: list[str] = []
    level = await sqlite.run(connection(), lambda db: db.execute("PRAGMA synchronous").fetchone()[0])
    synced = level > sqlite.NORMAL
    await sqlite.run(connection(), lambda db: db.set_trace_callback(statements.append))

    async def settings() -> list[str]:
        nonlocal synced
        found = []
        for statement in statements:
            if statement.startswith("PRAGMA synchronous ="):
                synced = int(statement.rpartition(" ")[2]) > sqlite.NORMAL
            elif statement.startswith("UPDATE invoices"):
                found.append(SYNCED if synced else UNSYNCED)
        statements.clear()
        return found

    return settings


async def read_and_change(*invoices: Invoice) -> list[VersionedRows]:
    """Each of them with its account, and a grant of it to be written."""
    found = await read_versioned(SEVERAL, [[each.id for each in invoices]], Invoice, Account)
    by_id = {read.rows[0].id: read for read in found}
    return [
        VersionedRows(read.rows, read.versions, a_grant(read.rows[1], read.rows[0]))
        for read in (by_id[each.id] for each in invoices)
    ]


async def an_open_invoice(external_id: str = "user-1") -> Invoice:
    return await an_invoice(await an_account(external_id))


async def test_unchanged_rows_of_several_are_written_together() -> None:
    invoices = [await an_open_invoice(f"user-{number}") for number in range(3)]
    assert await write_unchanged(await read_and_change(*invoices)) == [True] * 3
    for invoice in invoices:
        grant = await CreditGrant.get(invoice_id=invoice.id)
        entry = await LedgerEntry.get(grant_id=grant.id)
        assert (entry.reference, grant.account_id) == (f"{invoice.id}:1", invoice.account_id)
        kept = await Invoice.get(id=invoice.id)
        assert (kept.version, kept.quote) == (2, {"credits": 2000})
        assert (await Account.get(id=invoice.account_id)).balance == 2000


async def test_a_column_that_one_of_them_changes_stays_with_the_others() -> None:
    """One statement writes the columns that any of them changes."""
    invoices = [await an_open_invoice("user-1"), await an_open_invoice("user-2")]
    await Account.filter(id=invoices[1].account_id).update(low_balance=7)
    first, second = await read_and_change(*invoices)
    first.rows[1].low_balance = 5
    first.writes.update(first.rows[1], "low_balance")
    assert await write_unchanged([first, second]) == [True, True]
    accounts = await Account.all().order_by("id")
    assert [(account.balance, account.low_balance) for account in accounts] == [(2000, 5), (2000, 7)]


@pytest.mark.parametrize("changed", [Invoice, Account])
async def test_one_whose_row_has_changed_is_left_out(changed: type[Invoice | Account]) -> None:
    """S10: any column counts, even where the row's own `version` is the same; the others are written."""
    first, second = await an_open_invoice("user-1"), await an_open_invoice("user-2")
    read = await read_and_change(first, second)
    key = first.id if changed is Invoice else first.account_id
    await changed.filter(id=key).update(created_at=now())
    assert await write_unchanged(read) == [False, True]
    assert (await CreditGrant.get()).invoice_id == (await LedgerEntry.get()).reference[:-2] == second.id
    assert (await Account.get(id=first.account_id)).balance == 0
    assert (await Invoice.get(id=first.id)).version == 1


@on_postgres
@pytest.mark.parametrize("changed", [Invoice, Account])
async def test_one_whose_row_is_locked_is_left_out_and_not_waited_for(
    changed: type[Invoice | Account],
) -> None:
    first, second = await an_open_invoice("user-1"), await an_open_invoice("user-2")
    read = await read_and_change(first, second)
    async with write_transaction():
        await changed.filter(id=first.id if changed is Invoice else first.account_id).update(created_at=now())
        # A context of its own, so a connection of its own.
        writing = asyncio.create_task(write_unchanged(read), context=Context())
        assert await writing == [False, True]
    assert (await CreditGrant.get()).invoice_id == second.id


async def test_one_with_a_new_row_that_exists_is_left_out() -> None:
    first, second = await an_open_invoice("user-1"), await an_open_invoice("user-2")
    read = await read_and_change(first, second)
    for number, each in enumerate(read):
        each.writes.insert(an_event(f"evt_{number}"))
    await an_event("evt_0").save(force_create=True)
    assert await write_unchanged(read) == [False, True]
    assert (await CreditGrant.get()).invoice_id == second.id
    assert [row.id for row in await StripeEvent.all().order_by("id")] == ["evt_0", "evt_1"]


async def test_one_that_refers_to_a_known_row_keeps_its_reference() -> None:
    """Where another of the statement refers, by the same column, to a row that it inserts."""
    first, second = await an_open_invoice("user-1"), await an_open_invoice("user-2")
    known = await CreditGrant.create(account_id=first.account_id, credits=5, remaining=5)
    about_known, about_new = await read_and_change(first, second)
    entry = {
        "reference": "known",
        "credits": 0,
        "balance_after": 0,
        "grant_id": known.id,
        "created_at": now(),
    }
    about_known.writes.insert(LedgerEntry(account_id=first.account_id, kind=EntryKind.ADJUST, **entry))
    assert await write_unchanged([about_known, about_new]) == [True, True]
    kept = {each.reference: each.grant_id for each in await LedgerEntry.all()}  # type: ignore[attr-defined]
    new = {f"{each.invoice_id}:1": each.id for each in await CreditGrant.exclude(id=known.id)}
    assert kept == {"known": known.id, **new}


async def test_nothing_is_written_where_one_breaks_another_key() -> None:
    """Its caller tries each by itself."""
    first, second = await an_open_invoice("user-1"), await an_open_invoice("user-2")
    async with write_transaction():
        await a_grant(await Account.get(id=first.account_id), await Invoice.get(id=first.id)).send()
    read = await read_and_change(first, second)
    with pytest.raises(IntegrityError):
        await write_unchanged(read)
    assert (await CreditGrant.get()).invoice_id == first.id


def an_event(id: str) -> StripeEvent:
    return StripeEvent(id=id, type="invoice.paid", payload="{}", received_at=now(), handled_at=now())


@pytest.mark.parametrize("model", [CreditGrant, LedgerEntry, OutboundEvent])
def test_a_new_row_is_as_tortoise_makes_it(model: type[Model]) -> None:
    values = {"account_id": 7, "credits": 5} if model is not OutboundEvent else {"account_id": 7, "data": {}}
    made, expected = new_row(model, **values), model(**values)
    assert vars(made) == vars(expected)
    assert vars(made)["_await_when_save"] is not vars(new_row(model, **values))["_await_when_save"]


async def test_a_row_that_is_read_is_as_tortoise_reads_it() -> None:
    account = await an_account()
    account.known_subscriptions = [{"id": "sub_1"}]
    await account.save()
    invoice = await an_invoice(account, settled_at=now(), has_reversals=True, quote={"credits": 2000})
    rows = await read_rows(BY_ID, [invoice.id], Invoice, Account)
    assert rows is not None
    for row, expected in zip(
        rows, (await Invoice.get(id=invoice.id), await Account.get(id=account.id)), strict=True
    ):
        assert vars(row) == vars(expected)
