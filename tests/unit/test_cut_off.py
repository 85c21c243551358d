"""A transaction that is cut off gives everything back: the database works on, in this task and in others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tortoise.backends.asyncpg.client import TransactionWrapper as AsyncpgTransactionWrapper
from tortoise.backends.sqlite.client import SqliteTransactionWrapper

from paidup.clock import now
from paidup.db.connection import connection, write_transaction
from paidup.db.models import Account, TimelineEntry
from paidup.errors import StorageUnavailable
from tests.support.cancel_at_await import cut_off

MANY = 30
"""More than the pool of connections holds."""

pytestmark = pytest.mark.usefixtures("database")


async def a_transaction() -> None:
    async with write_transaction():
        await Account.filter(external_id="nobody").update(balance=0)


async def a_batch() -> None:
    await TimelineEntry.bulk_create([TimelineEntry(invoice="in_1", at=now(), event_type="told")])


async def a_get_or_create() -> None:
    await Account.get_or_create(external_id="ada")


@pytest.mark.parametrize("work", [a_transaction, a_batch, a_get_or_create])
async def test_work_that_is_cancelled_at_any_await_leaves_the_database_free(work: Any) -> None:
    """S33: a deadline that passes while a transaction begins must not take the connection with it."""
    for at in range(MANY):
        await cut_off(work(), at)
        async with asyncio.timeout(5):
            await a_transaction()
            await a_batch()
            await Account.all().count()


async def test_a_transaction_that_cannot_begin_is_not_the_connection_of_what_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S33: the reconciler's task goes on after an outage; it must not go on with the dead transaction."""

    async def begin(_: Any) -> None:
        raise OSError("the connection was cut")

    before = connection()
    with monkeypatch.context() as patched:
        for kind in (SqliteTransactionWrapper, AsyncpgTransactionWrapper):
            patched.setattr(kind, "begin", begin)
        for _ in range(MANY):
            with pytest.raises(StorageUnavailable):
                await a_transaction()
            assert connection() is before
    async with asyncio.timeout(5):
        await a_transaction()
        assert await Account.all().count() == 0
