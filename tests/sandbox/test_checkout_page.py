"""The page of a Checkout Session: what it sends, how long it waits, and what a browser shows."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import stripe
from aiohttp import web
from playwright.async_api import Browser, Page, Route, expect

from paidup_demo.sandbox.bank_methods import METHOD_TYPES, NAMES
from paidup_demo.sandbox.settings import DEFAULT_ORIGINS
from tests.browser.looks import expect_no_violations, expect_to_fit, luminance
from tests.support.browsers import running_browser

from .rig import SECRET, Json, Reply, Sandbox
from .shop import Shop

VISA = "4242424242424242"
REST = {"exp_month": 12, "exp_year": 2040, "cvc": "123"}
SAAS = DEFAULT_ORIGINS[0]
EMBEDDING = """<!doctype html><title>shop</title><div id="checkout"></div>
<script src="%s/stripe.js"></script><script>
  const stripe = Stripe('pk_test_browser');
  stripe.createEmbeddedCheckoutPage({
    fetchClientSecret: async () => '%s', onComplete: () => { window.completed = true; },
  }).then((checkout) => checkout.mount('#checkout'));
</script>"""


@pytest.fixture
def shop(sandbox_bare: Sandbox) -> Shop:
    return Shop(sandbox_bare)


async def _pay(shop: Shop, session: Any, number: str = VISA, **more: Any) -> Reply:
    """What the page sends when the customer pays."""
    body = {
        "email": "typed@example.com",
        "name": "Jenny",
        "payment_method_data": {"type": "card", "card": {**REST, "number": number}},
        **more,
    }
    return await shop.sandbox.call("POST", f"/c/pay/{session.id}/pay", json=body)


async def test_the_page_pays_and_says_where_to_go(shop: Shop) -> None:
    session = await shop.open(cancel_url="https://saas.example/plans")
    async with shop.sandbox.http.get(session.url) as response:
        text = await response.text()
        assert response.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert 'href="https://saas.example/plans"' in text
    assert "20.00 USD" in text
    declined = await _pay(shop, session, "4000000000000002")
    assert (declined.status, declined.body) == (402, {"error": "Your card was declined."})
    asked = await _pay(shop, session, "4000002760003184")
    assert asked.body["challenge"].startswith("/challenge/pi_")
    failed = (await shop.sandbox.call("POST", f"/c/pay/{session.id}/give-up", json={})).body
    assert "authentication" in failed["error"]
    paid = await _pay(shop, session)
    assert paid.body == {"status": "complete", "to": f"https://saas.example/done?s={session.id}"}
    async with shop.sandbox.http.get(session.url) as response:
        assert "You have paid" in await response.text()
    assert (await _pay(shop, session)).status == 400


async def test_the_page_says_how_often_and_asks_for_no_card_where_nothing_is_due(shop: Shop) -> None:
    """https://docs.stripe.com/payments/checkout/no-cost-orders"""
    plan = await shop.open()
    coupon = await shop.sandbox.v1.coupons.create_async({"percent_off": 100, "duration": "once"})
    free = await shop.open("payment", discounts=[{"coupon": coupon.id}])
    async with shop.sandbox.http.get(plan.url) as response:
        assert "Pro × 1, every month" in await response.text()
    async with shop.sandbox.http.get(free.url) as response:
        assert 'type="hidden" name="way" value="none"' in await response.text()
    assert (await _pay(shop, free)).body["status"] == "complete"
    assert (await shop.read(free))["payment_status"] == "no_payment_required"


async def test_another_site_cannot_pay(shop: Shop) -> None:
    session = await shop.open()
    path = f"/c/pay/{session.id}/pay"
    foreign = {"Origin": "https://evil.example"}
    assert (await shop.sandbox.call("POST", path, json={}, headers=foreign)).status == 403
    assert (await shop.sandbox.call("POST", "/c/pay/cs_test_none/pay", json={})).status == 404
    assert (await shop.sandbox.call("POST", path, data="x")).status == 400


async def test_the_page_waits_for_the_answer_to_the_webhook(shop: Shop) -> None:
    """https://docs.stripe.com/checkout/fulfillment: up to 10 s, whatever the answer is."""
    asked, release = asyncio.Event(), asyncio.Event()

    async def hook(request: web.Request) -> web.Response:
        if (await request.json())["type"] == "checkout.session.completed":
            asked.set()
            await release.wait()
        return web.Response(status=500 if release.is_set() else 200)

    app = web.Application()
    app.router.add_post("/hook", hook)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    await shop.sandbox.control("/webhook_endpoints", {"url": url, "secret": SECRET})
    paying = asyncio.create_task(_pay(shop, await shop.open("payment")))
    await asked.wait()
    assert not paying.done()
    release.set()
    assert (await paying).body["status"] == "complete"
    await shop.sandbox.conditions(webhook_drop=True, checkout_redirect_wait_ms=50)
    assert (await _pay(shop, await shop.open("payment"))).body["status"] == "complete"
    await runner.cleanup()


def test_every_payment_method_has_a_name_on_the_page() -> None:
    assert NAMES.keys() == set(METHOD_TYPES)


async def test_a_promotion_code_is_redeemed_on_the_page(shop: Shop) -> None:
    """https://docs.stripe.com/payments/checkout/discounts"""
    coupon = await shop.sandbox.v1.coupons.create_async({"percent_off": 25, "duration": "once"})
    code = await shop.sandbox.v1.promotion_codes.create_async(
        {"code": "SPRING", "promotion": {"type": "coupon", "coupon": coupon.id}, "max_redemptions": 1}
    )
    session = await shop.open(allow_promotion_codes=True)
    path = f"/c/pay/{session.id}/promotion"
    assert (await shop.sandbox.call("POST", path, json={"code": "none"})).status == 400
    assert (await shop.sandbox.call("POST", path, json={"code": "spring"})).status == 200
    assert (await shop.read(session))["amount_total"] == 1500
    await _pay(shop, session)
    shown = await shop.read(session, "invoice", "discounts.promotion_code")
    assert (shown["invoice"]["amount_paid"], shown["total_details"]["amount_discount"]) == (1500, 500)
    assert shown["discounts"][0]["promotion_code"]["id"] == code.id
    known = await shop.sandbox.v1.promotion_codes.retrieve_async(code.id)
    assert (known.times_redeemed, known.active) == (1, False)


async def test_the_customer_changes_the_quantity(shop: Shop) -> None:
    """https://docs.stripe.com/payments/checkout/adjustable-quantity: 0 removes one of several.

    It is shown since https://docs.stripe.com/changelog/clover/2026-01-28/line-items-adjustable-quantity
    """
    coupon = await shop.sandbox.v1.coupons.create_async({"percent_off": 50, "duration": "once"})
    many = {"quantity": 1, "adjustable_quantity": {"enabled": True, "maximum": 5}}
    once = {"price": await shop.once(), "quantity": 2, "adjustable_quantity": {"enabled": True}}
    plan = {"price": (await shop.sandbox.plan()).id, **many}
    session = await shop.open(line_items=[plan, once], discounts=[{"coupon": coupon.id}])
    assert session.amount_total == 1500
    first, second = (await shop.read(session, "line_items"))["line_items"]["data"]
    assert first["adjustable_quantity"] == {"enabled": True, "maximum": 5, "minimum": 0}
    assert second["adjustable_quantity"]["maximum"] == 99

    async def choose(line: Json, quantity: Any) -> int:
        body = {"line": line["id"], "quantity": quantity}
        return (await shop.sandbox.call("POST", f"/c/pay/{session.id}/quantity", json=body)).status

    assert [await choose(first, wrong) for wrong in (6, -1, None, 1.5)] == [400] * 4
    assert [await choose(second, 0), await choose(first, 0), await choose(first, 3)] == [200, 400, 200]
    assert (await _pay(shop, session)).body["status"] == "complete"
    assert await choose(first, 2) == 400
    shown = await shop.read(session, "line_items", "invoice", "subscription")
    assert [(line["id"], line["quantity"]) for line in shown["line_items"]["data"]] == [(first["id"], 3)]
    assert (shown["amount_total"], shown["invoice"]["amount_paid"]) == (3000, 3000)
    assert [line["quantity"] for line in shown["invoice"]["lines"]["data"]] == [3]
    assert shown["subscription"]["items"]["data"][0]["quantity"] == 3


async def test_a_quantity_has_to_be_within_its_limits(shop: Shop) -> None:
    """99 at most, unless another maximum is named, and that 999999: `AdjustableQuantity` in the SDK."""
    price = await shop.once()
    for quantity, more in ((100, {}), (1, {"minimum": 2}), (1, {"maximum": 1_000_000})):
        item = {"price": price, "quantity": quantity, "adjustable_quantity": {"enabled": True, **more}}
        with pytest.raises(stripe.InvalidRequestError):
            await shop.open("payment", line_items=[item])
    fixed = await shop.open("payment", line_items=[{"price": price, "quantity": 1}])
    body = {"line": "li_none", "quantity": 2}
    assert (await shop.sandbox.call("POST", f"/c/pay/{fixed.id}/quantity", json=body)).status == 400


async def test_a_returning_customer_sees_the_cards_that_they_have_saved(shop: Shop) -> None:
    """https://docs.stripe.com/payments/checkout/save-during-payment: by consent, or as the filters say."""
    customer = await shop.customer()
    await _pay(shop, await shop.open(customer=customer))
    saving = {"customer": customer, "saved_payment_method_options": {"payment_method_save": "enabled"}}
    agreed = await shop.open("payment", **saving)
    page = await _text(shop, agreed)
    assert "Saved cards" not in page, "a subscription's card is limited"
    assert "Save my payment details" in page
    await _pay(shop, agreed, "5555555555554444", save=True)
    plain = await shop.open("payment", customer=customer)
    page = await _text(shop, plain)
    assert "Mastercard •••• 4444" in page
    assert "Visa" not in page
    assert "Save my payment details" not in page
    filters = {"allow_redisplay_filters": ["always", "limited", "unspecified"]}
    every = await shop.open("payment", customer=customer, saved_payment_method_options=filters)
    assert "Visa •••• 4242" in await _text(shop, every)
    listed = await shop.sandbox.v1.payment_methods.list_async({"customer": customer, "type": "card"})
    shown = {each.card.brand: each for each in listed.data if each.card}
    assert {brand: each.allow_redisplay for brand, each in shown.items()} == {
        "visa": "limited",
        "mastercard": "always",
    }
    for brand, status in (("visa", 400), ("mastercard", 200)):
        body = {"email": "jenny@example.com", "payment_method": shown[brand].id}
        assert (await shop.sandbox.call("POST", f"/c/pay/{plain.id}/pay", json=body)).status == status, brand
    assert (await shop.read(plain))["payment_status"] == "paid"


@pytest.mark.parametrize(("creation", "kept"), [("always", True), ("if_required", False)])
async def test_a_card_is_saved_for_a_customer_alone(shop: Shop, creation: str, kept: bool) -> None:
    """A guest has no cards: `customer_creation` says whether the payment makes a customer."""
    options = {"payment_method_save": "enabled"}
    session = await shop.open("payment", customer_creation=creation, saved_payment_method_options=options)
    assert ("Save my payment details" in await _text(shop, session)) is kept
    await _pay(shop, session, save=True)
    shown = await shop.read(session, "payment_intent.payment_method")
    method = shown["payment_intent"]["payment_method"]
    assert (method["customer"], method["allow_redisplay"]) == (
        (shown["customer"], "always") if kept else (None, "unspecified")
    )


async def _text(shop: Shop, session: Any) -> str:
    async with shop.sandbox.http.get(session.url) as response:
        return await response.text()


@pytest.mark.parametrize("outcome", ["pass", "fail"])
async def test_a_redirect_method_comes_back_to_the_page(shop: Shop, outcome: str) -> None:
    """From the bank to the shop, or to the page again with a reason."""
    price = (await shop.sandbox.plan(currency="eur")).id
    session = await shop.open(line_items=[{"price": price, "quantity": 1}])
    left = (await _pay(shop, session, payment_method_data={"type": "ideal"})).body
    there = left["to"].removeprefix(shop.sandbox.url)
    assert there.startswith("/bank/pi_")
    async with shop.sandbox.http.post(
        f"{shop.sandbox.url}{there}?outcome={outcome}", allow_redirects=False
    ) as response:
        back = response.headers["Location"]
    assert back.startswith(f"{shop.sandbox.url}/c/pay/{session.id}?")
    async with shop.sandbox.http.get(back, allow_redirects=False) as response:
        if outcome == "pass":
            assert response.headers["Location"] == f"https://saas.example/done?s={session.id}"
        else:
            assert "not made at your bank" in await response.text()


async def test_an_embedded_page_needs_its_secret(shop: Shop) -> None:
    """Only the allowed origins may embed it, and nobody without the secret sees it."""
    session = await shop.open(ui_mode="embedded_page", return_url="https://saas.example/")
    path = f"{shop.sandbox.url}/c/pay/{session.id}"
    for secret, status in ((session.client_secret, 200), ("wrong", 404), ("", 404)):
        async with shop.sandbox.http.get(f"{path}?secret={secret}") as response:
            assert response.status == status
            assert SAAS in response.headers["Content-Security-Policy"]


# Playwright serves the shop itself, so Chromium treats its origin as a public one.
@pytest_asyncio.fixture
async def sandbox_browser() -> AsyncIterator[Browser]:
    async with running_browser("--disable-features=LocalNetworkAccessChecks") as browser:
        yield browser


async def _page(browser: Browser, shop_page: str = "<h1>Shop</h1>") -> Page:
    page = await browser.new_page(viewport={"width": 320, "height": 700})
    page.set_default_timeout(30_000)

    async def serve(route: Route) -> None:
        await route.fulfill(body=shop_page, content_type="text/html")

    await page.route(re.compile(f"^{SAAS}"), serve)
    return page


async def test_a_customer_pays_on_the_hosted_page(shop: Shop, sandbox_browser: Browser) -> None:
    """Declined, then the bank asks and agrees, and they are back in the shop."""
    page = await _page(sandbox_browser)
    session = await shop.open(success_url=SAAS + "/done?s={CHECKOUT_SESSION_ID}", cancel_url=SAAS + "/plans")
    await page.goto(session.url.partition("#")[0])
    await expect(page.get_by_text("this address is not complete")).to_be_visible()
    await expect(page.get_by_role("button", name="Subscribe")).to_be_hidden()
    await page.goto(session.url)
    await page.reload()
    assert await page.evaluate("document.documentElement.scrollWidth") == 320
    await page.get_by_label("Email").fill("jenny@example.com")
    await page.get_by_role("button", name="Test card: declined").click()
    await page.get_by_role("button", name="Subscribe").click()
    await expect(page.get_by_role("alert")).to_have_text("Your card was declined.")
    await page.get_by_role("button", name="Test card: bank asks").click()
    await page.get_by_role("button", name="Subscribe").click()
    bank = page.frame_locator("#bank iframe")
    await bank.get_by_role("button", name="Complete authentication").click()
    await page.wait_for_url(f"{SAAS}/done?s={session.id}")
    await page.go_back()
    await expect(page.get_by_role("heading")).to_have_text("You have paid")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_how_the_hosted_page_looks(shop: Shop, sandbox_browser: Browser, scheme: Any) -> None:
    """On a phone nothing scrolls sideways, dark is dark, and axe-core finds nothing."""
    session = await shop.open(
        allow_promotion_codes=True,
        billing_address_collection="required",
        cancel_url=SAAS + "/plans",
        line_items=[{"price": (await shop.sandbox.plan(currency="eur")).id, "quantity": 1}],
    )
    page = await _page(sandbox_browser)
    await page.emulate_media(color_scheme=scheme)
    await page.goto(session.url)
    background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(background) < 380) == (scheme == "dark")
    await expect_to_fit(page, 320)
    await expect_no_violations(page)
    await page.get_by_role("radio", name="SEPA debit").check()
    await expect(page.get_by_label("IBAN")).to_be_visible()
    await expect(page.get_by_label("Card number")).to_be_hidden()
    await expect_to_fit(page, 320)
    await expect_no_violations(page)


async def test_a_returning_customer_takes_more_and_pays_with_their_card(
    shop: Shop, sandbox_browser: Browser
) -> None:
    """What was typed stays when the quantity changes; a saved card needs no other fields."""
    customer = await shop.customer()
    saving = {"customer": customer, "saved_payment_method_options": {"payment_method_save": "enabled"}}
    await _pay(shop, await shop.open("payment", **saving), save=True)
    item = {"quantity": 1, "adjustable_quantity": {"enabled": True, "maximum": 5}}
    session = await shop.open(
        "payment",
        **saving,
        line_items=[{"price": await shop.once(), **item}],
        success_url=SAAS + "/done?s={CHECKOUT_SESSION_ID}",
    )
    page = await _page(sandbox_browser)
    await page.goto(session.url)
    await expect(page.get_by_label("Card number")).to_be_hidden()
    await page.get_by_label("Name").fill("Ada")
    quantity = page.get_by_label("Quantity")
    await quantity.fill("9")
    await quantity.press("Tab")
    await expect(page.get_by_role("alert")).to_have_text("Please choose a quantity from 1 to 5.")
    await quantity.fill("3")
    await quantity.press("Tab")
    await expect(page.get_by_role("button", name="Pay")).to_have_text("Pay 15.00 USD")
    await expect(page.get_by_label("Name")).to_have_value("Ada")
    await expect_to_fit(page, 320)
    await expect_no_violations(page)
    await page.get_by_role("radio", name="Another payment method").check()
    await expect(page.get_by_label("Card number")).to_be_visible()
    await expect(page.get_by_label("Save my payment details")).to_be_visible()
    await page.get_by_role("radio", name="Visa •••• 4242").check()
    await page.get_by_role("button", name="Pay").click()
    await page.wait_for_url(f"{SAAS}/done?s={session.id}")
    assert (await shop.read(session))["amount_total"] == 1500


@pytest.mark.parametrize("redirects", ["always", "if_required"])
async def test_a_customer_pays_on_the_embedded_page(
    shop: Shop, sandbox_browser: Browser, redirects: str
) -> None:
    """In a frame of the shop's page, which leaves for the return_url or is told.

    https://docs.stripe.com/payments/checkout/custom-success-page?payment-ui=embedded-page
    """
    session = await shop.open(
        ui_mode="embedded_page",
        return_url=SAAS + "/back?s={CHECKOUT_SESSION_ID}",
        redirect_on_completion=redirects,
        customer_email="jenny@example.com",
    )
    page = await _page(sandbox_browser, EMBEDDING % (shop.sandbox.url, session.client_secret))
    await page.goto(SAAS + "/")
    checkout = page.frame_locator("iframe[name=embedded-checkout]")
    await expect(checkout.get_by_label("Email")).to_have_value("jenny@example.com")
    await checkout.get_by_role("button", name="Test card: succeeds").click()
    await checkout.get_by_role("button", name="Subscribe").click()
    if redirects == "always":
        await page.wait_for_url(f"{SAAS}/back?s={session.id}")
    else:
        await page.wait_for_function("window.completed")
        assert page.url == SAAS + "/"
    shown: Json = await shop.read(session)
    assert shown["status"] == "complete"


OWN_PAGE = """<!doctype html><title>shop</title><form id="form"><div id="payment"></div></form>
<script src="%s/stripe.js"></script><script>
  const checkout = Stripe('pk_test_browser').initCheckoutElementsSdk({ clientSecret: '%s' });
  const element = checkout.createPaymentElement();
  element.mount('#payment');
  window.loading = checkout.loadActions();
  window.total = async () => (await loading).actions.getSession().total.total.amount;
  window.confirm = async (args) => {
    try {
      return await (await loading).actions.confirm(args);
    } catch (error) {
      return { thrown: error.message };
    }
  };
</script>"""


async def test_a_customer_pays_with_elements_on_the_shops_page(shop: Shop, sandbox_browser: Browser) -> None:
    """https://docs.stripe.com/js/custom_checkout/confirm: what is confirmed must have been shown."""
    session = await shop.open(ui_mode="elements", return_url=SAAS + "/back?s={CHECKOUT_SESSION_ID}")
    page = await _page(sandbox_browser, OWN_PAGE % (shop.sandbox.url, session.client_secret))
    await page.goto(SAAS + "/")
    in_place = {"redirect": "if_required", "email": "jenny@example.com"}
    await page.evaluate("loading")
    await expect(page.get_by_role("tab", name="US bank account")).to_be_visible()
    unseen = await page.evaluate("(args) => confirm(args)", in_place)
    assert "total.total.amount" in unseen["thrown"]
    assert await page.evaluate("total()") == "$20.00"
    await page.evaluate("element.sandboxFill('4000000000000002')")
    declined = await page.evaluate("(args) => confirm(args)", in_place)
    assert declined["error"]["code"] == "paymentFailed"
    await page.evaluate("element.sandboxFill('4000002760003184')")
    asked = asyncio.create_task(page.evaluate("(args) => confirm(args)", in_place))
    bank = page.frame_locator("iframe[title^='3-D Secure']")
    await bank.get_by_role("button", name="Complete authentication").click()
    paid = await asked
    assert paid["session"]["status"] == {"type": "complete", "paymentStatus": "paid"}
    assert (await shop.read(session))["status"] == "complete"


async def test_elements_leave_for_the_return_url(shop: Shop, sandbox_browser: Browser) -> None:
    """Unless it is said otherwise; the promotion code has lowered what is paid."""
    coupon = await shop.sandbox.v1.coupons.create_async({"percent_off": 25, "duration": "once"})
    await shop.sandbox.v1.promotion_codes.create_async(
        {"code": "SPRING", "promotion": {"type": "coupon", "coupon": coupon.id}}
    )
    session = await shop.open(
        ui_mode="elements", customer_email="jenny@example.com", allow_promotion_codes=True
    )
    page = await _page(sandbox_browser, OWN_PAGE % (shop.sandbox.url, session.client_secret))
    await page.goto(SAAS + "/")
    apply = "async (code) => (await loading).actions.applyPromotionCode(code)"
    assert (await page.evaluate(apply, "none"))["error"]["code"] == "invalidCode"
    assert (await page.evaluate(apply, "SPRING"))["type"] == "success"
    assert await page.evaluate("total()") == "$15.00"
    await page.evaluate("element.sandboxFill('4242424242424242')")
    back = SAAS + "/back?s={CHECKOUT_SESSION_ID}"
    await page.evaluate("(returnUrl) => { confirm({ returnUrl }); }", back)
    await page.wait_for_url(f"{SAAS}/back?s={session.id}")
