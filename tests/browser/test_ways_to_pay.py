"""Each way of paying in the demo, from the switch "How they pay" to the credits, under what can go wrong.

The card field has tests/browser/test_demo.py; what no browser can change has
tests/scenarios/test_ways_to_pay.py.
"""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.looks import expect_no_violations
from tests.browser.story import Shopper, pay_on_stripes_page
from tests.browser.test_demo import expect_one_payment
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("everybody"),  # one demo for all of them
]

LATE = {"webhook_delay_ms": 60_000, "checkout_redirect_wait_ms": 300}
"""Stripe's page does not wait for the webhook: its wait of ten seconds is over."""
NO_WEBHOOK = re.compile("Confirmed by (verification|the reconciler)")
NO_WEBHOOK_VIA = re.compile("verification|reconciliation")
"""On a busy machine, a sweep can be first."""
NEVER = {"webhook_drop": True, "checkout_redirect_wait_ms": 300}


async def begin(shopper: Shopper, way: str) -> Page:
    """Ask for a poster, and choose Pro with the switch at `way`."""
    await shopper.arrive()
    await shopper.page.locator(f"#ways input[value={way}]").check()
    await shopper.ask_for_poster()
    await shopper.page.get_by_test_id("plan-pro").click()
    if way == "hosted":
        await shopper.page.wait_for_url("**/c/pay/**")
    return shopper.page


async def expect_printed(shopper: Shopper) -> None:
    """The finished screen, once, with the poster that was interrupted."""
    await expect(shopper.page.get_by_test_id("activated")).to_be_visible()
    await expect(shopper.heading).to_have_text("Pro is yours.")
    await expect(shopper.posters).to_have_count(1)
    await expect(shopper.balance).to_have_text("1,990")


async def go_on(page: Page) -> None:
    """From Paidup's page, which would go on by itself after three seconds."""
    await page.wait_for_url("**/activate?**")
    await expect(page.get_by_role("heading", name="Your plan is active")).to_be_visible()
    await page.get_by_role("link", name="Continue").click()


async def test_the_switch_is_used_by_keyboard_and_remembered(shopper: Shopper) -> None:
    """One group of radio buttons; a reload keeps it, and a new customer begins with the card field."""
    await shopper.arrive()
    chosen = shopper.page.locator("#ways input:checked")
    await expect(chosen).to_have_value("card")
    await chosen.focus()
    await shopper.page.keyboard.press("ArrowDown")
    await expect(shopper.page.get_by_role("radio", name="Payment Element")).to_be_checked()
    await expect_no_violations(shopper.page)
    await shopper.page.reload()
    await expect(chosen).to_have_value("element")
    await shopper.page.get_by_role("button", name="Start over as a new customer").click()
    await expect(chosen).to_have_value("card")


async def test_the_switch_changes_a_payment_that_was_begun(shopper: Shopper) -> None:
    """S39: form, embedded page and form again: there is one payment, and the pages before it are closed."""
    page = await begin(shopper, "card")
    await expect(page.get_by_label("Card number")).to_be_visible()
    await page.get_by_role("radio", name="Checkout, embedded").check()
    await expect(shopper.heading).to_have_text("Pay on Stripe’s page")
    await expect(page.frame_locator("iframe[title='Checkout']").locator("#pay")).to_be_visible()
    await expect(page.get_by_test_id("card-form")).to_be_hidden()
    await page.get_by_role("radio", name="Payment Element").check()
    await expect(page.get_by_role("tab", name="Amazon Pay")).to_be_visible()
    await expect(page.get_by_test_id("stripe-page")).to_be_hidden()
    await expect(page.locator("iframe[title='Checkout']")).to_have_count(0)
    await shopper.pay()
    await expect_printed(shopper)
    subscriptions = await shopper.at_stripe("subscriptions")
    assert [each["status"] for each in subscriptions].count("active") == 1


async def test_the_payment_element_with_a_late_webhook(shopper: Shopper) -> None:
    """The activating screen is the same as the card field's."""
    await begin(shopper, "element")
    await shopper.stripe_side.conditions(**LATE)
    await shopper.pay()
    await expect_printed(shopper)
    await expect(shopper.page.locator("#source")).to_have_attribute("data-via", NO_WEBHOOK_VIA)
    await expect_one_payment(shopper)


async def test_the_payment_element_comes_back_from_another_page(shopper: Shopper) -> None:
    """S47: by a redirect, without a webhook: the activating screen is what they come back to."""
    page = await begin(shopper, "element")
    await shopper.stripe_side.conditions(**NEVER)
    await page.get_by_role("tab", name="Amazon Pay").click()
    await page.get_by_test_id("pay").click()
    await page.get_by_role("button", name="Authorize test payment").click()
    await expect_printed(shopper)
    assert "redirect_status" not in page.url
    await expect_one_payment(shopper)


@pytest.mark.parametrize("conditions", [{}, NEVER], ids=["at-once", "never"])
async def test_checkout_hosted(shopper: Shopper, conditions: dict[str, object]) -> None:
    """S38: Stripe's page, Paidup's page with the credits on its first paint, and the demo."""
    page = await begin(shopper, "hosted")
    await shopper.stripe_side.conditions(**conditions)
    await pay_on_stripes_page(page, "bank asks")
    await page.frame_locator("iframe[title^='3-D Secure']").locator("#test-source-authorize-3ds").click()
    await go_on(page)
    await expect_printed(shopper)
    rows = page.locator("#timeline-rows")
    await page.get_by_text("All events as a table").click()
    for told in ("Stripe’s page opened.", "Checkout Session opened.", "Credited", "Back on this page."):
        await expect(rows).to_contain_text(told)
    confirmed = NO_WEBHOOK if conditions else re.compile("^Confirmed by ")
    await expect(page.get_by_test_id("timeline-headline")).to_contain_text(confirmed)
    await expect_one_payment(shopper)


async def test_checkout_hosted_while_stripe_is_slow(shopper: Shopper) -> None:
    """Neither webhook nor a quick answer: the page says what it does, and changes by itself."""
    page = await begin(shopper, "hosted")
    await shopper.stripe_side.conditions(**NEVER, api_latency_ms=2500)
    await pay_on_stripes_page(page)
    await page.wait_for_url("**/activate?**")
    await expect(page.get_by_role("heading", name="Activating your plan")).to_be_visible()
    await go_on(page)
    await shopper.stripe_side.conditions(api_latency_ms=0)
    await expect_printed(shopper)


async def test_the_way_back_in_another_browser_and_without_cookies(
    shopper: Shopper, browser: Browser
) -> None:
    """S38: the address alone shows that it is active; the demo there belongs to somebody else."""
    page = await begin(shopper, "hosted")
    await shopper.stripe_side.conditions(**NEVER)
    await page.route("**/activate?**", lambda route: route.abort())
    async with page.expect_request("**/activate?**") as leaving:
        await pay_on_stripes_page(page)
    address = (await leaving.value).url
    elsewhere = await browser.new_context()
    other = await elsewhere.new_page()
    await other.goto(address)
    await go_on(other)
    await expect(other.get_by_test_id("balance")).to_have_text("0")
    await elsewhere.close()
    await shopper.context.clear_cookies()
    await (await shopper.new_tab()).goto(address)
    await expect(shopper.page.get_by_role("heading", name="Your plan is active")).to_be_visible()


async def test_the_tab_is_closed_on_stripes_page(shopper: Shopper) -> None:
    """S38: paid, no webhook, and nobody comes back: the demo, opened again, has the credits."""
    page = await begin(shopper, "hosted")
    session = page.url.partition("/c/pay/")[2].partition("#")[0]
    await shopper.stripe_side.conditions(**NEVER)
    await page.close()
    card = {"card": "pm_card_visa", "email": "ada@example.com", "name": "Ada"}
    await shopper.stripe_side.control(f"checkout/{session}/complete", card)
    await (await shopper.new_tab()).goto(shopper.demo.url)
    await expect(shopper.balance).to_have_text("2,000")
    await expect(shopper.page.locator("#banner-text")).to_have_text("Pro is yours: 2,000 credits added.")
    await expect_one_payment(shopper)


async def test_back_from_stripes_page_and_there_again(shopper: Shopper) -> None:
    """The browser's Back button: the demo says that it is not paid, and leads to the same page."""
    page = await begin(shopper, "hosted")
    address = page.url
    await page.go_back()
    await expect(page.locator("#banner-text")).to_have_text("Your Pro plan is waiting for payment.")
    await page.get_by_role("button", name="Continue").click()
    await expect(shopper.heading).to_have_text("Your Pro plan is waiting for payment")
    await page.get_by_role("button", name="Go to the payment page").click()
    await page.wait_for_url(address)
    await page.get_by_role("link", name="Back").click()  # the link on the page, to `return_to`
    await expect(shopper.stage).to_contain_text("It is not paid yet. Go to the payment page to complete it.")
    await page.get_by_role("button", name="Go to the payment page").click()
    await page.wait_for_url(address)
    await pay_on_stripes_page(page)
    await go_on(page)
    await expect_printed(shopper)
    await expect_one_payment(shopper)


async def test_two_tabs_on_two_pages_pay_once(shopper: Shopper) -> None:
    """S39: the same purchase in two tabs has one page, and the second tab hears that it is paid."""
    first = await begin(shopper, "hosted")
    second = await shopper.new_tab()
    await second.goto(shopper.demo.url)
    await expect(second.locator("#banner-text")).to_have_text("Your Pro plan is waiting for payment.")
    await pay_on_stripes_page(first)
    await first.wait_for_url("**/activate?**")
    await first.go_back()  # at once: after three seconds the page goes on to the demo
    await expect(first.get_by_role("heading", name="You have paid")).to_be_visible()
    await expect(shopper.balance).to_have_text("2,000")
    await expect(second.locator("#banner-text")).to_have_text("Pro is yours: 2,000 credits added.")
    await expect_one_payment(shopper)


async def test_checkout_embedded_is_active_before_its_page_lets_go(shopper: Shopper) -> None:
    """The webhook is a minute late, and Stripe's page waits ten seconds: the screen changes at once."""
    page = await begin(shopper, "embedded")
    await shopper.stripe_side.conditions(webhook_delay_ms=60_000)
    await pay_on_stripes_page(page, embedded=True)
    await expect_printed(shopper)
    await expect(page.locator("iframe[title='Checkout']")).to_have_count(0)
    assert "/activate" not in await page.evaluate("document.referrer")
    await expect(page.get_by_test_id("timeline-headline")).to_contain_text(NO_WEBHOOK)
    await expect_one_payment(shopper)


async def test_checkout_embedded_comes_back_by_paidups_page(shopper: Shopper) -> None:
    """Declined, then paid; where Stripe's page is quicker, it leads to Paidup's, and on to the demo."""
    page = await begin(shopper, "embedded")
    await pay_on_stripes_page(page, "declined", embedded=True)
    frame = page.frame_locator("iframe[title='Checkout']")
    await expect(frame.get_by_role("alert")).to_have_text("Your card was declined.")
    await pay_on_stripes_page(page, embedded=True)
    await expect(page.get_by_test_id("activated")).to_be_visible()
    await expect_printed(shopper)
    await expect_one_payment(shopper)


async def test_a_top_up_by_checkout(shopper: Shopper) -> None:
    """S38: extra credits are bought on Stripe's page as well, from the account page, and back."""
    await shopper.subscribe("basic")
    page = shopper.page
    await page.locator("#ways input[value=hosted]").check()
    await page.get_by_test_id("top-up-buy").click()
    await page.wait_for_url("**/c/pay/**")
    await pay_on_stripes_page(page)
    await page.wait_for_url("**/activate?**")
    await page.get_by_role("link", name="Continue").click()
    await expect(shopper.balance).to_have_text("1,500")
    await expect(shopper.heading).to_have_text("1,000 credits added.")

    async def none_pending() -> bool:
        return (await shopper.pending()) is None

    await wait_until(none_pending)
