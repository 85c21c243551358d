"""What the check of all statements in tests finds, and what it lets pass."""

from __future__ import annotations

from typing import Any

import asyncpg

from paidup.db.connection import connection, open_database
from paidup.db.models import Account
from tests.support.rows_read import counting
from tests.support.statement_plans import PRODUCT, Scan, scanned_tables

STATEMENTS: dict[str, set[str]] = {
    "SELECT id FROM accounts WHERE low_balance = $1": {"accounts"},
    "UPDATE invoices SET error = NULL WHERE customer = 'cus_1' AND sequence = $1": {"invoices"},
    "SELECT count(*) FROM ledger_entries e JOIN accounts a ON a.id = e.account_id WHERE a.id = $1": set(),
    "SELECT id FROM accounts WHERE id = $1": set(),
    "SELECT id FROM prices WHERE unit_amount_minor = $1": set(),
}
ASKS = "async def ask(connection, statement):\n    return await connection.fetch(statement, 1)\n"


async def test_a_statement_that_no_index_serves_is_found(database_url: str, scans: list[Scan]) -> None:
    """A test may run such a statement, the product may not."""
    in_product: dict[str, Any] = {}
    exec(compile(ASKS, f"{PRODUCT}/web/asks.py", "exec"), in_product)
    connection = await asyncpg.connect(database_url)
    try:
        found = {each: await scanned_tables(connection, each, [1]) for each in STATEMENTS}
        scanning = next(iter(STATEMENTS))
        await connection.fetch(scanning + " LIMIT 1", 1)
        await in_product["ask"](connection, scanning)
    finally:
        await connection.close()
    said, scans[:] = list(scans), []
    assert found == STATEMENTS
    assert said == [Scan("accounts", "web/asks.py, ask", scanning)]


ROWS = 300
READS = {
    "SELECT id FROM accounts ORDER BY id": ROWS,  # a whole index
    "SELECT id FROM accounts WHERE id > 0 AND purchase_number = 7": ROWS,  # all are filtered out
    "SELECT id FROM accounts ORDER BY balance LIMIT 1": ROWS,  # sorted for one
    "SELECT id FROM accounts ORDER BY id LIMIT 2": 2,
    "SELECT id FROM accounts WHERE external_id = 'user-3' AND purchase_number = 7": 1,
}


async def test_rows_are_counted_that_an_index_or_a_filter_or_a_sort_reads(database_url: str) -> None:
    """Whatever few a statement returns: `test_flat_reads.py` relies on it."""
    async with open_database(database_url):
        await Account.bulk_create([Account(external_id=f"user-{number}") for number in range(ROWS)])
        await connection().execute_script("ANALYZE accounts")
        async with counting() as read:
            for statement in READS:
                await connection().execute_query(statement)
        assert dict(read) == READS
