"""Attempts to get credits without paying (SCENARIOS, S21 to S24, S28)."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from itsdangerous import TimestampSigner
from msgspec.structs import replace

from paidup.db.models import Account, CreditGrant, Invoice, StripeEvent
from paidup.payments.verification import Verification
from paidup.realtime.hub import INVOICES
from paidup.settings import PACKAGED_PLANS
from paidup.stripe_api.schemas import InvoicePayment, PaymentIntent, StripeInvoice
from paidup.web.http import DISCARDED_BYTES
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance, row_counts
from tests.support.paidup import ORIGIN, WEBHOOK_SECRET, Customer, Paidup, next_status, status_with
from tests.support.stripe_sandbox import StripeSide, forged_event
from tests.support.waiting import wait_until

Change = Callable[[Any], Any]

OLD_SECRET = "whsec_of_an_endpoint_whose_secret_is_rolled"
NEW_SECRET = "whsec_of_that_endpoint_from_tomorrow_morning_on"


async def test_a_full_discount_grants_the_plan(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S21: an invoice that a 100 % discount reduces to zero grants the plan."""
    ada = paidup.customer("ada")
    assert await ada.balance() == 0
    coupon = await stripe_side.api("POST", "coupons", percent_off=100, duration="once")
    discount = {"discounts[0][coupon]": coupon["id"]}
    made = await stripe_side.subscribe(await stripe_side.customer(), "pro", "ada", **discount)
    assert (made["latest_invoice"]["status"], made["latest_invoice"]["amount_due"]) == ("paid", 0)
    await wait_until(CreditGrant.exists)
    assert await ada.balance() == 2000
    await assert_books_balance(grants=1)


@pytest.mark.parametrize("trial_credits", [0, 50])
async def test_a_trial_grants_the_plans_trial_credits(
    world: World, stripe_side: StripeSide, trial_credits: int
) -> None:
    """S21: a trial's zero invoice grants the plan's trial_credits (default: none), never its credits."""
    plans = world.folder / "plans.toml"
    plans.write_text(
        PACKAGED_PLANS.read_text().replace(
            "credits = 2000", f"credits = 2000\ntrial_credits = {trial_credits}"
        )
    )
    paidup = await world.server(plans_file=plans)
    ada = paidup.customer("ada")
    assert await ada.balance() == 0
    made = await stripe_side.subscribe(await stripe_side.customer(), "pro", "ada", trial_period_days="14")
    assert made["status"] == "trialing"
    await wait_until(CreditGrant.exists)
    assert await ada.balance() == trial_credits
    await assert_books_balance(grants=1)


FALSE_INTENTS: dict[str, tuple[dict[str, Any], str]] = {
    "another invoice's payment": ({"id": "pi_of_another_invoice"}, "unknown_invoice"),
    "another customer": ({"customer": "cus_mallory"}, "refused"),
    "no customer": ({"customer": None}, "refused"),
    "a smaller amount": ({"amount": 1, "amount_received": 1}, "not_yet"),
    "one cent less": ({"amount_received": 2899}, "not_yet"),
    "nothing received": ({"amount_received": 0}, "not_yet"),
    "another currency": ({"currency": "jpy"}, "refused"),
}


async def test_a_mismatched_payment_intent_event_grants_nothing(
    world: World, stripe_side: StripeSide, subtests: pytest.Subtests
) -> None:
    """S22: a payment_intent.succeeded with another invoice, customer, amount or currency grants nothing."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    true = {
        **await _intent(stripe_side, purchase),
        "status": "succeeded",
        "amount_received": 2900,
    }
    for falsehood, (changes, outcome) in FALSE_INTENTS.items():
        with subtests.test(falsehood):
            event = forged_event("payment_intent.succeeded", {**true, **changes})
            status, answer = await paidup.webhook(event)
            assert (status, answer["outcome"]) == (200, outcome)
            await _assert_nothing_opened(ada, purchase)
    # The same event with correct values is credited: the mismatch was the reason.
    _, answer = await paidup.webhook(forged_event("payment_intent.succeeded", true))
    assert answer["outcome"] == "settled"
    await assert_books_balance(grants=1)


FALSE_INVOICES: dict[str, tuple[dict[str, Any], str]] = {
    "another customer": ({"customer": "cus_mallory"}, "refused"),
    "another currency": ({"currency": "jpy"}, "refused"),
    "another invoice": ({"id": "in_unknown", "customer": "cus_mallory"}, "unknown_customer"),
    "another status": ({"status": "open"}, "not_yet"),
}


async def test_a_mismatched_invoice_event_grants_nothing(
    world: World, stripe_side: StripeSide, subtests: pytest.Subtests
) -> None:
    """S22: a signed invoice.paid that names another customer, currency or invoice grants nothing."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    true = (await stripe_side.event("invoice.paid"))["data"]["object"]
    true["parent"]["subscription_details"]["metadata"] = {}
    for falsehood, (changes, outcome) in FALSE_INVOICES.items():
        with subtests.test(falsehood):
            status, answer = await paidup.webhook(forged_event("invoice.paid", {**true, **changes}))
            assert (status, answer["outcome"]) == (200, outcome)
            await _assert_nothing_opened(ada, purchase)
    _, answer = await paidup.webhook(forged_event("invoice.paid", true))
    assert answer["outcome"] == "settled"
    await assert_books_balance(grants=1)


def _with_intent(change: Callable[[PaymentIntent], PaymentIntent]) -> Change:
    def changed(shape: StripeInvoice) -> StripeInvoice:
        link = _link(shape)
        assert isinstance(link.payment.payment_intent, PaymentIntent)
        payment = replace(link.payment, payment_intent=change(link.payment.payment_intent))
        return _relinked(shape, replace(link, payment=payment))

    return changed


def _link(shape: StripeInvoice) -> InvoicePayment:
    assert shape.payments is not None
    return shape.payments.data[0]


def _relinked(shape: StripeInvoice, link: InvoicePayment) -> StripeInvoice:
    assert shape.payments is not None
    return replace(shape, payments=replace(shape.payments, data=[link]))


FALSE_ANSWERS: dict[str, tuple[Change, str]] = {
    "another invoice's payment": (
        lambda shape: _relinked(shape, replace(_link(shape), invoice="in_another")),
        "refused",
    ),
    "another customer's payment": (_with_intent(lambda pi: replace(pi, customer="cus_mallory")), "refused"),
    "another customer's invoice": (lambda shape: replace(shape, customer="cus_mallory"), "refused"),
    "a smaller amount": (_with_intent(lambda pi: replace(pi, amount_received=1)), "not_yet"),
    "another currency": (_with_intent(lambda pi: replace(pi, currency="jpy")), "refused"),
    "a canceled link": (lambda shape: _relinked(shape, replace(_link(shape), status="canceled")), "not_yet"),
    "a canceled intent": (
        _with_intent(lambda pi: replace(pi, status="canceled", amount_received=0)),
        "notified",
    ),
}


async def test_a_verification_with_a_mismatched_payment_grants_nothing(
    world: World, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    """S22: verification that reads another invoice, customer, amount or currency grants nothing."""
    paidup = await world.server(webhooks=False)
    verification, gateway = paidup.services.verification, paidup.services.gateway
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.conditions(invoice_lag_ms=600_000)
    await stripe_side.confirm(purchase["client_secret"])
    read = gateway.read_invoice
    true = await read(purchase["invoice"])
    for falsehood, (change, outcome) in FALSE_ANSWERS.items():
        with subtests.test(falsehood), monkeypatch.context() as patch:
            patch.setattr(gateway, "read_invoice", _answering(change(true)))
            assert await _outcome(verification, purchase) == outcome
            assert await ada.balance() == 0
            await assert_books_balance(grants=0)
    assert await _outcome(verification, purchase) == "settled"
    await assert_books_balance(grants=1)


def _answering(shape: StripeInvoice) -> Callable[..., Awaitable[StripeInvoice]]:
    async def read_invoice(*_: Any) -> StripeInvoice:
        return shape

    return read_invoice


async def _outcome(verification: Verification, purchase: Any) -> str:
    """The result of one verification, after the pause since the previous one."""
    await Invoice.all().update(lease_expires_at=None)
    settled = await verification.verify(purchase["invoice"])
    assert settled is not None
    return settled.outcome


async def test_another_payment_of_the_same_customer_grants_nothing(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S22: the customer pays the same amount for something else: no source grants the plan."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    customer = (await Account.get()).stripe_customer
    other = await stripe_side.api(
        "POST", "payment_intents", amount=2900, currency="usd", customer=customer, confirm="true",
        payment_method="pm_card_visa",
    )  # fmt: skip
    assert other["status"] == "succeeded"
    await wait_until(lambda: StripeEvent.exists(type="payment_intent.succeeded", handled_at__not_isnull=True))
    async with ada.watch(purchase) as socket:
        await status_with(socket, stage="awaiting_payment")
    await _assert_nothing_opened(ada, purchase)


@pytest.mark.parametrize("source", ["verification", "webhook"])
async def test_a_succeeded_payment_grants_while_its_invoice_is_still_open(
    world: World, stripe_side: StripeSide, source: str
) -> None:
    """S23: PaymentIntent succeeded, invoice still open: granted at once, since the link proves it."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.conditions(invoice_lag_ms=600_000)
    await stripe_side.confirm(purchase["client_secret"])
    invoice = await stripe_side.api("GET", f"invoices/{purchase['invoice']}")
    assert (invoice["status"], invoice["amount_paid"]) == ("open", 0)
    event = await stripe_side.event("payment_intent.succeeded")
    await stripe_side.conditions(rate_limited=source == "webhook")
    async with ada.watch(purchase) as socket:
        if source == "webhook":
            await next_status(socket)
            await paidup.webhook(json.dumps(event).encode())
        told = await status_with(socket, status="active")
    assert (told["via"], told["balance"]) == (source, 2000)
    await assert_books_balance(grants=1)


async def test_the_paid_invoice_that_follows_grants_nothing_more(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S23: granted by the linked payment; when the invoice is paid later, nothing more is granted."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.conditions(invoice_lag_ms=300)
    await stripe_side.confirm(purchase["client_secret"])
    async with ada.watch(purchase) as socket:
        await status_with(socket, status="active")
    await wait_until(lambda: StripeEvent.exists(type="invoice.paid", handled_at__not_isnull=True))
    assert (await StripeEvent.get(type="invoice.paid")).outcome == "already_settled"
    await assert_books_balance(grants=1)


async def test_a_processing_payment_grants_nothing_and_its_failure_is_published(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S24: the status is processing and nothing is granted; it fails later, and the status is failed."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.conditions(processing_ms=500, processing_outcome="failed")
    async with ada.watch(purchase) as socket:
        await next_status(socket)
        await stripe_side.confirm(purchase["client_secret"])
        assert (await status_with(socket, status="processing"))["credits_granted"] == 0
        status, refused = await ada.spend(1, "early")
        assert (status, refused["activating"]["status"]["status"]) == (402, "processing")
        failed = await status_with(socket, status="failed")
    assert (failed["credits_granted"], failed["error"] is not None) == (0, True)
    assert await ada.balance() == 0
    await assert_books_balance(grants=0)


async def test_a_processing_payment_is_credited_once_it_succeeds(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S24: a processing payment is credited when it succeeds, not before."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.conditions(processing_ms=500)
    async with ada.watch(purchase) as socket:
        await next_status(socket)
        await stripe_side.confirm(purchase["client_secret"])
        await status_with(socket, status="processing")
        assert await CreditGrant.all().count() == 0
        await status_with(socket, status="active")
    await assert_books_balance(grants=1)


async def test_webhooks_that_are_not_from_stripe_are_rejected_and_change_nothing(
    world: World, stripe_side: StripeSide, subtests: pytest.Subtests
) -> None:
    """S28: a forged, stale, future-dated, truncated, non-JSON or 10 MB webhook: refused, nothing changes."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    event = await stripe_side.event("invoice.paid")
    body = json.dumps(event).encode()
    live = json.dumps({**event, "livemode": True}).encode()
    nested = b'{"x":' + b"[" * 200_000
    unheld = [
        json.dumps({**event, **change}).encode()
        for change in ({"id": "evt_" + "x" * 252}, {"type": "a" + chr(0)}, {"api_version": "2" * 256})
    ]
    at = int(time.time())
    deliveries: dict[str, tuple[int, bytes, str]] = {
        "no signature": (400, body, ""),
        "nonsense for a signature": (400, body, "t=now,v1=yes"),
        "only an old scheme": (400, body, _sign(body, at).replace("v1=", "v0=")),
        "a signature beyond ASCII": (400, body, "t=1,v1=é"),
        "a signature that is not UTF-8": (400, body, f"t={at},v1=\udcff"),
        "a time that is no number": (400, body, "t=N=9"),
        "a time in other digits": (400, body, "t=١,v1=0"),
        "a time of 5,000 digits": (400, body, f"t={'9' * 5000},v1=0"),
        "two times": (400, body, f"t={at - 400},{_sign(body, at)}"),
        "a time with more behind it": (400, body, _sign(body, at).replace(",", "=9,", 1)),
        "no time": (400, body, _sign(body, at).partition(",")[2]),
        "commas and equals signs": (400, body, ",,=,t,v1,==="),
        "forged: another secret": (400, body, _sign(body, at, "whsec_of_mallory")),
        "forged: the signature of another body": (400, body, _sign(body + b" ", at)),
        "stale": (400, body, _sign(body, at - 400)),
        "future-dated": (400, body, _sign(body, at + 400)),
        "truncated": (400, body[:-20], _sign(body, at)),
        "truncated, and signed so": (400, body[:-20], _sign(body[:-20], at)),
        "not JSON": (400, b"invoice.paid", _sign(b"invoice.paid", at)),
        "not UTF-8": (400, b"\xff\xfe", _sign(b"\xff\xfe", at)),
        "empty": (400, b"", _sign(b"", at)),
        "JSON, but no event": (400, b"[]", _sign(b"[]", at)),
        "nested without end": (400, nested, _sign(nested, at)),
        "a live-mode event": (400, live, _sign(live, at)),
        "an id that no row holds": (400, unheld[0], _sign(unheld[0], at)),
        "a type that no row holds": (400, unheld[1], _sign(unheld[1], at)),
        "a version that no row holds": (400, unheld[2], _sign(unheld[2], at)),
    }
    before = await row_counts()
    for name, (expected, sent, signature) in deliveries.items():
        with subtests.test(name):
            status, problem = await paidup.webhook(sent, signature)
            assert (status, problem["status"]) == (expected, expected)
            assert problem.keys() >= {"type", "title", "status", "detail"}
            assert await row_counts() == before
    await _assert_nothing_opened(ada, purchase)
    assert (await paidup.webhook(body))[1]["outcome"] == "settled", "it was good but for what was done to it"


async def test_a_webhook_of_10_mb_is_rejected_before_it_is_read(
    world: World, subtests: pytest.Subtests
) -> None:
    """S28: 10 MB, with or without a Content-Length: 413, and the body is not read to its end."""
    paidup = await world.server(webhooks=False)
    chunk = b" " * (DISCARDED_BYTES + 1)
    bodies = {
        "announced": b"Content-Length: 10000000\r\n\r\n",
        "in chunks": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(chunk), chunk),
    }
    for name, rest in bodies.items():
        with subtests.test(name):
            head = b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nStripe-Signature: t=1,v1=0\r\n"
            assert (await _answer_to(paidup, head + rest)).startswith(b"HTTP/1.1 413 ")
    assert await StripeEvent.all().count() == 0


async def test_a_body_over_its_limit_is_answered_once_it_was_sent(
    world: World, subtests: pytest.Subtests
) -> None:
    """S28: up to 1 MiB is read before the 413: a sender that is still writing would lose the answer."""
    paidup = await world.server(webhooks=False)
    body = b" " * 600_000
    framed = {
        "announced": (b"Content-Length: %d\r\n\r\n" % len(body), body),
        "in chunks": (b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)),
    }
    for name, (framing, sent) in framed.items():
        with subtests.test(name):
            address = urlsplit(paidup.url)
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            # As HAProxy sends it: an answer would be the end of the connection.
            writer.write(b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + framing)
            for at in range(0, len(sent), 100_000):
                writer.write(sent[at : at + 100_000])
                await writer.drain()
                assert (await paidup.get("/healthz"))[0] == 200, "the server has seen what was sent"
            assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
            writer.close()
            await writer.wait_closed()


async def _answer_to(paidup: Paidup, request: bytes) -> bytes:
    """The server's response to these bytes."""
    address = urlsplit(paidup.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read(1000)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_any_of_several_webhook_secrets_is_accepted(world: World, stripe_side: StripeSide) -> None:
    """S28: while a secret is rotated, either of the two is accepted, and no other."""
    paidup = await world.server(webhooks=False, stripe_webhook_secret=f"{OLD_SECRET}, {NEW_SECRET}")
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    body = json.dumps(await stripe_side.event("invoice.paid")).encode()
    at = int(time.time())
    assert (await paidup.webhook(body, _sign(body, at, WEBHOOK_SECRET)))[0] == 400
    assert await StripeEvent.all().count() == 0
    status, answer = await paidup.webhook(body, _sign(body, at, NEW_SECRET))
    assert (status, answer["outcome"]) == (200, "settled")
    await assert_books_balance(grants=1)


async def test_sockets_without_a_valid_ticket_are_rejected_before_the_upgrade(
    world: World, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    """S28: a foreign, expired, altered or missing ticket, or another origin: an HTTP error."""
    paidup = await world.server(webhooks=False)
    ada, mallory = paidup.customer("ada"), paidup.customer("mallory")
    purchase, foreign = await ada.buy("pro"), await mallory.buy("pro")
    invoice, ticket = purchase["invoice"], purchase["ticket"]
    with monkeypatch.context() as patch:
        patch.setattr(TimestampSigner, "get_timestamp", lambda _: int(time.time()) - 3700)
        expired = paidup.services.tickets.issue(invoice, account_id=1)
    altered = ticket[:-2] + ("A" if ticket[-2] != "A" else "B") + ticket[-1]
    handshakes: dict[str, tuple[int, str, tuple[str, ...], str | None]] = {
        "another customer's ticket": (403, invoice, ("paidup.v1", foreign["ticket"]), ORIGIN),
        "this ticket on another invoice": (403, foreign["invoice"], ("paidup.v1", ticket), ORIGIN),
        "expired": (401, invoice, ("paidup.v1", expired), ORIGIN),
        "altered": (401, invoice, ("paidup.v1", altered), ORIGIN),
        "nonsense": (401, invoice, ("paidup.v1", "nonsense"), ORIGIN),
        "no ticket": (401, invoice, ("paidup.v1",), ORIGIN),
        "no subprotocol": (401, invoice, (), ORIGIN),
        "another protocol": (401, invoice, ("paidup.v2", ticket), ORIGIN),
        "one too many": (401, invoice, ("paidup.v1", ticket, "more"), ORIGIN),
        "the page of another origin": (403, invoice, ("paidup.v1", ticket), "https://evil.example"),
        "an origin that only begins alike": (403, invoice, ("paidup.v1", ticket), ORIGIN + ".evil.example"),
        "the origin null": (403, invoice, ("paidup.v1", ticket), "null"),
        "an unknown invoice": (403, "in_unknown", ("paidup.v1", ticket), ORIGIN),
    }
    before = await row_counts()
    for name, (expected, where, protocols, origin) in handshakes.items():
        with subtests.test(name):
            assert await _handshake(world.http, paidup, where, protocols, origin) == expected
    assert await row_counts() == before
    assert paidup.services.hub.subscribed_keys(INVOICES) == []
    assert await _handshake(world.http, paidup, invoice, ("paidup.v1", ticket), ORIGIN) == 101
    assert await _handshake(world.http, paidup, invoice, (ticket, "paidup.v1"), None) == 101


async def _handshake(
    http: aiohttp.ClientSession, paidup: Paidup, invoice: str, protocols: tuple[str, ...], origin: str | None
) -> int:
    """The HTTP status of a WebSocket handshake; 101 if it was accepted."""
    headers = {"Origin": origin} if origin else {}
    url = f"{paidup.url}/ws/invoices/{invoice}"
    try:
        async with http.ws_connect(url, protocols=protocols, headers=headers) as socket:
            assert socket.protocol == "paidup.v1"
            return 101
    except aiohttp.WSServerHandshakeError as refused:
        return refused.status


async def _assert_nothing_opened(customer: Customer, purchase: Any) -> None:
    row = await Invoice.get(id=purchase["invoice"])  # a GET would ask Stripe, which may know better
    assert (row.status, row.settled_at) == ("open", None)
    assert await customer.balance() == 0
    assert (await customer.spend(1, "try"))[0] == 402
    await assert_books_balance(grants=0)


async def _intent(stripe_side: StripeSide, purchase: Any) -> Any:
    intent = purchase["client_secret"].partition("_secret_")[0]
    return await stripe_side.api("GET", f"payment_intents/{intent}")


def _sign(body: bytes, at: int, secret: str = WEBHOOK_SECRET) -> str:
    """Stripe's signature of these bytes at this time; the SDK's own signs only text, at the current time."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"
