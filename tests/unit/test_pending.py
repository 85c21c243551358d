"""Which unpaid invoices a customer can be waiting for."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from paidup.db.models import Subscription
from paidup.domain.decisions import UNCOLLECTIBLE, InvoiceStatus
from paidup.runtime.clock import now
from paidup.subscriptions.pending import newest_awaited
from tests.support.factories import an_account, an_invoice

AWAITED = [
    ({}, True),
    ({"status": InvoiceStatus.FAILED, "error": {"code": "card_declined", "message": "No"}}, True),
    ({"changed_at": now() - timedelta(days=2)}, False),
    ({"changed_at": now() - timedelta(days=9), "status": InvoiceStatus.PROCESSING}, True),
    ({"status": InvoiceStatus.FAILED, "error": {"code": UNCOLLECTIBLE.code, "message": "-"}}, False),
    ({"billing_reason": "subscription_cycle"}, False),
    ({"billing_reason": "subscription_cycle", "status": InvoiceStatus.FAILED}, True),
    ({"billing_reason": "subscription_cycle", "status": InvoiceStatus.REQUIRES_ACTION}, True),
    ({"status": InvoiceStatus.ACTIVE}, False),
]


@pytest.mark.parametrize(("values", "awaited"), AWAITED)
async def test_only_a_payment_that_the_customer_can_be_waiting_for_is_named(
    database: None, values: dict[str, Any], awaited: bool
) -> None:
    """S55: the newest of those, though a newer unpaid invoice is not awaited."""
    account = await an_account()
    invoice = await an_invoice(account, **values)
    older = await an_invoice(account, created_at=now() - timedelta(hours=1))
    found = await newest_awaited(account, now() - timedelta(hours=23))
    assert found is not None
    assert found.id == (invoice.id if awaited else older.id)


async def test_an_invoice_of_a_subscription_that_is_over_is_not_awaited(database: None) -> None:
    """S55: unless its payment is processing."""
    account = await an_account()
    await Subscription.create(id="sub_1", account_id=account.id, status="canceled")
    invoice = await an_invoice(account, subscription="sub_1", status=InvoiceStatus.REQUIRES_ACTION)
    assert await newest_awaited(account, now() - timedelta(hours=23)) is None
    invoice.status = InvoiceStatus.PROCESSING
    await invoice.save()
    assert await newest_awaited(account, now() - timedelta(hours=23)) == invoice
