"""A connection of the pool comes back, whenever its caller leaves, and keeps what it has prepared."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from paidup.db.connection import connection, write_transaction
from paidup.db.models import Account
from tests.support.cancel_at_await import cut_off
from tests.support.factories import an_account

WITHIN_S = 30.0

pytestmark = [
    pytest.mark.parametrize("database_url", ["postgres"], indirect=True),
    pytest.mark.usefixtures("database"),
]


@pytest.fixture
def pool() -> Iterator[Any]:
    """The pool, in which no connection may be in use at the end."""
    client: Any = connection()
    yield client._pool
    assert client._pool.get_idle_size() == client._pool.get_size()


@pytest.mark.parametrize("expired", [False, True])
async def test_a_statement_that_is_cancelled_at_any_await_gives_its_connection_back(
    pool: Any, expired: bool
) -> None:
    """An expired connection is closed when it comes back, which can be cancelled as well."""

    async def read() -> Any:
        async with pool.acquire() as taken:
            if expired:
                await pool.expire_connections()
            return await taken.fetchval("SELECT 7")

    for at in range(12):
        assert await cut_off(read(), at) in (None, 7)
        async with asyncio.timeout(WITHIN_S):
            assert (await connection().execute_query("SELECT 8"))[1][0][0] == 8
    assert await read() == 7


async def test_a_transaction_that_is_cancelled_at_any_await_changes_nothing_later(pool: Any) -> None:
    account = await an_account()

    async def change() -> bool:
        async with write_transaction():
            await Account.filter(id=account.id).update(balance=5)
        return True

    for at in range(12):
        done = await cut_off(change(), at)
        async with asyncio.timeout(WITHIN_S):
            assert done is None or (await Account.get(id=account.id)).balance == 5
            await Account.filter(id=account.id).update(balance=0)
        assert (await Account.get(id=account.id)).balance == 0


async def test_a_prepared_statement_is_kept_as_long_as_its_connection(pool: Any) -> None:
    """A payment that comes an hour after the last one does not wait for the parser and the planner."""
    async with pool.acquire() as taken:
        statements = taken._con._stmt_cache
        assert statements.get_max_size() > 0
        assert statements.get_max_lifetime() == 0
