"""Steps of migrations that Tortoise's own would take the wrong way.

On SQLite, Tortoise 1.1.9 alters and removes a column by making the table anew, and forgets its
unique keys and indexes: the very keys that make a double credit impossible. A test compares
what the migrations make with what the models ask for. Refuses to be used by anything else.
"""

from __future__ import annotations

from typing import Any

from tortoise.migrations.operations import AlterField, RemoveField


class Redescribe(AlterField):
    """Only the comment has changed, or what Python makes of the column: the database is left alone."""

    async def database_forward(self, *_: Any, **__: Any) -> None:
        return None

    async def database_backward(self, *_: Any, **__: Any) -> None:
        return None


class DropColumn(RemoveField):
    """Remove a column in place, which SQLite can do since 2021."""

    async def database_forward(
        self, app_label: str, old_state: Any, new_state: Any, state_editor: Any = None
    ) -> None:
        table = old_state.apps.get_model(f"{app_label}.{self.model_name}")._meta.db_table
        await state_editor._run_sql(f'ALTER TABLE "{table}" DROP COLUMN "{self.name}"')
