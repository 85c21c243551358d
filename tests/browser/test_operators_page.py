"""The operators' pages in Chromium, without JavaScript: they fit, can be read, and an operator acts."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from paidup.db.models import (
    Account,
    Correction,
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
from paidup.runtime.clock import now
from tests.browser.looks import expect_no_violations, expect_to_fit, luminance
from tests.support.contracts import checked_session
from tests.support.factories import an_invoice, granted
from tests.support.paidup import Paidup, serving, settings
from tests.support.processes import free_port

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("operators-page")]

OPERATOR_TOKEN = "token-of-the-operators"
INVOICE = "in_1SXbQpLkdIwHu7ixQqEvT2Zk"
EVENT = "evt_1SXbQpLkdIwHu7ix0kqfSgWc"
ACCOUNT = "x" * 120
"""Longer than any column."""
ERROR = f"StripeUnavailable: https://api.stripe.com/v1/invoices/{INVOICE}?expand[]=payments: timed out"


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def served(
    valkey: str, sqlite_template: Path, sandbox_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Paidup]:
    """A server with an account of each kind of row, and long texts in all of them."""
    folder, port = tmp_path_factory.mktemp("operators"), free_port()
    shutil.copy(sqlite_template, folder / "paidup.db")
    given: dict[str, Any] = {"redis_url": valkey, "stripe_api_base": sandbox_url, "data_dir": folder}
    given |= {"database_url": f"sqlite://{folder / 'paidup.db'}", "operator_token": OPERATOR_TOKEN}
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(checked_session())
        paidup = await stack.enter_async_context(serving(settings(port=port, **given), http, port))
        await an_account_with_everything()
        yield paidup


async def an_account_with_everything() -> None:
    at = now()
    account = await Account.create(external_id=ACCOUNT, stripe_customer="cus_1")
    await StripeCustomer.create(id="cus_1", account=account)
    await Subscription.create(id="sub_1", account=account, status="past_due", plan="pro")
    await granted(account, 2000, at + timedelta(days=9))
    ago: dict[str, Any] = {"created_at": at - timedelta(minutes=10), "next_check_at": at}
    await an_invoice(account, id=INVOICE, status=InvoiceStatus.FAILED, error={"message": ERROR}, **ago)
    steps = ("socket_opened", "verification_asked", "verification_failed", "webhook_received", "settled")
    for number, step in enumerate(steps):
        when = at + timedelta(seconds=number**3)
        detail = {"error": ERROR, "source": Source.VERIFICATION, "event": EVENT, "type": "invoice.paid"}
        await TimelineEntry.create(invoice=INVOICE, at=when, event_type=step, detail=detail)
    given_up: dict[str, Any] = {"received_at": at, "attempts": 12, "error": ERROR}
    await StripeEvent.create(
        id=EVENT, type="invoice.payment_succeeded", payload=f'{{"a":"{ACCOUNT}"}}', **given_up
    )
    done: dict[str, Any] = {
        "action": "adjust",
        "key": ACCOUNT,
        "actor": ACCOUNT,
        "reason": ERROR,
        "digest": "",
    }
    done |= {"details": {"credits": 5}, "before": {"balance": 0}, "after": {"balance": 5}}
    await Correction.create(id="cor_1", at=at, account=account, **done)
    name = f"https://app.example.com/{'x' * 120}"
    quiet: dict[str, Any] = {"state": EndpointState.DISABLED, "secret": "whsec_aGVyZQ==", "types": []}
    endpoint = await EventEndpoint.create(name=name, url=name, **quiet)
    event: dict[str, Any] = {
        "message": f"msg_{'5' * 32}",
        "type": "payment.action_required",
        "invoice": INVOICE,
        "data": {},
    }
    sent = await OutboundEvent.create(account=account, created_at=at, fanned_out=True, **event)
    dead: dict[str, Any] = {
        "state": DeliveryState.DEAD,
        "attempts": 10,
        "error": ERROR[:200],
        "created_at": at,
    }
    answer: dict[str, Any] = {"status_code": 500, "answer": "<h1>Down</h1>" + "x" * 120}
    await EventDelivery.create(event=sent, endpoint=endpoint, account_id=account.id, **dead, **answer)


@asynccontextmanager
async def operator(browser: Browser, served: Paidup, **looks: Any) -> AsyncIterator[Page]:
    """Signed in, without JavaScript. Nothing may be logged: no violation of the page's policy, no error."""
    context = await browser.new_context(java_script_enabled=False, **looks)
    page, logged = await context.new_page(), list[str]()
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    await page.goto(f"{served.url}/operators")
    await page.get_by_label("Your name").fill("grace")
    await page.get_by_label("Operators’ token").fill(OPERATOR_TOKEN)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    yield page
    await context.close()
    assert logged == []


async def test_an_operator_searches_gives_credits_and_takes_them_back(
    browser: Browser, served: Paidup
) -> None:
    """By keyboard or mouse, in Chromium: each step is a page, and what it changes is said in numbers."""
    await Account.create(external_id="ada")
    async with operator(browser, served) as page:
        search = page.get_by_role("searchbox").or_(page.locator("input[name=ref]"))
        await search.fill("ada")
        await search.press("Enter")
        await expect(page.get_by_role("heading", name="ada", exact=True)).to_be_visible()
        await page.get_by_role("link", name="Give credits").click()
        await page.get_by_label("Credits", exact=True).fill("500")
        await page.get_by_label("Reason").fill("A day of outage")
        await page.get_by_role("button", name="Continue").click()
        await expect(page.locator(".change")).to_contain_text("0 →to 500 credits")
        await page.get_by_role("button", name="Give credits").dblclick()
        await expect(page.get_by_role("status")).to_contain_text("Credits given. Balance: 0")
        await expect(page.locator(".figures")).to_contain_text("Available500")
        await page.get_by_role("link", name="Undo").click()
        await page.get_by_label("Reason").fill("The wrong customer")
        await page.get_by_role("button", name="Continue").click()
        await page.get_by_role("button", name="Take a grant back").click()
        await expect(page.locator(".figures")).to_contain_text("Available0")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        await page.goto(f"{served.url}/operators/audit-log")
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert await Correction.filter(actor="grace").count() == 2


PAGES = (
    *("", f"/account?id={ACCOUNT}", f"/invoices/{INVOICE}", f"/event?id={EVENT}", "/deliveries/1"),
    *("/audit-log", "/find?ref=cus_1", "/find?ref=sub_9", f"/actions/erase?account={ACCOUNT}", "/sign-in"),
)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (320, "dark")])
async def test_the_operators_pages_fit_and_can_be_read(
    browser: Browser, served: Paidup, width: int, scheme: str
) -> None:
    """Nothing scrolls sideways, also inside; dark is dark; axe-core finds nothing. 320 is 1280 at 400 %."""
    looks: dict[str, Any] = {"viewport": {"width": width, "height": 844}, "color_scheme": scheme}
    async with operator(browser, served, **looks) as signed_in:
        cookies = await signed_in.context.cookies()
    context = await browser.new_context(bypass_csp=True, **looks)  # axe-core is a script
    await context.add_cookies(cookies)  # type: ignore[arg-type]
    page = await context.new_page()
    for path in PAGES:
        await page.goto(f"{served.url}/operators{path}")
        await page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        await expect_to_fit(page, width)
        await expect_nothing_cut(page)
        await expect_no_violations(page, "html")
        body = "getComputedStyle(document.body)"
        ink, paper = [await page.evaluate(f"{body}.{name}") for name in ("color", "backgroundColor")]
        assert (luminance(paper) < luminance(ink)) == (scheme == "dark")
    await context.close()


async def expect_nothing_cut(page: Page) -> None:
    """No box is narrower than what is in it."""
    wider = (
        "[...document.querySelectorAll('main *')].filter((node) => node.scrollWidth > node.clientWidth + 1)"
        ".filter((node) => !node.closest('.unseen, thead, svg, input'))"
    )
    block = "getComputedStyle(node).display !== 'inline'"
    found = await page.evaluate(
        f"{wider}.filter((node) => {block}).map((node) => node.outerHTML.slice(0, 80))"
    )
    assert found == []
