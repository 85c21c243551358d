"""The audit: checks the ledger's invariants, account by account. It changes nothing.

For each account and unit: balance = sum of the entries = what remains in live grants, minus the debt.
For each invoice: an active one has a grant, and one with a grant is settled. For each grant without an
invoice: an operator's correction gave it, with an entry. Each statement reads all that it compares, so the
audit can run while credits move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import msgspec

from paidup.db.connection import connection, storage_errors
from paidup.db.models import WITH_CREDITS
from paidup.domain.units import DEFAULT_UNIT

ACCOUNTS_PER_SLICE = 500
ENTRIES_PER_SLICE = 10_000
"""Of several accounts. One that has more is a slice of its own."""

# Only integers of our own are formatted into these statements.
_LAST_ACCOUNT = """
SELECT MAX(id) AS last FROM (SELECT id FROM accounts WHERE id > {after} ORDER BY id LIMIT {limit}) some_of
"""
_NEXT_AFTER_ENTRIES = """
SELECT account_id FROM ledger_entries WHERE account_id > {after} AND account_id <= {last}
ORDER BY account_id LIMIT 1 OFFSET {entries}
"""
_BALANCES = """
SELECT a.external_id AS external_id, a.balance AS balance, a.unit_balances AS unit_balances,
       sums.unit AS unit, sums.entries AS entries, sums.live AS live
FROM accounts a LEFT JOIN (
    SELECT account_id, unit, SUM(entries) AS entries, SUM(live) AS live FROM (
        SELECT account_id, unit, SUM(credits) AS entries, 0 AS live FROM ledger_entries
        WHERE account_id > {after} AND account_id <= {last} GROUP BY account_id, unit
        UNION ALL
        SELECT account_id, unit, 0, SUM(remaining) FROM credit_grants
        WHERE account_id > {after} AND account_id <= {last} AND {live} GROUP BY account_id, unit
    ) both_tables GROUP BY account_id, unit
) sums ON sums.account_id = a.id
WHERE a.id > {after} AND a.id <= {last} ORDER BY a.id, sums.unit
"""
_GRANTS = """
SELECT i.id AS id, i.status AS status, i.settled_at AS settled_at, g.id AS grant_id
FROM invoices i LEFT JOIN credit_grants g ON g.invoice_id = i.id AND g.installment = 1
  AND g.account_id > {after} AND g.account_id <= {last}
WHERE i.account_id > {after} AND i.account_id <= {last}
  AND ((i.status IN ('active', 'reversed') AND g.id IS NULL) OR (i.settled_at IS NULL AND g.id IS NOT NULL))
"""
_CORRECTIONS = """
SELECT g.id AS id, c.id AS correction, e.id AS entry
FROM credit_grants g LEFT JOIN audit_log c ON c.id = g.correction
LEFT JOIN ledger_entries e ON e.grant_id = g.id AND e.reference = 'correction:' || g.correction
  AND e.kind IN ('grant', 'adjust')
WHERE g.invoice_id IS NULL AND g.account_id > {after} AND g.account_id <= {last}
  AND (c.id IS NULL OR e.id IS NULL)
"""


class Finding(msgspec.Struct, frozen=True):
    """One mismatch, described in `what`. `subject` is an account (by external id) or an invoice."""

    subject: str
    what: str


class Slice(msgspec.Struct, frozen=True):
    """The findings of one range of accounts. `last` is its highest account id, None after the last range."""

    findings: list[Finding]
    accounts: int
    last: int | None


async def audit_slice(after: int, limit: int = ACCOUNTS_PER_SLICE) -> Slice:
    """Audit up to `limit` accounts with ids above `after`. Raises StorageUnavailable."""
    with storage_errors():
        last = await _last_of_slice(int(after), int(limit))
        if last is None:
            return Slice([], 0, None)
        span = {"after": int(after), "last": last}
        accounts = await _rows(_BALANCES.format(**span, live=WITH_CREDITS))
        ungranted = await _rows(_GRANTS.format(**span))
        unexplained = await _rows(_CORRECTIONS.format(**span))
    findings = [finding for account in _by_unit(accounts) for finding in _compare(account)]
    findings += [_invoice_finding(row) for row in ungranted]
    findings += [_correction_finding(row) for row in unexplained]
    return Slice(findings, len({account["external_id"] for account in accounts}), last)


async def _last_of_slice(after: int, limit: int) -> int | None:
    """The last account of the slice that begins after this one; None after the last."""
    (found,) = await _rows(_LAST_ACCOUNT.format(after=after, limit=limit))
    if found["last"] is None:
        return None
    span = {"after": after, "last": int(found["last"])}
    beyond = await _rows(_NEXT_AFTER_ENTRIES.format(**span, entries=ENTRIES_PER_SLICE))
    if not beyond:
        return span["last"]
    (first,) = await _rows(_LAST_ACCOUNT.format(after=after, limit=1))
    return max(int(first["last"]), int(beyond[0]["account_id"]) - 1)


async def audit_all(on_progress: Callable[[int], None] = lambda _: None) -> list[Finding]:
    """Audit every account. `on_progress` is called with the number of accounts of each slice."""
    findings: list[Finding] = []
    after: int | None = 0
    while after is not None:
        part = await audit_slice(after)
        findings += part.findings
        on_progress(part.accounts)
        after = part.last
    return findings


def _by_unit(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each account and unit that has entries, live grants or a balance, with the balance of its row."""
    for name, of_account in groupby(rows, itemgetter("external_id")):
        sums = list(of_account)
        found = sums[0]["unit_balances"]
        others = (msgspec.json.decode(found) if isinstance(found, str | bytes) else found) or {}
        balances = {unit: each.get("balance", 0) for unit, each in others.items()}
        balances[DEFAULT_UNIT] = sums[0]["balance"]
        by_unit = {row["unit"]: row for row in sums if row["unit"] is not None}
        for unit in sorted(balances.keys() | by_unit.keys()):
            summed = by_unit.get(unit, {"entries": 0, "live": 0})
            compared = {"entries": summed["entries"], "live": summed["live"]}
            yield {"external_id": name, "unit": unit, "balance": balances.get(unit, 0), **compared}


def _compare(account: dict[str, Any]) -> list[Finding]:
    balance, entries, live = (int(account[name]) for name in ("balance", "entries", "live"))
    subject = f"account {account['external_id']}" + (f", {account['unit']}" if account["unit"] else "")
    findings = []
    if balance != entries:
        findings.append(Finding(subject, f"the balance is {balance}, the entries sum to {entries}"))
    if max(0, balance) != live:  # an account in debt has no live grants
        findings.append(Finding(subject, f"the balance is {balance}, live grants hold {live}"))
    return findings


def _invoice_finding(row: dict[str, Any]) -> Finding:
    if row["grant_id"] is None:
        return Finding(f"invoice {row['id']}", f"it is {row['status']} and has no grant")
    return Finding(f"invoice {row['id']}", f"it has a grant and was never settled ({row['status']})")


def _correction_finding(row: dict[str, Any]) -> Finding:
    missing = "entry in audit_log" if row["correction"] is None else "entry in ledger_entries"
    return Finding(f"grant {row['id']}", f"it is of no invoice, and of no correction with an {missing}")


async def _rows(statement: str) -> list[dict[str, Any]]:
    return [dict(row) for row in await connection().execute_query_dict(statement)]
