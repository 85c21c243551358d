"""What the check of all statements in tests finds, and what it lets pass."""

from __future__ import annotations

from typing import Any

import asyncpg

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
