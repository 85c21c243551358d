"""An operator's corrections of credits: grant, revoke, adjust. Each is an entry and a row of the audit log.

`revoke` undoes a grant; an adjustment is undone by one of the opposite sign. docs/corrections.md has the
rules. Knows neither HTTP nor the command line.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any

import msgspec

from paidup.credits import corrections as credits_of_operators
from paidup.credits.ledger import GrantTerms, lock_account
from paidup.db.connection import write_transaction
from paidup.db.models import Account, Action, CreditGrant, EntryKind
from paidup.domain.catalog import AfterRefund, Catalogue
from paidup.errors import InvalidInput, NotFound
from paidup.operations.audit_log import (
    Corrected,
    Instruction,
    Request,
    done_before,
    find_done,
    locked_account,
    once,
    record,
    request,
)
from paidup.payments.after_commit import PublishBalance
from paidup.runtime.clock import Clock, now

MAX_CREDITS = 2**53


class PaidBy(StrEnum):
    """How it was paid, where Stripe did not take the money."""

    BANK_TRANSFER = "wire"  # words: allow
    CASH = "cash"
    CHECK = "check"
    OTHER = "other"


_HOW = {
    PaidBy.BANK_TRANSFER: "paid by wire",  # words: allow
    PaidBy.CASH: "paid in cash",
    PaidBy.CHECK: "paid by check",
    PaidBy.OTHER: "paid otherwise",
}
ADJUSTED = "adjusted by support"


class Gift(msgspec.Struct, frozen=True):
    """What a grant gives. `expires_at` None: never. `plan` is one of the plans file's, or None."""

    credits: int
    plan: str | None = None
    expires_at: datetime | None = None
    paid_by: PaidBy | None = None


async def publish_nothing(_: Account) -> None:
    """For a process without Redis: open pages are told by the next resync."""


class Corrections:
    def __init__(
        self, catalogue: Catalogue, publish: PublishBalance = publish_nothing, clock: Clock = now
    ) -> None:
        self._catalogue = catalogue
        self._publish = publish
        self._clock = clock

    async def grant(self, account: str, gift: Gift, instruction: Instruction) -> Corrected:
        """Give credits that no invoice gives. Raises InvalidInput, NotFound, Conflict, StorageUnavailable."""
        if gift.plan is not None:
            self._catalogue.plan(gift.plan)
        wanted, at = request(Action.GRANT, instruction, account=account, gift=gift), self._clock()
        text = f"{gift.plan or 'credits'}, {_HOW[gift.paid_by] if gift.paid_by else 'given by support'}"

        async def give(locked: Account) -> dict[str, Any]:
            if not 0 < gift.credits <= MAX_CREDITS:
                raise InvalidInput("`credits` is a number above zero.")
            if gift.expires_at is not None and gift.expires_at <= at:
                raise InvalidInput("`expires_at` is over already.")
            terms = GrantTerms(gift.credits, gift.expires_at, plan=gift.plan)
            await credits_of_operators.give(locked, wanted.id, EntryKind.GRANT, terms, text, at)
            return msgspec.structs.asdict(gift)

        return await self._make(wanted, partial(locked_account, account), give, at)

    async def adjust(
        self, account: str, credits: int, instruction: Instruction, allow_debt: bool = False
    ) -> Corrected:
        """Raise a balance, or lower it (`credits` below zero).

        Raises InsufficientCredits where the balance is lower, unless `allow_debt`, and what `grant` raises.
        """
        if not 0 < abs(credits) <= MAX_CREDITS:
            raise InvalidInput("`credits` is a number above or below zero.")
        asked = {"account": account, "credits": credits, "allow_debt": allow_debt}
        wanted, at = request(Action.ADJUST, instruction, **asked), self._clock()

        async def adjust(locked: Account) -> dict[str, Any]:
            if credits > 0:
                terms = GrantTerms(credits)
                await credits_of_operators.give(locked, wanted.id, EntryKind.ADJUST, terms, ADJUSTED, at)
            else:
                await credits_of_operators.take(locked, wanted.id, -credits, allow_debt, ADJUSTED, at)
            return {"credits": credits}

        return await self._make(wanted, partial(locked_account, account), adjust, at)

    async def revoke(
        self, granted: str, instruction: Instruction, spent: AfterRefund = AfterRefund.DEBT
    ) -> Corrected:
        """Take back a grant, named by its key or its id (`cor_...`). `spent`: what becomes of spent credits.

        Raises NotFound, Conflict, InvalidInput, StorageUnavailable.
        """
        wanted, at = request(Action.REVOKE, instruction, granted=granted, spent=spent), self._clock()

        async def owner() -> Account:
            return await lock_account((await _find_grant(granted)).account_id)

        async def revoke(locked: Account) -> dict[str, Any]:
            given = await _find_grant(granted)
            await credits_of_operators.revoke(locked, given, spent, "taken back by support", at)
            return {"granted": given.correction, "spent": spent}

        return await self._make(wanted, owner, revoke, at)

    async def _make(
        self,
        wanted: Request,
        account: Callable[[], Awaitable[Account]],
        change: Callable[[Account], Awaitable[dict[str, Any]]],
        at: datetime,
    ) -> Corrected:
        result, changed = await _once(wanted, account, change, at)
        if changed is not None:
            await self._publish(changed)
        return result


@once
async def _once(
    wanted: Request,
    account: Callable[[], Awaitable[Account]],
    change: Callable[[Account], Awaitable[dict[str, Any]]],
    at: datetime,
) -> tuple[Corrected, Account | None]:
    """Make the change under its key. The account is None where that was done before."""
    async with write_transaction():
        if done := await done_before(wanted):
            return done, None
        locked = await account()
        before = {"balance": locked.balance}
        details = await change(locked)
        after = {"balance": locked.balance}
        return await record(wanted, locked, at, before, after, details), locked


async def _find_grant(granted: str) -> CreditGrant:
    """What an operator's grant has given. Raises NotFound."""
    correction = await find_done(granted, Action.GRANT).only("id").first()
    given = await CreditGrant.get_or_none(correction=correction.id) if correction else None
    if given is None:
        raise NotFound(f"No grant has the key or the id {granted!r}.")
    return given
