"""Resync: reads the rows that subscribers wait for again, in case a message was lost.

Runs every few seconds, and at once after a gap. The database compares the rows' versions with those that
the subscribers know, 500 in a query, and only rows that are newer are read. A lost message (the process
was killed between commit and publish, or Redis was down) is delivered seconds late instead of never.
Stripe is never asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, TypeVar

import structlog

from paidup.db.connection import OUTAGES
from paidup.realtime.current_rows import TOPICS, read_newer
from paidup.realtime.hub import Hub, Topic

log = structlog.get_logger(__name__)

T = TypeVar("T")
CHUNK_SIZE = 500
"""Versions per query: collecting them blocks the event loop for half a millisecond at most."""


async def resync_forever(hub: Hub, interval_s: float) -> None:
    """Resync every `interval_s` seconds and after each gap, until cancelled."""
    while True:
        try:
            async with asyncio.timeout(interval_s):
                await hub.gaps.wait()
        except TimeoutError:
            pass
        hub.gaps.clear()
        await resync(hub)


async def resync(hub: Hub) -> None:
    """Offer the current row to every subscriber of this process that does not know its version."""
    for topic in TOPICS:
        for keys in _chunks(hub.subscribed_keys(topic)):
            try:
                await _resync(hub, topic, keys)
            except OUTAGES as error:
                log.warning("resync_failed", error=str(error))
                return
            except Exception:  # a row that cannot be read must not end it for all others
                log.exception("resync_failed", topic=topic.prefix, keys=len(keys))


async def _resync(hub: Hub, topic: Topic[Any, Any], keys: list[Any]) -> None:
    for key, message in await read_newer(topic, hub.known_versions(topic, keys)):
        if hub.publish_local(topic, key, message):
            hub.metrics.resync_deliveries.inc()


def _chunks(keys: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(keys), CHUNK_SIZE):
        yield keys[start : start + CHUNK_SIZE]
