"""The rereader: reads the rows of everything that waits here, and offers them to the lines.

Owns the safety net under Redis: every few seconds, and at once after a gap, one query per
five hundred invoices. So a hint that was lost (the process was killed between commit and
publish, Redis was away) costs seconds, never the status. Refuses to ask Stripe.
"""

from __future__ import annotations

import asyncio

import structlog

from server.database import OUTAGES
from server.hub import Hub
from server.statuses import read_statuses

log = structlog.get_logger(__name__)


async def reread_forever(hub: Hub, every_s: float) -> None:
    """Run until cancelled."""
    while True:
        try:
            async with asyncio.timeout(every_s):
                await hub.gaps.wait()
        except TimeoutError:
            pass
        hub.gaps.clear()
        await reread(hub)


async def reread(hub: Hub) -> None:
    """Offer every waiting line here its row as it is now."""
    try:
        for status in await read_statuses(hub.waiting):
            hub.deliver(status)
    except OUTAGES as error:
        log.warning("reread_failed", error=str(error))
