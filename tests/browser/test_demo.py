"""The demo end to end in a real Chromium: plan, card, the bank's check, activation, and the poster.

Each test is a new customer in their own browser context; the sandbox's conditions inject faults. After each,
the page must have no exceptions and no logged errors except the expected 402s.
"""

from __future__ import annotations

import re

import aiohttp
import pytest
from playwright.async_api import expect

from paidup_demo.supervisor import WEBHOOK_DELAY_MS
from tests.browser.story import DECLINED, SAVED, VISA, VISA_WITH_3DS, Demo, Shopper
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("demo"),  # one demo for all of them
]

LATE_MS = 60_000
READY = re.compile(r"^Your credits were ready \S+\sm?s after your bank’s confirmation\.$")
UNREACHABLE = {"webhook_drop": True, "rate_limited": True}
"""No source works: the webhook is lost, and Stripe answers 429."""


async def expect_active(shopper: Shopper, via: str | re.Pattern[str] | None = None) -> None:
    """The finished screen; the poster that was interrupted is printed by itself."""
    await expect(shopper.page.get_by_test_id("activated")).to_be_visible()
    await expect(shopper.heading).to_have_text("Pro is yours.")
    await expect(shopper.page.locator("#done-text")).to_contain_text("2,000 credits added.")
    if via:
        await expect(shopper.page.locator("#source")).to_have_attribute("data-via", via)
        await expect(shopper.source_name).to_have_text(READY)
    await expect(shopper.posters).to_have_count(1)
    await expect(shopper.balance).to_have_text("1,990")


async def expect_one_payment(shopper: Shopper) -> None:
    """At Stripe there is one subscription and one PaymentIntent, and it has succeeded."""
    await shopper.stripe_side.control("conditions/reset")
    assert [found["status"] for found in await shopper.at_stripe("subscriptions")] == ["active"]
    assert [found["status"] for found in await shopper.at_stripe("payment_intents")] == ["succeeded"]


# ---- Purchase


@pytest.mark.parametrize("shopper", [{"reduced_motion": "no-preference"}], indirect=True, ids=["moving"])
async def test_a_purchase_with_the_banks_check(shopper: Shopper) -> None:
    """S01: refused, paid, 3DS passed; active by verification although the webhook is a minute late."""
    await shopper.arrive()
    await shopper.ask_for_poster()
    await expect(shopper.page.get_by_test_id("refusal")).to_contain_text("10 credits and you have 0")
    await expect(shopper.page.locator("#bed-text")).to_contain_text("is waiting to be printed")
    await shopper.choose("pro")
    await expect(shopper.page.locator(".order")).to_have_text("Pro, 2,000 credits a month $29 a month")
    await shopper.stripe_side.conditions(webhook_delay_ms=LATE_MS)
    await shopper.pay(VISA_WITH_3DS)
    await expect(shopper.bank.get_by_text("29.00 USD")).to_be_visible()
    await shopper.answer_bank()
    await expect_active(shopper, via="verification")
    assert (await shopper.stages())[-1] == "verifying"
    assert await shopper.pending() is None
    await expect_one_payment(shopper)


async def test_the_page_marks_when_it_was_confirmed_and_when_active(shopper: Shopper) -> None:
    """Both performance marks are there, in their order: what the bench and a field measurement read."""
    await shopper.stripe_side.conditions(webhook_delay_ms=LATE_MS)
    await shopper.reach_card_form()
    await shopper.pay()
    await expect_active(shopper)
    marks = (
        "performance.getEntriesByType('mark').filter(({ name }) => /^paidup:(confirmed|active)$/.test(name))"
    )
    names = await shopper.page.evaluate(f"{marks}.map(({{ name }}) => name)")
    times = await shopper.page.evaluate(f"{marks}.map(({{ startTime }}) => startTime)")
    assert names == ["paidup:confirmed", "paidup:active"]
    assert times[0] < times[1]


async def test_the_credits_can_be_used_at_once_and_there_is_no_second_plan(shopper: Shopper) -> None:
    """Another poster costs ten more; a plan that is paid is not sold a second time."""
    await shopper.reach_card_form()
    await shopper.pay()
    await expect_active(shopper)
    await shopper.page.get_by_test_id("make-another").click()
    await expect(shopper.balance).to_have_text("1,980")
    await expect(shopper.posters).to_have_count(2)
    await shopper.page.reload()
    await expect(shopper.balance).to_have_text("1,980")
    await expect(shopper.posters).to_have_count(2)


async def test_the_credits_may_come_before_stripe_js_has_said_so(shopper: Shopper) -> None:
    """A webhook at once, and a slow answer to the browser: the balance shows them, the poster is printed."""
    await shopper.keep_stripe_js_waiting(until=shopper.page.locator("#balance[data-value='2000']"))
    await shopper.reach_card_form()
    await shopper.pay()
    await expect_active(shopper)
    await expect_one_payment(shopper)


# ---- Cards that do not work at first


async def test_after_a_failed_check_another_card_pays_the_same_payment(shopper: Shopper) -> None:
    """S06: 3DS failed, told so; the next card pays the same payment, and its screen never says failed."""
    await shopper.reach_card_form()
    await shopper.pay(VISA_WITH_3DS)
    await shopper.answer_bank(passed=False)
    await expect(shopper.page.get_by_test_id("card-error")).to_contain_text("Nothing was charged.")
    await known_to_have_failed(shopper)
    await shopper.pay(VISA)
    await expect_active(shopper)
    assert "failed" not in await shopper.stages()
    await expect_one_payment(shopper)


async def test_after_a_declined_card_another_one_pays_the_same_invoice(shopper: Shopper) -> None:
    """S06: declined, told why; while Stripe is slow, the next card's screen says verifying and not failed."""
    await shopper.reach_card_form()
    await shopper.pay(DECLINED)
    await expect(shopper.page.get_by_test_id("card-error")).to_have_text("Your card was declined.")
    await known_to_have_failed(shopper)
    invoice = (await shopper.pending())["invoice"]
    await shopper.stripe_side.conditions(api_latency_ms=700, webhook_drop=True)
    await shopper.pay(VISA)
    await expect(shopper.heading).to_have_text("Activating your Pro plan")
    await expect_active(shopper, via="verification")
    assert "failed" not in await shopper.stages()
    assert (await shopper.api("GET", f"/api/invoices/{invoice}"))["status"] == "active"
    await expect_one_payment(shopper)


async def known_to_have_failed(shopper: Shopper) -> None:
    """Until the server has heard, by webhook, that the attempt failed: from now on its row says so."""

    async def failed() -> bool:
        return bool((await shopper.pending())["status"]["status"] == "failed")

    await wait_until(failed)


async def test_a_screen_that_said_failed_hears_of_a_late_success(shopper: Shopper) -> None:
    """S07: the payment fails and the screen says so; it succeeds after all, and the same screen says that."""
    await shopper.reach_card_form()
    await shopper.stripe_side.conditions(processing_ms=300, processing_outcome="failed")
    await shopper.pay()
    await expect(shopper.heading).to_have_text("The payment did not go through")
    await expect(shopper.stage).to_contain_text("Your card was declined. You can try another card.")
    assert (await shopper.stages())[-2:] == ["processing", "failed"]
    again = await shopper.api("POST", "/api/subscriptions", {"plan": "pro"})
    await shopper.stripe_side.conditions(processing_ms=0)
    await shopper.stripe_side.confirm(again["client_secret"])  # elsewhere: this page is told nothing
    await expect_active(shopper)
    await expect_one_payment(shopper)


async def test_a_failed_payment_offers_another_card_that_stays_to_be_pressed(shopper: Shopper) -> None:
    """S06: asking Stripe again in the background takes the button of a failed screen away from nobody."""
    await shopper.reach_card_form()
    await shopper.stripe_side.conditions(processing_ms=100, processing_outcome="failed")
    await shopper.pay()
    await expect(shopper.page.get_by_test_id("try-again")).to_be_visible()
    await shopper.stripe_side.conditions(processing_ms=0, webhook_drop=True)
    await shopper.stripe_side.control("calls/reset")
    await shopper.page.get_by_test_id("try-again").focus()

    async def asked_again() -> bool:
        return await shopper.stripe_side.calls("GET /v1/invoices/{id}") >= 2

    await wait_until(asked_again)
    await expect(shopper.page.get_by_test_id("try-again")).to_be_focused()
    await shopper.page.keyboard.press("Enter")
    await shopper.pay()
    await expect_active(shopper)
    assert (await shopper.stages())[-2:] == ["failed", "verifying"]


async def test_a_test_card_fills_the_form_when_it_is_pressed(shopper: Shopper) -> None:
    """Number, date and security code, without typing; another one replaces it, and the last one pays."""
    await shopper.reach_card_form()
    cards = shopper.page.locator("#test-list")
    await cards.get_by_role("button", name=DECLINED).click()
    await shopper.page.get_by_test_id("pay").click()
    await expect(shopper.page.get_by_test_id("card-error")).to_have_text("Your card was declined.")
    await cards.get_by_role("button", name=VISA).click()
    await expect(shopper.page.get_by_test_id("card-error")).to_be_empty()
    await expect(shopper.page.get_by_label("Card number")).to_have_value(VISA)
    await expect(shopper.page.locator("#tests-status")).to_have_text(f"{VISA}: filled in")
    await shopper.page.get_by_test_id("pay").click()
    await expect_active(shopper)
    await expect_one_payment(shopper)


# ---- Which source is first


async def test_the_webhook_is_first_if_stripe_is_slow(shopper: Shopper) -> None:
    """The server's question takes three seconds, the webhook comes at once: the screen says so."""
    await shopper.reach_card_form()
    await shopper.stripe_side.conditions(api_latency_ms=3000)
    await shopper.pay()
    await expect_active(shopper, via="webhook")
    await expect(shopper.page.locator("#source-reason")).to_contain_text(
        "Stripe’s webhook was first this time."
    )


async def test_a_succeeded_payment_counts_though_its_invoice_lags_behind(shopper: Shopper) -> None:
    """S23: the intent has succeeded, the invoice still says open: active at once all the same."""
    await shopper.reach_card_form()
    invoice = (await shopper.pending())["invoice"]
    await shopper.stripe_side.conditions(invoice_lag_ms=LATE_MS)
    await shopper.pay()
    await expect_active(shopper)
    assert (await shopper.stripe_side.api("GET", f"invoices/{invoice}"))["status"] == "open"


async def test_a_payment_in_processing_is_told_as_such(shopper: Shopper) -> None:
    """S06: received but not final is said in so many words, and its end reaches the same screen."""
    await shopper.reach_card_form()
    await shopper.stripe_side.conditions(processing_ms=1500)
    await shopper.pay()
    await expect(shopper.heading).to_have_text("Your bank is processing the payment")
    await expect(shopper.stage).to_contain_text("You can leave this page")
    await expect_active(shopper)
    assert (await shopper.stages())[-1] == "processing"


# ---- Closed tabs


async def leave_at_the_bank(shopper: Shopper) -> str:
    """No webhook ever, the tab closed while the bank asks, a yes in the bank's app. Returns the invoice."""
    await shopper.reach_card_form()
    await shopper.stripe_side.conditions(webhook_drop=True)
    await shopper.pay(VISA_WITH_3DS)
    await expect(shopper.bank.locator("#test-source-authorize-3ds")).to_be_visible()
    address = await shopper.page.locator("iframe").get_attribute("src")
    pending = await shopper.pending()
    await shopper.page.close()
    assert address
    await shopper.stripe_side.authenticate(address.rpartition("/")[2])
    return str(pending["invoice"])


async def test_a_closed_tab_is_credited_once_the_page_is_opened_again(shopper: Shopper) -> None:
    """S02: closed right after confirming, no webhook ever; opening the page is enough to be credited."""
    invoice = await leave_at_the_bank(shopper)
    await shopper.new_tab()
    # The page's first read of the account asks Stripe: there is nothing to wait for.
    await shopper.arrive("2,000")
    await expect(shopper.page.locator("#banner-text")).to_have_text("Pro is yours: 2,000 credits added.")
    await shopper.page.reload()  # once is enough
    await expect(shopper.balance).to_have_text("2,000")
    await expect(shopper.page.locator("#banner")).to_be_hidden()
    await shopper.ask_for_poster()
    await expect(shopper.balance).to_have_text("1,990")
    assert (await shopper.api("GET", f"/api/invoices/{invoice}"))["via"] == "verification"
    await expect_one_payment(shopper)


async def test_a_closed_tab_is_credited_with_nobody_watching(shopper: Shopper) -> None:
    """S02: closed right after confirming, no webhook ever, nobody comes back: the reconciler credits."""
    invoice = await leave_at_the_bank(shopper)

    async def credited() -> bool:
        return bool((await shopper.api("GET", "/api/credits"))["balance"] == 2000)

    await wait_until(credited, within=100)
    assert (await shopper.api("GET", f"/api/invoices/{invoice}"))["via"] == "reconciliation"
    await shopper.new_tab()
    await shopper.arrive("2,000")


# ---- Tabs and reloads


async def test_a_second_tab_and_a_double_click_pay_once_and_both_tabs_are_told(shopper: Shopper) -> None:
    """S08: one subscription and one PaymentIntent, however often the plan is chosen; both tabs say so."""
    await shopper.arrive()
    await shopper.ask_for_poster()
    await shopper.page.get_by_test_id("plan-pro").dblclick()
    await expect(shopper.page.get_by_test_id("card-form")).to_be_visible()
    first = shopper.page
    second = await shopper.new_tab()
    await shopper.arrive()
    await expect(second.locator("#banner-text")).to_have_text("Your Pro plan is waiting for payment.")
    await second.locator("#banner-open").click()
    await second.get_by_role("button", name="Enter card details").click()
    await expect(second.get_by_test_id("card-form")).to_be_visible()
    shopper.page = first
    await shopper.pay()
    await expect_active(shopper)
    await expect(second.get_by_test_id("activated")).to_be_visible()
    await expect(second.get_by_test_id("balance")).to_have_text("1,990")  # live: the first tab printed
    await expect_one_payment(shopper)


async def test_a_payment_that_was_given_up_for_another_one_shows_that_one(shopper: Shopper) -> None:
    """S43: Basic waits for payment here; in another tab Pro is chosen instead, and paid: this one says so."""
    await shopper.arrive()
    await shopper.ask_for_poster()
    await shopper.choose("basic")
    await shopper.page.reload()
    await shopper.page.locator("#banner-open").click()
    await expect(shopper.heading).to_have_text("Your Basic plan is waiting for payment")
    secret = (await shopper.api("POST", "/api/subscriptions", {"plan": "pro"}))["client_secret"]
    await expect(shopper.heading).to_have_text("This payment was canceled")
    await shopper.stripe_side.confirm(secret, SAVED[VISA])
    await expect_active(shopper)


async def test_a_reload_while_activating_goes_on_where_it_was(shopper: Shopper) -> None:
    """S08: the reloaded page knows that it was paid, buys nothing again, and prints what was interrupted."""
    await shopper.reach_card_form()
    await shopper.stripe_side.conditions(**UNREACHABLE)
    await shopper.pay()
    await expect(shopper.heading).to_have_text("Activating your Pro plan")
    await shopper.page.reload()
    await expect(shopper.heading).to_have_text("Activating your Pro plan")
    await expect(shopper.stage).to_contain_text("Your bank has confirmed the payment.")
    await shopper.stripe_side.control("conditions/reset")
    await expect_active(shopper, via="verification")
    await expect_one_payment(shopper)


async def test_spending_while_activating_shows_the_activation_instead_of_plans(shopper: Shopper) -> None:
    """S03: 402 tells of the payment on its way: the tab that would spend shows it, and prints in the end."""
    await shopper.arrive()
    studio = shopper.page
    await shopper.new_tab()
    await shopper.arrive()
    await shopper.ask_for_poster()
    await shopper.choose()
    await shopper.stripe_side.conditions(**UNREACHABLE)
    await shopper.pay()
    await expect(shopper.heading).to_have_text("Activating your Pro plan")
    shopper.page = studio
    await shopper.ask_for_poster()
    await expect(shopper.heading).to_have_text("Activating your Pro plan")
    await shopper.stripe_side.control("conditions/reset")
    await expect(studio.get_by_test_id("activated")).to_be_visible()
    await expect(studio.get_by_test_id("poster")).to_have_count(1)


# ---- A long wait


async def test_a_long_wait_says_that_the_payment_is_safe(shopper: Shopper) -> None:
    """S06: after 30 s it says that nothing need be paid again and the page may be closed; then it goes on."""
    await shopper.page.clock.install()
    await shopper.reach_card_form()
    await shopper.stripe_side.conditions(**UNREACHABLE)
    await shopper.pay()
    await expect(shopper.heading).to_have_text("Activating your Pro plan")
    await shopper.page.clock.fast_forward(31_000)
    await expect(shopper.heading).to_have_text("This is taking longer than usual")
    await expect(shopper.stage).to_contain_text("Your payment is safe. You don’t need to pay again.")
    await expect(shopper.stage).to_contain_text("You can close this page")
    await expect(shopper.stage).to_contain_text("name the payment in_")
    await expect(shopper.page.locator("[data-step=now]")).to_have_count(0)  # nothing spins any more
    await shopper.page.get_by_role("button", name="Check again").click()
    await expect(shopper.heading).to_have_text("Activating your Pro plan")
    await shopper.stripe_side.control("conditions/reset")
    await expect(shopper.page.get_by_test_id("activated")).to_be_visible()


async def test_a_reload_during_a_long_wait_does_not_begin_again(shopper: Shopper) -> None:
    """S06: the wait counts from the bank's confirmation, in any page that knows of it."""
    await shopper.page.clock.install()
    await shopper.reach_card_form()
    await shopper.stripe_side.conditions(**UNREACHABLE)
    await shopper.pay()
    await expect(shopper.heading).to_have_text("Activating your Pro plan")
    await shopper.page.clock.fast_forward(50_000)
    await expect(shopper.heading).to_have_text("This is taking longer than usual")
    await shopper.page.reload()
    await expect(shopper.heading).to_have_text("This is taking longer than usual")
    assert "verifying" not in await shopper.stages()


async def test_who_chose_a_plan_and_came_back_is_told_to_pay(shopper: Shopper) -> None:
    """S06: not paid, as Stripe says: never that the payment is safe, however long it takes."""
    await shopper.page.clock.install()
    await shopper.reach_card_form()
    await shopper.page.reload()
    await shopper.page.locator("#banner-open").click()
    await expect(shopper.heading).to_have_text("Your Pro plan is waiting for payment")
    await expect(shopper.stage).to_have_attribute("data-stage", "awaiting_payment")
    await shopper.page.clock.fast_forward(50_000)
    await expect(shopper.stage).to_contain_text("Enter your card details to complete it.")
    assert "delayed" not in await shopper.stages()


async def test_a_long_wait_after_a_failed_attempt_says_so_too(shopper: Shopper) -> None:
    """S06: declined, then paid, and Stripe cannot be asked: neither "failed" nor a spinner for ever."""
    await shopper.page.clock.install()
    await shopper.reach_card_form()
    await shopper.pay(DECLINED)
    await expect(shopper.page.get_by_test_id("card-error")).to_have_text("Your card was declined.")
    await known_to_have_failed(shopper)
    await shopper.stripe_side.conditions(**UNREACHABLE)
    await shopper.pay(VISA)
    await expect(shopper.heading).to_have_text("Activating your Pro plan")
    await shopper.page.clock.fast_forward(31_000)
    await expect(shopper.heading).to_have_text("This is taking longer than usual")
    assert "failed" not in await shopper.stages()


# ---- The sandbox


async def test_the_fault_panel_sets_conditions(shopper: Shopper) -> None:
    """A preset of the conditions panel reaches the sandbox, so does a field; "Normal" takes both back."""
    await shopper.stripe_side.conditions(webhook_delay_ms=WEBHOOK_DELAY_MS)  # as the demo starts
    await shopper.arrive()
    panel = shopper.page.get_by_test_id("conditions")
    await panel.locator("summary").click()
    await expect(panel.locator("[data-summary]")).to_have_text("Normal")
    await panel.get_by_role("button", name="Webhook is lost").click()
    await expect(panel.locator("[data-note]")).to_have_text("Webhook is lost: set.")
    await panel.get_by_role("button", name="Set each condition").click()
    await panel.get_by_label("Stripe answers after (ms)").fill("250")
    await panel.get_by_label("Stripe answers after (ms)").blur()
    await expect(panel.locator("[data-summary]")).to_have_text("custom")
    set_now = await shopper.stripe_side.look("conditions")
    assert (set_now["webhook_drop"], set_now["api_latency_ms"]) == (True, 250)
    await panel.get_by_role("button", name="Normal").click()
    await expect(panel.locator("[data-summary]")).to_have_text("Normal")
    set_now = await shopper.stripe_side.look("conditions")
    assert (set_now["webhook_drop"], set_now["webhook_delay_ms"]) == (False, WEBHOOK_DELAY_MS)


# ---- Its files


async def test_a_module_that_the_browser_has_is_not_sent_again(demo: Demo) -> None:
    """304 for its ETag, and the whole file for that of another version."""
    url = f"{demo.url}/demo/page/main.js"
    async with aiohttp.ClientSession() as visitor:
        async with visitor.get(url) as first:
            tag, file = first.headers["ETag"], await first.read()
        async with visitor.get(url, headers={"If-None-Match": tag}) as again:
            assert (again.status, await again.read()) == (304, b"")
            assert (again.headers["ETag"], again.headers["Cache-Control"]) == (tag, "no-cache")
        async with visitor.get(url, headers={"If-None-Match": '"another"'}) as changed:
            assert (changed.status, await changed.read()) == (200, file)
