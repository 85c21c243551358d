"""The audit: checks the ledger's invariants, account by account. It changes nothing.

For each account and unit: balance = sum of the entries = what remains in live grants, minus the debt.
For each invoice: an active one has a grant, and one with a grant is settled. For each grant without an
invoice: an operator's correction gave it, with an entry. Each statement reads all that it compares, so the
audit can run while credits move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from paidup.db.connection import connection, storage_errors

ACCOUNTS_PER_SLICE = 500

# Only integers of our own are formatted into these statements.
_BALANCES = """
SELECT a.id AS id, a.external_id AS external_id, a.balance AS balance,
       COALESCE((SELECT SUM(e.credits) FROM ledger_entries e
                 WHERE e.account_id = a.id AND e.unit = ''), 0) AS entries,
       COALESCE((SELECT SUM(g.remaining) FROM credit_grants g
                 WHERE g.account_id = a.id AND g.state = 'live' AND g.unit = ''), 0) AS live
FROM accounts a WHERE a.id > {after} ORDER BY a.id LIMIT {limit}
"""
_OTHER_UNITS = """
SELECT a.external_id AS external_id, a.unit_balances AS unit_balances, u.unit AS unit,
       COALESCE((SELECT SUM(e.credits) FROM ledger_entries e
                 WHERE e.account_id = a.id AND e.unit = u.unit), 0) AS entries,
       COALESCE((SELECT SUM(g.remaining) FROM credit_grants g
                 WHERE g.account_id = a.id AND g.state = 'live' AND g.unit = u.unit), 0) AS live
FROM accounts a LEFT JOIN (
    SELECT account_id, unit FROM ledger_entries
    WHERE unit <> '' AND account_id > {after} AND account_id <= {last}
    UNION SELECT account_id, unit FROM credit_grants
    WHERE unit <> '' AND account_id > {after} AND account_id <= {last}) u ON u.account_id = a.id
WHERE a.id > {after} AND a.id <= {last} AND (u.unit IS NOT NULL OR a.unit_balances IS NOT NULL)
ORDER BY a.id, u.unit
"""
_GRANTS = """
SELECT i.id AS id, i.status AS status, i.settled_at AS settled_at, g.id AS grant_id
FROM invoices i LEFT JOIN credit_grants g ON g.invoice_id = i.id AND g.installment = 1
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
        accounts = await _rows(_BALANCES.format(after=int(after), limit=int(limit)))
        if not accounts:
            return Slice([], 0, None)
        last = int(accounts[-1]["id"])
        others = await _rows(_OTHER_UNITS.format(after=int(after), last=last))
        ungranted = await _rows(_GRANTS.format(after=int(after), last=last))
        unexplained = await _rows(_CORRECTIONS.format(after=int(after), last=last))
    findings = [finding for account in (*accounts, *_by_unit(others)) for finding in _compare(account)]
    findings += [_invoice_finding(row) for row in ungranted]
    findings += [_correction_finding(row) for row in unexplained]
    return Slice(findings, len(accounts), last)


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
    """Each account and unit, with the balance that the account's row keeps of it."""
    summed: dict[str, set[str]] = {}
    kept: dict[str, dict[str, Any]] = {}
    for row in rows:
        name, found = row["external_id"], row["unit_balances"]
        kept[name] = (msgspec.json.decode(found) if isinstance(found, str | bytes) else found) or {}
        units = summed.setdefault(name, set())
        if row["unit"] is not None:
            units.add(row["unit"])
            yield {**row, "balance": kept[name].get(row["unit"], {}).get("balance", 0)}
    for name, balances in kept.items():
        for unit in sorted(set(balances) - summed[name]):  # no entry and no grant is of it
            balance = balances[unit].get("balance", 0)
            yield {"external_id": name, "unit": unit, "balance": balance, "entries": 0, "live": 0}


def _compare(account: dict[str, Any]) -> list[Finding]:
    balance, entries, live = (int(account[name]) for name in ("balance", "entries", "live"))
    subject = f"account {account['external_id']}" + (f", {account['unit']}" if "unit" in account else "")
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
