"""An index on some of a table's rows, on both databases."""

from __future__ import annotations

from typing import Any

from tortoise.indexes import Index


class ConditionalIndex(Index):
    """An index on the rows for which `condition`, SQL for both databases, holds.

    `name` is needed where a table has two of the same columns.
    """

    def __init__(self, fields: tuple[str, ...] | list[str], condition: str, name: str | None = None) -> None:
        super().__init__(fields=list(fields), name=name)
        self.condition = condition
        self.extra = f" WHERE {condition}"

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        path, positional, named = super().deconstruct()
        return path, positional, {**named, "condition": self.condition}
