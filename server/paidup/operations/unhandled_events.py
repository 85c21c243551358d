"""The stored events of types that Paidup does not handle, as `paidup explain` and the overview show them."""

from __future__ import annotations

from datetime import datetime, timedelta

from tortoise.queryset import QuerySet

from paidup.db.models import StripeEvent
from paidup.payments.outcomes import EventOutcome

SHOWN_FOR = timedelta(days=7)
"""How long they are shown."""
AMONG_NEWEST = 20_000
"""Of how many events at most they are shown: no index has the outcome, and each event is read for it."""


async def unhandled_events(at: datetime) -> QuerySet[StripeEvent]:
    """Those of the last days."""
    newest_first = StripeEvent.all().order_by("-received_at").only("id", "received_at")
    older = await newest_first.offset(AMONG_NEWEST).first()
    since = max(at - SHOWN_FOR, older.received_at) if older else at - SHOWN_FOR
    return StripeEvent.filter(outcome=EventOutcome.UNHANDLED_TYPE, received_at__gt=since)
