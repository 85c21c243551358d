"""The ledger: grants, spends and expiries, each an entry, each exactly once.

Owns every change of a balance. Each function runs inside the caller's write transaction and
locks the account's row first, so that two processes move one balance in turn. Refuses to
decide whether something is to be granted: that is `settlement.py`'s.

Always: an account's balance = the sum of its entries = what remains in its live grants.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from server.database import locked
from server.errors import InsufficientCredits, KeyReused
from server.models import Account, CreditGrant, EntryKind, GrantState, LedgerEntry


class Spent(msgspec.Struct, frozen=True):
    """The answer to a spend; the same key gives the same answer."""

    balance: int
    credits: int
    key: str


async def lock_account(account_id: int) -> Account:
    return await locked(Account.filter(id=account_id)).get()


async def grant(
    account: Account, invoice_id: str, credits: int, expires_at: datetime | None, installment: int = 1
) -> None:
    """Give `credits` for a paid invoice. Raises tortoise's IntegrityError where it was given already.

    A grant of zero is written too: one grant stands for each paid invoice.
    """
    assert credits >= 0
    given = await CreditGrant.create(
        account_id=account.id,
        invoice_id=invoice_id,
        installment=installment,
        credits=credits,
        remaining=credits,
        expires_at=expires_at,
    )
    reference = f"{invoice_id}:{installment}"
    await _enter(account, EntryKind.GRANT, credits, reference, given.id)


async def spend(account_id: int, credits: int, key: str, at: datetime) -> Spent:
    """Take `credits` (above 0) from the grants that expire first, once for each `key`.

    Raises InsufficientCredits, and KeyReused where the key stands for another amount.
    """
    assert credits > 0
    account = await lock_account(account_id)
    reference = f"{account_id}:{key}"
    done = await LedgerEntry.get_or_none(kind=EntryKind.SPEND, reference=reference)
    if done is not None:
        if done.credits != -credits:
            raise KeyReused(key, -done.credits)
        return Spent(done.balance_after, credits, key)
    await expire_due(account, at)
    if account.balance < credits:
        raise InsufficientCredits(account.balance, credits)
    await _consume(account_id, credits)
    await _enter(account, EntryKind.SPEND, -credits, reference)
    return Spent(account.balance, credits, key)


async def expire_due(account: Account, at: datetime) -> None:
    """End the grants whose time is over; each end is an entry. `account` is locked."""
    due = CreditGrant.filter(account_id=account.id, state=GrantState.LIVE, expires_at__lte=at)
    for ended in await due.order_by("id"):
        await _enter(account, EntryKind.EXPIRE, -ended.remaining, f"grant:{ended.id}", ended.id)
        ended.remaining, ended.state = 0, GrantState.EXPIRED
        await ended.save(update_fields=["remaining", "state"])


def spending_order(grant: CreditGrant) -> tuple[bool, float, int]:
    """What expires first is spent first; what never does, last."""
    return (grant.expires_at is None, grant.expires_at.timestamp() if grant.expires_at else 0.0, grant.id)


async def _consume(account_id: int, credits: int) -> None:
    live = await CreditGrant.filter(account_id=account_id, state=GrantState.LIVE, remaining__gt=0)
    for source in sorted(live, key=spending_order):
        taken = min(credits, source.remaining)
        source.remaining -= taken
        credits -= taken
        await source.save(update_fields=["remaining"])
        if credits == 0:
            return
    raise AssertionError("the balance says more than the live grants hold")


async def _enter(
    account: Account, kind: EntryKind, credits: int, reference: str, grant_id: int | None = None
) -> None:
    """Write the entry and move the balance by it, in the caller's transaction."""
    account.balance += credits
    await LedgerEntry.create(
        account_id=account.id,
        kind=kind,
        credits=credits,
        reference=reference,
        grant_id=grant_id,
        balance_after=account.balance,
    )
    await account.save(update_fields=["balance"])
