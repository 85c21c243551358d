"""Dismiss stored events that cannot be handled and need not be: they end the alarm, and stay stored.

Who dismissed an event, and why, is kept with it, beside the error of its last try, and in the audit log.
Nothing is credited, and `paidup replay` can still handle it. `reopen_events` undoes it.
"""

from __future__ import annotations

import getpass
import secrets
from collections.abc import Sequence
from datetime import datetime

import msgspec

from paidup.db.connection import write_transaction
from paidup.db.models import Action, StripeEvent
from paidup.errors import Conflict, NotFound
from paidup.operations.audit_log import Corrected, Instruction, Request, done_before, once, record, request
from paidup.payments.outcomes import EventOutcome
from paidup.runtime.clock import now


class Dismissed(msgspec.Struct, frozen=True):
    """A dismissed event: who dismissed it, why, and the error of its last try."""

    event: str
    type: str
    by: str
    reason: str
    error: str | None


def current_user() -> str:
    """The name of the user who runs this process, or "unknown"."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in its passwd
        return "unknown"


async def dismiss_events(events: Sequence[str], by: str, reason: str, key: str = "") -> list[Dismissed]:
    """Dismiss these events, all of them or none. Dismissing one again changes nothing.

    Raises NotFound, Conflict where one was handled, InvalidInput, StorageUnavailable.
    """
    dismissed, _ = await _dismiss_all(*_asked(Action.DISMISS, events, by, reason, key), now())
    return dismissed


async def reopen_events(events: Sequence[str], by: str, reason: str, key: str = "") -> list[str]:
    """Undo their dismissal, all of them or none: they are in the alarm again, with the error that they had.

    Raises NotFound, Conflict where one is not dismissed, InvalidInput, StorageUnavailable.
    """
    wanted, named = _asked(Action.REOPEN, events, by, reason, key)
    await _reopen_all(wanted, named, now())
    return named


async def dismiss(events: Sequence[str], instruction: Instruction) -> Corrected:
    """The same as `dismiss_events`, under a key: its row of the audit log."""
    wanted = request(Action.DISMISS, instruction, events=sorted(set(events)))
    _, done = await _dismiss_all(wanted, list(dict.fromkeys(events)), now())
    return done


async def reopen(events: Sequence[str], instruction: Instruction) -> Corrected:
    """The same as `reopen_events`, under a key: its row of the audit log."""
    wanted = request(Action.REOPEN, instruction, events=sorted(set(events)))
    return await _reopen_all(wanted, list(dict.fromkeys(events)), now())


def _asked(
    action: Action, events: Sequence[str], by: str, reason: str, key: str
) -> tuple[Request, list[str]]:
    """Without a key, a random one: what was done to an event says whether it is done again."""
    instruction = Instruction(by, reason, key or f"auto-{secrets.token_hex(12)}")
    return request(action, instruction, events=sorted(set(events))), list(dict.fromkeys(events))


@once
async def _dismiss_all(wanted: Request, events: list[str], at: datetime) -> tuple[list[Dismissed], Corrected]:
    async with write_transaction():
        done = await done_before(wanted)
        waiting = StripeEvent.filter(id__in=events, handled_at__isnull=True)
        changed = sorted(str(each) for each in await waiting.values_list("id", flat=True))
        dismissed = [await _dismiss(each, wanted.instruction, at) for each in events]
        if done is None:
            before, after = {"waiting": changed}, {"dismissed": changed}
            done = await record(wanted, None, at, before, after, {"events": events})
        return dismissed, done


@once
async def _reopen_all(wanted: Request, events: list[str], at: datetime) -> Corrected:
    async with write_transaction():
        if done := await done_before(wanted):
            return done
        for each in events:
            await _reopen(each)
        return await record(wanted, None, at, {"dismissed": events}, {"waiting": events}, {"events": events})


async def _reopen(event: str) -> None:
    row = await StripeEvent.get_or_none(id=event)
    if row is None:
        raise NotFound(f"No event {event} is stored.")
    if row.outcome != EventOutcome.DISMISSED:
        raise Conflict(f"{event} is not dismissed. Nothing was reopened.")
    if not row.payload:
        raise Conflict(f"The payload of {event} was deleted meanwhile: `paidup replay` reads it from Stripe.")
    await StripeEvent.filter(id=event, outcome=EventOutcome.DISMISSED).update(
        handled_at=None, outcome=None, next_attempt_at=None, dismissed_by=None, dismissed_because=None
    )


async def _dismiss(event: str, instruction: Instruction, at: datetime) -> Dismissed:
    row = await StripeEvent.get_or_none(id=event)
    if row is None:
        raise NotFound(f"No event {event} is stored.")
    if row.outcome != EventOutcome.DISMISSED:
        if row.handled_at is not None:
            raise Conflict(f"{event} was handled: {row.outcome}. Nothing was dismissed.")
        changed = await StripeEvent.filter(id=event, handled_at__isnull=True).update(
            handled_at=at,
            outcome=EventOutcome.DISMISSED,
            next_attempt_at=None,
            dismissed_by=instruction.by,
            dismissed_because=instruction.reason,
        )
        if not changed:
            raise Conflict(f"{event} has just been handled. Nothing was dismissed.")
        row.dismissed_by, row.dismissed_because = instruction.by, instruction.reason
    return Dismissed(row.id, row.type, row.dismissed_by or "", row.dismissed_because or "", row.error)
