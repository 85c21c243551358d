"""The browser client's examples, each in the running demo, from the card to the credits."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from playwright.async_api import Page, Route, expect

from tests.browser.looks import expect_no_violations
from tests.browser.story import DECLINED, VISA, VISA_WITH_3DS, Shopper, pay_on_stripes_page
from tests.support.node import ENVIRONMENT, FOLDER, MODULES, NODE

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("everybody"),  # one demo for all of them
]

BUILD = FOLDER / "build_examples.mjs"

LEAVING = """(secret) => {
  const stripe = Stripe("pk_test_leaving"), elements = stripe.elements({ clientSecret: secret });
  elements.create("payment").mount("#payment");
  window.leave = (url) => stripe.confirmPayment({ elements, confirmParams: { return_url: url } });
}"""
"""Stripe.js with the default `redirect`: it leaves the page after any payment."""


async def open_example(shopper: Shopper, name: str, query: str = "") -> Page:
    await shopper.page.goto(f"{shopper.demo.url}/demo/examples/{name}.html{query}")
    return shopper.page


async def fill_in(page: Page, card: str, code: str = "123") -> None:
    await page.get_by_label("Card number").fill(card)
    await page.get_by_label("Expiration date").fill("12 / 40")
    await page.get_by_label("Security code").fill(code)


async def pay(page: Page, card: str, code: str = "123") -> None:
    await fill_in(page, card, code)
    await page.get_by_role("button", name="Pay").click()


async def test_a_plain_page(shopper: Shopper) -> None:
    """The client alone: a decline is said, another card pays, and the credits are there."""
    page = await open_example(shopper, "plain")
    await pay(page, DECLINED)
    await expect(page.get_by_role("alert")).to_have_text("Your card was declined.")
    await expect_no_violations(page)
    await pay(page, VISA)
    await expect(page.get_by_role("status")).to_have_text("Pro is yours: 2000 credits.")


async def test_the_credits_may_come_before_stripe_js_has_said_so(shopper: Shopper) -> None:
    """A webhook at once, and a slow answer to the browser: "active" stays on the screen."""
    active = shopper.page.get_by_role("status").get_by_text("Pro is yours: 2000 credits.")
    await shopper.keep_stripe_js_waiting(until=active)
    page = await open_example(shopper, "plain")
    await pay(page, VISA)
    await expect(active).to_be_visible()
    await expect(page.locator("form button")).to_be_enabled()  # Stripe.js has answered
    await expect(active).to_be_visible()


async def test_the_payment_element(shopper: Shopper) -> None:
    """The element checks itself, the bank asks in a dialog, and `<paidup-activation>` shows the rest."""
    page = await open_example(shopper, "payment-element")
    await pay(page, VISA_WITH_3DS, code="1")
    await expect(page.get_by_text("Your card’s security code is incomplete.")).to_be_visible()
    await expect_no_violations(page)
    await pay(page, VISA_WITH_3DS)
    await shopper.answer_bank()
    screen = page.locator("paidup-activation")
    await expect(screen).to_contain_text("2,000 credits are in your account")
    await expect(page.get_by_role("heading", name="Your plan is active")).to_be_visible()
    await expect(page.locator("form")).to_be_hidden()
    await expect_no_violations(page)


async def test_returning_from_the_banks_page_shows_the_activation(shopper: Shopper) -> None:
    """A way to pay that leaves the page: the address says which invoice, the cookie whose it is."""
    page = await open_example(shopper, "payment-element")
    await expect(page.get_by_label("Card number")).to_be_visible()
    invoice = (await shopper.pending())["invoice"]
    secret = (await shopper.api("POST", "/api/invoices", {"invoice": invoice}))["client_secret"]
    await page.evaluate(LEAVING, secret)
    await fill_in(page, VISA)
    await page.evaluate("invoice => void leave(`${location.href}?invoice=${invoice}`)", invoice)
    await page.wait_for_url("**redirect_status=succeeded")
    await expect(page.get_by_role("heading", name="Your plan is active")).to_be_visible()


async def leave_and_come_back(shopper: Shopper, answer: str) -> Page:
    """Pay with a method that has a page of its own, and press this button there."""
    page = await open_example(shopper, "payment-element")
    await page.get_by_role("tab", name="Amazon Pay").click()
    await page.get_by_role("button", name="Pay").click()
    await page.get_by_role("button", name=answer).click()
    return page


async def test_a_redirect_comes_back_to_the_activation(shopper: Shopper) -> None:
    """S47: back from another page, and in a second tab: the address names the invoice."""
    page = await leave_and_come_back(shopper, "Authorize test payment")
    await page.wait_for_url("**redirect_status=succeeded")
    await expect(page.get_by_role("heading", name="Your plan is active")).to_be_visible()
    address = page.url.partition("&payment_intent")[0]  # and without what Stripe adds
    await (await shopper.new_tab()).goto(address)
    await expect(shopper.page.get_by_role("heading", name="Your plan is active")).to_be_visible()


async def test_a_redirect_that_failed_offers_the_payment_again(shopper: Shopper) -> None:
    """Back without a payment: the screen says what Stripe says, and the same order is paid by card."""
    page = await leave_and_come_back(shopper, "Fail test payment")
    await page.wait_for_url("**redirect_status=failed")
    await expect(page.get_by_role("heading", name="The payment did not go through")).to_be_visible()
    await pay(page, VISA)
    await expect(page.get_by_role("heading", name="Your plan is active")).to_be_visible()


async def test_what_the_address_says_of_a_payment_is_not_believed(shopper: Shopper) -> None:
    """A link that lies: "succeeded" for a payment nobody made, "failed" for one that was made."""
    page = await open_example(shopper, "payment-element")
    await expect(page.get_by_label("Card number")).to_be_visible()
    invoice = (await shopper.pending())["invoice"]
    lie = (
        f"?invoice={invoice}&payment_intent=pi_1&payment_intent_client_secret=pi_1_secret_2&redirect_status="
    )
    await page.goto(page.url + lie + "succeeded")
    await expect(page.get_by_role("heading", name="Not paid yet")).to_be_visible()
    shown = page.locator("paidup-activation [data-current]")
    await expect(shown).not_to_contain_text("Your payment is safe")
    await pay(page, VISA)
    await expect(page.get_by_role("heading", name="Your plan is active")).to_be_visible()
    await page.goto(page.url.replace("succeeded", "failed"))
    await expect(page.get_by_role("heading", name="Your plan is active")).to_be_visible()
    await expect(page.locator("form")).to_be_hidden()


async def test_a_deferred_payment_element(shopper: Shopper) -> None:
    """S44: nothing is ordered before the customer presses the button; a bank debit is then shown for days."""
    page = await open_example(shopper, "payment-element", "?deferred")
    await page.get_by_role("tab", name="US bank account").click()
    await page.get_by_role("button", name="Pay").click()
    await expect(page.get_by_text("Your full name is incomplete.")).to_be_visible()
    assert await shopper.pending() is None
    await page.get_by_label("Full name").fill("Jenny Rosen")
    await page.get_by_label("Email").fill("jenny@example.com")
    await page.get_by_label("Routing number").fill("110000000")
    await page.get_by_label("Account number").fill("000123456789")
    await page.get_by_role("button", name="Pay").click()
    screen = page.locator("paidup-activation")
    await expect(screen).to_contain_text("Your ACH Direct Debit is under way. The bank usually answers by")
    await expect(page.get_by_role("heading", name="Your bank is processing the payment")).to_be_visible()
    await expect_no_violations(page)
    await page.reload()  # the order is known: no second one
    invoice = (await shopper.pending())["invoice"]
    intent = (await shopper.stripe_side.api("GET", "payment_intents?limit=1"))["data"][0]["id"]
    await page.goto(f"{page.url.partition('?')[0]}?invoice={invoice}")
    await expect(screen).to_contain_text("You do not need to pay again")
    await shopper.stripe_side.control(f"payment_intents/{intent}/decide")
    await expect(page.get_by_role("heading", name="Your plan is active")).to_be_visible()


async def test_checkout_hosted(shopper: Shopper) -> None:
    """S38: Stripe's page, Paidup's page, and back on the example's own."""
    page = await open_example(shopper, "checkout")
    await page.get_by_role("button", name="Buy Pro").click()
    await pay_on_stripes_page(page)
    await expect(page.get_by_role("heading", name="Your plan is active")).to_be_visible()
    await page.get_by_role("link", name="Continue").click()
    await expect(page.get_by_role("status")).to_have_text("Welcome back: you have 2000 credits.")


async def test_checkout_embedded(shopper: Shopper) -> None:
    """The page within the page; the webhook is late, and the element is active while Stripe's page waits."""
    await shopper.stripe_side.conditions(webhook_delay_ms=60_000)
    page = await open_example(shopper, "checkout", "?ui=embedded")
    await pay_on_stripes_page(page, embedded=True)
    await expect(page.get_by_role("heading", name="Your plan is active")).to_be_visible()
    await expect(page.locator("iframe[title='Checkout']")).to_have_count(0)
    await expect_no_violations(page)


async def test_checkout_with_elements(shopper: Shopper) -> None:
    """The page's own form: a decline is said, another card pays, and nobody leaves the page."""
    page = await open_example(shopper, "checkout", "?ui=elements")
    await page.get_by_label("Email").first.fill("ada@example.com")
    await pay(page, DECLINED)
    await expect(page.locator("#problem")).to_have_text("Your card was declined.")
    await pay(page, VISA)
    await expect(page.get_by_role("heading", name="Your plan is active")).to_be_visible()
    await expect(page.locator("form")).to_be_hidden()
    await expect_no_violations(page)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built examples: the packed package, installed in a Vite project, and `vite build`."""
    if not (MODULES / "vite").exists():
        pytest.skip("npm's packages are not installed: `make test` does it")
    folder = tmp_path_factory.mktemp("examples")
    command = [str(NODE), str(BUILD), str(folder)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "project" / "built"


async def open_built(shopper: Shopper, name: str, built: Path) -> Page:
    async def serve(route: Route) -> None:
        await route.fulfill(path=built / route.request.url.rpartition("/")[2], content_type="text/javascript")

    await shopper.page.route("**/demo/examples/built/*.js", serve)
    return await open_example(shopper, name)


async def test_react(shopper: Shopper, built: Path) -> None:
    """The hook, under StrictMode, which mounts everything twice: one purchase, one payment, the credits."""
    page = await open_built(shopper, "react", built)
    await pay(page, VISA)
    await expect(page.get_by_role("status")).to_have_text("Pro is yours: 2000 credits.")
    assert len(await shopper.at_stripe("payment_intents")) == 1


@pytest.mark.parametrize("name", ["react-element", "vue", "svelte"])
async def test_the_element_in_a_framework(shopper: Shopper, built: Path, name: str) -> None:
    """A decline, then another card: the framework sets attributes and properties, and hears events."""
    page = await open_built(shopper, name, built)
    await pay(page, DECLINED)
    await expect(page.get_by_role("alert").first).to_have_text("Your card was declined.")
    await pay(page, VISA)
    await expect(page.get_by_role("heading", name="Pro is yours")).to_be_visible()
    await expect(page.get_by_text("Continue with 2000 credits.")).to_be_visible()
    assert len(await shopper.at_stripe("payment_intents")) == 1
    await expect_no_violations(page)
