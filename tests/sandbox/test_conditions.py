"""Conditions: their effect on the API and on payments, and how they are set."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import stripe

from paidup_demo.sandbox import conditions, limits

from .rig import CARD, Receiver, Sandbox, wait_until


@pytest.mark.parametrize(
    "wrong",
    [
        {"nonsense": 1},
        {"webhook_delay_ms": -1},
        {"webhook_delay_ms": 600_001},
        {"webhook_delay_ms": "1"},
        {"webhook_duplicates": 11},
        {"api_error_rate": 1.5},
        {"webhook_drop": 2},
        {"processing_outcome": "maybe"},
        {"webhook_api_version": "old"},
    ],
)
async def test_wrong_conditions_change_nothing(sandbox_bare: Sandbox, wrong: dict[str, object]) -> None:
    """Unknown keys and values out of range are refused as a whole."""
    before = (await sandbox_bare.call("GET", "/sandbox/conditions")).body
    refused = await sandbox_bare.control("/conditions", {"api_down": True, **wrong}, expect=400)
    assert refused["error"]["message"]
    assert (await sandbox_bare.call("GET", "/sandbox/conditions")).body == before


def test_the_panel_shows_every_condition() -> None:
    """Each has a control there, in the group that it belongs to."""
    panel = (Path(conditions.__file__).parent / "panel.html").read_text()
    shown = re.findall(r"\['([a-z_]+)', '[^']+', '[a-z]+'\]", panel)
    assert sorted(shown) == sorted(conditions.Conditions.__struct_fields__)


async def test_conditions_are_updated_in_part(sandbox_bare: Sandbox) -> None:
    """An update returns all conditions; a reset restores the normal ones."""
    await sandbox_bare.conditions(webhook_delay_ms=5)
    whole = await sandbox_bare.control("/conditions", {"webhook_drop": 0.5})
    assert (whole["webhook_delay_ms"], whole["webhook_drop"]) == (5, 0.5)
    assert (await sandbox_bare.control("/conditions/reset"))["webhook_delay_ms"] == 0


@pytest.mark.parametrize(
    ("conditions", "error", "status"),
    [
        ({"api_down": True}, stripe.APIError, 503),
        ({"api_error_rate": 1}, stripe.APIError, 500),
        ({"api_lost_reply_rate": 1}, stripe.APIError, 502),
        ({"rate_limited": True}, stripe.RateLimitError, 429),
    ],
)
async def test_conditions_affect_calls(
    sandbox_bare: Sandbox, conditions: dict[str, object], error: type[stripe.StripeError], status: int
) -> None:
    """The server's calls fail with errors the SDK knows, while the browser's still work."""
    signup = await sandbox_bare.subscribe()
    await sandbox_bare.conditions(**conditions)
    with pytest.raises(error) as caught:
        await sandbox_bare.v1.invoices.retrieve_async(signup.invoice)
    assert caught.value.http_status == status
    if status == 429:
        assert caught.value.headers is not None
        assert caught.value.headers["stripe-rate-limited-reason"] == "global-rate"
    assert (await signup.confirm()).status == 200
    await sandbox_bare.conditions(affect_browser=True)
    path = f"/v1/payment_intents/{signup.intent}?client_secret={signup.secret}"
    assert (await sandbox_bare.browser("GET", path)).status in (status, 200)


async def test_a_locked_object_answers_429_for_itself(sandbox_bare: Sandbox) -> None:
    """As https://docs.stripe.com/rate-limits says of lock timeouts: no reason, and the SDK may retry."""
    signup = await sandbox_bare.subscribe()
    await sandbox_bare.conditions(locked_ids=[signup.invoice])
    with pytest.raises(stripe.RateLimitError) as caught:
        await sandbox_bare.v1.invoices.retrieve_async(signup.invoice)
    error, headers = caught.value, caught.value.headers or {}
    assert (error.http_status, error.code) == (429, None), "the SDK leaves the code out"
    assert error.error is not None
    assert error.error.code == "lock_timeout"
    assert headers["stripe-should-retry"] == "true"
    assert "stripe-rate-limited-reason" not in headers
    assert (await sandbox_bare.v1.customers.list_async()).data, "other objects are not locked"


async def test_a_limit_for_each_endpoint(sandbox_bare: Sandbox) -> None:
    """The limit is per operation, independent of ids; other operations are not affected."""
    customer = await sandbox_bare.v1.customers.create_async({})
    await sandbox_bare.conditions(rate_limit_per_second=2)
    replies = [await sandbox_bare.raw("GET", f"/v1/customers/{customer.id}") for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert replies[2].headers["Stripe-Rate-Limited-Reason"] == "endpoint-rate"
    assert (await sandbox_bare.raw("GET", "/v1/customers")).status == 200


async def test_a_limit_for_all_endpoints_together(sandbox_bare: Sandbox) -> None:
    """25 a second in all with test keys, whatever is called: https://docs.stripe.com/rate-limits."""
    await sandbox_bare.conditions(rate_limit_in_all=2)
    paths = ("/v1/customers", "/v1/prices", "/v1/products")
    replies = [await sandbox_bare.raw("GET", path) for path in paths]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert replies[2].headers["Stripe-Rate-Limited-Reason"] == "global-rate"


async def test_reads_are_counted_against_the_transactions(
    sandbox_bare: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 for each transaction of 30 days, and at least so many; beyond them reads alone are refused."""
    monkeypatch.setattr(limits, "LEAST_READS", 3)
    monkeypatch.setattr(limits, "READS_FOR_EACH_TRANSACTION", 6)
    await sandbox_bare.control("/calls/reset")
    await sandbox_bare.conditions(read_allocation=True)
    statuses = [(await sandbox_bare.raw("GET", "/v1/prices")).status for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    signup = await sandbox_bare.subscribe()
    await signup.confirm()
    assert (await sandbox_bare.raw("GET", "/v1/prices")).status == 200
    assert (await sandbox_bare.calls())["reads"] == {"made": 5, "transactions": 1, "allowed": 6}


async def test_a_lost_reply_is_replayed_to_a_retry(sandbox_bare: Sandbox) -> None:
    """The request was executed: a retry with the same key gets the first response and creates nothing."""
    await sandbox_bare.conditions(api_lost_reply_rate=1)
    headers = {"Idempotency-Key": "k"}
    assert (await sandbox_bare.raw("POST", "/v1/customers", headers=headers)).status == 502
    assert (await sandbox_bare.raw("POST", "/v1/customers", headers=headers)).status == 200
    await sandbox_bare.control("/conditions/reset")
    assert len((await sandbox_bare.v1.customers.list_async({})).data) == 1


async def test_an_error_is_replayed(sandbox_bare: Sandbox) -> None:
    """A 500 is stored for its idempotency key, as at Stripe."""
    await sandbox_bare.conditions(api_error_rate=1)
    headers = {"Idempotency-Key": "k"}
    assert (await sandbox_bare.raw("POST", "/v1/customers", headers=headers)).status == 500
    await sandbox_bare.control("/conditions/reset")
    again = await sandbox_bare.raw("POST", "/v1/customers", headers=headers)
    assert (again.status, again.headers["Idempotent-Replayed"]) == (500, "true")


async def test_latency(sandbox_bare: Sandbox) -> None:
    """The server's calls take the configured time."""
    await sandbox_bare.conditions(api_latency_ms=80)
    begun = time.monotonic()
    await sandbox_bare.v1.customers.list_async({})
    assert time.monotonic() - begun >= 0.08


async def test_the_invoice_lags_behind_its_intent(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver
) -> None:
    """The intent has succeeded while invoice and InvoicePayment are open, until the lag is over (S23)."""
    await sandbox_hooked.conditions(invoice_lag_ms=2000)
    signup = await sandbox_hooked.subscribe()
    await signup.confirm()
    assert await signup.read() == ("succeeded", "open", "incomplete")
    query = {"payment": {"type": "payment_intent", "payment_intent": signup.intent}}
    (payment,) = (await sandbox_hooked.v1.invoice_payments.list_async(query)).data
    assert payment.status == "open"
    await wait_until(lambda: "invoice.paid" in sandbox_receiver.types())
    assert await signup.read() == ("succeeded", "paid", "active")


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
async def test_processing(sandbox_hooked: Sandbox, sandbox_receiver: Receiver, outcome: str) -> None:
    """A payment can stay in processing, and then succeed or fail (S24)."""
    await sandbox_hooked.conditions(processing_ms=60, processing_outcome=outcome)
    signup = await sandbox_hooked.subscribe()
    assert (await signup.confirm(CARD)).body["status"] == "processing"
    ending = {"succeeded": "payment_intent.succeeded", "failed": "payment_intent.payment_failed"}[outcome]
    await wait_until(lambda: ending in sandbox_receiver.types())
    assert "payment_intent.processing" in sandbox_receiver.types()
    paid = {
        "succeeded": ("succeeded", "paid", "active"),
        "failed": ("requires_payment_method", "open", "incomplete"),
    }
    assert await signup.read() == paid[outcome]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/clock", {"advance_seconds": -1}),
        ("/clock", {"advance_seconds": True}),
        ("/clock", {"seconds": 1}),
        ("/payment_intents/pi_x/authenticate", {"outcome": "perhaps"}),
        ("/disputes/du_x/close", {"status": "open"}),
        ("/webhook_endpoints", {"url": "nowhere", "secret": "whsec_x"}),
        ("/webhook_endpoints", {"url": "http://127.0.0.1/", "secret": ""}),
    ],
)
async def test_wrong_use_of_controls(sandbox_bare: Sandbox, path: str, body: dict[str, object]) -> None:
    """A malformed control request gets an error that says what is expected."""
    assert (await sandbox_bare.control(path, body, expect=400))["error"]["message"]


async def test_controls_of_unknown_objects(sandbox_bare: Sandbox) -> None:
    """An unknown id is a 404."""
    await sandbox_bare.control("/events/evt_none/resend", expect=404)
    await sandbox_bare.control("/payment_intents/pi_none/authenticate", {"outcome": "pass"}, expect=404)
    assert (await sandbox_bare.call("GET", "/sandbox/events?limit=0")).status == 400


async def test_health(sandbox_bare: Sandbox) -> None:
    """The health check names the API version."""
    health = (await sandbox_bare.call("GET", "/sandbox/health")).body
    assert health == {"status": "ok", "api_version": stripe.api_version}
