"""Dismiss stored events that cannot be handled and need not be: they end the alarm, and stay stored.

Who dismissed an event, and why, is kept with it, beside the error of its last try. Nothing is
credited, and `paidup replay` can still handle it.
"""

from __future__ import annotations

import getpass
from collections.abc import Sequence

import msgspec

from paidup.db.connection import write_transaction
from paidup.db.models import StripeEvent
from paidup.errors import Conflict, InvalidInput, NotFound
from paidup.payments.outcomes import EventOutcome
from paidup.runtime.clock import now

MAX_REASON = 2000
MAX_NAME = 200


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


async def dismiss_events(events: Sequence[str], by: str, reason: str) -> list[Dismissed]:
    """Dismiss these events, all of them or none. Dismissing one again changes nothing.

    Raises NotFound, Conflict where one was handled, InvalidInput, StorageUnavailable.
    """
    by, reason = by.strip(), reason.strip()
    if not 0 < len(reason) <= MAX_REASON or not 0 < len(by) <= MAX_NAME or "\0" in by + reason:
        raise InvalidInput("Say why the events are dismissed, and who decided it, in a few words.")
    async with write_transaction():
        return [await _dismiss(event, by, reason) for event in dict.fromkeys(events)]


async def _dismiss(event: str, by: str, reason: str) -> Dismissed:
    row = await StripeEvent.get_or_none(id=event)
    if row is None:
        raise NotFound(f"No event {event} is stored.")
    if row.outcome != EventOutcome.DISMISSED:
        if row.handled_at is not None:
            raise Conflict(f"{event} was handled: {row.outcome}. Nothing was dismissed.")
        changed = await StripeEvent.filter(id=event, handled_at__isnull=True).update(
            handled_at=now(),
            outcome=EventOutcome.DISMISSED,
            next_attempt_at=None,
            dismissed_by=by,
            dismissed_because=reason,
        )
        if not changed:
            raise Conflict(f"{event} has just been handled. Nothing was dismissed.")
        row.dismissed_by, row.dismissed_because = by, reason
    return Dismissed(row.id, row.type, row.dismissed_by or "", row.dismissed_because or "", row.error)
