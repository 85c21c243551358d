"""The rereader: reads the rows of everything that waits here, and offers them to the lines.

Owns the safety net under Redis: every few seconds, and at once after a gap, one query per
five hundred invoices or accounts. So a hint that was lost (the process was killed between
commit and publish, Redis was away) costs seconds, never the news. Refuses to ask Stripe.
"""

from __future__ import annotations

import asyncio

import structlog

from server.database import OUTAGES
from server.hub import ACCOUNTS, INVOICES, Hub
from server.statuses import read_balances, read_statuses

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
        for status in await read_statuses(hub.waiting(INVOICES)):
            if hub.deliver(INVOICES, status.invoice, status):
                hub.metrics.rescued.inc()
        for account_id, balance in await read_balances(hub.waiting(ACCOUNTS)):
            if hub.deliver(ACCOUNTS, account_id, balance):
                hub.metrics.rescued.inc()
    except OUTAGES as error:
        log.warning("reread_failed", error=str(error))
