"""Finds the product's statements that PostgreSQL can only answer by reading a whole table that grows.

Each statement is explained once, right before it runs, with `enable_seqscan` off: then a sequential scan
stays in a plan only where no index serves. Tables in tests are small; how large they are does not matter.
Source: https://www.postgresql.org/docs/current/runtime-config-query.html#GUC-ENABLE-SEQSCAN
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from tortoise.models import Model

import paidup
from paidup.db import models, outbound_models

SMALL = frozenset({"event_endpoints", "prices", "watermarks", "stripe_reads"})
"""They have as many rows as there are endpoints, prices, sweeps or Stripe accounts."""
ONCE = ("operations/unit_names.py",)
"""The check of the plans file's units reads all accounts when a process starts."""
EXPLAINED = ("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")
PRODUCT, TESTS = str(Path(paidup.__file__).parent), str(Path(__file__).parents[1])
Plan = dict[str, Any]


class Scan(msgspec.Struct, frozen=True):
    """`by`: the module and function of the product that ran the statement."""

    table: str
    by: str
    statement: str


@cache
def growing_tables() -> frozenset[str]:
    kinds = (kind for module in (models, outbound_models) for kind in vars(module).values())
    tables = {kind._meta.db_table for kind in kinds if isinstance(kind, type) and issubclass(kind, Model)}
    return frozenset(tables - SMALL - {""})


async def scanned_tables(connection: asyncpg.Connection, statement: str, arguments: Any) -> set[str]:
    """The tables that grow of which the statement reads all rows."""
    # In one transaction: behind a pooler, another session could explain than the one with the setting.
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SET LOCAL enable_seqscan = off")
    plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *arguments)
    await transaction.rollback()
    (explained,) = msgspec.json.decode(plan)
    read = {node["Relation Name"] for node in nodes_of(explained["Plan"]) if node["Node Type"] == "Seq Scan"}
    return read & growing_tables()


def nodes_of(plan: Plan) -> Iterator[Plan]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes_of(part)


@contextmanager
def explaining() -> Iterator[list[Scan]]:
    """What was found so far. Statements of the product in this process are explained meanwhile."""
    found: list[Scan] = []
    known: set[str] = set()
    execute = asyncpg.Connection._execute

    async def explained(connection: Any, query: str, args: Any, *rest: Any, **named: Any) -> Any:
        new = query not in known and query.lstrip().startswith(EXPLAINED)
        if new and (by := product_frame()):
            known.add(query)
            for table in await scanned_tables(connection, query, args):
                found.append(Scan(table, by, query))
        return await execute(connection, query, args, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncpg.Connection, "_execute", explained)
        yield found


def product_frame() -> str | None:
    """Who runs the statement, unless it is a test, or a tool that reads everything once."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        path = frame.f_code.co_filename
        if path.startswith(TESTS):
            return None
        if path.startswith(PRODUCT) and not path.startswith(f"{PRODUCT}/db"):
            module = path.removeprefix(f"{PRODUCT}/")
            return None if module in ONCE else f"{module}, {frame.f_code.co_name}"
        frame = frame.f_back
    return None
