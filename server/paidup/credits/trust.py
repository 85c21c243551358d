"""Credits on trust: granted while a bank debit is processing, replaced by its payment, or taken back.

Off unless `[trust]` in the plans file names the payment method. They are a grant of the invoice with a number
of its own, `ledger.ON_TRUST`, so the database has one at most. The payment grants all that was quoted and
takes these away in the same transaction: what was spent of them counts as spent of the payment's credits.
Only credits of the default unit are given on trust.
Only the settlement calls this, with invoice and account locked.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec.structs import replace
from tortoise.expressions import Q

from paidup.credits import ledger, moves
from paidup.db.models import (
    Account,
    CreditGrant,
    EntryKind,
    GrantState,
    Invoice,
    ReversalKind,
)
from paidup.db.own_purchases import is_own_purchase, of_own_purchases
from paidup.domain.catalog import AfterRefund, Trust


async def give(row: Invoice, account: Account, terms: ledger.GrantTerms, policy: Trust, at: datetime) -> None:
    """Grant credits for a debit that is under way, as far as the policy allows: up to `terms.credits`."""
    credits = min(terms.credits, policy.cap(row.payment_method) - await _outstanding(row))
    if credits <= 0 or await _was_given(row) or await _has_failed(account) or not await is_own_purchase(row):
        return  # what is spent of a debit of somebody else's would be owed by the account
    lent = replace(terms, credits=credits, installment=ledger.ON_TRUST, rollover_cap=0, usable_until=None)
    await ledger.grant(account, row.id, lent, at)
    row.credits_on_trust = credits


async def replace_by_payment(row: Invoice, account: Account, at: datetime) -> None:
    """The payment has arrived and its credits are granted: these end, and what was spent of them moves."""
    lent = await _lent(row)
    used = lent.credits - lent.remaining - lent.expired
    paid = await _live(row)
    for grant in paid:
        taken = min(used, grant.remaining)
        grant.remaining -= taken
        used -= taken
    await _end(lent, at, kept=0)
    reason = "on trust, replaced by the payment"
    await _post(row, account, lent, [lent, *paid], used, reason, at)


async def take_back(row: Invoice, account: Account, after: AfterRefund, at: datetime) -> None:
    """The payment has failed: what is left is taken away; what was spent is owed, or forgiven."""
    lent = await _lent(row)
    used = lent.credits - lent.remaining - lent.expired
    forgiven = used if after is AfterRefund.FORGIVE else 0
    # Forgiven credits that a reservation returns come back to it, and expire.
    await _end(lent, at, kept=forgiven)
    await _post(row, account, lent, [lent], used - forgiven, "on trust, the payment failed", at)


async def _has_failed(account: Account) -> bool:
    """Whether a bank debit for a purchase of the account's own has failed, or its payment was disputed."""
    own = Invoice.filter(of_own_purchases(account.id), account_id=account.id)
    return await own.filter(Q(debit_failed=True) | Q(reversals__kind=ReversalKind.DISPUTE)).exists()


async def _outstanding(row: Invoice) -> int:
    """What the account has on trust by the same method, for other invoices."""
    others = Invoice.filter(account_id=row.account_id, credits_on_trust__gt=0).exclude(id=row.id)
    return sum(each.credits_on_trust for each in await others.filter(payment_method=row.payment_method))


async def _was_given(row: Invoice) -> bool:
    return await CreditGrant.exists(invoice_id=row.id, installment=ledger.ON_TRUST)


async def _lent(row: Invoice) -> CreditGrant:
    return await CreditGrant.get(invoice_id=row.id, installment=ledger.ON_TRUST)


async def _live(row: Invoice) -> list[CreditGrant]:
    granted = CreditGrant.filter(invoice_id=row.id, unit=row.unit, installment__not=ledger.ON_TRUST)
    return await granted.filter(state=GrantState.LIVE).order_by("installment")


async def _end(lent: CreditGrant, at: datetime, kept: int) -> None:
    """Nothing of it can be used any more. `kept` credits may still return to it."""
    lent.credits, lent.remaining, lent.state = lent.expired + kept, 0, GrantState.EXPIRED
    lent.expires_at, lent.usable_until = min(lent.expires_at or at, at), None
    await lent.save(update_fields=["credits", "expires_at", "usable_until"])


async def _post(
    row: Invoice,
    account: Account,
    lent: CreditGrant,
    changed: Sequence[CreditGrant],
    owed: int,
    reason: str,
    at: datetime,
) -> None:
    balance = await moves.settle_debt(account, changed, moves.debt_of(account) + owed)
    reference = f"{row.id}:{ledger.ON_TRUST}:ended"
    await ledger.post_entry(
        account, EntryKind.REVERSE, balance - account.balance, reference, reason, lent, at
    )
    row.credits_on_trust = 0
