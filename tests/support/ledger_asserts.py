"""Asserts the ledger's invariants: balances, entries and grants agree."""

from __future__ import annotations

from paidup.db.models import Account, Correction, CreditGrant, GrantState, Invoice, LedgerEntry, StripeEvent
from paidup.domain.decisions import InvoiceStatus


async def assert_books_balance(grants: int | None = None) -> None:
    """For every account, balance = sum of the entries = what remains in live grants, minus the debt.

    Each settled invoice has one first grant, and no grant holds more than it granted. `grants` is the
    expected number of first grants, if given. Uses this process's database connection: a server must run
    here, or `open_database` be open.
    """
    for account in await Account.all():
        entries = await LedgerEntry.filter(account_id=account.id).order_by("id")
        live = await CreditGrant.filter(account_id=account.id, state=GrantState.LIVE)
        summed = sum(entry.credits for entry in entries)
        remaining = sum(grant.remaining for grant in live)
        name = account.external_id
        assert account.balance == summed, (name, account.balance, summed)
        # A balance below zero is a debt, and an account in debt has no live grants.
        assert max(0, account.balance) == remaining, (name, account.balance, remaining)
        assert account.balance == (entries[-1].balance_after if entries else 0), account.external_id
    for grant in await CreditGrant.all():
        held = grant.remaining + grant.frozen + grant.expired
        assert min(grant.remaining, grant.frozen, grant.expired) >= 0
        assert held <= grant.credits, (grant.id, held, grant.credits)
    given = await CreditGrant.filter(invoice_id__isnull=True)
    assert {each.correction for each in given} <= {row.id for row in await Correction.all()}
    paid = CreditGrant.filter(installment=1, invoice_id__not_isnull=True)
    granted = sorted([str(grant.invoice_id) for grant in await paid])
    settled = Invoice.filter(status__in=[InvoiceStatus.ACTIVE, InvoiceStatus.REVERSED])
    assert granted == sorted([invoice.id for invoice in await settled])
    assert grants is None or len(granted) == grants, granted


async def row_counts() -> dict[str, int]:
    """The number of rows in each table of money and events."""
    tables = (Account, Invoice, CreditGrant, LedgerEntry, StripeEvent)
    return {table.__name__: await table.all().count() for table in tables}
