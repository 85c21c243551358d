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
from paidup.db.unit_accounts import AnyAccount, account_row, in_unit
from paidup.domain.catalog import AfterRefund, Catalogue
from paidup.domain.units import DEFAULT_UNIT
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

    async def grant(
        self, account: str, gift: Gift, instruction: Instruction, unit: str | None = None
    ) -> Corrected:
        """Give credits that no invoice gives, of the default unit or of this one.

        Raises InvalidInput, NotFound, Conflict, StorageUnavailable.
        """
        if gift.plan is not None:
            self._catalogue.plan(gift.plan)
        named = self._named(unit)
        wanted, at = request(Action.GRANT, instruction, account=account, gift=gift, **named), self._clock()
        text = f"{gift.plan or 'credits'}, {_HOW[gift.paid_by] if gift.paid_by else 'given by support'}"

        async def give(locked: AnyAccount) -> dict[str, Any]:
            if not 0 < gift.credits <= MAX_CREDITS:
                raise InvalidInput("The number of credits must be above zero.")
            if gift.expires_at is not None and gift.expires_at <= at:
                raise InvalidInput("The day on which they expire is over already.")
            terms = GrantTerms(gift.credits, gift.expires_at, plan=gift.plan)
            await credits_of_operators.give(locked, wanted.id, EntryKind.GRANT, terms, text, at)
            return {**msgspec.structs.asdict(gift), **named}

        return await self._make(wanted, partial(_locked_in_unit, account, named), give, at)

    async def adjust(
        self,
        account: str,
        credits: int,
        instruction: Instruction,
        allow_debt: bool = False,
        unit: str | None = None,
    ) -> Corrected:
        """Raise a balance, or lower it (`credits` below zero): of the default unit, or of this one.

        Raises InsufficientCredits where the balance is lower, unless `allow_debt`, and what `grant` raises.
        """
        if not 0 < abs(credits) <= MAX_CREDITS:
            raise InvalidInput("The number of credits must be above or below zero.")
        named = self._named(unit)
        asked = {"account": account, "credits": credits, "allow_debt": allow_debt, **named}
        wanted, at = request(Action.ADJUST, instruction, **asked), self._clock()

        async def adjust(locked: AnyAccount) -> dict[str, Any]:
            if credits > 0:
                terms = GrantTerms(credits)
                await credits_of_operators.give(locked, wanted.id, EntryKind.ADJUST, terms, ADJUSTED, at)
            else:
                await credits_of_operators.take(locked, wanted.id, -credits, allow_debt, ADJUSTED, at)
            # Not as `credits`: an undo that knows no units would move the default one's.
            return {"by": credits, **named} if named else {"credits": credits}

        return await self._make(wanted, partial(_locked_in_unit, account, named), adjust, at)

    async def revoke(
        self, granted: str, instruction: Instruction, spent: AfterRefund = AfterRefund.DEBT
    ) -> Corrected:
        """Take back a grant, named by its key or its id (`cor_...`). `spent`: what becomes of spent credits.

        Raises NotFound, Conflict, InvalidInput, StorageUnavailable.
        """
        wanted, at = request(Action.REVOKE, instruction, granted=granted, spent=spent), self._clock()

        async def owner() -> AnyAccount:
            given = await _find_grant(granted)
            return in_unit(await lock_account(given.account_id), given.unit)

        async def revoke(locked: AnyAccount) -> dict[str, Any]:
            given = await _find_grant(granted)
            await credits_of_operators.revoke(locked, given, spent, "taken back by support", at)
            of_unit = {"unit": given.unit} if given.unit else {}
            return {"granted": given.correction, "spent": spent, **of_unit}

        return await self._make(wanted, owner, revoke, at)

    def _named(self, unit: str | None) -> dict[str, str]:
        """The unit, where it is not the default one, whose requests are those of before units were named."""
        found = self._catalogue.unit(unit)
        return {"unit": found} if found else {}

    async def _make(
        self,
        wanted: Request,
        account: Callable[[], Awaitable[AnyAccount]],
        change: Callable[[AnyAccount], Awaitable[dict[str, Any]]],
        at: datetime,
    ) -> Corrected:
        result, changed = await _once(wanted, account, change, at)
        if changed is not None:
            await self._publish(changed)
        return result


@once
async def _once(
    wanted: Request,
    account: Callable[[], Awaitable[AnyAccount]],
    change: Callable[[AnyAccount], Awaitable[dict[str, Any]]],
    at: datetime,
) -> tuple[Corrected, Account | None]:
    """Make the change under its key. The account is None where that was done before."""
    async with write_transaction():
        if done := await done_before(wanted):
            return done, None
        locked = await account()
        name = locked.unit or "balance"
        before = {name: locked.balance}
        details = await change(locked)
        row = account_row(locked)
        return await record(wanted, row, at, before, {name: locked.balance}, details), row


async def _locked_in_unit(account: str, named: dict[str, str]) -> AnyAccount:
    return in_unit(await locked_account(account), named.get("unit", DEFAULT_UNIT))


async def _find_grant(granted: str) -> CreditGrant:
    """What an operator's grant has given. Raises NotFound."""
    correction = await find_done(granted, Action.GRANT).only("id").first()
    given = await CreditGrant.get_or_none(correction=correction.id) if correction else None
    if given is None:
        raise NotFound(f"No grant has the key or the id {granted!r}.")
    return given
