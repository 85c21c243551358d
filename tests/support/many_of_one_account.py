"""Gives one account very many refunds, disputes, corrections, deleted customers and outbound events.

By a few statements of SQL for PostgreSQL. The credits of what was refunded or is disputed are used up, so the
balance stays as it is.
"""

from __future__ import annotations

from paidup.db.connection import connection
from paidup.db.models import Account
from tests.support.grown_accounts import LAST_YEAR

_OF = "FROM generate_series(1, {count}) n"
_REVERSED = """
INSERT INTO invoices (id, account_id, customer, payment_intent, plan, currency, amount_due_minor, total_minor,
    credits_quoted, status, version, published_version, changed_at, settled_via, settled_at, checks_made,
    created_at, has_reversals, credits_reversed)
SELECT 'in_{status}{account}_' || n, {account}, 'cus_{account}', 'pi_{status}{account}_' || n, 'pro', 'usd',
    400, 400, 100, 'active', 2, 2, '{then}', 'webhook', '{then}', 1, '{then}', TRUE, {reversed} {of};
INSERT INTO credit_grants (account_id, invoice_id, installment, plan, credits, remaining, state, created_at)
SELECT {account}, 'in_{status}{account}_' || n, 1, 'pro', 100, 0, 'live', '{then}' {of};
INSERT INTO reversals (id, kind, invoice_id, amount_minor, status, changed_at)
SELECT '{kind}_{status}{account}_' || n, '{kind}', 'in_{status}{account}_' || n, 100, '{status}', '{then}'
    {of};
"""
_REVERSALS = (("refund", "succeeded", 25), ("refund", "failed", 0), ("dispute", "needs_response", 0))
"""Kind, status, and how many credits each has taken back."""
_OTHERS = """
INSERT INTO audit_log (id, at, actor, action, account_id, key, digest, reason, details, before, after)
SELECT 'cor_{account}_' || n, '{then}', 'ada', 'adjust', {account}, '{account}-' || n, '', 'a gift', '{{}}',
    '{{}}', '{{}}' {of};
INSERT INTO stripe_customers (id, account_id, deleted_at, created_at)
SELECT 'cus_deleted{account}_' || n, {account}, '{then}', '{then}' {of};
INSERT INTO outbound_events (message, account_id, type, version, balance, data, fanned_out, created_at)
SELECT 'msg_{account}_' || n, {account}, 'credits.granted', 1, 1, '{{}}', TRUE, '{then}' {of};
"""


async def add_many(account: Account, count: int) -> None:
    """Give it so many of each kind."""
    given = {"account": account.id, "then": LAST_YEAR, "of": _OF.format(count=count)}
    for kind, status, taken in _REVERSALS:
        reversal = {"kind": kind, "status": status, "reversed": taken}
        await connection().execute_script(_REVERSED.format(**given, **reversal))
    await connection().execute_script(_OTHERS.format(**given))
