"""The timeline records failures: a lost WebSocket, a failed verification, an unpublished message."""

from __future__ import annotations

import json

from paidup.db.models import TimelineEntry
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
