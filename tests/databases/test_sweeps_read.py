"""A round of each sweep reads what is due, however much there is beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from paidup.db.connection import connection, open_database
from tests.bench.sweeps import DUE, DUE_AGAIN, FILL, reconciler_of_memory, sweeps_of
from tests.support.postgres import Databases
from tests.support.rows_read import counting

SIZES = (600, 3_000)
"""Settled invoices, and accounts: one slice of the audit has 500 of these."""
MORE = 40


async def read_with(url: str, size: int) -> dict[str, int]:
    """The rows that each sweep reads, with so much that is settled."""
    async with open_database(url):
        fill = FILL.format(count=size, each=1, due=DUE, version="2025-01-01")
        await connection().execute_script(fill)
        await connection().execute_script("ANALYZE")
        for statement in DUE_AGAIN:
            await connection().execute_query(statement)
        reconciler, redis = reconciler_of_memory()
        read = {}
        for name, sweep in sweeps_of(reconciler).items():
            async with counting() as counted:
                await sweep()
            read[name] = counted.total()
        await redis.aclose()
    return read


@pytest.fixture
def another_url(databases: Databases) -> Iterator[str]:
    name = databases.take()
    yield databases.server.get_uri(database=name)
    databases.give_back(name)


async def test_a_sweep_reads_no_more_where_more_is_settled(database_url: str, another_url: str) -> None:
    few, many = await read_with(database_url, SIZES[0]), await read_with(another_url, SIZES[1])
    assert few["audit"] > 1_000
    assert {name: (few[name], many[name]) for name in few if many[name] > few[name] + MORE} == {}
