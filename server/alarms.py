"""Alarms: what is wrong although every customer is served, so that nobody would notice.

The one so far: verification and the reconciler keep winning, and no webhook comes (S35). The
customers are active; but the webhook endpoint is broken, and one of three roads is gone.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import msgspec

from server.clock import now
from server.core.facts import Road
from server.database import storage_errors
from server.models import EventSource, Invoice, StripeEvent

SETTLED_WITHOUT = 3
"""So many credited in a row with no webhook after any of them."""
GRACE = timedelta(minutes=5)
"""How late a webhook may be before its absence counts."""
REMEMBERED_S = 15.0
LOOK_BACK = timedelta(days=7)


class Alarm(msgspec.Struct, frozen=True):
    """`name` is stable, for metrics; `text` says what is wrong and what to do."""

    name: str
    text: str


class Alarms:
    """The alarms that are on, looked up anew every `REMEMBERED_S` at most: /readyz asks all the time."""

    def __init__(self) -> None:
        self._alarms: list[Alarm] = []
        self._looked_at = float("-inf")

    async def current(self) -> list[Alarm]:
        """Raises StorageUnavailable."""
        if time.monotonic() - self._looked_at > REMEMBERED_S:
            silence = await webhook_silence()
            self._alarms = [silence] if silence else []
            self._looked_at = time.monotonic()
        return self._alarms


async def webhook_silence() -> Alarm | None:
    """The alarm that webhooks do not come, or None. Raises StorageUnavailable."""
    at = now()
    with storage_errors():
        last = (
            await StripeEvent.filter(source=EventSource.WEBHOOK)
            .order_by("-received_at")
            .only("id", "received_at")
            .first()
        )
        since = max(last.received_at if last else at - LOOK_BACK, at - LOOK_BACK)
        settled = await Invoice.filter(
            settled_at__gt=since,
            settled_at__lte=at - GRACE,
            settled_via__in=[Road.VERIFICATION, Road.RECONCILIATION],
        ).count()
    if settled < SETTLED_WITHOUT:
        return None
    return Alarm("webhooks_silent", _text(settled, last.received_at if last else None))


def _text(settled: int, last: datetime | None) -> str:
    when = f"the last one came at {last:%Y-%m-%d %H:%M} UTC" if last else "none has ever come"
    return (
        f"{settled} payments were credited without their webhooks; {when}. "
        "Check the endpoint's address, secret and state in Stripe (`paidup doctor`)."
    )
