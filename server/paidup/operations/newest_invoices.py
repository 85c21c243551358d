"""The newest invoices of one account, however many it has."""

from __future__ import annotations

from paidup.db.models import Invoice
from paidup.db.unit_of_work import read_many
from paidup.domain.decisions import InvoiceStatus

_OF_STATUS = (
    "SELECT id FROM (SELECT id FROM invoices"
    " WHERE account_id = $1 AND status = '{status}' {newest}) AS of_{status}"
)


async def newest_invoices(account_id: int, most: int) -> list[Invoice]:
    """Newest first. The index has an account's invoices by status: of each the newest are read."""
    newest = f"ORDER BY created_at DESC LIMIT {most}"
    of_each = [_OF_STATUS.format(status=status.value, newest=newest) for status in InvoiceStatus]
    ids = " UNION ALL ".join(of_each)
    return await read_many(Invoice, f"id IN ({ids}) {newest}", account_id)
