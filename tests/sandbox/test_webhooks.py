"""Webhook deliveries: signed, filtered, retried, duplicated, dropped, in an older API version."""

from __future__ import annotations

import time

import pytest
import stripe

from .rig import CARD_3DS, SECRET, Json, Receiver, Sandbox, wait_until


async def _events(sandbox: Sandbox) -> list[Json]:
    return list((await sandbox.call("GET", "/sandbox/events?limit=1000")).body["events"])


async def _delivered(sandbox: Sandbox) -> None:
    """Waits until the sandbox has recorded that every event was delivered."""
    for _ in range(500):
        listed = await sandbox.raw("GET", "/v1/events?delivery_success=false")
        if not listed.body["data"]:
            return
    raise AssertionError("some event stays undelivered")


async def test_events_of_a_paid_subscription(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """Creation, the bank's check and the payment each send Stripe's events, once."""
    signup = await sandbox_hooked.subscribe()
    await signup.confirm(CARD_3DS)
    await signup.authenticate("pass")
    await wait_until(lambda: "invoice.payment_succeeded" in sandbox_receiver.types())
    made = [event["type"] for event in await _events(sandbox_hooked)][::-1]
    assert made[3:] == [
        "customer.subscription.created", "invoice.created", "payment_intent.created", "invoice.finalized",
        "payment_intent.requires_action", "invoice.payment_action_required",
        "charge.succeeded", "payment_intent.succeeded", "payment_method.attached", "invoice_payment.paid",
        "customer.subscription.updated", "invoice.updated", "invoice.paid", "invoice.payment_succeeded",
    ]  # fmt: skip
    await wait_until(lambda: sorted(sandbox_receiver.types()) == sorted(made))


async def test_events_hold_snapshots(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """An event has a snapshot of the object, its previous values, and the request that caused it."""
    signup = await sandbox_hooked.subscribe()
    await signup.confirm()
    await wait_until(lambda: "invoice.payment_succeeded" in sandbox_receiver.types())
    (created,) = sandbox_receiver.of("customer.subscription.created")
    (updated,) = sandbox_receiver.of("customer.subscription.updated")
    (paid,) = sandbox_receiver.of("invoice.paid")
    assert created["data"]["object"]["status"] == "incomplete"
    assert updated["data"]["object"]["status"] == "active"
    assert updated["data"]["previous_attributes"]["status"] == "incomplete"
    assert (paid["data"]["object"]["status"], paid["data"]["object"]["amount_paid"]) == ("paid", 2000)
    assert paid["api_version"] == stripe.api_version
    assert created["request"]["id"].startswith("req_")


async def test_a_failed_attempt_is_shown(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """A decline sends the failure events of charge, intent and invoice."""
    signup = await sandbox_hooked.subscribe()
    await signup.confirm("pm_card_chargeDeclined")
    await wait_until(lambda: "invoice.payment_failed" in sandbox_receiver.types())
    await wait_until(
        lambda: {"charge.failed", "payment_intent.payment_failed"} <= set(sandbox_receiver.types())
    )


async def test_the_signature_is_verified_by_the_sdk(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver
) -> None:
    """`construct_event` accepts the delivery, and rejects another secret or a changed body."""
    await sandbox_hooked.v1.customers.create_async({})
    await wait_until(lambda: bool(sandbox_receiver.received))
    body, signature = sandbox_receiver.received[0].body, sandbox_receiver.received[0].signature
    event = sandbox_hooked.stripe.construct_event(body, signature, SECRET)
    assert event.type == "customer.created"
    for changed, secret in ((body, "whsec_other"), (body + b" ", SECRET)):
        with pytest.raises(stripe.SignatureVerificationError):
            sandbox_hooked.stripe.construct_event(changed, signature, secret)


async def test_an_endpoint_created_by_the_api(sandbox_bare: Sandbox, sandbox_receiver: Receiver) -> None:
    """An endpoint's secret is shown once; it gets its `enabled_events` until it is disabled or deleted."""
    endpoints = sandbox_bare.v1.webhook_endpoints
    params = {"url": sandbox_receiver.url, "enabled_events": ["product.created"]}
    made = await endpoints.create_async(params)
    assert "secret" not in await endpoints.retrieve_async(made.id)
    await sandbox_bare.plan()
    await wait_until(lambda: sandbox_receiver.types() == ["product.created"])
    received = sandbox_receiver.received[0]
    assert sandbox_bare.stripe.construct_event(received.body, received.signature, made.secret).id
    await endpoints.update_async(made.id, {"disabled": True})
    await sandbox_bare.plan()
    await endpoints.delete_async(made.id)
    await sandbox_bare.plan()
    assert sandbox_receiver.types() == ["product.created"]
    assert (await endpoints.list_async({})).data == []


async def test_two_endpoints_on_one_address(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """Each endpoint gets each event, signed with its own secret (S12)."""
    other = {"url": sandbox_receiver.url, "secret": "whsec_second"}
    await sandbox_hooked.control("/webhook_endpoints", other)
    await sandbox_hooked.v1.customers.create_async({})
    await wait_until(lambda: len(sandbox_receiver.received) == 2)
    verified = set()
    for received in sandbox_receiver.received:
        for secret in (SECRET, "whsec_second"):
            try:
                sandbox_hooked.stripe.construct_event(received.body, received.signature, secret)
            except stripe.SignatureVerificationError:
                continue
            verified.add(secret)
    assert verified == {SECRET, "whsec_second"}


@pytest.mark.parametrize("refusal", [500, 400, 302])
async def test_deliveries_without_2xx_are_retried(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver, refusal: int
) -> None:
    """Errors and redirects are retried with a new signature; until then the event is undelivered."""
    sandbox_receiver.answers = [refusal, refusal]
    await sandbox_hooked.v1.customers.create_async({})
    await wait_until(lambda: len(sandbox_receiver.received) == 3)
    ids = {received.event["id"] for received in sandbox_receiver.received}
    assert len(ids) == 1

    await _delivered(sandbox_hooked)
    (event,) = await _events(sandbox_hooked)
    (delivery,) = event["deliveries"]
    assert [attempt["status"] for attempt in delivery["attempts"]] == [refusal, refusal, 200]


async def test_giving_up(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """After the last attempt the delivery has failed, and `delivery_success=false` lists the event."""
    sandbox_receiver.answers = [500] * 4
    customer = await sandbox_hooked.v1.customers.create_async({})
    await wait_until(lambda: len(sandbox_receiver.received) == 4)
    query = {"delivery_success": False, "types": ["customer.created"]}
    (undelivered,) = (await sandbox_hooked.v1.events.list_async(query)).data
    assert undelivered.data.object.id == customer.id
    await sandbox_hooked.control(f"/events/{undelivered.id}/resend")
    await wait_until(lambda: len(sandbox_receiver.received) == 5)


async def test_dropped(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """Dropped events never arrive, and `delivery_success=false` lists them (S02)."""
    await sandbox_hooked.conditions(webhook_drop=True)
    signup = await sandbox_hooked.subscribe()
    await signup.confirm()
    assert await signup.read() == ("succeeded", "paid", "active")
    query = {"delivery_success": False, "types": ["invoice.paid"]}
    (missed,) = (await sandbox_hooked.v1.events.list_async(query)).data
    assert missed.data.object.id == signup.invoice
    after = await sandbox_hooked.v1.events.list_async({"ending_before": missed.id})
    assert [event.type for event in after.data] == ["invoice.payment_succeeded"]
    assert sandbox_receiver.received == []


async def test_dropped_by_type(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """Only the named types are dropped."""
    await sandbox_hooked.conditions(webhook_drop_types=["product.created"])
    await sandbox_hooked.plan()
    await wait_until(lambda: sandbox_receiver.types() == ["price.created"])


async def test_duplicates(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """Each event is sent the configured number of extra times, with the same id (S11)."""
    await sandbox_hooked.conditions(webhook_duplicates=3, webhook_shuffle=True)
    await sandbox_hooked.v1.customers.create_async({})
    await wait_until(lambda: len(sandbox_receiver.received) == 4)
    assert len({received.event["id"] for received in sandbox_receiver.received}) == 1


async def test_delayed(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """Delayed events are sent immediately when they are flushed (S01)."""
    await sandbox_hooked.conditions(webhook_delay_ms=60_000, webhook_jitter_ms=1000)
    await sandbox_hooked.plan()
    (_, product) = await _events(sandbox_hooked)
    assert product["deliveries"][0]["status"] == "pending"
    assert sandbox_receiver.received == []
    assert (await sandbox_hooked.control("/deliveries/flush"))["deliveries"] == 2
    await wait_until(lambda: len(sandbox_receiver.received) == 2)


async def test_the_shape_before_basil(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """An endpoint pinned to an older version gets the old shape; the API keeps the new one (S19)."""
    await sandbox_hooked.conditions(webhook_api_version="2024-06-20")
    signup = await sandbox_hooked.subscribe()
    await signup.confirm()
    await wait_until(lambda: {"invoice.paid", "charge.succeeded"} <= set(sandbox_receiver.types()))
    (paid,) = sandbox_receiver.of("invoice.paid")
    invoice = paid["data"]["object"]
    assert paid["api_version"] == "2024-06-20"
    assert (invoice["payment_intent"], invoice["subscription"]) == (signup.intent, signup.subscription.id)
    assert invoice["lines"]["data"][0]["price"]["unit_amount"] == 2000
    assert not {"parent", "payments"} & invoice.keys()
    (charged,) = sandbox_receiver.of("charge.succeeded")
    assert charged["data"]["object"]["invoice"] == signup.invoice
    await wait_until(lambda: "customer.subscription.created" in sandbox_receiver.types())
    (subscribed,) = sandbox_receiver.of("customer.subscription.created")
    assert subscribed["data"]["object"]["current_period_end"]
    assert "parent" in await sandbox_hooked.v1.invoices.retrieve_async(signup.invoice)


async def test_events_have_the_accounts_default_version(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver
) -> None:
    """In lists, by id, and at an endpoint without a version of its own; one with a version keeps it.

    https://docs.stripe.com/webhooks/versioning
    """
    await sandbox_hooked.conditions(account_api_version="2024-06-20")
    pinned = {"url": sandbox_receiver.url, "secret": "whsec_pinned", "api_version": stripe.api_version}
    await sandbox_hooked.control("/webhook_endpoints", pinned)
    signup = await sandbox_hooked.subscribe()
    await signup.confirm()
    await wait_until(lambda: len(sandbox_receiver.of("invoice.paid")) == 2)
    versions = {event["api_version"] for event in sandbox_receiver.of("invoice.paid")}
    assert versions == {"2024-06-20", stripe.api_version}
    (listed,) = (await sandbox_hooked.v1.events.list_async({"type": "invoice.paid"})).data
    read = await sandbox_hooked.v1.events.retrieve_async(listed.id)
    for event in (listed, read):
        assert event.api_version == "2024-06-20"
        assert event.data.object["payment_intent"] == signup.intent


async def test_retries_over_hours(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """Three retries over hours of the sandbox's clock, each signed with the real time; then it gives up."""
    await sandbox_hooked.conditions(webhook_retries="hours")
    sandbox_receiver.answers = [500] * 4
    begun = int(time.time())
    await sandbox_hooked.v1.customers.create_async({})
    for number, hours in enumerate((1, 2, 4, 100), 1):
        (delivery,) = await _attempted(sandbox_hooked, number)
        assert delivery["status"] == ("pending" if number < 4 else "failed")
        await sandbox_hooked.control("/clock", {"advance_seconds": hours * 3600})
    assert len(sandbox_receiver.received) == 4
    signed = [int(one.signature.split(",")[0].removeprefix("t=")) for one in sandbox_receiver.received]
    assert begun <= min(signed)
    assert max(signed) <= time.time()


async def test_a_retry_need_not_be_waited_for(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """Flushing the deliveries sends at once what waits for its hour."""
    await sandbox_hooked.conditions(webhook_retries="hours")
    sandbox_receiver.answers = [500]
    await sandbox_hooked.v1.customers.create_async({})
    await _attempted(sandbox_hooked, 1)
    assert (await sandbox_hooked.control("/deliveries/flush"))["deliveries"] == 1
    await wait_until(lambda: len(sandbox_receiver.received) == 2)


async def _attempted(sandbox: Sandbox, times: int) -> list[Json]:
    """The deliveries of the only event, once it was tried so often."""
    for _ in range(500):
        (event,) = await _events(sandbox)
        if len(event["deliveries"][0]["attempts"]) == times:
            break
    deliveries: list[Json] = event["deliveries"]
    assert len(deliveries[0]["attempts"]) == times
    return deliveries


async def test_a_refused_connection_is_an_attempt(sandbox_bare: Sandbox) -> None:
    """A refused connection is recorded as an attempt, with its reason."""
    nobody = {"url": "http://127.0.0.1:1/hook", "secret": SECRET}
    await sandbox_bare.control("/webhook_endpoints", nobody)
    await sandbox_bare.v1.customers.create_async({})
    for _ in range(500):
        (event,) = await _events(sandbox_bare)
        attempts = event["deliveries"][0]["attempts"]
        if attempts:
            break
    assert "ClientConnectorError" in attempts[0]["error"]


async def test_wildcards_and_limits_of_event_lists(sandbox_bare: Sandbox) -> None:
    """Types may end in an asterisk; more than 20 are an error."""
    await sandbox_bare.plan()
    found = await sandbox_bare.v1.events.list_async({"type": "price.*"})
    assert [event.type for event in found.data] == ["price.created"]
    with pytest.raises(stripe.InvalidRequestError):
        await sandbox_bare.v1.events.list_async({"types": ["price.created"] * 21})
