"""Asks Stripe before a request is told that nobody has paid.

A row is as old as the last webhook or verification. A request that would be answered
`awaiting_payment` from it, although the customer may have paid a moment ago, has the invoice read
from Stripe first, within a deadline.
"""

from __future__ import annotations

import asyncio

import structlog
from msgspec.structs import replace

from paidup.db.connection import storage_errors
from paidup.domain.messages import StatusMessage
from paidup.domain.payment_facts import Source
from paidup.domain.stages import Stage
from paidup.errors import StripeError
from paidup.realtime.status_queries import read_status
from paidup.services import Services

log = structlog.get_logger(__name__)

ASK_TIMEOUT_S = 1.5
"""How long a request waits for Stripe. One call usually takes a third of that."""


async def current_status(services: Services, account_id: int, status: StatusMessage) -> StatusMessage:
    """`status`, or, where its row says that nothing was paid, what Stripe says now.

    Where Stripe does not answer in time, the stage is `verifying`. Where the account reads more often
    than STATUS_READS_PER_MINUTE, it is the row's. Raises StorageUnavailable.
    """
    if status.stage is not Stage.AWAITING_PAYMENT or not services.account_limits.may_read_status(account_id):
        return status
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            await services.verification.refresh(status.invoice, Source.VERIFICATION)
    except (StripeError, TimeoutError) as error:
        log.info("status_not_verified", invoice=status.invoice, error=repr(error))
        return replace(status, stage=Stage.VERIFYING)
    with storage_errors():
        return await read_status(status.invoice) or status
