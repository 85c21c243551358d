"""The tables of a new SQLite database, by one script, as all migrations leave them.

One by one, they take a second of a core. `python -m tests.structure.new_sqlite` writes the script; a test
holds it to what the migrations leave. What it lacks, they apply.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

SCRIPT = Path(__file__).with_name("new_sqlite.sql")
_APPLIED = "SELECT name FROM tortoise_migrations ORDER BY id"


def create_tables(file: Path) -> list[str]:
    """The names of the migrations that this makes unnecessary: none where the database is not new."""
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        if database.execute("SELECT 1 FROM sqlite_master").fetchone():
            return []
        database.executescript(f"BEGIN IMMEDIATE;\n{SCRIPT.read_text()}COMMIT;")
        return [name for (name,) in database.execute(_APPLIED)]
