"""The sandbox's storage: Stripe's objects by type and id, and private notes about them, in one JSON file."""

from __future__ import annotations

import os
import secrets
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from paidup_demo.sandbox.errors import Json, missing

FORMAT = 1
_LETTERS = ((string.ascii_letters + string.digits) * 5)[:256].encode()
"""For each byte a letter or a digit; some of them for five bytes, the others for four."""
# Tables that grow with traffic keep only so many of their newest rows.
CAPACITY = {"event": 20_000, "delivery": 40_000, "receipt": 40_000, "idempotency": 20_000}


def new_id(prefix: str, length: int = 24) -> str:
    """An id in Stripe's manner: `in_` and random letters."""
    # One call of the system for all letters: with one for each, ids took an eighth of the sandbox's CPU.
    return f"{prefix}_{secrets.token_bytes(length).translate(_LETTERS).decode()}"


def copied(value: Any) -> Any:
    """A deep copy of plain JSON data (several times faster than copy.deepcopy)."""
    return msgspec.json.decode(msgspec.json.encode(value))


class Store:
    """Tables of rows by id, in order of creation. A row of Stripe's is the object itself, unexpanded."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.tables: dict[str, dict[str, Json]] = {}
        self.extra: Json = {}
        self.dirty = False

    def table(self, name: str) -> dict[str, Json]:
        """The rows of one type; empty if there are none yet."""
        return self.tables.setdefault(name, {})

    def add(self, row: Json, table: str | None = None) -> Json:
        """Add a new row and return it; a table with a capacity drops its oldest row."""
        name = table or str(row["object"])
        rows = self.table(name)
        rows[row["id"]] = row
        if len(rows) > CAPACITY.get(name, len(rows)):
            del rows[next(iter(rows))]
        self.dirty = True
        return row

    def find(self, table: str, row_id: object) -> Json | None:
        """The row, or None. Call `touch` after changing it."""
        return self.table(table).get(str(row_id))

    def get(self, table: str, row_id: object, param: str = "id", *, in_path: bool = False) -> Json:
        """The row, or Stripe's resource_missing naming `param`."""
        row = self.find(table, row_id)
        if row is None:
            raise missing(table, str(row_id), param, in_path=in_path)
        return row

    def remove(self, row: Json, owner: str | None = None) -> None:
        """Delete a row, and the link by which `owner` remembers it."""
        del self.table(row["object"])[row["id"]]
        if owner is not None:
            self.note(owner)[row["object"]].remove(row["id"])
        self.dirty = True

    def newest(self, table: str, **equals: object) -> Iterator[Json]:
        """Rows newest first, those that have these values only."""
        for row in reversed(self.table(table).values()):
            if all(row.get(key) == value for key, value in equals.items()):
                yield row

    def link(self, owner_id: str, row: Json) -> None:
        """Remembers a row under an id that it belongs to, so that `linked` need not search."""
        self.note(owner_id).setdefault(row["object"], []).append(row["id"])

    def linked(self, owner_id: str, table: str) -> list[Json]:
        """The rows of one type that belong to this id, newest first."""
        ids = self.table("note").get(owner_id, {}).get(table, [])
        return [self.get(table, row_id) for row_id in reversed(ids)]

    def note(self, object_id: str) -> Json:
        """Private notes about an object. Call `touch` after changing them."""
        return self.table("note").setdefault(object_id, {})

    def touch(self) -> None:
        """Mark the state as changed, so that it is saved."""
        self.dirty = True

    def clear(self) -> None:
        """Delete everything."""
        self.tables.clear()
        self.extra.clear()
        self.dirty = True

    def load(self) -> None:
        """Read the file if it exists. An unreadable file is an error and is kept."""
        if self._file is None or not self._file.exists():
            return
        saved = msgspec.json.decode(self._file.read_bytes())
        if saved.get("format") != FORMAT:
            raise ValueError(f"{self._file.name} was written by another version of the sandbox: remove it")
        self.tables, self.extra = saved["tables"], saved["extra"]

    def snapshot(self) -> bytes | None:
        """What should be written now: None when nothing has changed, or nothing is kept."""
        if self._file is None or not self.dirty:
            return None
        self.dirty = False
        return msgspec.json.encode({"format": FORMAT, "extra": self.extra, "tables": self.tables})

    def write(self, content: bytes) -> None:
        """Replaces the file in one step, so that a kill leaves the old one or the new one.

        The file is this user's alone, and so is the temporary one: nobody can put another there first.
        """
        if self._file is None:
            return
        self._file.parent.mkdir(0o700, parents=True, exist_ok=True)
        temporary = self._file.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(content)
        os.replace(temporary, self._file)
