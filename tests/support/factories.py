"""Creates rows directly, for tests below the API."""

from __future__ import annotations

from datetime import datetime
from itertools import count
from typing import Any

from paidup.credits import ledger
from paidup.db.connection import write_transaction
from paidup.db.models import Account, CreditGrant, GrantState, Invoice, LedgerEntry
from paidup.runtime.clock import now

_numbers = count(1)


async def an_account(name: str = "ada") -> Account:
    number = next(_numbers)
    return await Account.create(external_id=f"{name}-{number}", stripe_customer=f"cus_{number}")


async def an_invoice(account: Account, **values: Any) -> Invoice:
    """An open invoice of 29.00 that would grant 2000 credits."""
    number, at = next(_numbers), now()
    defaults: dict[str, Any] = {
        "id": f"in_{number}",
        "account_id": account.id,
        "customer": account.stripe_customer,
        "payment_intent": f"pi_{number}",
        "plan": "pro",
        "currency": "usd",
        "amount_due_minor": 2900,
        "credits_quoted": 2000,
        "changed_at": at,
        "created_at": at,
    }
    return await Invoice.create(**{**defaults, **values})


async def granted(
    account: Account, credits: int, expires_at: datetime | None = None, rollover_cap: int = 0
) -> Invoice:
    """A paid invoice that granted `credits`."""
    invoice = await an_invoice(account)
    async with write_transaction():
        locked = await ledger.lock_account(account.id)
        await ledger.grant(
            locked, invoice.id, ledger.GrantTerms(credits, expires_at, rollover_cap=rollover_cap)
        )
    return invoice


async def three_sums(account_id: int) -> tuple[int, int, int]:
    """The balance, the sum of the entries, and the live grants minus the debt. All three must be equal."""
    account = await Account.get(id=account_id)
    entries = await LedgerEntry.filter(account_id=account_id)
    live = await CreditGrant.filter(account_id=account_id, state=GrantState.LIVE)
    held = sum(grant.remaining for grant in live)
    return account.balance, sum(entry.credits for entry in entries), held if held else min(0, account.balance)


async def ignore_balance(_: Account) -> None:
    """A settlement's `tell_balance` for tests without account sessions."""
