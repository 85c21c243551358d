"""The script of a new SQLite database's tables, written from the migrations.

`python -m tests.structure.new_sqlite` writes it, as `make migrations` does; a test of this folder checks that
it leaves what they leave.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from tortoise import Tortoise
from tortoise.migrations.api import migrate as run_migrations

from paidup.db.connection import tortoise_config
from paidup.db.new_sqlite import SCRIPT

NOW = "strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')"
"""As Tortoise writes a time."""


async def migrated(file: Path, last: str = "__latest__") -> None:
    """Apply the migrations one by one, to this one."""
    try:
        await run_migrations(config=tortoise_config(f"sqlite://{file}"), target=f"paidup.{last}")
    finally:
        await Tortoise.close_connections()


def rows(file: Path) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables, and the schema's in their order; not when each migration was applied."""
    with closing(sqlite3.connect(file)) as database:
        schema = database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY rowid")
        found: dict[str, list[tuple[object, ...]]] = {"sqlite_master": schema.fetchall()}
        for kind, name, *_ in found["sqlite_master"]:
            columns = "id, app, name" if name == "tortoise_migrations" else "*"
            if kind == "table":
                found[str(name)] = database.execute(f'SELECT {columns} FROM "{name}"').fetchall()
    return found


def written(file: Path) -> str:
    """The script that creates what this migrated database has."""
    found = rows(file)
    tables = [str(sql) for *_, sql in found["sqlite_master"] if sql]
    created = [sql for sql in tables if not sql.startswith("CREATE TABLE sqlite_")]
    applied = [
        f"INSERT INTO tortoise_migrations (app, name, applied_at) VALUES ('{app}', '{name}', {NOW})"
        for _, app, name in found["tortoise_migrations"]
    ]
    return "".join(f"{statement};\n" for statement in (*created, *applied))


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="pu-") as folder:
        file = Path(folder) / "paidup.db"
        asyncio.run(migrated(file))
        SCRIPT.write_text(written(file))


if __name__ == "__main__":
    main()
