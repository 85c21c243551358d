"""Each migration, read: what an older process would not survive is declared, with its reason.

In a rolling deploy the schema is migrated first, and processes of the release before run on it
until they are replaced. docs/deploying.md has the rule.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tortoise import fields
from tortoise.migrations import operations as ops
from tortoise.migrations.operations import AddField, AddIndex, AlterModelOptions, CreateModel

from paidup.db import new_sqlite
from paidup.db.connection import migrate
from paidup.db.schema_operations import BuildPrefixIndex, DropColumn, DropIndex, FillTable, Redescribe
from paidup.errors import StorageUnavailable
from tests.structure.new_sqlite import migrated, rows, written
from tests.structure.sources import ROOT

NAMES = sorted(path.stem for path in (ROOT / "server" / "paidup" / "db" / "migrations").glob("0*.py"))


def migration(name: str) -> Any:
    return import_module(f"paidup.db.migrations.{name}")


def spoken(field: Any) -> set[str]:
    """The values of an enum's column, as its description lists them."""
    lines = (field.description or "").splitlines() if hasattr(field, "enum_type") else []
    return {line.partition(": ")[2] for line in lines}


Values = dict[tuple[str, str], set[str]]


def contracts(steps: list[Any], values: Values) -> list[str]:
    """Each of `steps` that an older process would not survive. Keeps in `values` what each enum says."""
    found = []
    created = {step.name for step in steps if isinstance(step, CreateModel)}
    for step in steps:
        if isinstance(step, CreateModel):
            values |= {(step.name, column): spoken(field) for column, field in step.fields}
            continue
        names = [
            str(getattr(step, part)) for part in ("model_name", "name", "old_name") if hasattr(step, part)
        ]
        if isinstance(step, Redescribe):
            before, now = values[step.model_name, step.name], spoken(step.field)
            values[step.model_name, step.name] = now
            safe = before == now  # a value that an older process does not know, it cannot read
        elif isinstance(step, AddField):
            field: Any = step.field
            safe = (field.null or field.has_db_default()) and not field.unique
            values[step.model_name, step.name] = spoken(field)
        elif isinstance(step, FillTable):
            safe = step.model_name in created
        else:
            # Without an index that another replaces, a statement is slower at worst.
            safe = isinstance(step, AddIndex | BuildPrefixIndex | DropIndex | AlterModelOptions)
        if not safe:
            found.append(" ".join([type(step).__name__, ".".join(names)]).strip())
    return found


def declared(name: str) -> dict[str, str]:
    """The migration's own CONTRACTS: of each such step, why nothing of the release before needs it."""
    found: dict[str, str] = getattr(migration(name), "CONTRACTS", {})
    return found


def test_an_older_process_survives_what_is_not_declared() -> None:
    values: Values = {}
    for name in NAMES:
        assert contracts(migration(name).Migration.operations, values) == list(declared(name)), name
        assert all(len(reason) > 20 for reason in declared(name).values())


@pytest.mark.parametrize(
    "step",
    [
        ops.RemoveField("Account", "balance"),
        ops.AlterField("Account", "external_id", fields.CharField(max_length=20, unique=True)),
        ops.AddField("Account", "seats", fields.IntField(default=1)),
        ops.AddField("Account", "code", fields.CharField(max_length=9, null=True, unique=True)),
        ops.RenameField("Account", "balance", "credits"),
        ops.DeleteModel("Watermark"),
        ops.RunSQL("DELETE FROM timeline"),
        DropColumn("Account", "balance"),
        FillTable("Account", "INSERT INTO accounts (external_id) VALUES ('ada')"),
    ],
    ids=lambda step: type(step).__name__,
)
def test_what_an_older_process_would_not_survive_is_seen(step: Any) -> None:
    assert contracts([step], {}) != []


async def test_a_new_sqlite_database_is_as_the_migrations_leave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S10: a key that its script lacked would allow a second grant. An older script is migrated further."""
    by_migrations, by_script, by_both = (tmp_path / f"{name}.db" for name in ("all", "script", "both"))
    await migrated(by_migrations, NAMES[-2])
    older = written(by_migrations)
    await migrated(by_migrations)
    steps: list[str] = []
    await migrate(f"sqlite://{by_script}", steps.append)
    assert steps == NAMES
    assert rows(by_script) == rows(by_migrations), "run `python -m tests.structure.new_sqlite`"
    assert written(by_migrations) == new_sqlite.SCRIPT.read_text()
    monkeypatch.setattr(new_sqlite, "SCRIPT", tmp_path / "older.sql")
    new_sqlite.SCRIPT.write_text(older)
    await migrate(f"sqlite://{by_both}")
    assert rows(by_both) == rows(by_migrations)


async def test_of_a_script_that_fails_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the disk is full: the next start begins again."""
    file, whole = tmp_path / "paidup.db", new_sqlite.SCRIPT.read_text()
    monkeypatch.setattr(new_sqlite, "SCRIPT", tmp_path / "new.sql")
    new_sqlite.SCRIPT.write_text(f"{whole}INSERT INTO no_such_table VALUES (1);\n")
    with pytest.raises(StorageUnavailable, match="no_such_table"):
        await migrate(f"sqlite://{file}")
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT * FROM sqlite_master").fetchall() == []
