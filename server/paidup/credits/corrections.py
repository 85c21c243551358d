"""Credits that an operator gives, takes away or takes back, without an invoice.

A correction is known by the id of its row in `audit_log`. The grant has it (unique), and so has the entry's
reference (unique by kind): each is made once, and a grant is revoked once. Like the ledger, every function
runs inside the caller's transaction on a locked account.
"""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from paidup.credits import ledger, moves
from paidup.db.models import CreditGrant, EntryKind, GrantState, LedgerEntry
from paidup.db.unit_accounts import AnyAccount
from paidup.domain.catalog import AfterRefund
from paidup.errors import Conflict, InsufficientCredits


async def give(
    account: AnyAccount, correction: str, kind: EntryKind, terms: ledger.GrantTerms, reason: str, at: datetime
) -> None:
    """Give credits, which pay a debt first. Raises IntegrityError if this correction has given them before.

    `kind` is GRANT, or ADJUST where a balance was wrong.
    """
    await ledger.expire_due(account, at)
    remaining = terms.credits - min(terms.credits, moves.debt_of(account))
    row = ledger.new_grant(account, None, replace(terms, correction=correction), remaining, GrantState.LIVE)
    await row.save()
    await ledger.post_entry(account, kind, terms.credits, _reference(correction), reason, row, at)


async def take(
    account: AnyAccount, correction: str, credits: int, allow_debt: bool, reason: str, at: datetime
) -> None:
    """Take credits away, from the grants that expire first.

    Raises InsufficientCredits where the balance is lower, unless a debt is allowed.
    """
    await ledger.expire_due(account, at)
    if account.balance < credits and not allow_debt:
        raise InsufficientCredits(account.balance, credits, account.unit)
    balance = await moves.settle_debt(account, [], moves.debt_of(account) + credits)
    assert balance == account.balance - credits
    await ledger.post_entry(account, EntryKind.ADJUST, -credits, _reference(correction), reason, at=at)


async def revoke(
    account: AnyAccount, given: CreditGrant, after: AfterRefund, reason: str, at: datetime
) -> None:
    """Take back what `give` has given. Raises Conflict where that was done before.

    What was spent or is reserved is owed, or forgiven. What has expired unused is owed by nobody. Reserved
    credits that come back pay the debt, or expire.
    """
    await ledger.expire_due(account, at)
    await given.refresh_from_db()
    reference = _reference(str(given.correction))
    if await LedgerEntry.exists(kind=EntryKind.REVERSE, reference=reference):
        raise Conflict("This grant was revoked already.")
    used = given.credits - given.remaining - given.expired
    forgiven = used if after is AfterRefund.FORGIVE else 0
    given.credits, given.remaining, given.state = given.expired + forgiven, 0, GrantState.EXPIRED
    given.expires_at = min(given.expires_at or at, at)
    await given.save(update_fields=["credits", "expires_at"])
    balance = await moves.settle_debt(account, [given], moves.debt_of(account) + used - forgiven)
    net = balance - account.balance
    await ledger.post_entry(account, EntryKind.REVERSE, net, reference, reason, given, at)


def _reference(correction: str) -> str:
    return f"correction:{correction}"
