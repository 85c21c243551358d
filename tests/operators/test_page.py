"""The operators' pages: they need an operator, escape all text, and show what needs action."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from paidup.credits import ledger, reservations
from paidup.db.connection import write_transaction
from paidup.db.models import (
    Account,
    CheckoutSession,
    Correction,
    CreditGrant,
    Invoice,
    StripeCustomer,
    StripeEvent,
    Subscription,
    TimelineEntry,
)
from paidup.db.outbound_models import (
    DeliveryState,
    EndpointState,
    EventDelivery,
    EventEndpoint,
    OutboundEvent,
)
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import Source
from paidup.operations.account_report import ENTRIES, OTHERS, report_account
from paidup.operations.audit_log import MAX_LISTED
from paidup.reconciliation.alarms import SETTLED_WITHOUT_WEBHOOK
from paidup.runtime.clock import now
from tests.conftest import World
from tests.operators.conftest import OPERATOR_TOKEN, paid_elsewhere, parked, timeline_written
from tests.support.factories import an_account, an_invoice, granted
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
            self._url + path, headers=BEARER if headers is None else headers, allow_redirects=False
        ) as response:
            return response.status, await response.text(), response.headers

    async def json(self, path: str) -> tuple[int, Any]:
        async with self._http.get(self._url + path, headers=AS_JSON) as response:
            return response.status, await response.json()


@pytest.fixture
def operator(with_page: Paidup, http: aiohttp.ClientSession) -> Operator:
    return Operator(with_page, http)


def text_of(page: str) -> str:
    """What a page says, with one | for whatever markup and space is between two texts."""
    return re.sub(r"\s*\|[\s|]*", "|", re.sub(r"<[^>]+>", "|", page.partition("</style>")[2]))


PATHS = (
    *("/operators", "/operators/find?ref=ada", "/operators/invoices/in_1", "/operators/account?id=ada"),
    *(
        "/operators/event?id=evt_1",
        "/operators/deliveries/1",
        "/operators/audit-log",
        "/operators/actions/grant",
    ),
)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_without_operators_the_pages_do_not_exist(paidup: Paidup, http: aiohttp.ClientSession) -> None:
    operator = Operator(paidup, http)
    for path in PATHS:
        for headers in ({}, BEARER, {"Authorization": "Bearer "}, AS_JSON, {"Accept": "text/html"}):
            status, _, answered = await operator.get(path, headers)
            assert status == 404
            assert "WWW-Authenticate" not in answered


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_program_needs_the_right_token(operator: Operator) -> None:
    """As a bearer token. A password is not asked for: a browser would send it with any request."""
    wrong = [
        *({}, {"Authorization": f"Bearer {OPERATOR_TOKEN}x"}, {"Authorization": f"Digest {OPERATOR_TOKEN}"}),
        *({"Authorization": value} for value in ("Bearer", "Bearer x", "Bearer é", "Basic é", "x")),
        {"Authorization": aiohttp.encode_basic_auth("anybody", OPERATOR_TOKEN)},
    ]
    for path in PATHS:
        for headers in wrong:
            status, body, answered = await operator.get(path, headers)
            assert (status, answered["WWW-Authenticate"]) == (401, "Bearer")
            assert OPERATOR_TOKEN not in body
    assert (await operator.get("/operators", BEARER))[0] == 200


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
    assert re.search(row + r"5 min ago\|+in (\d\d|100) s\|", text)
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
    answered = {"status_code": 500, "answer": "<h1>Down {{ 7*7 }}"}
    told |= {"state": DeliveryState.DEAD, **answered}
    delivery = await EventDelivery.create(event=event, endpoint=backend, **told)
    _, page, _ = await operator.get(f"/operators/invoices/{invoice.id}")
    text = text_of(page)
    row = r"credits.granted\|+backend\|+dead, answered &lt;500&gt;\|+10\|+\d+ \w+ ago\|"
    assert re.search(row, text), text
    _, page, _ = await operator.get(f"/operators/deliveries/{delivery.id}")
    text = text_of(page)
    assert "|POST https://app.example.com|" in text
    assert "webhook-id: msg_1" in text
    assert "&#34;type&#34;: &#34;credits.granted&#34;" in text
    assert "|Answer|500|&lt;h1&gt;Down {{ 7*7 }}|" in text
    for odd in ("0", "x", "9" * 30, "1.0"):
        assert (await operator.get(f"/operators/deliveries/{odd}"))[0] == 404


async def test_a_parked_event_is_listed_with_a_recommendation(
    operator: Operator, with_page: Paidup, stripe_side: StripeSide
) -> None:
    """S15: the page names the unknown customer, the event, the invoice and the command."""
    customer = await stripe_side.customer()
    invoice = await paid_elsewhere(stripe_side, customer)
    rows = await parked(with_page, "unknown_customer")
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
    status, page, _ = await operator.get(f"/operators/invoices/{invoice}")
    assert status == 200
    assert "verification answered" in page
    assert "has not confirmed a payment" in page
    assert page.count('<svg class="for-') == 2
    for path in (
        f"/operators/invoices/{invoice}",
        "/operators/find?ref=ada",
        "/operators/find?ref=%20ada%20",
    ):
        status, found = await operator.json(path)
        assert (status, found["account"]) == (200, "ada")
        assert found["invoices"][0]["timeline"][0]["event_type"] == "created"
    nothing = (
        "invoices/in_nothing",
        "find",
        "find?ref=%00",
        *(f"find?ref={start}{'x' * length}" for start in ("", "msg_", "cus_") for length in (60, 240, 300)),
        f"account?id={'x' * 240}",
        f"event?id={'x' * 250}",
        f"invoices/{'x' * 300}",
    )
    for path in (f"/operators/{rest}" for rest in nothing):
        assert (await operator.get(path))[0] == 404
        assert (await operator.json(path))[0] == 404


HOSTILE = "<script>alert('1')</script>\"$title ${style} {{ 7*7 }} &amp;"
ESCAPED = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&#34;$title ${style} {{ 7*7 }} &amp;amp;"
ODD = 'in_"><img src=x onerror=alert(1)>'


async def test_hostile_text_is_escaped(operator: Operator) -> None:
    """Customers choose their ids; messages of declines, payloads and reasons come from outside."""
    at, account = now(), await Account.create(external_id=HOSTILE, stripe_customer="cus_h")
    row = await an_invoice(account, plan="<b>pro", error={"code": "<i>", "message": HOSTILE})
    await TimelineEntry.create(invoice=row.id, at=at, event_type="<u>what", detail={"<s>": HOSTILE})
    await an_invoice(account, id=ODD, next_check_at=at)
    event: dict[str, Any] = {"id": "evt_<h1>", "type": "<h3>", "payload": "", "received_at": at}
    event |= {"payload": json.dumps({"name": HOSTILE})}
    await StripeEvent.create(**event, attempts=1, error=HOSTILE)
    done: dict[str, Any] = {"action": "adjust", "before": {"balance": 0}, "after": {"balance": 5}}
    done |= {"details": {"credits": 5}, "digest": "", "key": HOSTILE, "actor": HOSTILE, "reason": HOSTILE}
    await Correction.create(id="cor_1", at=at, account=account, **done)
    named = quote(HOSTILE, safe="")
    texts = {
        "/operators": 1,
        f"/operators/invoices/{row.id}": 2,
        f"/operators/account?id={named}": 4,
        "/operators/event?id=evt_%3Ch1%3E": 1,
        "/operators/audit-log": 3,
        f"/operators/actions/grant?account={named}": 1,
        f"/operators/find?ref={named}x": 2,
        f"/operators/find?ref={'<em>'}": 0,
    }
    for path, count in texts.items():
        _, page, _ = await operator.get(path)
        body = page.partition("</style>")[2]
        for raw in (
            "<script",
            "<img",
            "<b>",
            "<i>",
            "<u>",
            "<s>",
            "<em>",
            "<h1>evt",
            "<h3>",
            "alert('1')",
            "49",
        ):
            assert raw not in re.sub(r"<(time|footer).*?</\1>|form_token\" value=\"[^\"]*", "", body), (
                path,
                raw,
            )
        assert body.count(ESCAPED) >= count, path
    _, page, _ = await operator.get("/operators")
    link = "/operators/invoices/in_%22%3E%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E"
    assert f'href="{link}"' in page
    assert (await operator.get(link))[0] == 200


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_account_shows_its_balance_its_ledger_and_what_was_done_to_it(
    operator: Operator, with_page: Paidup
) -> None:
    """Available, held, expiring and debt; the ledger by pages, newest first."""
    account, end = await an_account(), now() + timedelta(days=3)
    await granted(account, 1000, end)
    for number in range(ENTRIES + 1):
        async with write_transaction():
            await reservations.spend(await ledger.lock_account(account.id), 1, f"job-{number}", now(), "<i>")
    async with write_transaction():
        await reservations.reserve(await ledger.lock_account(account.id), 60, "render-7", end, now())
    _, page, _ = await operator.get(f"/operators/account?id={account.external_id}")
    text = text_of(page)
    assert re.search(r"\|Available\|914\|Held\|60\|Expiring\|914\|on \d+ \w+ \d+\|Debt\|0\|", text), text
    assert re.search(r"\|reserve\|reserved\|render-7\|−60\|914\|", text)
    assert re.search(rf"\|spend\|&lt;i&gt;\|job-{ENTRIES}\|−1\|974\|", text)
    assert "job-1|" not in text
    older = html.unescape(re.findall(r'href="([^"]*before=\d+)#entries"', page)[0])
    _, page, _ = await operator.get(older)
    assert re.search(r"\|spend\|&lt;i&gt;\|job-1\|−1\|998\|", text_of(page))
    assert "|+1,000|1,000|" in text_of(page)
    assert (await operator.get("/operators/account?id=nobody"))[0] == 404
    assert (await operator.get(f"/operators/account?id={account.external_id}&before=x"))[0] == 422


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_search_leads_to_the_one_match_or_lists_several(operator: Operator) -> None:
    """By each id that is stored, a correction's key, or the beginning of an account's id."""
    account = await an_account("grace")
    await StripeCustomer.create(id="cus_7", account=account)
    await Subscription.create(id="sub_7", account=account)
    row = await an_invoice(account, subscription="sub_7", payment_intent="pi_7")
    at: dict[str, Any] = {
        "created_at": now(),
        "expires_at": now(),
        "status": "open",
        "payment_status": "unpaid",
    }
    await CheckoutSession.create(id="cs_7", mode="subscription", **at)
    await StripeEvent.create(id="evt_7", type="invoice.sent", payload="{}", received_at=now())
    done: dict[str, Any] = {"actor": "ada", "reason": "r", "details": {}, "before": {}, "after": {}}
    await Correction.create(
        id="cor_7", key="T-7", at=now(), action="link", digest="", account=account, **done
    )
    pages = {
        account.external_id: f"account?id={account.external_id}",
        account.external_id[:4]: f"account?id={account.external_id}",
        "cus_7": f"account?id={account.external_id}",
        row.id: f"invoices/{row.id}",
        "pi_7": f"invoices/{row.id}",
        "cs_7": "invoices/cs_7",
        "evt_7": "event?id=evt_7",
        "T-7": "audit-log?done=cor_7",
        "cor_7": "audit-log?done=cor_7",
    }
    for reference, page in pages.items():
        status, _, headers = await operator.get(f"/operators/find?ref={reference}")
        assert (status, headers["Location"]) == (303, f"/operators/{page}"), reference
    status, text, _ = await operator.get("/operators/find?ref=sub_7")
    assert (status, "2 matches" in text) == (200, True)
    status, text, _ = await operator.get("/operators/find?ref=nobody")
    assert (status, "What can be searched for" in text, 'value="nobody"' in text) == (404, True, True)


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


async def test_an_old_correction_is_found(operator: Operator) -> None:
    """A search for its key leads to it, also where a hundred newer ones are listed before."""
    await Correction.bulk_create(
        [
            Correction(
                id=f"cor_{number}",
                at=now() - timedelta(days=200 - number),
                actor="grace",
                action="adjust",
                key=f"T-{number}",
                digest="",
                reason=f"reason {number}.",
                details={},
                before={},
                after={},
            )
            for number in range(MAX_LISTED + 5)
        ]
    )
    where = (await operator.get("/operators/find?ref=T-2"))[2]["Location"]
    assert "reason 2." in (await operator.get(where))[1]
    newest = (await operator.get("/operators/audit-log"))[1]
    assert ("reason 104." in newest, "reason 2." in newest) == (True, False)
    older = html.unescape(re.findall(r'href="([^"]*)">Older', newest)[0])
    page = (await operator.get(older))[1]
    assert [f"reason {number}." in page for number in (5, 4, 0)] == [False, True, True]
    assert ("Older" in page, "Newest" in page) == (False, True)


async def test_what_expires_is_added_up_by_date_and_bounded(database: None) -> None:
    """A hundred thousand grants are not read for the page of one account. A renewal's later end counts."""
    account, first = await an_account(), now().replace(microsecond=0) + timedelta(days=1)
    for day in (*range(OTHERS + 5), 1, 1):
        await granted(account, 10, first + timedelta(days=day))
    await granted(account, 10)
    await CreditGrant.filter(expires_at=first).update(usable_until=first + timedelta(days=1))
    expiring = (await report_account(account.external_id)).balances[0].expiring
    assert (expiring[0].at, expiring[0].credits) == (first + timedelta(days=1), 40)
    assert len(expiring) <= OTHERS


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_payloads_and_addresses_are_shown_without_their_secrets(operator: Operator) -> None:
    """A client secret is for its customer alone: https://docs.stripe.com/api/payment_intents/object.

    An endpoint's URL may have a key in its query, and a password.
    """
    shown = {"id": "pi_7", "client_secret": "pi_7_secret_8", "status": "processing"}
    body = {"id": "evt_7", "type": "payment_intent.processing", "data": {"object": shown}}
    await StripeEvent.create(id="evt_7", type=body["type"], payload=json.dumps(body), received_at=now())
    _, page, _ = await operator.get("/operators/event?id=evt_7")
    assert ("pi_7_secret_8" in page, "[redacted]" in page, "processing&#34;" in page) == (False, True, True)
    sent: dict[str, Any] = {"type": "credits.granted", "data": {}, "fanned_out": True, "created_at": now()}
    event = await OutboundEvent.create(message="msg_7", **sent)
    url = "https://u:pass-word@hook.example/in?key=k-e-y"
    quiet: dict[str, Any] = {"secret": "whsec_s", "state": EndpointState.DISABLED, "created_at": now()}
    hook = await EventEndpoint.create(name="hook", url=url, types=[], **quiet)
    row = await EventDelivery.create(event=event, endpoint=hook, state=DeliveryState.DEAD, created_at=now())
    _, page, _ = await operator.get(f"/operators/deliveries/{row.id}")
    assert "POST https://hook.example/in<" in page
    assert not re.search("k-e-y|pass-word|whsec", page)
