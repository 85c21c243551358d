"""Publishes a change to every channel that it concerns: an invoice's, and its Checkout Session's."""

from __future__ import annotations

import structlog

from paidup.db.connection import OUTAGES
from paidup.domain.messages import StatusMessage
from paidup.realtime.checkout_queries import read_checkout
from paidup.realtime.hub import Hub

log = structlog.get_logger(__name__)


async def publish_status(hub: Hub, status: StatusMessage) -> bool:
    """Publish an invoice's status, to the session that it came from as well. True once Redis has taken it.

    Never raises: the row is committed, and a subscriber that missed the message gets it from the resync.
    """
    published = await hub.publish(status)
    if status.checkout is not None:
        published = await publish_checkout(hub, status.checkout) and published
    return published


async def publish_checkout(hub: Hub, checkout: str) -> bool:
    """Publish a Checkout Session as its row is now. Call it after the commit. As `publish_status`."""
    try:
        message = await read_checkout(checkout)
    except OUTAGES as error:
        log.warning("checkout_not_published", checkout=checkout, error=str(error))
        return False
    return message is None or await hub.publish_checkout(message)
