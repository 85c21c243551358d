"""The operators' pages: they need a token, escape all text, and show what needs action."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from paidup.db.models import Account, CheckoutSession, Invoice, StripeEvent, TimelineEntry
from paidup.db.outbound_models import (
    DeliveryState,
    EndpointState,
    EventDelivery,
    EventEndpoint,
    OutboundEvent,
)
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import Source
from paidup.reconciliation.alarms import SETTLED_WITHOUT_WEBHOOK
from paidup.runtime.clock import now
from tests.conftest import World
from tests.operators.conftest import OPERATOR_TOKEN, paid_elsewhere, parked, timeline_written
from tests.support.factories import an_account, an_invoice
from tests.support.paidup import Paidup
from tests.support.stripe_sandbox import StripeSide, forged_event

BEARER = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
AS_JSON = {**BEARER, "Accept": "application/json"}


@pytest.fixture
async def with_page(world: World) -> Paidup:
    """A server with OPERATOR_TOKEN set."""
    return await world.server(operator_token=OPERATOR_TOKEN)


class Operator:
    """Reads pages of one server."""

    def __init__(self, paidup: Paidup, http: aiohttp.ClientSession) -> None:
        self._url = paidup.url
        self._http = http

    async def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, str, Any]:
        async with self._http.get(
            self._url + path, headers=BEARER if headers is None else headers
        ) as response:
            return response.status, await response.text(), response.headers

    async def json(self, path: str) -> tuple[int, Any]:
        async with self._http.get(self._url + path, headers=AS_JSON) as response:
            return response.status, await response.json()


@pytest.fixture
def operator(with_page: Paidup, http: aiohttp.ClientSession) -> Operator:
    return Operator(with_page, http)


def basic(password: str, user: str = "anybody") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def text_of(page: str) -> str:
    """What a page says, with one | for whatever markup and space is between two texts."""
    return re.sub(r"\s*\|[\s|]*", "|", re.sub(r"<[^>]+>", "|", page.partition("</style>")[2]))


PATHS = ("/operators", "/operators/find?ref=ada", "/operators/invoices/in_1")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_without_operator_token_the_pages_do_not_exist(
    paidup: Paidup, http: aiohttp.ClientSession
) -> None:
    operator = Operator(paidup, http)
    for path in PATHS:
        for headers in ({}, BEARER, basic(""), {"Authorization": "Bearer "}, AS_JSON):
            status, _, answered = await operator.get(path, headers)
            assert status == 404
            assert "WWW-Authenticate" not in answered


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_pages_need_the_right_token(operator: Operator) -> None:
    """As a bearer token, or as the password of any user, so that browsers can ask for it."""
    wrong = [
        *({}, basic(""), basic("wrong"), basic(OPERATOR_TOKEN + "x"), basic("x", OPERATOR_TOKEN)),
        *(
            {"Authorization": value}
            for value in ("Bearer", "Bearer x", "Bearer é", "Basic", "Basic !", "Basic é", "Basic /w==", "x")
        ),
        {"Authorization": f"Digest {OPERATOR_TOKEN}"},
        {"Authorization": f"Basic {OPERATOR_TOKEN}"},
    ]
    for path in PATHS:
        for headers in wrong:
            status, body, answered = await operator.get(path, headers)
            assert status == 401
            assert answered["WWW-Authenticate"].startswith('Basic realm="')
            assert OPERATOR_TOKEN not in body
    for headers in (basic(OPERATOR_TOKEN), basic(OPERATOR_TOKEN, ""), BEARER):
        assert (await operator.get("/operators", headers))[0] == 200


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_page_runs_no_script_and_loads_nothing(operator: Operator) -> None:
    """The policy allows the page's own style, by hash, and its form; caching and framing are forbidden."""
    status, page, headers = await operator.get("/operators")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    style = page.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    wanted = ["default-src 'none'", f"style-src 'sha256-{digest}'", "form-action 'self'"]
    assert policy.split("; ") == [*wanted, "base-uri 'none'", "frame-ancestors 'none'"]
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r"<script|\son\w+=|\sstyle=|https?://|@import|url\(", page)
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


async def test_pending_failed_and_settled_are_listed(operator: Operator, with_page: Paidup) -> None:
    """With age, stage, last event and next check; with error and tries; with the source that settled."""
    at = now()
    account = await an_account()
    waiting = await an_invoice(
        account,
        status=InvoiceStatus.PROCESSING,
        created_at=at - timedelta(minutes=10),
        next_check_at=at + timedelta(seconds=100),
    )
    step: dict[str, Any] = {
        "invoice": waiting.id,
        "at": at - timedelta(seconds=300),
        "event_type": "verification_answered",
    }
    await TimelineEntry.create(**step)
    settled = await an_invoice(
        account,
        status=InvoiceStatus.ACTIVE,
        settled_via=Source.WEBHOOK,
        settled_at=at,
        created_at=at - timedelta(seconds=7),
    )
    body: dict[str, Any] = {"id": "evt_stuck", "type": "invoice.paid", "payload": "{}", "received_at": at}
    await StripeEvent.create(**body, attempts=12, error="StripeUnavailable: down")
    await StripeEvent.create(**{**body, "id": "evt_new"}, next_attempt_at=at + timedelta(seconds=30))
    await StripeEvent.create(**{**body, "id": "evt_done"}, handled_at=at, attempts=1)
    _, page, _ = await operator.get("/operators")
    text = text_of(page)
    row = rf"{waiting.id}\|+{account.external_id}\|+pro\|+processing\|+10 min\|+verification answered\|"
    assert re.search(row + r"5 min ago\|+in (99|100) s\|", text)
    remedy = r"[^|]*`paidup replay evt_stuck`[^|]*\|+Reason: StripeUnavailable: down\|"
    facts = (
        r"+event\|+evt_stuck\|+type\|+invoice.paid\|+received\|+\d* ?\w* ago\|+tries\|+12\|+next\|+given up\|"
    )
    assert re.search(remedy + facts, text)
    assert re.search(
        rf"{settled.id}\|+{account.external_id}\|+pro\|+2,000\|+webhook\|+7 s\|+[^|]+ ago\|", text
    )
    assert "evt_new" not in page, "its own request is still handling it"
    assert "evt_done" not in page
    status, shown = await operator.json("/operators")
    assert status == 200
    assert [invoice["invoice"] for invoice in shown["pending"]] == [waiting.id]
    assert (shown["pending"][0]["stage"], shown["pending_total"]) == ("processing", 1)
    assert [(event["id"], event["attempts"]) for event in shown["failed_events"]] == [("evt_stuck", 12)]
    assert [(invoice["invoice"], invoice["via"]) for invoice in shown["settled"]] == [(settled.id, "webhook")]
    assert [alarm["name"] for alarm in shown["alarms"]] == ["events_given_up"]


async def test_what_was_paid_twice_and_what_is_nobodys_is_listed_with_its_remedy(operator: Operator) -> None:
    """S39, S41: beside what, whom it names, since when, and the command; nothing if there is none."""
    _, page, _ = await operator.get("/operators")
    assert "Checkout Session" not in page
    at, account = now(), await an_account()
    paid: dict[str, Any] = {
        "mode": "subscription", "status": "complete", "payment_status": "paid", "plan": "pro",
        "created_at": at, "expires_at": at, "completed_at": at - timedelta(minutes=10),
    }  # fmt: skip
    await CheckoutSession.create(id="cs_test_2", account=account, duplicate_of="cs_test_1", **paid)
    await CheckoutSession.create(id="cs_test_3", client_reference="<bob>", customer="cus_3", **paid)
    _, page, _ = await operator.get("/operators")
    text = text_of(page)
    resolve = r"paidup resolve cs_test_2 --refund\|\(or --credit, --keep\)"
    twice = rf"cs_test_2\|+{account.external_id}\|+pro\|+cs_test_1\|+10 min ago\|+{resolve}\|"
    nobodys = r"cs_test_3\|+&lt;bob&gt;\|+pro\|+cus_3\|+10 min ago\|+paidup claim-link cs_test_3\|"
    assert re.search(twice, text), text
    assert re.search(nobodys, text), text


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_invoice_shows_what_the_backend_was_told_of_it(operator: Operator) -> None:
    """As `paidup explain` does: which event, to which endpoint, and why it did not arrive."""
    at, invoice = now(), await an_invoice(await an_account())
    quiet: dict[str, Any] = {"state": EndpointState.DISABLED, "secret": "whsec_aGVyZQ=="}
    backend = await EventEndpoint.create(name="backend", url="https://app.example.com", types=[], **quiet)
    sent: dict[str, Any] = {"type": "credits.granted", "invoice": invoice.id, "data": {}, "fanned_out": True}
    event = await OutboundEvent.create(message="msg_1", created_at=at, **sent)
    told: dict[str, Any] = {"attempts": 10, "error": "answered <500>", "created_at": at}
    await EventDelivery.create(event=event, endpoint=backend, state=DeliveryState.DEAD, **told)
    _, page, _ = await operator.get(f"/operators/invoices/{invoice.id}")
    text = text_of(page)
    row = r"backend\|+msg_1\|+credits.granted\|+\d+ \w+ ago\|+10\|+dead, answered &lt;500&gt;\|"
    assert re.search(row, text), text


async def test_a_parked_event_is_listed_with_a_recommendation(
    operator: Operator, with_page: Paidup, stripe_side: StripeSide
) -> None:
    """S15: the page names the unknown customer, the event, the invoice and the command."""
    customer = await stripe_side.customer()
    invoice = await paid_elsewhere(stripe_side, customer)
    rows = await parked("unknown_customer")
    _, page, _ = await operator.get("/operators")
    assert f"unknown_customer ({customer})" in page
    assert f"paidup replay {rows[0].id}" in page
    assert f'href="/operators/invoices/{invoice}"' in page
    await timeline_written(with_page, invoice, "webhook_received")
    status, page, _ = await operator.get(f"/operators/invoices/{invoice}")
    assert status == 200
    assert f"Link {customer} to an account" in page


async def test_an_event_of_an_unhandled_type_is_listed(operator: Operator, with_page: Paidup) -> None:
    """S15: it is listed apart from the events that need action."""
    await with_page.webhook(forged_event("invoice.sent", {"id": "in_sent", "object": "invoice"}))
    _, shown = await operator.json("/operators")
    assert ([event["type"] for event in shown["unhandled_events"]], shown["failed_events"]) == (
        ["invoice.sent"],
        [],
    )
    _, page, _ = await operator.get("/operators")
    assert shown["unhandled_events"][0]["id"] in page
    status, page, _ = await operator.get("/operators/invoices/in_sent")
    assert (status, "no event of this type changes a payment" in page) == (200, True)


async def test_an_invoices_page_shows_its_timeline(
    operator: Operator, with_page: Paidup, stripe_side: StripeSide
) -> None:
    """S36: as HTML and as JSON; by the invoice's id or by any reference in the search box."""
    purchase = await with_page.customer("ada").buy("pro")
    invoice = purchase["invoice"]
    await with_page.services.verification.verify(invoice)
    await timeline_written(with_page, invoice, "verification_answered")
    for path in (
        f"/operators/invoices/{invoice}",
        "/operators/find?ref=ada",
        "/operators/find?ref=%20ada%20",
    ):
        status, page, _ = await operator.get(path)
        assert status == 200
        assert "verification answered" in page
        assert "has not confirmed a payment" in page
        status, found = await operator.json(path)
        assert (status, found["account"]) == (200, "ada")
        assert found["invoices"][0]["timeline"][0]["event_type"] == "created"
    nothing = (
        "invoices/in_nothing",
        "find",
        "find?ref=%00",
        f"find?ref={'x' * 300}",
        f"invoices/{'x' * 300}",
    )
    for path in (f"/operators/{rest}" for rest in nothing):
        assert (await operator.get(path))[0] == 404
        assert (await operator.json(path))[0] == 404


HOSTILE = "<script>alert('1')</script>\"$title ${style} {{ 7*7 }} &amp;"


async def test_hostile_text_is_escaped(operator: Operator) -> None:
    """Customers choose their ids; payloads and errors come from outside."""
    account = await Account.create(external_id=HOSTILE, stripe_customer="cus_h")
    row = await an_invoice(account, plan="<b>pro", error={"code": "<i>", "message": HOSTILE})
    await TimelineEntry.create(invoice=row.id, at=now(), event_type="<u>what", detail={"<s>": HOSTILE})
    odd = await an_invoice(account, id='in_"><img src=x onerror=alert(1)>', next_check_at=now())
    event: dict[str, Any] = {"id": "evt_<h1>", "type": "<h3>", "payload": "{}", "received_at": now()}
    await StripeEvent.create(**event, attempts=1, error=HOSTILE)
    for path in (
        "/operators",
        f"/operators/invoices/{row.id}",
        "/operators/find?ref=cus_h",
        f"/operators/find?ref={'<em>'}",
    ):
        _, page, _ = await operator.get(path)
        body = page.partition("</style>")[2]
        for raw in ("<script", "<img", "<b>", "<i>", "<u>", "<s>", "<em>", "<h1>evt", "<h3>", "alert('1')"):
            assert raw not in body, raw
    _, page, _ = await operator.get("/operators")
    assert "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&#34;$title ${style} {{ 7*7 }} &amp;amp;" in page
    assert 'href="/operators/invoices/in_%22%3E%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E"' in page
    status, _, _ = await operator.get(
        "/operators/invoices/in_%22%3E%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E"
    )
    assert status == 200, odd.id


async def test_alarms_are_shown(operator: Operator) -> None:
    """S35: verification settles every invoice and no webhook arrives."""
    account, at = await an_account(), now() - timedelta(minutes=10)
    for _ in range(SETTLED_WITHOUT_WEBHOOK):
        await an_invoice(
            account,
            status=InvoiceStatus.ACTIVE,
            settled_via=Source.VERIFICATION,
            settled_at=at,
            created_at=at,
        )
    assert await Invoice.all().count() == SETTLED_WITHOUT_WEBHOOK
    _, page, _ = await operator.get("/operators")
    assert "credited without their webhooks" in page
    _, shown = await operator.json("/operators")
    assert [alarm["name"] for alarm in shown["alarms"]] == ["webhooks_silent"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_long_lists_are_truncated_and_counted(operator: Operator) -> None:
    account, at = await an_account(), now()
    await Invoice.bulk_create(
        [
            Invoice(
                id=f"in_{number}",
                account_id=account.id,
                customer="cus_1",
                currency="usd",
                amount_due_minor=1,
                changed_at=at,
                created_at=at - timedelta(seconds=number),
                next_check_at=at,
            )
            for number in range(130)
        ]
    )
    _, page, _ = await operator.get("/operators")
    assert "130, the newest 100 shown" in page
    assert page.count('href="/operators/invoices/in_') == 100
