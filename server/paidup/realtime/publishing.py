"""Publishes a change to every channel that it concerns: an invoice's, its session's, an account's."""

from __future__ import annotations

import structlog

from paidup.db.connection import OUTAGES
from paidup.db.models import Account
from paidup.domain.messages import StatusMessage
from paidup.domain.stages import Stage
from paidup.realtime.checkout_queries import read_checkout
from paidup.realtime.hub import CHECKOUTS, Hub
from paidup.realtime.status_queries import balance_of

log = structlog.get_logger(__name__)


async def publish_status(hub: Hub, status: StatusMessage) -> bool:
    """Publish an invoice's status, to the session that it came from as well. True once Redis has taken it.

    Never raises: the row is committed, and a subscriber that missed the message gets it from the resync.
    """
    published = await hub.publish(status)
    if status.checkout is not None:
        published = await publish_checkout(hub, status.checkout) and published
    return published


async def publish_balance(hub: Hub, account: Account) -> None:
    """Publish an account's balance. Call it after the commit. Never raises."""
    await hub.publish_balance(account.id, balance_of(account))


async def publish_checkout(hub: Hub, checkout: str) -> bool:
    """Publish a Checkout Session as its row is now. Call it after the commit. As `publish_status`."""
    try:
        message = await read_checkout(checkout)
    except OUTAGES as error:
        log.warning("checkout_not_published", checkout=checkout, error=str(error))
        return False
    return message is None or await hub.publish_checkout(message)


async def show_checkout_stage(hub: Hub, checkout: str, answered: bool) -> None:
    """After a check: have this process's browsers that wait for the session show its row's stage.

    Unless Stripe has not `answered`: the row may be older than the payment. Never raises.
    """
    try:
        shown = await read_checkout(checkout)
    except OUTAGES as error:
        log.warning("checkout_stage_not_shown", checkout=checkout, error=str(error))
        return
    if shown is not None and not shown.terminal and (answered or shown.stage is not Stage.AWAITING_PAYMENT):
        hub.publish_stage(checkout, shown.stage, shown.version, CHECKOUTS)
