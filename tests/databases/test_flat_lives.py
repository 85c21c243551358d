"""Whatever a customer buys, changes or gets back, no statement reads many rows because there are many."""

from __future__ import annotations

from typing import Any

from paidup.db.connection import connection
from tests.conftest import World
from tests.support.checkout_shop import CheckoutShop, linked
from tests.support.grown_tables import fill_sql
from tests.support.rows_read import most_rows
from tests.support.statement_plans import PRODUCT
from tests.support.subscription_lifecycle import Life, a_life

BESIDE = 3_000
"""Settled invoices, and as much of all else."""
MOST = 50
"""Rows that one statement reads: those of one account, which has few, or one page."""
ASKS = "async def ask(database, statement):\n    return await database.execute_query(statement)\n"
READ_MANY = (
    "SELECT id FROM accounts ORDER BY id",  # a whole index
    "SELECT id FROM accounts WHERE id > 0 AND purchase_number = 7",  # all are filtered out
    "SELECT id FROM accounts ORDER BY balance LIMIT 1",  # sorted for one
)


async def live(life: Life) -> None:
    """What a customer, their bank and the worker do in months."""
    shop = CheckoutShop(life.stripe)
    bought = await life.buy("basic", "pm_card_authenticationRequired")
    await life.spend(10, "a")
    for path, body in (
        ("/api/credits/reserve", {"credits": 5, "key": "b"}),
        ("/api/credits/commit", {"credits": 3, "key": "b"}),
    ):
        assert (await life.post(path, **body))[0] in (200, 201)
    topped_up = await life.top_up()
    await life.change("pro")
    async with life.customer.watch_balance():
        await life.account()
    for path in ("/api/subscriptions/cancel", "/api/subscriptions/resume"):
        assert (await life.post(path))[0] == 200, path
    await life.refund(topped_up)
    await life.wait_for_status(topped_up, "reversed")
    dispute = await life.dispute(bought)
    await life.stripe.control(f"disputes/{dispute['id']}/close", {"status": "lost"})
    status, page = await life.post("/api/checkout", top_up="extra")
    assert status == 201, page
    await shop.pay(page["checkout"])
    await linked(page["checkout"])
    await life.calm()
    await life.work()


async def test_no_statement_reads_many_rows_where_there_are_many(world: World) -> None:
    """But for a statement of the test's own."""
    life = await a_life(world, reconciler_in_server=False)
    await connection().execute_script(fill_sql(BESIDE))
    await connection().execute_script("UPDATE stripe_events SET handled_at = now() WHERE handled_at IS NULL")
    await connection().execute_script("ANALYZE")
    with most_rows() as most:
        await live(life)
        seen = len(most)
        in_product: dict[str, Any] = {}
        exec(compile(ASKS, f"{PRODUCT}/web/asks.py", "exec"), in_product)
        for statement in READ_MANY:
            await in_product["ask"](connection(), statement)
    assert seen > 100, "all that was done is seen"
    found = {statement: read for statement, read in most.items() if read.rows > MOST}
    assert {read.by for read in found.values()} == {"web/asks.py, ask"}, found
    assert found.keys() == set(READ_MANY)
