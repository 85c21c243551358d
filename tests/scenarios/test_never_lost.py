"""Events that never arrive, have another shape, or concern objects created in Stripe: credited once."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from paidup.db.models import Account, EventSource, Invoice, StripeEvent, Watermark
from paidup.reconciliation.alarms import SETTLED_WITHOUT_WEBHOOK, webhook_silence
from paidup.runtime.clock import now
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import WEBHOOK_SECRET, Customer, Paidup
from tests.support.stripe_sandbox import StripeSide, forged_event, sign
from tests.support.waiting import wait_until


async def _paid(paidup: Paidup, stripe_side: StripeSide, name: str = "ada") -> tuple[Customer, Any]:
    """A purchase that is paid at Stripe, for which no event has arrived."""
    customer = paidup.customer(name)
    purchase = await customer.buy()
    await stripe_side.confirm(purchase["client_secret"])
    return customer, purchase


async def _event_of(stripe_side: StripeSide, kind: str) -> Any:
    return await wait_until(lambda: stripe_side.event(kind))


async def test_a_payment_without_a_webhook_is_found_in_the_list_of_paid_invoices(
    world: World, stripe_side: StripeSide
) -> None:
    """S20: no event was delivered and none is listed any more: the list of paid invoices has it."""
    paidup = await world.server(webhooks=False)
    ada, purchase = await _paid(paidup, stripe_side)
    assert await ada.balance() == 0
    assert await paidup.services.reconciler.lists.paid_invoices() == 1
    assert await ada.balance() == 2000
    assert (await Invoice.get(id=purchase["invoice"])).settled_via == "reconciliation"
    assert await paidup.services.reconciler.lists.paid_invoices() == 0, "the next round is not due yet"
    await Watermark.all().update(moved_at=now() - timedelta(days=1))
    assert await paidup.services.reconciler.lists.paid_invoices() == 0, "and finds nothing that is not known"
    await assert_books_balance(grants=1)


@pytest.mark.parametrize("version", [None, "2024-06-20"], ids=["the SDK's version", "an old default version"])
async def test_events_that_stripe_could_not_deliver_are_taken_from_its_list(
    world: World, stripe_side: StripeSide, version: str | None
) -> None:
    """S20: deliveries that failed are listed by Stripe for 30 days: stored, handled, credited once.

    The list has the account's default version, whatever the endpoint's is.
    """
    await stripe_side.conditions(account_api_version=version)
    paidup = await world.server(webhooks=False)
    await world.deliver_to(1)  # no server listens there
    ada, purchase = await _paid(paidup, stripe_side)
    reconciler = paidup.services.reconciler
    found = await wait_until(reconciler.lists.undelivered_events)
    assert found >= 4
    assert await ada.balance() == 2000
    assert await StripeEvent.filter(source=EventSource.LIST, handled_at__not_isnull=True).count() == found
    assert (await Invoice.get(id=purchase["invoice"])).settled_via == "reconciliation", "no webhook came"
    await assert_books_balance(grants=1)


async def test_an_endpoint_pinned_to_an_older_version_sends_the_old_shape(
    world: World, stripe_side: StripeSide
) -> None:
    """S19: an event of another API version is not used as it is: the invoice is read again and credited."""
    paidup = await world.server()
    await stripe_side.conditions(webhook_api_version="2024-06-20")
    ada, _ = await _paid(paidup, stripe_side)

    async def credited() -> bool:
        return await ada.balance() == 2000

    await wait_until(credited)
    versions = {event.api_version for event in await StripeEvent.all()}
    assert versions == {"2024-06-20"}
    await assert_books_balance(grants=1)


async def test_a_thin_event_names_the_invoice_and_it_is_read(world: World, stripe_side: StripeSide) -> None:
    """S19: `v1.invoice.paid` carries no payload: the invoice that it names is read and credited."""
    paidup = await world.server(webhooks=False)
    ada, purchase = await _paid(paidup, stripe_side)
    thin = {
        "id": "evt_thin_1",
        "object": "v2.core.event",
        "type": "v1.invoice.paid",
        "created": "2026-11-23T09:00:00.000Z",
        "livemode": False,
        "context": None,
        "related_object": {
            "id": purchase["invoice"],
            "type": "invoice",
            "url": f"/v1/invoices/{purchase['invoice']}",
        },
    }
    status, answer = await paidup.webhook(json.dumps(thin).encode())
    assert (status, answer["outcome"]) == (200, "settled")
    assert await ada.balance() == 2000


async def test_a_truncated_invoice_is_read_in_full(world: World, stripe_side: StripeSide) -> None:
    """S19: an unknown invoice whose event has only some of its lines is read before it is credited."""
    paidup = await world.server(webhooks=False)
    customer = await stripe_side.api("POST", "customers")
    await Account.create(external_id="eve", stripe_customer=customer["id"])
    invoice = await _subscribed_elsewhere(stripe_side, customer["id"])
    event = await _event_of(stripe_side, "invoice.paid")
    event["data"]["object"]["lines"].update(has_more=True, data=[])
    before = await stripe_side.calls("GET /v1/invoices/{id}")
    status, answer = await paidup.webhook(json.dumps(event).encode())
    assert (status, answer["outcome"]) == (200, "settled")
    assert await stripe_side.calls("GET /v1/invoices/{id}") == before + 1
    assert await paidup.customer("eve").balance() == 2000
    assert (await Invoice.get(id=invoice)).settled_via == "webhook"


async def _subscribed_elsewhere(stripe_side: StripeSide, customer: str, **form: str) -> str:
    """A subscription created by the SaaS's own code and paid with a saved card; returns its invoice."""
    prices = (await stripe_side.api("GET", "prices?lookup_keys[]=paidup_pro_monthly"))["data"]
    made = await stripe_side.api(
        "POST",
        "subscriptions",
        **{
            "customer": customer,
            "items[0][price]": prices[0]["id"],
            "default_payment_method": await _stored_card(stripe_side, customer),
            **form,
        },
    )
    return str(made["latest_invoice"])


async def _stored_card(stripe_side: StripeSide, customer: str) -> str:
    card = await stripe_side.api("POST", "payment_methods/pm_card_visa/attach", customer=customer)
    return str(card["id"])


async def test_an_invoice_created_in_stripe_is_adopted_from_its_webhook(
    world: World, stripe_side: StripeSide
) -> None:
    """S18: the SaaS's own subscription, known by its metadata alone, is credited when its webhook comes."""
    paidup = await world.server()
    eve = paidup.customer("eve")
    assert await eve.balance() == 0  # accounts are created on first use
    customer = await stripe_side.api("POST", "customers")
    await _subscribed_elsewhere(stripe_side, customer["id"], **{"metadata[paidup_account]": "eve"})

    async def credited() -> bool:
        return await eve.balance() == 2000

    await wait_until(credited)
    assert (await Account.get(external_id="eve")).stripe_customer == customer["id"]
    await assert_books_balance(grants=1)


async def test_a_renewal_is_credited_like_the_first_payment(world: World, stripe_side: StripeSide) -> None:
    """S02: a renewal without a browser and without a webhook is found and credited, once."""
    paidup = await world.server(webhooks=False)
    ada, purchase = await _paid(paidup, stripe_side)
    await paidup.services.reconciler.lists.paid_invoices()
    subscription = (await Invoice.get(id=purchase["invoice"])).subscription
    await stripe_side.control(f"subscriptions/{subscription}/renew")
    await Watermark.all().update(moved_at=now() - timedelta(days=1))
    assert await paidup.services.reconciler.lists.paid_invoices() == 1
    assert await ada.balance() == 4000
    await assert_books_balance(grants=2)


async def test_two_endpoints_with_two_secrets_deliver_one_payment(
    world: World, stripe_side: StripeSide
) -> None:
    """S12: two webhook endpoints on one address, two signing secrets: both are accepted, one grant."""
    other = "whsec_of_the_other_endpoint_of_the_same_address"
    paidup = await world.server(webhooks=False, stripe_webhook_secret=f"{WEBHOOK_SECRET}, {other}")
    ada, _ = await _paid(paidup, stripe_side)
    event = await _event_of(stripe_side, "invoice.paid")
    first = json.dumps(event).encode()
    twin = json.dumps({**event, "id": event["id"] + "twin"}).encode()
    assert (await paidup.webhook(first))[1]["outcome"] == "settled"
    assert (await paidup.webhook(twin, sign(twin, other)))[1]["outcome"] == "already_settled"
    assert await ada.balance() == 2000
    await assert_books_balance(grants=1)


async def test_missing_webhooks_raise_an_alarm(world: World, stripe_side: StripeSide) -> None:
    """S35: verification settles everything, no webhook arrives: /readyz names the alarm and stays ready."""
    paidup = await world.server(webhooks=False)
    for number in range(SETTLED_WITHOUT_WEBHOOK):
        _, purchase = await _paid(paidup, stripe_side, f"c{number}")
        await paidup.services.verification.verify(purchase["invoice"])
    assert await webhook_silence() is None, "webhooks may be some minutes late"
    await Invoice.all().update(settled_at=now() - timedelta(minutes=6))
    status, ready = await paidup.get("/readyz")
    assert (status, [alarm["name"] for alarm in ready["alarms"]]) == (200, ["webhooks_silent"])
    await paidup.services.reconciler.maintenance.alarms()
    gauge = paidup.services.metrics.registry.get_sample_value("paidup_alarm", {"name": "webhooks_silent"})
    assert gauge == 1
    status, _ = await paidup.webhook(forged_event("product.created", {"id": "prod_1", "object": "product"}))
    assert status == 200
    assert await webhook_silence() is None, "one webhook ends it"


async def test_the_audit_reports_a_wrong_balance_and_corrects_nothing(
    world: World, stripe_side: StripeSide
) -> None:
    """S37: a balance changed by hand is reported by the audit, counted, and not corrected."""
    paidup = await world.server()
    ada, purchase = await _paid(paidup, stripe_side)
    await paidup.services.verification.verify(purchase["invoice"])
    reconciler, registry = paidup.services.reconciler, paidup.services.metrics.registry
    await reconciler.maintenance.audit()
    assert registry.get_sample_value("paidup_ledger_mismatches_total") == 0
    await Account.filter(external_id=ada.name).update(balance=2001)
    await reconciler.maintenance.audit()  # the end of the previous round
    await reconciler.maintenance.audit()
    assert (registry.get_sample_value("paidup_ledger_mismatches_total") or 0) >= 2
    assert await ada.balance() == 2001
