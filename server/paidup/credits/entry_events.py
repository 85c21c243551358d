"""The outbound events of a ledger entry: of the movement itself, and of what the balance has become by it.

What the backend does itself (spends, reservations) makes no event of a movement: the answer to its call has
the balance.
"""

from __future__ import annotations

from typing import Any

from paidup.db import outbox
from paidup.db.models import CreditGrant, EntryKind, Invoice, LedgerEntry
from paidup.db.unit_accounts import AnyAccount, AnyInvoice, UnitInvoice
from paidup.db.unit_of_work import UnitOfWork
from paidup.domain.outbound_events import OutboundEventType, crossings

_EVENTS = {
    EntryKind.GRANT: OutboundEventType.CREDITS_GRANTED,
    EntryKind.REVERSE: OutboundEventType.CREDITS_REVERSED,
    EntryKind.FREEZE: OutboundEventType.CREDITS_REVERSED,
    EntryKind.RESTORE: OutboundEventType.CREDITS_RESTORED,
    EntryKind.EXPIRE: OutboundEventType.CREDITS_EXPIRED,
    EntryKind.ADJUST: OutboundEventType.CREDITS_ADJUSTED,
}


def add_events(
    writes: UnitOfWork,
    account: AnyAccount,
    entry: LedgerEntry,
    before: int,
    about: CreditGrant | AnyInvoice | None,
) -> None:
    """Add the entry's events to `writes`. `before`: the balance before it; the account has the new one."""
    grant = about if isinstance(about, CreditGrant) else None
    invoice = grant.invoice_id if grant else about.id if isinstance(about, Invoice | UnitInvoice) else None
    event_type, is_grant = _EVENTS.get(entry.kind), entry.kind is EntryKind.GRANT
    if event_type and (entry.credits or is_grant):  # a paid invoice may grant nothing
        facts: dict[str, Any] = {"credits": entry.credits, "reason": entry.reason}
        facts |= {"plan": grant.plan} if grant else {}
        facts |= {"expires_at": grant.expires_at} if grant and is_grant else {}
        outbox.add_event(writes, event_type, account, invoice, **facts)
    for crossing in crossings(before, account.balance, account.low_balance):
        outbox.add_event(writes, crossing, account, invoice)


async def write_expired_reservation(account: AnyAccount, entry_credits: int, key: str) -> None:
    """Write the event of reserved credits that have come back without a call of the backend."""
    writes = UnitOfWork()
    restored, reason = OutboundEventType.CREDITS_RESTORED, "reservation expired"
    outbox.add_event(writes, restored, account, credits=entry_credits, reason=reason, key=key)
    await writes.send()
