"""Whether webhooks are known to arrive, from what the tables say."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from paidup.db.models import EventSource, StripeEvent, TimelineEntry
from paidup.domain.payment_facts import Source
from paidup.payments.timeline import TimelineEventType
from paidup.reconciliation.webhook_health import DOUBTED_FOR, GRACE, webhooks_are_doubted
from paidup.runtime.clock import now
from tests.support.factories import an_account, an_invoice

pytestmark = pytest.mark.usefixtures("database")
SECOND = timedelta(seconds=1)


async def settled(at: datetime, via: Source) -> str:
    return (await an_invoice(await an_account(), status="active", settled_at=at, settled_via=via)).id


async def received(at: datetime, source: EventSource) -> None:
    event: dict[str, Any] = {"id": f"evt_{source}", "type": "invoice.paid", "payload": "{}"}
    await StripeEvent.create(**event, received_at=at, source=source)


async def test_nothing_known_is_no_doubt() -> None:
    """A new account without payments costs no more reads than one at rest."""
    assert not await webhooks_are_doubted(now())


@pytest.mark.parametrize("via", [Source.VERIFICATION, Source.RECONCILIATION])
async def test_a_payment_without_its_webhook_is_doubted_for_an_hour(via: Source) -> None:
    at = now()
    invoice = await settled(at, via)
    await received(at + GRACE, EventSource.WEBHOOK)  # another payment's
    assert not await webhooks_are_doubted(at + GRACE - SECOND), "it may be a little late"
    assert await webhooks_are_doubted(at + GRACE + SECOND)
    assert await webhooks_are_doubted(at + DOUBTED_FOR - SECOND)
    assert not await webhooks_are_doubted(at + DOUBTED_FOR + SECOND)
    await TimelineEntry.create(invoice=invoice, at=at, event_type=TimelineEventType.WEBHOOK_RECEIVED)
    assert not await webhooks_are_doubted(at + GRACE + SECOND), "its own webhook has arrived"


async def test_a_payment_that_its_webhook_settled_is_no_doubt() -> None:
    at = now()
    await settled(at, Source.WEBHOOK)
    assert not await webhooks_are_doubted(at + GRACE + SECOND)


async def test_a_delivery_that_failed_is_doubted_for_an_hour() -> None:
    at = now()
    await received(at, EventSource.WEBHOOK)
    assert not await webhooks_are_doubted(at + SECOND)
    await received(at, EventSource.LIST)
    assert await webhooks_are_doubted(at + DOUBTED_FOR - SECOND)
    assert not await webhooks_are_doubted(at + DOUBTED_FOR + SECOND)
