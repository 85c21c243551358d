"""A request, and a round of each sweep, reads what it is about, however much there is beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from paidup.app import create_app
from paidup.db.connection import connection, migrate
from tests.bench.routes import OPERATOR_TOKEN, requests_of
from tests.bench.sweeps import reconciler_of_memory, sweeps_of
from tests.support.grown_tables import DUE_AGAIN, fill_sql
from tests.support.paidup import settings
from tests.support.postgres import Databases
from tests.support.rows_read import counting

SIZES = (1_000, 4_000)
"""Settled invoices, and accounts: one slice of the audit has 500 of these."""
MORE = 40
MANY = 500
"""Rows that one statement reads at most, of 4,000: no whole index, no table sorted, nothing filtered out."""
READS_500_ACCOUNTS = "audit"


async def read_with(url: str, size: int, folder: Path) -> dict[str, Counter[str]]:
    """The rows that each statement reads, of each request and each sweep, with so much that is settled."""
    await migrate(url)
    app = create_app(settings(database_url=url, data_dir=folder, operator_token=OPERATOR_TOKEN))
    read: dict[str, Counter[str]] = {}

    async def count(actions: Mapping[str, Callable[[], Awaitable[object]]]) -> None:
        for name, act in actions.items():
            async with counting() as counted:
                await act()
            read[name] = counted

    async with app.router.lifespan_context(app):
        await connection().execute_script(fill_sql(size))
        await connection().execute_script("ANALYZE")
        await count(await requests_of(app, size))
        for statement in DUE_AGAIN:
            await connection().execute_query(statement)
        reconciler, redis = reconciler_of_memory()
        await count(sweeps_of(reconciler))
        await redis.aclose()
    return read


@pytest.fixture
def another_url(databases: Databases) -> Iterator[str]:
    name = databases.take()
    yield databases.server.get_uri(database=name)
    databases.give_back(name)


async def test_nothing_reads_more_where_more_is_settled(
    database_url: str, another_url: str, tmp_path: Path
) -> None:
    few = await read_with(database_url, SIZES[0], tmp_path / "few")
    many = await read_with(another_url, SIZES[1], tmp_path / "many")
    sums = [{name: each.total() for name, each in read.items()} for read in (few, many)]
    assert sums[0].pop(READS_500_ACCOUNTS) > 1_000 < sums[1].pop(READS_500_ACCOUNTS) < 5_000
    more = {name for name in sums[1] if sums[1][name] > sums[0][name] + MORE}
    assert {name: (sums[0][name], many[name].most_common(2)) for name in more} == {}
    del many[READS_500_ACCOUNTS]
    assert [found for read in many.values() for found in read.items() if found[1] > MANY] == []
