"""The account page in a real Chromium: choose, change, top up, cancel, resume, and pay failed invoices.

The balance updates by itself, and the sandbox's clock causes renewals and installments. Card payments are
tested in test_demo.py.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Route, expect

from tests.browser.looks import expect_at_rest, expect_no_violations, expect_to_fit, screen, tab_to
from tests.browser.story import FAILS_LATER, VISA, VISA_WITH_3DS, Shopper
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("account"),  # a demo of its own: its clock is moved
]


@pytest_asyncio.fixture(loop_scope="session", autouse=True)
async def cancelled_afterwards(shopper: Shopper) -> AsyncIterator[None]:
    """All tests share the clock: cancel the plans of finished tests, so that they do not renew."""
    yield
    left = (await shopper.api("GET", "/api/account"))["subscription"]
    if left and left["status"] not in ("canceled", "incomplete_expired"):
        await shopper.stripe_side.api("DELETE", f"subscriptions/{left['id']}")


DUE_MS = 40_000
"""What the clock or Stripe brings comes within seconds; a year of it, on a busy machine, takes longer."""


async def expect_newest(shopper: Shopper, *texts: str) -> None:
    """The ledger's first rows, each as its cells read in one line."""
    for number, text in enumerate(texts):
        await expect(shopper.rows.nth(number)).to_have_text(text)


async def plan(shopper: Shopper) -> str:
    """The plan's name and the sentence under it."""
    name = await shopper.page.get_by_test_id("plan-name").inner_text()
    return f"{name}: {await shopper.page.get_by_test_id('plan-text').inner_text()}"


# ---- A plan


async def test_a_plan_is_chosen_on_the_account_page_and_shows_there(shopper: Shopper) -> None:
    """From nothing to a paid plan: its name, price, date and credits, and the entry that brought them."""
    await shopper.arrive()
    await shopper.open_account()
    await expect(shopper.page.get_by_test_id("plan-name")).to_have_text("None yet")
    await expect(shopper.account.get_by_text("No credits yet.")).to_be_visible()
    await shopper.page.get_by_test_id("offer-basic").click()
    await expect(shopper.page.locator(".order")).to_have_text("Basic, 500 credits a month $9 a month")
    await shopper.pay()
    await expect(shopper.heading).to_have_text("Basic is yours.")
    await shopper.see_account()
    await expect(shopper.page.get_by_test_id("plan-name")).to_have_text("Basic")
    await expect(shopper.page.locator("#plan-price")).to_have_text("$9 a month")
    await expect(shopper.page.get_by_test_id("plan-text")).to_contain_text("Each renewal adds 500 credits.")
    await expect(shopper.page.get_by_test_id("account-balance")).to_have_text("500")
    await expect(shopper.page.locator("#offers [aria-current]")).to_contain_text("Your plan")
    await expect_newest(shopper, "Basic plan paid+500500")


async def test_an_upgrade_with_the_saved_card_is_paid_at_once_and_other_tabs_see_it(shopper: Shopper) -> None:
    """No card form: the confirmation, then the success screen; another tab updates by itself."""
    await shopper.subscribe("basic")
    first = shopper.page
    second = await shopper.new_tab()
    await shopper.arrive("500")
    await shopper.open_account()
    shopper.page = first
    await first.get_by_test_id("offer-pro").click()
    question = first.get_by_test_id("confirm")
    await expect(question).to_contain_text("it is $29 a month.")
    text = await question.inner_text()
    said = re.search(r"You pay \$([\d.]+) today with your Visa ending in 4242\.", text)
    assert said, text
    await question.get_by_role("button", name="Change to Pro").click()
    await expect(shopper.heading).to_have_text("Pro is yours.")
    await expect(first.locator("#done-text")).to_contain_text(" credits added.")
    await wait_until(lambda: at_least(shopper, 1_999))
    assert await shown(shopper) <= 2_000
    charged = max(await shopper.at_stripe("payment_intents"), key=lambda intent: intent["amount"])["amount"]
    assert abs(round(float(said[1]) * 100) - charged) <= 1, "to the second, of which one may have passed"
    shopper.page = second
    await wait_until(lambda: at_least(shopper, 1_999))
    await expect(second.get_by_test_id("plan-name")).to_have_text("Pro")
    await expect(shopper.rows.first).to_contain_text("Pro plan paid")
    await expect(second.locator("#balance-status")).to_contain_text("Your balance: ")


async def shown(shopper: Shopper) -> int:
    """The balance in the header."""
    return int((await shopper.balance.inner_text()).replace(",", "").replace("−", "-"))


async def at_least(shopper: Shopper, credits: int) -> bool:
    return await shown(shopper) >= credits


async def test_an_upgrade_that_the_bank_checks_is_active_after_the_check(shopper: Shopper) -> None:
    """The saved card asks for 3DS: the check comes up by itself; until it is passed the old plan stands."""
    await shopper.subscribe("basic", VISA_WITH_3DS)
    await shopper.change_to("advanced")
    await expect(shopper.bank.get_by_text("USD")).to_be_visible()
    await expect(shopper.heading).to_have_text("Your bank needs to verify it’s you")
    await shopper.answer_bank()
    await expect(shopper.heading).to_have_text("Advanced is yours.")
    await shopper.see_account()
    await expect(shopper.page.get_by_test_id("plan-name")).to_have_text("Advanced")
    assert 1_199 <= await shown(shopper) <= 1_200


async def test_an_upgrade_whose_check_fails_leaves_the_plan_and_can_be_paid_later(shopper: Shopper) -> None:
    """The account says that the change waits for its payment; another card pays it."""
    await shopper.subscribe("basic", VISA_WITH_3DS)
    await shopper.change_to("advanced")
    await shopper.answer_bank(passed=False)
    await expect(shopper.heading).to_have_text("The payment did not go through")
    await shopper.page.get_by_role("button", name="Back to posters").click()
    await shopper.open_account()
    await expect(shopper.page.get_by_test_id("plan-name")).to_have_text("Basic")
    notice = shopper.page.get_by_test_id("notice")
    await expect(notice).to_contain_text("Your change to Advanced could not be paid.")
    await notice.get_by_role("button", name="Pay with another card").click()
    await expect(shopper.page.locator(".order")).to_contain_text("Change to Advanced")
    await shopper.pay(VISA)
    await expect(shopper.heading).to_have_text("Advanced is yours.")


async def test_a_downgrade_is_active_at_once_and_explained(shopper: Shopper) -> None:
    """Nothing to pay, no credits taken or given; the page says what happens to the difference."""
    await shopper.subscribe("pro")
    await shopper.page.get_by_test_id("offer-basic").click()
    question = shopper.page.get_by_test_id("confirm")
    await expect(question).to_contain_text("You pay nothing today.")
    await expect(question).to_contain_text("You keep the credits you have.")
    await question.get_by_role("button", name="Change to Basic").click()
    await expect(shopper.heading).to_have_text("You are on Basic now.")
    await expect(shopper.page.locator("#done-text")).to_contain_text("deducted from your next invoices")
    await expect(shopper.balance).to_have_text("2,000")
    await shopper.see_account()
    await expect(shopper.page.get_by_test_id("plan-name")).to_have_text("Basic")
    await expect_newest(
        shopper, "Basic plan nothing to pay, no new credits02,000", "Pro plan paid+2,0002,000"
    )


async def test_a_rejected_confirmation_changes_nothing(shopper: Shopper) -> None:
    """Escape, or the words for it: the plan stays, and the focus is where it was."""
    await shopper.subscribe("basic")
    offer = shopper.page.get_by_test_id("offer-pro")
    await offer.click()
    await expect(shopper.page.get_by_test_id("confirm")).to_be_visible()
    await shopper.page.keyboard.press("Escape")
    await expect(shopper.page.get_by_test_id("confirm")).to_be_hidden()
    await expect(offer).to_be_focused()
    await offer.click()
    await shopper.page.get_by_role("button", name="Stay on Basic").click()
    await expect(shopper.page.get_by_test_id("plan-name")).to_have_text("Basic")
    assert len(await shopper.at_stripe("payment_intents")) == 1


async def test_a_plan_is_cancelled_and_resumed(shopper: Shopper) -> None:
    """It ends with its period and says when; resumed, it renews as before."""
    await shopper.subscribe("basic")
    before = await plan(shopper)
    await shopper.page.get_by_test_id("plan-do").click()
    await shopper.page.get_by_role("button", name="End it on").click()
    await expect(shopper.page.get_by_test_id("plan-text")).to_contain_text("Ends on ")
    resume = shopper.page.get_by_test_id("plan-do")
    await expect(resume).to_have_text("Resume Basic")
    await expect(resume).to_be_focused()
    await resume.click()
    await expect(resume).to_have_text("Cancel Basic")
    assert await plan(shopper) == before


async def test_a_cancelled_plan_ends_when_its_day_has_come(shopper: Shopper) -> None:
    """A month later there is no plan, nothing was charged, and one can be chosen again."""
    await shopper.subscribe("pro")
    await shopper.page.get_by_test_id("plan-do").click()
    await shopper.page.get_by_role("button", name="End it on").click()
    await expect(shopper.page.get_by_test_id("plan-text")).to_contain_text("Ends on ")
    await shopper.move_clock("1 month")
    await expect(shopper.page.get_by_test_id("plan-text")).to_contain_text("Pro ended on ")
    await expect(shopper.page.get_by_test_id("offer-pro")).to_have_text("Choose")
    assert len(await shopper.at_stripe("payment_intents")) == 1


async def test_a_plan_is_ended_now(shopper: Shopper) -> None:
    """It is over at once, and the focus is not lost with the button."""
    await shopper.subscribe("pro")
    await shopper.page.get_by_test_id("plan-do").click()
    await shopper.page.get_by_role("button", name="End it now").click()
    await expect(shopper.page.get_by_test_id("plan-text")).to_contain_text("Pro ended on ")
    await expect(shopper.page.get_by_test_id("plan-do")).to_be_hidden()
    await expect(shopper.page.locator("#plan-title")).to_be_focused()


async def test_a_read_from_before_an_action_is_not_shown_as_its_result(shopper: Shopper) -> None:
    """A read that began before the plan was cancelled says that it runs; the focus waits for the next."""
    await shopper.subscribe("basic")
    held, cancelled = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        if held.is_set():
            await route.continue_()
            return
        before = await route.fetch()
        held.set()
        await asyncio.wait_for(cancelled.wait(), 15)
        await route.fulfill(response=before)

    await shopper.page.route("**/api/account", hold)
    await shopper.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await asyncio.wait_for(held.wait(), 15)
    await shopper.page.get_by_test_id("plan-do").click()
    async with shopper.page.expect_response("**/api/subscriptions/cancel"):
        await shopper.page.get_by_role("button", name="End it now").click()
    cancelled.set()
    await expect(shopper.page.get_by_test_id("plan-text")).to_contain_text("Basic ended on ")
    await expect(shopper.page.locator("#plan-title")).to_be_focused()


# ---- Credits


async def test_credits_are_topped_up(shopper: Shopper) -> None:
    """Two packs, one card form, and their credits beside no plan at all."""
    await shopper.arrive()
    await shopper.open_account()
    buy = shopper.page.get_by_test_id("top-up-buy")
    await expect(buy).to_have_text("Buy 1,000 for $15")
    await shopper.page.get_by_role("button", name="One pack more").click()
    await expect(buy).to_have_text("Buy 2,000 for $30")
    await buy.click()
    await expect(shopper.page.locator(".order")).to_have_text("Extra credits: 2,000 $30")
    await shopper.pay()
    await expect(shopper.heading).to_have_text("2,000 credits added.")
    await shopper.see_account()
    await expect(shopper.page.get_by_test_id("account-balance")).to_have_text("2,000")
    await expect_newest(shopper, "Extra credits purchased+2,0002,000")
    await expect(shopper.page.get_by_test_id("plan-name")).to_have_text("None yet")


async def test_running_out_of_credits_with_a_plan_leads_to_the_account(shopper: Shopper) -> None:
    """Not to the plan list; after a top-up the poster is printed automatically."""
    await shopper.subscribe("basic")
    await shopper.print_posters(50)
    await expect(shopper.balance).to_have_text("0")
    await shopper.page.get_by_role("button", name="Back to posters").click()
    await shopper.ask_for_poster()
    await expect(shopper.page.locator("#account-lead")).to_contain_text("10 credits and you have 0.")
    await shopper.page.get_by_test_id("top-up-buy").click()
    await shopper.pay()
    await expect(shopper.posters).to_have_count(1)
    await expect(shopper.balance).to_have_text("990")


async def test_the_ledger_shows_older_entries_when_asked(shopper: Shopper) -> None:
    """Fifty at first, newest first; older ones below, and they stay when something new comes on top."""
    await shopper.subscribe("pro")
    await shopper.print_posters(55)
    await expect(shopper.balance).to_have_text("1,450")
    await shopper.page.reload()
    await expect(shopper.rows).to_have_count(50)
    await expect(shopper.rows.first).to_have_text("Poster−101,450")
    await shopper.page.get_by_test_id("older").click()
    await expect(shopper.rows).to_have_count(56)
    await expect(shopper.rows.nth(50)).to_be_focused()
    await expect(shopper.rows.last).to_have_text("Pro plan paid+2,0002,000")
    await expect(shopper.page.get_by_test_id("older")).to_be_hidden()
    await shopper.print_posters(1, "one-more")
    await expect(shopper.rows).to_have_count(57)


async def test_a_debt_is_explained(shopper: Shopper) -> None:
    """Refunded after the credits were spent: the balance falls below zero, live, and the page says why."""
    await shopper.subscribe("basic")
    await shopper.print_posters(40)
    [intent] = await shopper.at_stripe("payment_intents")
    await shopper.stripe_side.api("POST", "refunds", payment_intent=intent["id"])
    await expect(shopper.balance).to_have_text("−400", timeout=DUE_MS)
    await expect(shopper.page.locator("#balance-text")).to_contain_text("You owe 400 credits")
    await expect(shopper.rows.first).to_have_text("Reversed the payment was refunded−500−400")


# ---- The clock


async def test_a_renewal_comes_a_month_later(shopper: Shopper) -> None:
    """The clock goes a month ahead: the next one's credits come while one looks; the plan's date moves."""
    await shopper.subscribe("pro")
    before = await plan(shopper)
    await shopper.move_clock("1 month")
    await expect(shopper.balance).to_have_text("4,000", timeout=DUE_MS)
    await expect(shopper.page.get_by_test_id("account-balance")).to_have_text("4,000")
    await expect_newest(shopper, "Pro plan paid+2,0004,000", "Pro plan paid+2,0002,000")

    async def moved_on() -> bool:
        return await plan(shopper) != before

    await wait_until(moved_on, within=DUE_MS / 1000)


async def test_unused_credits_end_with_their_month_where_the_plan_says_so(shopper: Shopper) -> None:
    """Basic carries nothing over: a month later there are 500 again, and the ledger names both movements."""
    await shopper.subscribe("basic")
    await shopper.move_clock("1 month")
    await expect(shopper.rows).to_have_count(3, timeout=DUE_MS)  # whichever of the two comes first
    ledger = shopper.page.get_by_test_id("ledger")
    await expect(ledger).to_contain_text("Expired unused when its month ended−500")
    await expect(ledger.get_by_text("Basic plan paid")).to_have_count(2)
    await expect(shopper.balance).to_have_text("500")


async def test_a_year_comes_in_twelve_parts(shopper: Shopper) -> None:
    """Paid by the year: one part now, the next a month later, live; after a year more, all of both."""
    await shopper.arrive()
    await shopper.open_account()
    await shopper.account.get_by_text("Yearly").click()
    await shopper.page.get_by_test_id("offer-pro").click()
    await shopper.pay()
    await shopper.see_account()
    await expect(shopper.page.locator("#plan-price")).to_have_text("$290 a year")
    await expect(shopper.balance).to_have_text("2,000")
    await expect(shopper.page.get_by_test_id("upcoming")).to_contain_text("2,000 credits on ")
    await expect(shopper.page.get_by_test_id("upcoming")).to_contain_text("then 10 more.")
    await shopper.move_clock("1 month")
    await expect(shopper.balance).to_have_text("4,000", timeout=DUE_MS)
    await expect_newest(shopper, "Pro plan month 2 of the year+2,0004,000")
    await expect(shopper.page.get_by_test_id("upcoming")).to_contain_text("then 9 more.")
    await shopper.move_clock("1 year")
    await expect(shopper.balance).to_have_text("28,000", timeout=DUE_MS)


async def let_the_card_fail(shopper: Shopper) -> None:
    """From now on this customer's saved card is declined whenever it is charged."""
    [subscription] = await shopper.at_stripe("subscriptions")
    customer, api = subscription["customer"], shopper.stripe_side.api
    card = await api("POST", f"payment_methods/{FAILS_LATER}/attach", customer=customer)
    await api("POST", f"subscriptions/{subscription['id']}", default_payment_method=card["id"])


async def test_a_renewal_that_was_declined_is_paid_with_another_card(shopper: Shopper) -> None:
    """The page says so by itself, here and on the home view; another card brings the credits."""
    await shopper.subscribe("pro")
    await let_the_card_fail(shopper)
    await shopper.move_clock("1 month")
    notice = shopper.page.get_by_test_id("notice")
    await expect(notice).to_contain_text("Your Pro renewal could not be paid.", timeout=DUE_MS)
    await shopper.page.get_by_role("link", name="Halftone, home").click()
    await expect(shopper.page.locator("#banner-text")).to_have_text("Your Pro renewal could not be paid.")
    await shopper.open_account()
    await notice.get_by_role("button", name="Pay with another card").click()
    await expect(shopper.page.locator(".order")).to_have_text("Pro, 2,000 credits a month $29 a month")
    await shopper.pay(VISA)
    await expect(shopper.heading).to_have_text("Pro is renewed.")
    await shopper.see_account()
    await expect(shopper.balance).to_have_text("4,000")
    await expect(notice).to_be_hidden()


async def test_a_renewal_that_the_bank_checks_is_paid_after_the_check(shopper: Shopper) -> None:
    """The card asks for 3DS each time: the account says so, and its button brings up the check."""
    await shopper.subscribe("pro", VISA_WITH_3DS)
    await shopper.move_clock("1 month")
    notice = shopper.page.get_by_test_id("notice")
    await expect(notice).to_contain_text("Your Pro renewal needs your bank’s check.", timeout=DUE_MS)
    await notice.get_by_role("button", name="Complete the bank’s check").click()
    await shopper.answer_bank()
    await expect(shopper.heading).to_have_text("Pro is renewed.")
    await expect(shopper.balance).to_have_text("4,000")


async def test_the_clock_only_goes_ahead(shopper: Shopper) -> None:
    """A step back is refused; a step ahead is the sandbox's and the server's at once."""
    await shopper.arrive()
    address = f"{shopper.demo.url}/demo/clock"
    refused = await shopper.context.request.post(address, data={"days": -1})
    assert refused.status == 422
    before = (await shopper.stripe_side.look("clock"))["offset_seconds"]
    await shopper.api("POST", "/demo/clock", {"days": 1})
    assert (await shopper.stripe_side.look("clock"))["offset_seconds"] == before + 24 * 3600


# ---- Ways


async def test_the_address_names_the_page_and_back_leads_back(shopper: Shopper) -> None:
    """#account can be opened and reloaded; Back passes over what was paid."""
    await shopper.page.goto(f"{shopper.demo.url}/#account")
    await expect(shopper.account).to_be_visible()
    await shopper.page.reload()
    await expect(shopper.account).to_be_visible()
    await expect(shopper.page).to_have_title("Your account – Halftone")
    await shopper.page.get_by_test_id("offer-basic").click()
    await shopper.pay()
    await expect(shopper.heading).to_have_text("Basic is yours.")
    await shopper.page.get_by_role("button", name="Make another poster").click()
    await expect(shopper.posters).to_have_count(1)
    await shopper.page.go_back()
    await expect(shopper.account).to_be_visible()
    await shopper.page.get_by_role("button", name="Back to posters").click()
    await expect(shopper.heading).to_have_text("Posters made of nothing but dots.")
    await shopper.page.go_back()
    await expect(shopper.account).to_be_visible()


async def test_the_keyboard_alone_changes_and_cancels_a_plan(shopper: Shopper) -> None:
    """Tab and Enter are enough for the link, the switch, the offer, the question and the end of it."""
    page = shopper.page
    await shopper.subscribe("basic")
    await tab_to(page, page.get_by_test_id("offer-pro"))
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="Change to Pro")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#done-title")).to_be_focused()
    await tab_to(page, page.get_by_role("button", name="See your account"))
    await page.keyboard.press("Enter")
    await expect(page.locator("#account-title")).to_be_focused()
    await tab_to(page, page.get_by_test_id("plan-do"))
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="End it on")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_test_id("plan-text")).to_contain_text("Ends on ")
    await expect(page.get_by_test_id("plan-do")).to_be_focused()
    await tab_to(page, page.locator("[name=offer-interval]:checked"))
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#offers")).to_contain_text("a year, $24.17 a month")


@pytest.mark.parametrize(
    ("shopper", "width", "scheme"),
    [screen(320, "dark"), screen(390, "light")],
    indirect=["shopper"],
)
async def test_the_account_fits_a_phone(shopper: Shopper, width: int, scheme: str) -> None:
    """Neither the page nor a question scrolls sideways, with figures of five digits and a notice.

    A plan's button is beside its price, where both fit.
    """
    page = shopper.page
    await shopper.subscribe("pro", VISA_WITH_3DS, yearly=True)
    await expect_to_fit(page, width)
    offer = page.locator("#offers li", has=page.get_by_test_id("offer-basic"))
    price: Any = await offer.locator(".cost").bounding_box()
    button: Any = await offer.get_by_test_id("offer-basic").bounding_box()
    assert (button["y"] < price["y"] + price["height"]) == (width == 390)
    await expect_no_violations(page)
    await page.get_by_test_id("plan-do").click()
    await expect_to_fit(page, width)
    await expect_no_violations(page, "dialog")
    await page.get_by_role("button", name="Keep Pro").click()
    await shopper.move_clock("1 year")
    await expect(shopper.balance).to_have_text("24,000", timeout=DUE_MS)
    await expect(page.get_by_test_id("notice")).to_contain_text("needs your bank’s check", timeout=DUE_MS)
    await expect_to_fit(page, width)
    await expect_no_violations(page)


async def test_opening_the_account_moves_nothing_about(shopper: Shopper) -> None:
    """All of it is there at once, however long the server takes: no layout shift that is noticed."""
    page = shopper.page
    await shopper.subscribe("pro")

    async def answer_late(route: Route) -> None:
        await expect(page.locator("#account-title")).to_be_visible()
        await page.evaluate("new Promise((drawn) => requestAnimationFrame(() => setTimeout(drawn)))")
        await route.continue_()

    await page.route("**/api/account", answer_late)
    await page.goto(f"{shopper.demo.url}/")
    await page.evaluate("location.hash = 'account'")
    await expect(shopper.account).to_be_visible()
    await expect(shopper.rows).to_have_count(1)
    await expect_at_rest(page, at_most=0.005)
