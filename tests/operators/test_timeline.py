"""The timeline records failures: a lost WebSocket, a failed verification, an unpublished message."""

from __future__ import annotations

import json
from datetime import timedelta

from paidup.db.models import TimelineEntry
from paidup.operations.invoice_report import TimelineEvent
from paidup.runtime.clock import now
from paidup.web.operators.timeline_lanes import build_timeline
from tests.conftest import World
from tests.operators.conftest import timeline_written
from tests.support.paidup import next_status
from tests.support.stripe_sandbox import StripeSide
from tests.support.valkeys import running_valkey
from tests.support.waiting import wait_until


async def test_failures_are_in_the_timeline(world: World, stripe_side: StripeSide) -> None:
    """Stripe refuses to be asked, the tab is closed, Redis goes; the webhook credits, and comes once more."""
    with running_valkey(world.folder) as redis:
        paidup = await world.server(webhooks=False, redis_url=redis.connection_url)
        ada = paidup.customer("ada")
        purchase = await ada.buy("pro")
        invoice = purchase["invoice"]
        await stripe_side.confirm(purchase["client_secret"])
        body = json.dumps(await stripe_side.event("invoice.paid")).encode()
        await stripe_side.conditions(rate_limited=True)
        async with ada.watch(purchase) as socket:
            await next_status(socket)
            await timeline_written(paidup, invoice, "verification_failed")
        await timeline_written(paidup, invoice, "socket_lost")
        redis.terminate()
        assert (await paidup.webhook(body))[1]["outcome"] == "settled"
        await timeline_written(paidup, invoice, "not_published")
    assert (await paidup.webhook(body))[1]["outcome"] == "duplicate"
    repeated = TimelineEntry.filter(invoice=invoice, event_type="webhook_received").order_by("id")

    async def both() -> bool:
        return [(entry.detail or {}).get("outcome") for entry in await repeated] == [None, "duplicate"]

    await wait_until(both)


def test_a_plan_change_that_settles_shows_no_count_of_requests() -> None:
    """It has read the invoice itself: "0 requests, first" would be wrong."""
    at, by = now(), {"source": "verification"}
    settled = TimelineEvent(at + timedelta(milliseconds=5), 5, "settled", by)

    def shown(*events: TimelineEvent) -> str:
        timeline = build_timeline(events, is_over=True, now=at + timedelta(seconds=1))
        assert timeline is not None
        return next(lane.summary for lane in timeline.lanes if lane.name == "Verification")

    assert shown(settled) == "first"
    assert shown(TimelineEvent(at, 0, "verification_asked", by), settled) == "1 request, first"
