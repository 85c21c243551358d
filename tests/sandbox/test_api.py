"""The frame of the API: keys, errors, idempotency, expansion, lists, headers."""

from __future__ import annotations

import asyncio
import base64

import pytest
import stripe

from .rig import Sandbox


async def test_headers_of_every_answer(sandbox_bare: Sandbox) -> None:
    """Responses carry a request id and the API version."""
    reply = await sandbox_bare.raw("GET", "/v1/account")
    assert reply.headers["Request-Id"].startswith("req_")
    assert reply.headers["Stripe-Version"] == stripe.api_version


async def test_keys(sandbox_bare: Sandbox) -> None:
    """Any secret test key is accepted, as bearer or basic; a live key or none gets 401."""
    basic = "Basic " + base64.b64encode(b"sk_test_any:").decode()
    assert (await sandbox_bare.call("GET", "/v1/account", headers={"Authorization": basic})).status == 200
    assert (await sandbox_bare.call("GET", "/v1/account")).status == 401
    for key in ("sk_live_1", "rubbish"):
        with pytest.raises(stripe.AuthenticationError):
            await sandbox_bare.client(key).v1.customers.create_async({})
    published = await sandbox_bare.raw("GET", "/v1/customers", key="pk_test_1")
    assert (published.status, published.body["error"]["code"]) == (401, "secret_key_required")


async def test_another_version_is_refused(sandbox_bare: Sandbox) -> None:
    """The API is served at the pinned version only."""
    reply = await sandbox_bare.raw("GET", "/v1/account", headers={"Stripe-Version": "2024-06-20"})
    assert reply.status == 400


async def test_unknown_urls_objects_and_parameters(sandbox_bare: Sandbox) -> None:
    """Unknown URLs, objects and parameters each get Stripe's error."""
    assert (
        "Unrecognized request URL" in (await sandbox_bare.raw("GET", "/v1/topups")).body["error"]["message"]
    )
    missing = await sandbox_bare.raw("GET", "/v1/invoices/in_none")
    assert (missing.status, missing.body["error"]["code"]) == (404, "resource_missing")
    with pytest.raises(stripe.InvalidRequestError, match="No such customer: 'cus_none'") as caught:
        await sandbox_bare.v1.subscriptions.create_async({"customer": "cus_none", "items": [{"price": "p"}]})
    assert (caught.value.http_status, caught.value.param) == (400, "customer")
    unknown = await sandbox_bare.raw("POST", "/v1/customers", data={"metadata[a]": "b", "nonsense": "1"})
    assert (unknown.body["error"]["code"], unknown.body["error"]["param"]) == (
        "parameter_unknown",
        "nonsense",
    )
    nested = await sandbox_bare.raw("POST", "/v1/subscriptions", data={"items[0][size]": "1"})
    assert nested.body["error"]["param"] == "items[0][size]"


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"balance": "much"}, "balance"),
        ({"metadata": "text"}, "metadata"),
        ({"metadata[a][b]": "c"}, "metadata"),
        ({"address": "text"}, "address"),
        ({"email": "x" * 5001}, "email"),
        ({"[x]": "1"}, "[x]"),
    ],
)
async def test_wrong_parameters(sandbox_bare: Sandbox, form: dict[str, str], param: str) -> None:
    """A parameter of the wrong type is rejected by name, and nothing is created."""
    reply = await sandbox_bare.raw("POST", "/v1/customers", data=form)
    assert (reply.status, reply.body["error"]["param"]) == (400, param)
    assert (await sandbox_bare.raw("GET", "/v1/customers")).body["data"] == []


async def test_invoice_payments_need_a_type(sandbox_bare: Sandbox) -> None:
    """`payment[type]` is required with `payment[payment_intent]`."""
    with pytest.raises(stripe.InvalidRequestError, match="Missing required param"):
        await sandbox_bare.v1.invoice_payments.list_async({"payment": {"payment_intent": "pi_1"}})


async def test_unsupported_requests_fail_clearly(sandbox_bare: Sandbox) -> None:
    """Unsupported features return an error that says so."""
    signup = await sandbox_bare.subscribe()
    with_a_fee = {"application_fee_percent": 10}
    with pytest.raises(stripe.InvalidRequestError, match="implements only a part"):
        await sandbox_bare.v1.subscriptions.update_async(signup.subscription.id, with_a_fee)


async def test_a_key_replays_its_first_answer(sandbox_bare: Sandbox) -> None:
    """The same key and parameters create one object; the repeated response says that it is a replay."""
    headers = {"Idempotency-Key": "k1"}
    first = await sandbox_bare.raw("POST", "/v1/customers", data={"email": "a@b.c"}, headers=headers)
    again = await sandbox_bare.raw("POST", "/v1/customers", data={"email": "a@b.c"}, headers=headers)
    assert first.body == again.body
    assert (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"]) == (None, "true")
    assert again.headers["Original-Request"] == first.headers["Request-Id"]


async def test_a_key_with_other_parameters(sandbox_bare: Sandbox) -> None:
    """Reusing a key with other parameters is an error."""
    await sandbox_bare.v1.customers.create_async({"email": "a@b.c"}, {"idempotency_key": "k"})
    with pytest.raises(stripe.IdempotencyError):
        await sandbox_bare.v1.customers.create_async({"email": "x@b.c"}, {"idempotency_key": "k"})


async def test_a_key_in_flight(sandbox_bare: Sandbox) -> None:
    """A second request with the same key gets 409 while the first one runs."""
    await sandbox_bare.conditions(api_latency_ms=100)
    headers = {"Idempotency-Key": "k"}
    calls = [sandbox_bare.raw("POST", "/v1/customers", headers=headers) for _ in range(2)]
    replies = sorted(await asyncio.gather(*calls), key=lambda reply: reply.status)
    assert [reply.status for reply in replies] == [200, 409]
    assert replies[1].body["error"]["code"] == "idempotency_key_in_use"


async def test_a_declined_answer_is_replayed_and_a_wrong_form_is_not(sandbox_bare: Sandbox) -> None:
    """Responses of executed requests are recorded, including 402; validation errors are not."""
    signup = await sandbox_bare.subscribe()
    path, headers = f"/v1/payment_intents/{signup.intent}/confirm", {"Idempotency-Key": "k"}
    card = {"payment_method": "pm_card_chargeDeclined"}
    first = await sandbox_bare.raw("POST", path, data=card, headers=headers)
    again = await sandbox_bare.raw("POST", path, data=card, headers=headers)
    assert (first.status, first.body) == (402, again.body)
    assert len((await sandbox_bare.v1.charges.list_async({"payment_intent": signup.intent})).data) == 1
    headers = {"Idempotency-Key": "other"}
    wrong = await sandbox_bare.raw("POST", "/v1/customers", data={"nonsense": "1"}, headers=headers)
    assert wrong.status == 400
    right = await sandbox_bare.raw("POST", "/v1/customers", data={"email": "a@b.c"}, headers=headers)
    assert right.status == 200


async def test_invalid_expansions_are_refused(sandbox_bare: Sandbox) -> None:
    """Only ids and included properties expand."""
    signup = await sandbox_bare.subscribe()
    for path in ("id", "nonsense", "currency", "customer.nonsense"):
        with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
            await sandbox_bare.v1.invoices.retrieve_async(signup.invoice, {"expand": [path]})


async def test_pages(sandbox_bare: Sandbox) -> None:
    """Lists are newest first, cursors work in both directions, and the SDK's paging returns everything."""
    made = [(await sandbox_bare.v1.customers.create_async({})).id for _ in range(5)]
    newest = made[::-1]

    async def ids(**params: object) -> tuple[list[str], bool]:
        page = await sandbox_bare.v1.customers.list_async(params)
        return [row.id for row in page.data], page.has_more

    assert await ids(limit=2) == (newest[:2], True)
    assert await ids(limit=2, starting_after=newest[1]) == (newest[2:4], True)
    assert await ids(limit=2, starting_after=newest[3]) == (newest[4:], False)
    assert await ids(limit=2, ending_before=newest[4]) == (newest[2:4], True)
    assert await ids(ending_before=newest[0]) == ([], False)
    paged = await sandbox_bare.v1.customers.list_async({"limit": 2})
    assert [row.id async for row in paged.auto_paging_iter()] == newest
    for wrong in ({"limit": 101}, {"starting_after": "cus_none"}):
        with pytest.raises(stripe.InvalidRequestError):
            await sandbox_bare.v1.customers.list_async(wrong)


async def test_prices_by_lookup_key(sandbox_bare: Sandbox) -> None:
    """A lookup key belongs to one price, and is transferred only with `transfer_lookup_key`."""
    first = await sandbox_bare.plan(lookup_key="pro")
    with pytest.raises(stripe.InvalidRequestError, match="already uses"):
        await sandbox_bare.plan(lookup_key="pro")
    second = await sandbox_bare.plan(3000, lookup_key="pro", transfer_lookup_key=True)
    found = await sandbox_bare.v1.prices.list_async({"lookup_keys": ["pro", "basic"], "active": True})
    assert [price.id for price in found.data] == [second.id]
    assert (await sandbox_bare.v1.prices.retrieve_async(first.id)).lookup_key is None


async def test_filters_of_invoices(sandbox_bare: Sandbox) -> None:
    """Invoices are found by status, customer, subscription and time of creation."""
    paid, waiting = await sandbox_bare.subscribe(), await sandbox_bare.subscribe()
    await paid.confirm()

    async def found(**params: object) -> set[str]:
        return {row.id for row in (await sandbox_bare.v1.invoices.list_async(params)).data}

    assert await found(status="paid") == {paid.invoice}
    assert await found(customer=waiting.customer) == {waiting.invoice}
    assert await found(subscription=paid.subscription.id, status="paid") == {paid.invoice}
    created = paid.subscription.created
    assert await found(created={"gte": created - 5, "lte": created + 5}) == {paid.invoice, waiting.invoice}
    assert await found(created={"gt": created + 60}) == set()
    assert await found(created={"lt": created}) == set()


async def test_lists_of_subscriptions_leave_out_the_ended(sandbox_bare: Sandbox) -> None:
    """Without a status, the list leaves out subscriptions that have ended."""
    signup = await sandbox_bare.subscribe()
    await signup.confirm()
    await sandbox_bare.v1.subscriptions.cancel_async(signup.subscription.id)
    query = {"customer": signup.customer}
    assert (await sandbox_bare.v1.subscriptions.list_async(query)).data == []
    (ended,) = (await sandbox_bare.v1.subscriptions.list_async({**query, "status": "all"})).data
    assert ended.status == "canceled"


async def test_calls_are_counted_by_route(sandbox_bare: Sandbox) -> None:
    """The server's and the browser's calls are counted separately."""
    signup = await sandbox_bare.subscribe()
    await sandbox_bare.control("/calls/reset")
    await signup.confirm()
    await sandbox_bare.v1.invoices.retrieve_async(signup.invoice)
    calls = await sandbox_bare.calls()
    assert calls["secret"] == {"GET /v1/invoices/{id}": 1}
    assert calls["publishable"] == {"POST /v1/payment_intents/{id}/confirm": 1}
    assert calls["total"] == {"secret": 1, "publishable": 1}


async def test_other_origins(sandbox_bare: Sandbox) -> None:
    """The demo's page may use the API and the controls; other origins may not use the controls."""
    demo = {"Origin": "http://127.0.0.1:8000"}
    asked = demo | {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    path = "/v1/payment_intents/pi_1/confirm"
    async with sandbox_bare.http.options(sandbox_bare.url + path, headers=asked) as response:
        assert response.headers["Access-Control-Allow-Origin"] == demo["Origin"]
    assert (await sandbox_bare.call("POST", "/sandbox/conditions/reset", headers=demo)).status == 200
    foreign = {"Origin": "http://evil.example"}
    assert (await sandbox_bare.call("POST", "/sandbox/reset", headers=foreign)).status == 403
