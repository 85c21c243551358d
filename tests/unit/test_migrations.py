"""The latest migration while processes of the previous release still run and write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tortoise import Tortoise
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.exceptions import IntegrityError
from tortoise.migrations.api import migrate as migrate_to
from tortoise.migrations.operations import RenameField
from tortoise.models import Model

from paidup.db import models, outbound_models
from paidup.db.connection import connection, is_sqlite, migrate, open_database, tortoise_config
from paidup.db.models import CreditGrant, StripeCustomer, Subscription
from paidup.runtime.clock import now
from tests.structure.test_migrations import NAMES, declared, migration
from tests.support.paidup import environment
from tests.support.processes import Child
from tests.support.waiting import wait_until

OURS: dict[str, type[Model]] = {
    str(model._meta.db_table): model
    for model in (*vars(models).values(), *vars(outbound_models).values())
    if isinstance(model, type) and issubclass(model, Model) and model is not Model
}


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with nothing in it."""
    EXECUTOR_CACHE.clear()
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path / 'empty.db'}"
        return
    server = request.getfixturevalue("databases").server
    server.psql("CREATE DATABASE unmigrated")
    yield server.get_uri(database="unmigrated")
    server.psql("DROP DATABASE unmigrated WITH (FORCE)")


async def columns() -> dict[str, dict[str, str]]:
    """Of each table of ours, the columns and their types, as the open database has them."""
    if is_sqlite():
        query = (
            "SELECT m.name AS tab, c.name AS col, c.type AS kind FROM sqlite_master m,"
            " pragma_table_info(m.name) c WHERE m.type = 'table'"
        )
    else:
        query = (
            "SELECT table_name AS tab, column_name AS col, data_type AS kind"
            " FROM information_schema.columns WHERE table_schema = 'public'"
        )
    found: dict[str, dict[str, str]] = {}
    for row in await connection().execute_query_dict(query):
        if row["tab"] in OURS:
            found.setdefault(row["tab"], {})[row["col"]] = row["kind"].lower()
    return found


def value(table: str, column: str, kind: str, number: int) -> str:
    """Something that the column may hold, as SQL; `number` where it must not be twice the same."""
    field: Any = OURS[table]._meta.fields_map.get(column)
    if enum := getattr(field, "enum_type", None):
        return f"'{(field.default or next(iter(enum))).value}'"
    if kind.startswith("timestamp"):
        return "'2026-11-01 00:00:00+00:00'"
    if kind.startswith("json"):
        return "'{}'"
    if kind.startswith("bool"):
        return "false"
    return str(number) if "int" in kind else f"'{number}'"


async def write_as_before(before: dict[str, dict[str, str]], number: int) -> None:
    """What the old code does: an INSERT that names every column it knows of, in each table."""
    if not is_sqlite():
        await connection().execute_script("SET session_replication_role = replica")  # in any order
    for table, known in before.items():
        values = ", ".join(value(table, column, kind, number) for column, kind in known.items())
        named = ", ".join(f'"{column}"' for column in known)
        await connection().execute_script(f'INSERT INTO "{table}" ({named}) VALUES ({values})')


def now_called(name: str, columns: dict[str, str]) -> set[str]:
    """These columns by the names that the migration leaves them with."""
    steps = [step for step in migration(name).Migration.operations if isinstance(step, RenameField)]
    renamed = {step.old_name: step.new_name for step in steps}
    return {renamed.get(column, column) for column in columns}


async def test_processes_of_the_previous_release_can_still_write(empty_url: str) -> None:
    previous, latest = NAMES[-2:]
    try:
        await migrate_to(config=tortoise_config(empty_url), target=f"paidup.{previous}")
    finally:
        await Tortoise.close_connections()
    async with open_database(empty_url, pool=1):
        before = await columns()
        await write_as_before(before, 1)
    await migrate(empty_url)
    async with open_database(empty_url, pool=1):
        after = await columns()
        gone = {f"{table}.{column}" for table in before for column in before[table].keys() - after[table]}
        contracts = [name.partition(" ")[::2] for name in declared(latest)]
        leaving = [column.split(".") for step, column in contracts if step in ("DropColumn", "RenameField")]
        assert gone == {f"{getattr(models, model)._meta.db_table}.{column}" for model, column in leaving}, (
            "a column that the release before writes is gone, and no contract says so"
        )
        kept = {
            table: {name: kind for name, kind in after[table].items() if name in now_called(latest, known)}
            for table, known in before.items()
        }
        await write_as_before(kept, 2)
        for table in before:
            assert await OURS[table].all().count() == 2
            assert len(await OURS[table].all()) == 2, "and the new code reads all of them"


@pytest.mark.parametrize("empty_url", ["postgres"], indirect=True)
async def test_concurrent_migrations_run_once(empty_url: str, tmp_path: Path) -> None:
    """Each server of a release may run it first, as an image's or a unit's own first step."""
    once, variables = ["-m", "paidup.cli", "migrate"], environment(database_url=empty_url)
    children = [Child(once, variables, tmp_path / f"{each}.log", tmp_path, forked=True) for each in range(3)]
    for child in children:
        assert await asyncio.to_thread(child.process.wait, 60) == 0, child.output


async def test_the_migration_takes_the_customers_of_the_accounts(empty_url: str) -> None:
    try:
        await migrate_to(config=tortoise_config(empty_url), target="paidup.0004_rename_columns")
    finally:
        await Tortoise.close_connections()
    async with open_database(empty_url):
        for name, customer in (("ada", "'cus_1'"), ("bob", "NULL")):
            await connection().execute_query(
                "INSERT INTO accounts (external_id, stripe_customer, balance, version, purchase_number,"
                f" created_at) VALUES ('{name}', {customer}, 0, 0, 1, '2026-11-01 00:00:00+00:00')"
            )
    await migrate(empty_url)
    async with open_database(empty_url):
        (row,) = await StripeCustomer.all().select_related("account")
        assert (row.id, row.account.external_id, row.deleted_at) == ("cus_1", "ada", None)
        assert row.created_at == row.account.created_at


async def test_rows_of_other_products_subscriptions_are_read_again(empty_url: str) -> None:
    """Migration 0008: a row without a plan may be of another product's; the next read removes it."""
    try:
        await migrate_to(config=tortoise_config(empty_url), target="paidup.0007_credits_offset")
    finally:
        await Tortoise.close_connections()
    at = "'2026-11-01 00:00:00+00:00'"
    async with open_database(empty_url):
        await connection().execute_query(
            "INSERT INTO accounts (external_id, balance, version, purchase_number, created_at)"
            f" VALUES ('ada', 0, 0, 1, {at})"
        )
        for name, plan in (("sub_pro", "'pro'"), ("sub_other", "NULL")):
            await connection().execute_query(
                "INSERT INTO subscriptions (id, account_id, status, plan, quantity, created_at)"
                f" SELECT '{name}', id, 'active', {plan}, 1, {at} FROM accounts"
            )
    await migrate(empty_url)
    async with open_database(empty_url):
        due = {row.id: row.refresh_at is not None for row in await Subscription.all()}
    assert due == {"sub_pro": False, "sub_other": True}


def _time(at: datetime | None) -> str:
    return f"'{at.isoformat(' ')}'" if at else "NULL"


async def test_grants_from_before_the_grace_get_it(empty_url: str) -> None:
    """Migration 0014: those of a running subscription's period that has not ended; no others."""
    try:
        await migrate_to(config=tortoise_config(empty_url), target="paidup.0013_payment_seen")
    finally:
        await Tortoise.close_connections()
    end = now().replace(microsecond=0) + timedelta(days=5)
    rows = {
        "running": ("active", None, end),
        "ending": ("active", end, end),
        "over": ("canceled", None, end),
        "past": ("active", None, end - timedelta(days=6)),
        "forever": ("active", None, None),
    }
    async with open_database(empty_url):
        # As SQL, where the rows have columns by now that the schema does not have yet.
        await connection().execute_script(
            "INSERT INTO accounts (id, external_id, balance, version, purchase_number, created_at)"
            " VALUES (1, 'ada', 0, 0, 1, CURRENT_TIMESTAMP)"
        )
        for name, (status, cancel_at, expires_at) in rows.items():
            await Subscription.create(id=name, account_id=1, status=status, cancel_at=cancel_at)
            await connection().execute_script(
                "INSERT INTO invoices (id, account_id, customer, subscription, currency, amount_due_minor,"
                " credits_quoted, status, version, published_version, checks_made, changed_at, created_at)"
                f" VALUES ('{name}', 1, 'cus_1', '{name}', 'usd', 900, 500, 'open', 1, 0, 0,"
                " CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)"
            )
            await connection().execute_query(
                "INSERT INTO credit_grants (account_id, invoice_id, installment, credits, remaining,"
                " expires_at, state, created_at)"
                f" VALUES (1, '{name}', 1, 500, 500, {_time(expires_at)}, 'live', CURRENT_TIMESTAMP)"
            )
    await migrate(empty_url)
    async with open_database(empty_url):
        found = {row.invoice_id: row.usable_until for row in await CreditGrant.all()}
    assert found == dict.fromkeys(rows, None) | {"running": end + timedelta(hours=72)}


async def test_grants_from_before_corrections_keep_their_invoice_and_their_key(empty_url: str) -> None:
    """Migration 0019: the column may be NULL from now on, in place; what was unique is unique still."""
    try:
        await migrate_to(config=tortoise_config(empty_url), target="paidup.0018_outbound_events")
    finally:
        await Tortoise.close_connections()
    grant = (
        "INSERT INTO credit_grants (account_id, invoice_id, installment, credits, remaining, state,"
        " created_at) VALUES (1, {invoice}, 1, 500, 500, 'live', CURRENT_TIMESTAMP)"
    )
    async with open_database(empty_url):
        await connection().execute_script(
            "INSERT INTO accounts (id, external_id, balance, version, purchase_number, created_at)"
            " VALUES (1, 'ada', 0, 0, 1, CURRENT_TIMESTAMP)"
        )
        await connection().execute_script(
            "INSERT INTO invoices (id, account_id, customer, currency, amount_due_minor, credits_quoted,"
            " status, version, published_version, checks_made, changed_at, created_at) VALUES ('in_1', 1,"
            " 'cus_1', 'usd', 900, 500, 'open', 1, 0, 0, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)"
        )
        await connection().execute_script(grant.format(invoice="'in_1'"))
        with pytest.raises(IntegrityError):
            await connection().execute_query(grant.format(invoice="NULL"))
    await migrate(empty_url)
    async with open_database(empty_url):
        await connection().execute_query(grant.format(invoice="NULL"))
        with pytest.raises(IntegrityError):
            await connection().execute_query(grant.format(invoice="'in_1'"))
        rows = await CreditGrant.all().order_by("id")
        assert [(row.invoice_id, row.correction) for row in rows] == [("in_1", None), (None, None)]
        if is_sqlite():
            assert await connection().execute_query_dict("PRAGMA integrity_check") == [
                {"integrity_check": "ok"}
            ]


@pytest.mark.parametrize("empty_url", ["postgres"], indirect=True)
async def test_indexes_are_built_while_others_write(empty_url: str) -> None:
    """One that an operator has built before is left as it is, and one that was interrupted built again."""
    built, interrupted = "idx_ledger_entr_account_4e29d9", "idx_invoices_has_reversals"
    try:
        await migrate_to(config=tortoise_config(empty_url), target="paidup.0028_client_references")
    finally:
        await Tortoise.close_connections()
    insert = (
        "INSERT INTO accounts (external_id, balance, purchase_number, created_at) VALUES ($1, 0, 1, now())"
    )
    first, second = [await asyncpg.connect(empty_url) for _ in range(2)]
    try:
        await second.execute(f"CREATE INDEX CONCURRENTLY {built} ON ledger_entries (account_id, id)")
        await second.execute(f"CREATE INDEX {interrupted} ON invoices (account_id)")
        await second.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::regclass", interrupted
        )
        before = [await second.fetchval("SELECT $1::regclass::oid", name) for name in (built, interrupted)]
        writing = first.transaction()
        await writing.start()
        await first.execute(insert, "ada")  # the last index waits for the end of this
        migrating = asyncio.create_task(migrate(empty_url))

        async def waits() -> bool:
            return bool(await second.fetchval(WAITING))

        await wait_until(waits, within=30)
        await second.execute(insert, "bob", timeout=4)
        await writing.commit()
        await migrating
        after = [await second.fetchval("SELECT $1::regclass::oid", name) for name in (built, interrupted)]
        invalid = await second.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid")
    finally:
        await first.close()
        await second.close()
    assert (before[0], invalid) == (after[0], 0)
    assert before[1] != after[1]


WAITING = """
SELECT 1 FROM pg_stat_activity
WHERE query LIKE 'CREATE INDEX CONCURRENTLY%accounts%' AND wait_event_type = 'Lock'
"""
