"""The audit log: what operators did, who decided it and why. One row for each key of theirs.

A row is written in the transaction that makes its change. The same key returns what it did; another request
under it is refused. What moves no credits (endpoints, replays) has a random key. No row has a secret.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import msgspec
from msgspec.structs import replace
from tortoise.exceptions import IntegrityError
from tortoise.expressions import Q
from tortoise.queryset import QuerySet

from paidup.credits import ledger
from paidup.db.accounts import find_account
from paidup.db.connection import repeatable, storage_errors
from paidup.db.models import Account, Action, Correction
from paidup.errors import Conflict, InvalidInput, NotFound
from paidup.runtime.clock import now

P = ParamSpec("P")
R = TypeVar("R")

MAX_REASON = 2000
MAX_NAME = MAX_KEY = 200
MAX_LISTED = 100
MAX_ID = 40


class Instruction(msgspec.Struct, frozen=True):
    """Who decided it, why, and their idempotency key: the number of a ticket, for example.

    `preview`: do it, and roll it back. The action then raises Previewed, which has what it would change.
    `effect`: of a preview. If the action would have another by now, it is rolled back, and raises Previewed.
    """

    by: str
    reason: str
    key: str
    preview: bool = False
    effect: str = ""


class Operator(msgspec.Struct, frozen=True):
    """Who did what needs no key, and why, as far as they said."""

    by: str
    reason: str = ""


class Request(msgspec.Struct, frozen=True):
    """What is asked for under an instruction's key. `asked` is compared with a later request of that key."""

    action: Action
    instruction: Instruction
    asked: dict[str, Any]
    id: str = msgspec.field(default_factory=lambda: f"cor_{secrets.token_hex(12)}")
    """Of the row to be written."""

    @property
    def digest(self) -> str:
        text = msgspec.json.encode([self.action, self.asked], order="sorted")
        return hashlib.sha256(text).hexdigest()


class Corrected(msgspec.Struct, frozen=True):
    """A row of the audit log. `account` is the user's id; None where it is about no account."""

    id: str
    at: datetime
    action: Action
    account: str | None
    by: str
    reason: str
    key: str
    details: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def effect(self) -> str:
        """A digest of what it changes: of numbers the difference, so that a spend makes no other of it."""
        names = sorted({*self.before, *self.after})
        changes = [_difference(self.before.get(name), self.after.get(name)) for name in names]
        text = msgspec.json.encode([names, changes], order="sorted")
        return hashlib.sha256(text).hexdigest()[:32]

    @property
    def summary(self) -> str:
        """What was done, by whom and why, in one line."""
        changes = [f"{name} {self.before.get(name)} -> {value}" for name, value in self.after.items()]
        text = f"{self.by}: {', '.join([self.action, *changes])} ({self.key})"
        return f"{self.at:%Y-%m-%d %H:%M} UTC, {text}" + (f": {self.reason}" if self.reason else "")


def _difference(before: Any, after: Any) -> Any:
    if isinstance(after, dict):
        return [[name, _difference((before or {}).get(name), value)] for name, value in sorted(after.items())]
    if isinstance(after, int):
        return after - before if isinstance(before, int) else None
    return [before, after]


class Previewed(Exception):
    """Raised in the transaction of an action that is not to be made, so that nothing of it stays."""

    def __init__(self, corrected: Corrected) -> None:
        super().__init__("only a preview")
        self.corrected = corrected


def request(action: Action, instruction: Instruction, **asked: Any) -> Request:
    """A request with its instruction checked. Raises InvalidInput."""
    by, reason, key = (each.strip() for each in (instruction.by, instruction.reason, instruction.key))
    for name, text, limit in (("by", by, MAX_NAME), ("reason", reason, MAX_REASON), ("key", key, MAX_KEY)):
        if not 0 < len(text) <= limit or "\0" in text:
            raise InvalidInput(f"`{name}` is required: {_MEANINGS[name]}, in at most {limit} characters.")
    return Request(action, replace(instruction, by=by, reason=reason, key=key), asked)


_MEANINGS = {
    "by": "who decided it",
    "reason": "why",
    "key": "a key of yours, such as the number of a ticket, under which it is done once",
}


def once(work: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Run `work` again where another process used its key at the same moment: then it finds that row."""
    repeated = repeatable(work)

    @wraps(work)
    async def run(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return await repeated(*arguments, **named)
        except IntegrityError:
            return await repeated(*arguments, **named)

    return run


async def done_before(wanted: Request) -> Corrected | None:
    """What was done under this key, or None. Raises Conflict where that was something else."""
    row = await Correction.get_or_none(key=wanted.instruction.key).select_related("account")
    if row is None:
        return None
    if (row.action, row.digest) != (wanted.action, wanted.digest):
        raise Conflict(f"The key {wanted.instruction.key!r} was used for something else: {row.id}.")
    return corrected(row)


async def record(
    wanted: Request,
    account: Account | None,
    at: datetime,
    before: dict[str, Any],
    after: dict[str, Any],
    details: dict[str, Any],
) -> Corrected:
    """Write the row, last of all. Needs the transaction that makes the change. Raises Previewed."""
    row = await Correction.create(
        id=wanted.id,
        at=at,
        actor=wanted.instruction.by,
        action=wanted.action,
        account_id=account.id if account else None,
        key=wanted.instruction.key,
        digest=wanted.digest,
        reason=wanted.instruction.reason,
        details=msgspec.to_builtins(details),
        before=msgspec.to_builtins(before),
        after=msgspec.to_builtins(after),
    )
    done = _corrected(row, account)
    if wanted.instruction.preview or wanted.instruction.effect not in ("", done.effect):
        raise Previewed(done)
    return done


async def note(
    action: Action,
    operator: Operator,
    details: dict[str, Any],
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Write a row about no account, in the transaction that makes the change. Raises InvalidInput."""
    by, reason = operator.by.strip(), operator.reason.strip()
    for name, text, limit in (("by", by, MAX_NAME), ("reason", reason, MAX_REASON)):
        if len(text) > limit or "\0" in text:
            raise InvalidInput(f"`{name}` has at most {limit} characters: {_MEANINGS[name]}.")
    asked = Request(action, Instruction(by, reason, f"auto-{secrets.token_hex(12)}"), details)
    await record(asked, None, now(), before or {}, after or {}, details)


async def locked_account(external_id: str) -> Account:
    """The account of a user, locked. Raises NotFound."""
    account = await find_account(external_id)
    if account is None:
        raise NotFound(f"There is no account {external_id!r}. One is made with its user's first request.")
    return await ledger.lock_account(account.id)


def find_done(reference: str, action: Action) -> QuerySet[Correction]:
    """What was done under this key, or has this id, where it is of this action."""
    named = Q(key=reference) | Q(id=reference) if len(reference) <= MAX_ID else Q(key=reference)
    return Correction.filter(named, action=action)


async def list_corrections(
    account: Account | None = None, limit: int = MAX_LISTED, until: str = ""
) -> list[Corrected]:
    """The newest rows first: all, or those of an account and of what was merged into it.

    `until`: the id of a row, for it and what was before it. Raises StorageUnavailable.
    """
    with storage_errors():
        rows = Correction.filter(account_id__in=await with_merged(account)) if account else Correction.all()
        if until:
            last = (
                await Correction.get_or_none(id=until) if len(until) <= MAX_ID and "\0" not in until else None
            )
            if last is None:
                return []
            # The first condition is for the index.
            rows = rows.filter(Q(at__lt=last.at) | Q(id__lte=last.id), at__lte=last.at)
        found = await rows.order_by("-at", "-id").limit(limit).select_related("account")
    return [corrected(row) for row in found]


async def with_merged(account: Account) -> list[int]:
    """The ids of an account and of all that were merged into it, as the rows of the merges say."""
    found: list[int] = []
    more = [account.id]
    while more:
        found += more
        merges = await Correction.filter(account_id__in=more, action=Action.MERGE).only("id", "details")
        more = [row.details["merged_account"] for row in merges]
    return found


def corrected(row: Correction) -> Corrected:
    """A row that was read with its account."""
    return _corrected(row, row.account)


def _corrected(row: Correction, account: Account | None) -> Corrected:
    return Corrected(
        id=row.id,
        at=row.at,
        action=Action(row.action),
        account=account.external_id if account else None,
        by=row.actor,
        reason=row.reason,
        key=row.key,
        details=row.details,
        before=row.before,
        after=row.after,
    )
