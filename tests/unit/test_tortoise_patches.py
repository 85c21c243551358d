"""Each fault of Tortoise that Paidup patches is still there. A failing test means: remove the patch."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, nullcontext
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest
from tortoise import Tortoise
from tortoise import context as tortoise_context
from tortoise.apps import Apps
from tortoise.backends.base.client import TransactionContextPooled
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.backends.sqlite.client import SqliteClient, SqliteTransactionContext, SqliteTransactionWrapper
from tortoise.migrations.api import migrate as run_migrations
from tortoise.migrations.schema_generator.state import ModelState, State
from tortoise.migrations.schema_generator.state_apps import StateApps

from paidup.db import tortoise_patches
from paidup.db.connection import connection, is_sqlite, open_database, write_transaction
from paidup.db.models import Account, KnownPrice
from paidup.db.postgres import PostgresTransaction
from paidup.errors import ConfigurationError, StorageUnavailable
from tests.support.cancel_at_await import cut_off
from tests.support.factories import an_account

Unpatch = Callable[[type, str], None]


@pytest.fixture
def unpatch(monkeypatch: pytest.MonkeyPatch) -> Unpatch:
    """Restores one attribute of Tortoise for the length of the test."""

    def restore(owner: type, name: str) -> None:
        (patch,) = [each for each in tortoise_patches.PATCHES if (each.owner, each.name) == (owner, name)]
        monkeypatch.setattr(owner, name, patch.original)

    return restore


def test_every_patch_is_applied() -> None:
    for patch in tortoise_patches.PATCHES:
        assert getattr(patch.owner, patch.name) is patch.replacement


@pytest.mark.usefixtures("database")
async def test_a_transaction_that_cannot_begin_stays_the_current_connection(
    unpatch: Unpatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def begin(_: Any) -> None:
        raise OSError("the connection was cut")

    async def fail_to_begin() -> None:
        before = connection()
        with pytest.raises(StorageUnavailable):
            async with write_transaction():
                pass
        assert connection() is not before

    unpatch(SqliteTransactionContext, "__aenter__")
    unpatch(TransactionContextPooled, "__aenter__")
    with monkeypatch.context() as failing:
        for kind in (SqliteTransactionWrapper, PostgresTransaction):
            failing.setattr(kind, "begin", begin)
        client: Any = connection()
        await asyncio.create_task(fail_to_begin(), context=Context())
    if is_sqlite():
        assert client._lock.locked()
        client._lock.release()
    else:
        pool = client._pool
        assert pool.get_size() - pool.get_idle_size() == 1
        pool.terminate()
        client._pool = None


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("database")
async def test_a_cancelled_execute_many_leaves_its_transaction_open(unpatch: Unpatch) -> None:
    unpatch(SqliteClient, "execute_many")
    client: Any = connection()
    open_after = []
    for at in range(10):
        await cut_off(client.execute_many("UPDATE accounts SET balance = ?", [[0]]), at)
        open_after.append(client._connection.in_transaction)
        await client._connection.rollback()
    assert any(open_after)


async def test_a_deferred_transaction_fails_at_once_when_another_process_wrote(
    unpatch: Unpatch, sqlite_template: Path, tmp_path: Path
) -> None:
    unpatch(SqliteTransactionWrapper, "begin")
    EXECUTOR_CACHE.clear()
    sqlite_file = tmp_path / "two.db"
    shutil.copy(sqlite_template, sqlite_file)
    other = sqlite3.connect(sqlite_file, isolation_level=None)

    async def read_then_write() -> None:
        async with write_transaction():
            await KnownPrice.all().count()
            other.execute("UPDATE prices SET unit_amount_minor = 2")
            await KnownPrice.all().update(unit_amount_minor=3)

    async with open_database(f"sqlite://{sqlite_file}"):
        values: dict[str, Any] = {"lookup_key": "k", "plan": "pro", "unit_amount_minor": 1, "currency": "usd"}
        await KnownPrice.create(id="price_1", **values)
        with pytest.raises(StorageUnavailable, match="locked"):
            await read_then_write()
    other.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("patched", [True, False])
async def test_a_commit_that_fails_leaves_its_transaction_open(
    unpatch: Unpatch, database_url: str, patched: bool
) -> None:
    """It finds a reader, where SQLite has no write-ahead log."""
    if not patched:
        unpatch(SqliteTransactionWrapper, "commit")
    account = await an_account()
    await connection().execute_script("PRAGMA journal_mode = DELETE; PRAGMA busy_timeout = 0")
    reader = sqlite3.connect(database_url.removeprefix("sqlite://"), isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT balance FROM accounts").fetchall()
    try:
        with pytest.raises(StorageUnavailable, match="locked"):
            async with write_transaction():
                await Account.filter(id=account.id).update(balance=7)
    finally:
        reader.close()
    assert (await Account.get(id=account.id)).balance == (0 if patched else 7)
    with nullcontext() if patched else pytest.raises(StorageUnavailable, match="within a transaction"):
        async with write_transaction():
            await Account.filter(id=account.id).update(balance=5)


async def test_a_closed_client_connects_again(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tortoise_patches, "refuse_new_connections", lambda _: None)
    async with open_database(database_url):
        late = connection()
    await late.execute_query("SELECT 1")
    await late.close()


@pytest.mark.parametrize("patched", [True, False])
async def test_a_new_sqlite_file_that_another_locks_is_not_waited_for(
    tmp_path: Path, unpatch: Unpatch, monkeypatch: pytest.MonkeyPatch, patched: bool
) -> None:
    if not patched:
        unpatch(SqliteClient, "create_connection")
    other = sqlite3.connect(tmp_path / "new.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    sleep, looks = asyncio.sleep, []

    async def sleep_and_unlock(seconds: float) -> None:
        if seconds == tortoise_patches.LOOKS_EACH_S:
            looks.append(seconds)
            if len(looks) == 2:
                other.execute("ROLLBACK")
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep_and_unlock)
    with closing(other), nullcontext() if patched else pytest.raises(StorageUnavailable, match="locked"):
        async with open_database(f"sqlite://{tmp_path}/new.db"):
            assert (await connection().execute_query_dict("PRAGMA foreign_keys"))[0]["foreign_keys"] == 1
    assert len(looks) == (2 if patched else 0)


async def test_a_connection_that_cannot_be_made_ends_its_thread(tmp_path: Path) -> None:
    """Each of twenty: without the patch, some are faster than the test."""
    for _ in range(20):
        with pytest.raises(ConfigurationError, match="unable to open"):
            async with open_database(f"sqlite://{tmp_path}"):
                pytest.fail("opened")
        assert [each.name for each in threading.enumerate() if "_connection_worker" in each.name] == []


async def test_a_sqlite_file_that_stays_locked_is_given_up(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "new.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable, match="locked"):
            async with open_database(f"sqlite://{tmp_path}/new.db?busy_timeout=50"):
                pytest.fail("opened")


@pytest.mark.parametrize("patched", [True, False])
async def test_each_connection_prepares_every_model_again(
    patched: bool, database_url: str, unpatch: Unpatch
) -> None:
    if not patched:
        unpatch(Apps, "_build_initial_querysets")
        tortoise_patches._prepared_for.clear()  # the models are prepared for another kind, unnoticed
    prepared = []
    for _ in range(2):
        async with open_database(database_url):
            prepared.append(KnownPrice._meta.basequery)
            assert await KnownPrice.filter(plan="pro").count() == 0
    assert (prepared[0] is prepared[1]) is patched


MODELS = """
from tortoise import fields
from tortoise.models import Model

class Coupon(Model):
    id = fields.IntField(primary_key=True)
    code = fields.CharField(20)
    owner = fields.CharField(20)
    class Meta:
        table = "coupons"
        unique_together = (("code", "owner"),)
"""
MIGRATION = """
from tortoise import fields, migrations
from tortoise.migrations import operations as ops

class Migration(migrations.Migration):
    dependencies = {dependencies}
    initial = {initial}
    operations = [{operation}]
"""
CREATE = """ops.CreateModel(
    name="Coupon",
    fields=[
        ("id", fields.IntField(primary_key=True, generated=True, unique=True, db_index=True)),
        ("code", fields.CharField(max_length=20)),
        ("owner", fields.CharField(max_length=20)),
        ("note", fields.CharField(max_length=20, null=True)),
    ],
    options={"table": "coupons", "app": "shop", "unique_together": (("code", "owner"),), "pk_attr": "id"},
    bases=["Model"],
)"""


@pytest.mark.parametrize(
    "operation",
    [
        'ops.RemoveField(model_name="Coupon", name="note")',
        'ops.AlterField(model_name="Coupon", name="note", field=fields.CharField(max_length=30, null=True))',
    ],
    ids=["RemoveField", "AlterField"],
)
async def test_altering_a_column_on_sqlite_drops_the_unique_keys(
    operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why db/schema_operations.py exists."""
    package = f"shop_{operation[4]}".lower()
    steps = tmp_path / package / "steps"
    steps.mkdir(parents=True)
    (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / package / "models.py").write_text(MODELS)
    (steps / "__init__.py").write_text("")
    first = MIGRATION.format(dependencies=[], initial=True, operation=CREATE)
    (steps / "0001_initial.py").write_text(first)
    after = [("shop", "0001_initial")]
    (steps / "0002_change.py").write_text(
        MIGRATION.format(dependencies=after, initial=False, operation=operation)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = {
        "connections": {"default": f"sqlite://{tmp_path / 'shop.db'}"},
        "apps": {"shop": {"models": [f"{package}.models"], "migrations": f"{package}.steps"}},
    }

    async def unique_keys(target: str) -> list[Any]:
        try:
            await run_migrations(config=config, target=f"shop.{target}")
        finally:
            await Tortoise.close_connections()
        with sqlite3.connect(tmp_path / "shop.db") as database:
            query = "SELECT name FROM pragma_index_list('coupons') WHERE \"unique\" = 1"
            return database.execute(query).fetchall()

    assert await unique_keys("0001_initial")
    assert not await unique_keys("0002_change")


@pytest.mark.parametrize("patched", [True, False])
async def test_a_close_that_fails_keeps_no_other_database_from_being_opened(
    patched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite://{tmp_path / 'paidup.db'}"
    if not patched:
        monkeypatch.setattr(tortoise_patches, "forget", lambda context: None)

    async def fail() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    opened = open_database(url)
    await opened.__aenter__()
    client, left = connection(), tortoise_context._global_context
    with monkeypatch.context() as failing:
        failing.setattr(client, "close", fail)
        with pytest.raises(sqlite3.OperationalError):
            await opened.__aexit__(None, None, None)
    try:
        with nullcontext() if patched else pytest.raises(ConfigurationError):
            async with open_database(url):
                pass
    finally:
        assert left is not None
        await left.close_connections()


@pytest.mark.parametrize("name", ["clone", "_build_initial_querysets"])
async def test_a_step_of_a_migration_makes_every_model_again(
    name: str, database: None, unpatch: Unpatch
) -> None:
    """Or its queries, which the migrations of a new database spent two seconds of a core with."""

    def steps() -> tuple[Any, Any]:
        """What the state before an operation and the one after another have of a model."""
        state = State({}, StateApps({"paidup": "default"}))
        state.models["paidup", "KnownPrice"] = ModelState.make_from_model("paidup", KnownPrice)
        state.reload_model("paidup", "KnownPrice")
        before, model = state.clone(), state.apps.get_model("paidup.KnownPrice")
        assert before.models.keys() == state.models.keys()
        made_again = before.apps.get_model("paidup.KnownPrice") is not model
        return made_again, bool(model._meta.filters)

    assert steps() == (False, False)
    unpatch(StateApps, name)
    assert steps() == ((True, False) if name == "clone" else (False, True))
