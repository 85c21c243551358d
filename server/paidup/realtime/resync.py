"""The rereader: reads the rows of everything that waits here, and offers them to the lines.

Owns the safety net under Redis: every few seconds, and at once after a gap, one query per
two hundred invoices or accounts. So a hint that was lost (the process was killed between
commit and publish, Redis was away) costs seconds, never the news. Refuses to ask Stripe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TypeVar

import structlog

from paidup.db.connection import OUTAGES
from paidup.realtime.hub import ACCOUNTS, INVOICES, Hub
from paidup.realtime.status_queries import read_balances, read_statuses

log = structlog.get_logger(__name__)

T = TypeVar("T")
READ_IN_A_TURN = 200
"""Rows: two milliseconds at most in which nobody else is told anything."""


async def resync_forever(hub: Hub, every_s: float) -> None:
    """Run until cancelled."""
    while True:
        try:
            async with asyncio.timeout(every_s):
                await hub.gaps.wait()
        except TimeoutError:
            pass
        hub.gaps.clear()
        await resync(hub)


async def resync(hub: Hub) -> None:
    """Offer every waiting line here its row as it is now."""
    try:
        for invoices in _in_turns(hub.subscribed_keys(INVOICES)):
            for status in await read_statuses(invoices):
                if hub.publish_local(INVOICES, status.invoice, status):
                    hub.metrics.rescued.inc()
        for accounts in _in_turns(hub.subscribed_keys(ACCOUNTS)):
            for account_id, balance in await read_balances(accounts):
                if hub.publish_local(ACCOUNTS, account_id, balance):
                    hub.metrics.rescued.inc()
    except OUTAGES as error:
        log.warning("resync_failed", error=str(error))


def _in_turns(keys: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(keys), READ_IN_A_TURN):
        yield keys[start : start + READ_IN_A_TURN]
