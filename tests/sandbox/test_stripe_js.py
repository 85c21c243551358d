"""The sandbox's Stripe.js in a real browser, on a page of another origin."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Error, Page, Route, expect

from paidup_demo.sandbox.settings import DEFAULT_ORIGINS
from tests.support.browsers import running_browser

from .rig import Json, Sandbox, Signup, check_shape

PAGE = """<!doctype html><title>shop</title><style>:root { color-scheme: light dark }</style>
<form id="form"><div id="card"></div></form><script src="%s/stripe.js"></script><script>
  const stripe = Stripe('pk_test_browser');
  const card = stripe.elements().create('card', {hidePostalCode: true});
  window.changes = [];
  card.on('change', (state) => changes.push(state));
  card.mount('#card');
  window.pay = (secret, method) => { window.outcome = null;
    stripe.confirmCardPayment(secret, {payment_method: method ?? {card, billing_details: {name: 'Jenny'}}})
      .then((outcome) => { window.outcome = outcome; }); };
</script>"""

# Playwright serves the page itself, so Chromium treats its origin as a public one.
FOREIGN_PAGE = "--disable-features=LocalNetworkAccessChecks"


@pytest_asyncio.fixture
async def sandbox_page(sandbox_bare: Sandbox) -> AsyncIterator[Page]:
    """The shop's page, with a card element on it."""
    async with running_browser(FOREIGN_PAGE) as browser:
        page = await browser.new_page(viewport={"width": 320, "height": 640})
        page.set_default_timeout(30_000)

        async def shop(route: Route) -> None:
            await route.fulfill(body=PAGE % sandbox_bare.url, content_type="text/html")

        await page.route(DEFAULT_ORIGINS[0] + "/", shop)
        await page.goto(DEFAULT_ORIGINS[0] + "/")
        yield page


async def _type_card(page: Page, number: str) -> None:
    await page.evaluate("card.clear()")
    await page.get_by_label("Card number").press_sequentially(number)
    await page.keyboard.type("1240")
    await page.keyboard.type("123")


async def _pay(page: Page, signup: Signup, method: str | None = None) -> None:
    await page.evaluate("([secret, method]) => pay(secret, method)", [signup.secret, method])


async def _outcome(page: Page) -> Json:
    await page.wait_for_function("window.outcome")
    outcome: Any = await page.evaluate("outcome")
    assert len(outcome) == 1
    return dict(json.loads(json.dumps(outcome)))


async def test_a_card_is_typed_and_pays(sandbox_bare: Sandbox, sandbox_page: Page) -> None:
    """Number, date and code can be typed in one go and pay; a second confirmation is refused."""
    signup = await sandbox_bare.subscribe()
    await _type_card(sandbox_page, "4242424242424242")
    await expect(sandbox_page.get_by_label("Card number")).to_have_value("4242 4242 4242 4242")
    await expect(sandbox_page.get_by_label("Expiration")).to_have_value("12 / 40")
    await expect(sandbox_page.get_by_label("Security code")).to_have_value("123")
    last = (await sandbox_page.evaluate("changes"))[-1]
    assert (last["complete"], last["brand"]) == (True, "visa")
    await _pay(sandbox_page, signup)
    assert (await _outcome(sandbox_page))["paymentIntent"]["status"] == "succeeded"
    await _pay(sandbox_page, signup)
    assert (await _outcome(sandbox_page))["error"]["code"] == "payment_intent_unexpected_state"


async def test_cards_that_do_not_pay(sandbox_bare: Sandbox, sandbox_page: Page) -> None:
    """An incomplete or mistyped card never leaves the browser; a declined one resolves to its error."""
    signup = await sandbox_bare.subscribe()
    await sandbox_bare.control("/calls/reset")
    await _pay(sandbox_page, signup)
    assert (await _outcome(sandbox_page))["error"]["code"] == "incomplete_number"
    await _type_card(sandbox_page, "4242424242424241")
    await _pay(sandbox_page, signup)
    assert (await _outcome(sandbox_page))["error"]["type"] == "validation_error"
    await expect(sandbox_page.get_by_label("Card number")).to_have_attribute("aria-invalid", "true")
    assert (await sandbox_bare.calls())["total"]["publishable"] == 0
    await _type_card(sandbox_page, "4000000000009995")
    await _pay(sandbox_page, signup)
    error = (await _outcome(sandbox_page))["error"]
    assert (error["decline_code"], error["payment_intent"]["id"]) == ("insufficient_funds", signup.intent)


async def test_the_bank_requires_a_check(sandbox_bare: Sandbox, sandbox_page: Page) -> None:
    """The dialog shows the bank's page; failing, closing with Escape and completing each resolve."""
    signup = await sandbox_bare.subscribe()
    bank = sandbox_page.frame_locator("iframe")
    await _type_card(sandbox_page, "4000002760003184")
    await _pay(sandbox_page, signup)
    await expect(sandbox_page.get_by_role("dialog")).to_be_visible()
    await bank.locator("#test-source-fail-3ds").click()
    failed = (await _outcome(sandbox_page))["error"]
    assert failed["code"] == "payment_intent_authentication_failure"
    await _pay(sandbox_page, signup)
    await expect(bank.locator("#test-source-authorize-3ds")).to_be_focused()
    await sandbox_page.keyboard.press("Escape")
    assert (await _outcome(sandbox_page))["error"]["payment_intent"]["status"] == "requires_payment_method"
    await _pay(sandbox_page, signup)
    await bank.locator("#test-source-authorize-3ds").click()
    assert (await _outcome(sandbox_page))["paymentIntent"]["status"] == "succeeded"
    await expect(sandbox_page.get_by_role("dialog")).to_have_count(0)


async def test_a_payment_method_by_its_id(sandbox_bare: Sandbox, sandbox_page: Page) -> None:
    """A saved or test card pays without the element; `retrievePaymentIntent` reads the intent."""
    signup = await sandbox_bare.subscribe()
    await _pay(sandbox_page, signup, "pm_card_visa")
    assert (await _outcome(sandbox_page))["paymentIntent"]["status"] == "succeeded"
    read = await sandbox_page.evaluate("(secret) => stripe.retrievePaymentIntent(secret)", signup.secret)
    assert read["paymentIntent"]["id"] == signup.intent


DEFERRED = """(amount) => {
  window.elements = stripe.elements({mode: 'subscription', amount, currency: 'eur'});
  elements.create('payment').mount('#card');
  window.confirm = async (secret) => { window.outcome = null;
    window.outcome = await stripe.confirmPayment({elements, clientSecret: secret, redirect: 'if_required'})
      .catch((error) => ({error: {message: error.message}})); };
}"""


async def test_a_deferred_payment_element(sandbox_bare: Sandbox, sandbox_page: Page) -> None:
    """It shows the currency's methods, wants `submit()` first, and refuses an intent of another amount."""
    plan = await sandbox_bare.plan(currency="eur")
    signup = await sandbox_bare.subscribe(items=[{"price": plan.id}])
    with pytest.raises(Error, match="amount must be greater than 0"):
        await sandbox_page.evaluate(DEFERRED, 0)
    await sandbox_page.evaluate(DEFERRED, 1900)
    await expect(sandbox_page.get_by_role("tab")).to_have_text(
        ["Card", "Link", "SEPA Direct Debit", "iDEAL", "Bancontact", "Apple Pay", "Google Pay"]
    )
    await sandbox_page.get_by_role("tab", name="SEPA Direct Debit").click()
    incomplete = await sandbox_page.evaluate("elements.submit()")
    assert incomplete["error"]["code"] == "incomplete_name"
    for label, text in (("Full name", "Jenny"), ("Email", "j@a.eu"), ("IBAN", "AT61 1904 3002 3457 3201")):
        await sandbox_page.get_by_label(label).fill(text)
    await sandbox_page.evaluate("(secret) => confirm(secret)", signup.secret)
    assert "elements.submit() must be called" in (await _outcome(sandbox_page))["error"]["message"]
    assert await sandbox_page.evaluate("elements.submit()") == {"selectedPaymentMethod": "sepa_debit"}
    await sandbox_page.evaluate("(secret) => confirm(secret)", signup.secret)
    assert "does not match" in (await _outcome(sandbox_page))["error"]["message"]
    await sandbox_page.evaluate("elements.update({amount: 2000})")
    await sandbox_page.evaluate("elements.submit()")
    await sandbox_page.evaluate("(secret) => confirm(secret)", signup.secret)
    assert (await _outcome(sandbox_page))["paymentIntent"]["status"] == "processing"


async def test_the_panel(sandbox_bare: Sandbox, sandbox_page: Page) -> None:
    """The panel sets conditions and shows events; every control has a label."""
    await sandbox_bare.plan()
    await sandbox_page.goto(sandbox_bare.url + "/")
    await sandbox_page.get_by_label("Delay, ms", exact=True).fill("700")
    await sandbox_page.get_by_label("Rate limited").check()
    await expect(sandbox_page.get_by_text("price.created")).to_be_visible()
    lengthen = "(ids) => ids.forEach((id) => { id.textContent = 'cs_test_' + 'x'.repeat(58); })"
    await sandbox_page.locator(".about").evaluate_all(lengthen)
    await sandbox_page.set_viewport_size({"width": 1280, "height": 720})
    assert await sandbox_page.locator(".scroll").evaluate("(all) => all.scrollWidth <= all.clientWidth")
    await sandbox_page.get_by_role("button", name="All normal").focus()
    conditions = (await sandbox_bare.call("GET", "/sandbox/conditions")).body
    assert (conditions["webhook_delay_ms"], conditions["rate_limited"]) == (700, True)
    await sandbox_page.get_by_role("button", name="All normal").click()
    await expect(sandbox_page.get_by_label("Delay, ms", exact=True)).to_have_value("0")
    unlabelled = (
        "[...document.querySelectorAll('input, select')].filter((input) => !input.labels.length).length"
    )
    assert await sandbox_page.evaluate(unlabelled) == 0


BY_INTENT = """({secret, kind}) => {
  window.elements = stripe.elements({clientSecret: secret});
  const element = elements.create(kind);
  element.on('ready', ({availablePaymentMethods}) => { window.available = availablePaymentMethods; });
  const pay = async () => { window.outcome = null;
    window.outcome = await stripe.confirmPayment({elements, redirect: 'if_required'}); };
  element.on('confirm', pay);
  element.mount('#card');
  window.confirm = pay;
}"""


async def test_a_voucher_in_the_payment_element(sandbox_bare: Sandbox, sandbox_page: Page) -> None:
    """It is shown, with a link to it; once that is closed, the intent still requires action."""
    plan = await sandbox_bare.plan(currency="brl")
    signup = await sandbox_bare.subscribe(items=[{"price": plan.id}])
    await sandbox_page.evaluate(BY_INTENT, {"secret": signup.secret, "kind": "payment"})
    await sandbox_page.get_by_role("tab", name="Boleto").click()
    typed = {"Full name": "João", "Email": "a@example.com", "CPF or CNPJ": "000.000.000-00"}
    typed |= {"Address": "1234 Av. Paulista", "City": "São Paulo", "State": "SP", "Postal code": "01310-000"}
    for label, text in typed.items():
        await sandbox_page.get_by_label(label).fill(text)
    await sandbox_page.evaluate("() => void confirm()")
    link = sandbox_page.get_by_role("link", name="Open the voucher")
    await expect(link).to_have_attribute("href", f"{sandbox_bare.url}/voucher/{signup.intent}")
    await sandbox_page.get_by_role("button", name="Close").click()
    intent = (await _outcome(sandbox_page))["paymentIntent"]
    assert (intent["status"], intent["next_action"]["type"]) == ("requires_action", "boleto_display_details")


@pytest.mark.parametrize("button", ["Apple Pay", "Google Pay", "Link"])
async def test_the_express_checkout_element(sandbox_bare: Sandbox, sandbox_page: Page, button: str) -> None:
    """Wallets pay with a card that names its wallet; Link is a type of its own."""
    signup = await sandbox_bare.subscribe()
    await sandbox_page.evaluate(BY_INTENT, {"secret": signup.secret, "kind": "expressCheckout"})
    await sandbox_page.get_by_role("button", name=button).click()
    intent = (await _outcome(sandbox_page))["paymentIntent"]
    assert intent["status"] == "succeeded"
    assert await sandbox_page.evaluate("available.applePay && available.googlePay && available.link")
    intent = (await sandbox_bare.raw("GET", f"/v1/payment_intents/{signup.intent}")).body
    charge = (await sandbox_bare.raw("GET", f"/v1/charges/{intent['latest_charge']}")).body
    check_shape(charge)
    details = charge["payment_method_details"]
    wallet = (details.get("card") or {}).get("wallet")
    assert (details["type"], wallet and wallet["type"]) == {
        "Apple Pay": ("card", "apple_pay"),
        "Google Pay": ("card", "google_pay"),
        "Link": ("link", None),
    }[button]
    method = (await sandbox_bare.raw("GET", f"/v1/payment_methods/{intent['payment_method']}")).body
    check_shape(method)
