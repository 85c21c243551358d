"""Waits for events that stay unhandled, such as those of a price that belongs to no plan."""

from __future__ import annotations

from typing import Any

from paidup.db.models import StripeEvent
from paidup.reconciliation.stripe_events import GRACE
from tests.support.paidup import Paidup
from tests.support.waiting import wait_until


async def wait_for_event(paidup: Paidup, **row: Any) -> None:
    """Wait until the row of an event has these values, and have the reconciler try what is due meanwhile.

    Where a delivery took longer than its deadline, the first try is the reconciler's, after GRACE.
    """

    async def exists() -> bool:
        await paidup.services.reconciler.due.events()
        return await StripeEvent.exists(**row)

    await wait_until(exists, within=GRACE.total_seconds() + 30)
