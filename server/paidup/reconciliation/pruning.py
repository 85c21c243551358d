"""Prunes tables that grow with use: the payloads of old events, the timeline, and outbound events.

An event's row is never deleted, since its id makes a late redelivery a duplicate. Only its payload is
removed, a retention period after it was handled; unhandled events keep theirs. Timeline entries, and
outbound events with their deliveries, are deleted. Each round is bounded, costs as much as it prunes, and
starts where the last one ended.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import takewhile

import msgspec

from paidup.db.connection import connection, storage_errors
from paidup.db.models import StripeEvent, TimelineEntry, Watermark
from paidup.db.outbound_models import OutboundEvent
from paidup.runtime.clock import now

ROUND = 500
"""Rows of each table that one round prunes at most."""
PAYLOADS = "pruned_payloads"
"""The watermark: payloads of events handled before it are gone."""


class Retention(msgspec.Struct, frozen=True):
    """How long each is kept."""

    payloads: timedelta = timedelta(days=90)
    timeline: timedelta = timedelta(days=90)
    outbound_events: timedelta = timedelta(days=30)


async def prune(retention: Retention) -> int:
    """Prune one round. Returns the rows pruned. Safe in many processes. Raises StorageUnavailable."""
    at = now()
    with storage_errors():
        payloads = await prune_payloads(at - retention.payloads)
        timeline = await prune_timeline(at - retention.timeline)
        return payloads + timeline + await prune_outbound_events(at - retention.outbound_events)


async def prune_payloads(before: datetime) -> int:
    """Empty the payloads of the next events handled until `before`."""
    mark = await Watermark.get_or_none(name=PAYLOADS)
    old = StripeEvent.filter(handled_at__lte=before).exclude(payload="")
    if mark is not None:
        old = old.filter(handled_at__gte=datetime.fromisoformat(mark.value))
    rows = await old.order_by("handled_at").limit(ROUND).only("id", "handled_at")
    if rows:
        await StripeEvent.filter(id__in=[row.id for row in rows]).update(payload="")
        last = rows[-1].handled_at
        assert last is not None, "the query selects handled events"
        await Watermark.update_or_create({"value": last.isoformat(), "moved_at": now()}, name=PAYLOADS)
    return len(rows)


async def prune_timeline(before: datetime) -> int:
    """Delete the oldest entries, those made until `before`. Their ids grow with time, or nearly so."""
    oldest = await TimelineEntry.all().order_by("id").limit(ROUND).only("id", "at")
    over = [entry.id for entry in oldest if entry.at <= before]
    if over:
        await TimelineEntry.filter(id__in=over).delete()
    return len(over)


async def prune_outbound_events(before: datetime) -> int:
    """Delete the oldest events, those made until `before`, with their deliveries. Their ids grow with time.

    One that awaits its deliveries, or has a pending one, is kept. A round reads the oldest events and what
    they are needed for, and nothing newer: no index has the time.
    """
    oldest = await OutboundEvent.all().order_by("id").first()
    if oldest is None or oldest.created_at > before:
        return 0
    _, rows = await connection().execute_query(unneeded_events())
    events = OutboundEvent.filter(id__in=[row["id"] for row in rows]).order_by("id").only("id", "created_at")
    over = [event.id for event in takewhile(lambda event: event.created_at <= before, await events)]
    if over:
        await OutboundEvent.filter(id__in=over).delete()
    return len(over)


def unneeded_events() -> str:
    """The statement that finds the oldest events that nothing is to be delivered of.

    It looks for the deliveries of each by the unique key that begins with the event.
    """
    return f"""SELECT e.id FROM outbound_events e WHERE e.fanned_out AND NOT EXISTS (
SELECT 1 FROM event_deliveries d WHERE d.event_id = e.id AND d.state = 'pending')
ORDER BY e.id LIMIT {ROUND}"""  # noqa: S608 - a number of our own
