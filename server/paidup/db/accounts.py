"""Finds accounts by the SaaS's id. One that was merged into another is answered for by that one."""

from __future__ import annotations

from paidup.db.models import Account

LONGEST = 200
"""Characters of an account's id."""


async def find_account(external_id: str) -> Account | None:
    """The account of a user, or the one that it was merged into; None where there is none."""
    # Tortoise refuses a longer text than the column holds.
    account = await Account.get_or_none(external_id=external_id) if len(external_id) <= LONGEST else None
    return await surviving(account) if account else None


async def surviving(account: Account) -> Account:
    """The account that answers for this one: itself, unless it was merged into another."""
    # A merge moves earlier pointers along, so one step leads to the end.
    return await Account.get(id=account.merged_into) if account.merged_into else account
