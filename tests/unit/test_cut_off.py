"""A cancelled or failed transaction releases its connection, for this task and for others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tortoise.backends.sqlite.client import SqliteTransactionWrapper

from paidup.db.connection import connection, write_transaction
from paidup.db.models import Account, TimelineEntry
from paidup.db.postgres import PostgresTransaction
from paidup.errors import StorageUnavailable
from paidup.runtime.clock import now
from tests.support.cancel_at_await import cut_off

MANY = 30
"""More than the pool's connections."""

pytestmark = pytest.mark.usefixtures("database")


async def a_transaction() -> None:
    async with write_transaction():
        await Account.filter(external_id="nobody").update(balance=0)


async def a_batch() -> None:
    await TimelineEntry.bulk_create([TimelineEntry(invoice="in_1", at=now(), event_type="told")])


async def a_get_or_create() -> None:
    await Account.get_or_create(external_id="ada")


@pytest.mark.parametrize("work", [a_transaction, a_batch, a_get_or_create])
async def test_work_cancelled_at_any_await_releases_the_connection(work: Any) -> None:
    """S33: a deadline that passes while a transaction begins must not leak its connection."""
    for at in range(MANY):
        await cut_off(work(), at)
        async with asyncio.timeout(5):
            await a_transaction()
            await a_batch()
            await Account.all().count()


async def test_a_transaction_that_cannot_begin_is_not_the_current_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S33: after an outage the reconciler's task must not continue on the dead transaction."""

    async def begin(_: Any) -> None:
        raise OSError("the connection was cut")

    before = connection()
    with monkeypatch.context() as patched:
        for kind in (SqliteTransactionWrapper, PostgresTransaction):
            patched.setattr(kind, "begin", begin)
        for _ in range(MANY):
            with pytest.raises(StorageUnavailable):
                await a_transaction()
            assert connection() is before
    async with asyncio.timeout(5):
        await a_transaction()
        assert await Account.all().count() == 0
