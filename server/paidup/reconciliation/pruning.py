"""Prunes what grows with use and is of no further use: old events' payloads, and the timeline.

An event's row is never deleted: its id is what makes a late redelivery of it do nothing. Only its
payload goes, a retention after it was handled; what was not handled keeps it. Timeline entries go
entirely. Each round is bounded, and costs as much as it prunes: it starts where the last one ended.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from paidup.clock import now
from paidup.db.connection import storage_errors
from paidup.db.models import StripeEvent, TimelineEntry, Watermark
from paidup.settings import Settings

ROUND = 500
"""Rows of each table that one round prunes at most."""
PAYLOADS = "pruned_payloads"
"""The watermark: payloads of events handled before it are gone."""


class Retention(msgspec.Struct, frozen=True):
    """How long each is kept."""

    payloads: timedelta = timedelta(days=90)
    timeline: timedelta = timedelta(days=90)


DEFAULT_RETENTION = Retention()


def retention_of(settings: Settings) -> Retention:
    return Retention(timedelta(days=settings.event_payload_days), timedelta(days=settings.timeline_days))


async def prune(retention: Retention) -> int:
    """One round; how many rows it pruned. Any number of processes may do it. Raises StorageUnavailable."""
    at = now()
    with storage_errors():
        payloads = await prune_payloads(at - retention.payloads)
        return payloads + await prune_timeline(at - retention.timeline)


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
        assert last is not None, "it was asked for by that"
        await Watermark.update_or_create({"value": last.isoformat(), "moved_at": now()}, name=PAYLOADS)
    return len(rows)


async def prune_timeline(before: datetime) -> int:
    """Delete the oldest entries, those made until `before`. Their ids grow with time, or nearly so."""
    oldest = await TimelineEntry.all().order_by("id").limit(ROUND).only("id", "at")
    over = [entry.id for entry in oldest if entry.at <= before]
    if over:
        await TimelineEntry.filter(id__in=over).delete()
    return len(over)
