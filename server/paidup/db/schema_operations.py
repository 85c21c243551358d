"""Migration operations of our own, most of them in place of Tortoise's, which lose unique keys on SQLite.

Tortoise 1.1.9 alters and removes a column on SQLite by rebuilding the table without its unique keys and
indexes. Those keys make a double credit impossible. tests/unit/test_tortoise_patches.py shows the fault;
tests/unit/test_database.py compares the migrated schema with the models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tortoise.migrations.constraints import UniqueConstraint
from tortoise.migrations.operations import (
    AddConstraint,
    AddIndex,
    AlterField,
    RemoveField,
    RemoveIndex,
    RunSQL,
)


class Redescribe(AlterField):
    """Change the comment or the Python type of a column, without touching the database."""

    async def database_forward(self, *_: Any, **__: Any) -> None:
        return None

    async def database_backward(self, *_: Any, **__: Any) -> None:
        return None


class DropColumn(RemoveField):
    """Remove a column in place, which SQLite supports since 3.35 (2021)."""

    async def database_forward(
        self, app_label: str, old_state: Any, new_state: Any, state_editor: Any = None
    ) -> None:
        table = old_state.apps.get_model(f"{app_label}.{self.model_name}")._meta.db_table
        await state_editor._run_sql(f'ALTER TABLE "{table}" DROP COLUMN "{self.name}"')


class MakeNullable(AlterField):
    """Let a column be NULL, in place.

    SQLite has no ALTER for it: the table's stored definition is edited, as https://sqlite.org/lang_altertable.html
    allows for a constraint that does not change how rows are stored ("Making Other Kinds Of Table Schema
    Changes").
    """

    async def database_forward(
        self, app_label: str, old_state: Any, new_state: Any, state_editor: Any = None
    ) -> None:
        model = new_state.apps.get_model(f"{app_label}.{self.model_name}")
        table, column = model._meta.db_table, str(getattr(self.field, "source_field", None) or self.name)
        if state_editor.client.capabilities.dialect != "sqlite":
            await state_editor._run_sql(f'ALTER TABLE "{table}" ALTER COLUMN "{column}" DROP NOT NULL')
            return
        (row,) = await state_editor.client.execute_query_dict(_DEFINITION, [table])
        relaxed, found = re.subn(rf'("{column}" [^,]*?) NOT NULL', r"\1", row["sql"], count=1)
        assert found == 1, row["sql"]
        await state_editor._run_sql("PRAGMA writable_schema = ON")
        await state_editor.client.execute_query(_REDEFINE, [relaxed, table])
        await state_editor._run_sql("PRAGMA writable_schema = RESET")


_DEFINITION = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?"
_REDEFINE = "UPDATE sqlite_master SET sql = ? WHERE type = 'table' AND name = ?"


class AddUnique(AddConstraint):
    """Add a unique key of some columns, as an index: Tortoise's own would rebuild the table on SQLite."""

    async def database_forward(
        self, app_label: str, old_state: Any, new_state: Any, state_editor: Any = None
    ) -> None:
        table = new_state.apps.get_model(f"{app_label}.{self.model_name}")._meta.db_table
        assert isinstance(self.constraint, UniqueConstraint)
        columns = self.constraint.fields
        named = ", ".join(f'"{column}"' for column in columns)
        index = f"uid_{table}_{'_'.join(columns)}"
        await state_editor._run_sql(f'CREATE UNIQUE INDEX "{index}" ON "{table}" ({named})')


class FillTable(RunSQL):
    """Fill a table that the same migration creates, which no process of the release before knows."""

    def __init__(self, model_name: str, sql: str) -> None:
        super().__init__(sql, reverse_sql=RunSQL.noop)
        self.model_name = model_name


class BuildIndex(AddIndex):
    """Add an index while others write to the table, in a migration that is not `atomic`.

    One that exists is left as it is: an operator may have built it before. PostgreSQL keeps an index, marked
    as invalid, whose building was interrupted: it is built again. See
    https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY
    """

    async def database_forward(
        self, app_label: str, old_state: Any, new_state: Any, state_editor: Any = None
    ) -> None:
        model = new_state.apps.get_model(f"{app_label}.{self.model_name}")
        name = state_editor._index_name_for_model(model, self.index)
        await build_index(state_editor, model._meta.db_table, name, self.index.field_names, self.index.extra)


class BuildPrefixIndex(RunSQL):
    """Let PostgreSQL find the rows whose column begins with a text, whatever the database's collation.

    SQLite compares bytes, so its own key of the column does.
    """

    def __init__(self, table: str, column: str) -> None:
        super().__init__("", reverse_sql=RunSQL.noop)
        self.table, self.column = table, column

    async def database_forward(
        self, app_label: str, old_state: Any, new_state: Any, state_editor: Any = None
    ) -> None:
        if state_editor.client.capabilities.dialect != "sqlite":
            name = f"idx_{self.table}_{self.column}_prefix"
            await build_index(state_editor, self.table, name, [self.column], operators=" text_pattern_ops")


class DropIndex(RemoveIndex):
    """Remove an index while others write to the table, in a migration that is not `atomic`."""

    async def database_forward(
        self, app_label: str, old_state: Any, new_state: Any, state_editor: Any = None
    ) -> None:
        model = old_state.apps.get_model(f"{app_label}.{self.model_name}")
        index = self._find_index(old_state.models[(app_label, self.model_name)])
        await drop_index(state_editor, state_editor._index_name_for_model(model, index))


async def build_index(
    editor: Any, table: str, name: str, columns: Sequence[str], extra: str = "", operators: str = ""
) -> None:
    concurrently = ""
    if editor.client.capabilities.dialect != "sqlite":
        if await editor.client.execute_query_dict(_INVALID, [name]):
            await drop_index(editor, name)
        concurrently = "CONCURRENTLY "
    named = ", ".join(f'"{column}"{operators}' for column in columns)
    await editor._run_sql(f'CREATE INDEX {concurrently}IF NOT EXISTS "{name}" ON "{table}" ({named}){extra}')


async def drop_index(editor: Any, name: str) -> None:
    concurrently = "" if editor.client.capabilities.dialect == "sqlite" else "CONCURRENTLY "
    await editor._run_sql(f'DROP INDEX {concurrently}IF EXISTS "{name}"')


_INVALID = """
SELECT 1 FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE relname = $1 AND relnamespace = current_schema()::regnamespace AND NOT indisvalid
"""
