"""Migration operations of our own, most of them in place of Tortoise's, which lose unique keys on SQLite.

Tortoise 1.1.9 alters and removes a column on SQLite by rebuilding the table without its unique keys and
indexes. Those keys make a double credit impossible. tests/unit/test_tortoise_patches.py shows the fault;
tests/unit/test_database.py compares the migrated schema with the models.
"""

from __future__ import annotations

from typing import Any

from tortoise.migrations.operations import AlterField, RemoveField, RunSQL


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


class FillTable(RunSQL):
    """Fill a table that the same migration creates, which no process of the release before knows."""

    def __init__(self, model_name: str, sql: str) -> None:
        super().__init__(sql, reverse_sql=RunSQL.noop)
        self.model_name = model_name
