"""`<paidup-activation>` in a real Chromium, under the strictest policy, with intercepted requests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.browser.elements import PLAIN, Screen, showing
from tests.browser.looks import (
    FULL_STOP_IS_LAST,
    NOTE_SHIFTS,
    expect_at_rest,
    expect_no_violations,
    expect_to_fit,
)
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("element")]

ON_THE_WAY = (
    "waiting",
    "verifying",
    "awaiting_payment",
    "action_required",
    "processing",
    "failed",
    "delayed",
    "provisioning",
    "active",
)
OTHER_ENDS = ("void", "reversed", "refused")
PHONE = {"viewport": {"width": 320, "height": 640}, "color_scheme": "light"}
DESK = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"}
PARTS = ("screen", "steps", "step", "mark", "label", "words", "heading", "text", "actions", "button")
RESTYLE = """(rules) => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(rules);
  document.adoptedStyleSheets = [sheet];
}"""
SEEN = """[...it.shadowRoot.querySelectorAll("[part]")]
  .map((node) => getComputedStyle(node).getPropertyValue("--seen"))"""
STYLE = "(selector => getComputedStyle(it.shadowRoot.querySelector(selector)))"
LISTEN = """{
  window.told = [];
  for (const type of ["status", "stage", "active", "error"])
    it.addEventListener(type, ({ detail }) => told.push([type, detail.code ?? detail.status ?? detail]));
  document.body.addEventListener("status", () => told.push("it bubbled"));
}"""


@pytest_asyncio.fixture(loop_scope="session")
async def screen(browser: Browser, request: pytest.FixtureRequest) -> AsyncIterator[Screen]:
    """A page for the element, which must have no trouble; parametrized, it takes a browser's options."""
    async with showing(browser, **getattr(request, "param", {})) as screen:
        yield screen
    assert screen.troubles == []


async def listen(screen: Screen) -> None:
    await screen.call(LISTEN)


async def told(screen: Screen) -> Any:
    return await screen.page.evaluate("told")


@pytest.mark.parametrize("screen", [PHONE, DESK], indirect=True, ids=["320-light", "1280-dark"])
async def test_every_state_is_accessible(screen: Screen) -> None:
    """axe-core finds nothing in any state, nothing is too wide, and nothing moves about."""
    width = screen.page.viewport_size["width"] if screen.page.viewport_size else 0
    await screen.page.add_init_script(NOTE_SHIFTS)
    await screen.open()
    heights = set()
    for state in ON_THE_WAY:
        await screen.show(state)
        await expect(screen.heading).to_be_visible()
        await expect_no_violations(screen.page)
        await expect_to_fit(screen.page, width)
        heights.add(await screen.call("it.offsetHeight"))
    assert len(heights) == 1
    await expect_at_rest(screen.page)
    for state in OTHER_ENDS:
        await screen.open()
        await screen.show(state)
        await expect_no_violations(screen.page)


async def test_from_the_payment_to_the_credits(screen: Screen) -> None:
    """S01: the ticket opens the line, each stage is told and shown, the end closes it; nothing bubbles."""
    await screen.open()
    await listen(screen)
    await screen.call("it.confirmed('succeeded')")
    await screen.say("open", "verifying")
    await expect(screen.text).to_have_text("We are checking your payment with Stripe.")
    await screen.say("active", credits_granted=2000, balance=2040)
    await expect(screen.heading).to_have_text("Your plan is active")
    await expect(screen.text).to_have_text("2,000 credits are in your account, ready to use.")
    assert await told(screen) == [
        ["stage", "verifying"],
        ["status", "open"],
        ["status", "active"],
        ["stage", "active"],
        ["active", "active"],
    ]
    assert await screen.call("it.matches(':state(active)') && it.status.balance") == 2040
    assert (len(screen.sockets), screen.asked) == (1, [])
    await wait_until(lambda: screen.closed == 1)


async def test_nobody_who_has_not_paid_is_told_that_their_payment_is_safe(screen: Screen) -> None:
    """Stripe says that nothing was paid: so does the screen, until this page has confirmed."""
    await screen.open()
    await screen.say("open", "verifying")
    await screen.say("open", "awaiting_payment")
    await expect(screen.heading).to_have_text("Not paid yet")
    await expect(screen.text).to_contain_text("Complete the payment")
    assert "listitem: Payment (under way)" in await screen.element.aria_snapshot()
    await screen.call("it.confirmed('requires_payment_method')")
    await expect(screen.heading).to_have_text("Not paid yet")
    await screen.call("it.confirmed('succeeded', Date.now() - 50_000)")
    await expect(screen.heading).to_have_text("This is taking longer than usual")
    await screen.say("active", credits_granted=2000)
    await expect(screen.heading).to_have_text("Your plan is active")


async def test_a_page_that_is_read_from_the_right(screen: Screen) -> None:
    """The steps begin at the right, and a text that is not translated keeps its full stop at its end."""
    await screen.open()
    await screen.page.evaluate("document.documentElement.dir = 'rtl'")
    await screen.show("delayed")
    places = await screen.call(
        "[...it.shadowRoot.querySelectorAll('.step')].map((step) => step.getBoundingClientRect().x)"
    )
    assert places == sorted(places, reverse=True)
    assert await screen.text.evaluate(FULL_STOP_IS_LAST)


async def test_what_a_screen_reader_finds(screen: Screen) -> None:
    """A list of steps, how each stands in words, and one live region with the words of the moment."""
    await screen.open()
    await screen.show("delayed")
    assert await screen.element.aria_snapshot() == "\n".join(
        [
            "- list:",
            "  - listitem: Payment (done)",
            "  - listitem: Check with Stripe (waiting)",
            "  - listitem: Credits (not yet)",
            "- status:",
            '  - heading "This is taking longer than usual" [level=2]',
            '  - paragraph: "Your payment is safe. You don’t need to pay again. You can close this page: '
            'your credits will be there."',
            '  - button "Check again"',
        ]
    )
    await screen.call("it.setAttribute('heading-level', '3')")
    assert "[level=3]" in await screen.element.aria_snapshot()


async def test_the_focus_is_kept_but_never_taken(screen: Screen) -> None:
    """A button that goes away hands the focus to the new heading; who is elsewhere is left there."""
    await screen.open(PLAIN + '<button id="other">Other</button>')
    await screen.show("delayed")
    await screen.page.get_by_role("button", name="Check again").click()
    await wait_until(lambda: screen.said.count('{"type":"verify"}') == 1)
    await screen.show("verifying")
    await expect(screen.heading).to_have_text("Activating your plan")
    await expect(screen.heading).to_be_focused()
    await screen.page.locator("#other").focus()
    await screen.show("processing")
    await expect(screen.page.locator("#other")).to_be_focused()
    await screen.call("it.focus()")
    await expect(screen.heading).to_be_focused()


async def test_moved_it_goes_on_and_removed_it_stops(screen: Screen) -> None:
    """Carried about it keeps its socket; taken out it is quiet, put back it begins again, once over never."""
    await screen.open(PLAIN + "<aside></aside>")
    await screen.say("processing")
    await screen.call("{ window.kept = it; document.querySelector('aside').append(it); }")
    await screen.say("open", "verifying")
    assert (len(screen.sockets), screen.closed) == (1, 0)
    await screen.call("it.remove()")
    await wait_until(lambda: screen.closed == 1)
    await screen.page.evaluate("document.body.append(kept)")
    await screen.until_sockets(2)
    await screen.say("active")
    await screen.call("{ it.remove(); document.body.append(it); }")
    await expect(screen.heading).to_have_text("Your plan is active")
    assert len(screen.sockets) == 2


async def test_another_invoice_is_another_wait(screen: Screen) -> None:
    """Attributes may come late, one by one, and change: each invoice has one line."""
    await screen.open("<paidup-activation></paidup-activation>")
    assert screen.sockets == []
    await screen.call(
        "{ for (const name of ['invoice', 'base-url', 'ticket']) it.setAttribute(name, '/pay'); }"
    )
    await screen.until_sockets(1)
    await screen.call("{ it.setAttribute('invoice', 'in_1'); it.setAttribute('invoice', 'in_2'); }")
    await screen.until_sockets(2)
    assert [socket.url for socket in screen.sockets] == [
        "ws://paidup.test/pay/ws/invoices/%2Fpay",
        "ws://paidup.test/pay/ws/invoices/in_2",
    ]
    await wait_until(lambda: screen.closed == 1)


async def test_a_refusal_says_so_and_can_be_tried_again(screen: Screen) -> None:
    """S28: signed out: an error that ends the wait; after a new sign-in `verify()` starts over."""
    screen.refusal = 401
    await screen.open('<paidup-activation invoice="in_1"></paidup-activation>')
    await expect(screen.heading).to_have_text("We cannot show this payment here")
    screen.refusal = None
    await listen(screen)
    await screen.call("it.verify()")
    await screen.show("processing")
    await expect(screen.heading).to_have_text("Your bank is processing the payment")
    assert await told(screen) == [["status", "processing"], ["stage", "processing"]]


async def test_properties_that_were_set_before_the_definition_count(screen: Screen) -> None:
    """A page's script may come before the element's: its headers, tickets and words are kept."""
    await screen.page.add_init_script("""
      document.addEventListener("readystatechange", () => {
        const it = document.querySelector("paidup-activation");
        if (!it || customElements.get("paidup-activation")) return;
        it.words = { waiting: { heading: "Please wait" } };
        it.refreshTicket = async () => "own";
        it.headers = { Authorization: "Bearer jwt" };
      });
    """)
    await screen.open('<paidup-activation invoice="in_1"></paidup-activation>')
    await screen.until_sockets(1)
    await expect(screen.heading).to_have_text("Please wait")
    assert screen.asked == []
    assert await screen.call("it.headers.Authorization") == "Bearer jwt"


async def test_words_in_another_language(screen: Screen) -> None:
    """By slots, which stand in the page, and by a property; numbers follow the page's language."""
    await screen.open(
        '<paidup-activation lang="de" invoice="in_1" ticket="first">'
        '<span slot="step-payment">Zahlung</span><b slot="processing-heading">Zahlung eingegangen</b>'
        '<a slot="active-actions" href="#">Weiter</a></paidup-activation>'
    )
    words: dict[str, Any] = {
        "steps": {"credits": "Guthaben", "done": "erledigt"},
        "active": {"heading": "Ihr Tarif ist aktiv", "text": "{credits} Punkte, {balance} insgesamt."},
    }
    await screen.call(f"it.words = {json.dumps(words)}")
    await screen.show("processing")
    await expect(screen.page.get_by_text("Zahlung eingegangen")).to_be_visible()
    await expect(screen.page.get_by_role("link", name="Weiter")).to_be_hidden()
    await screen.show("active")
    await expect(screen.text).to_have_text("2.000 Punkte, 2.040 insgesamt.")
    await expect(screen.page.get_by_text("Zahlung eingegangen")).to_be_hidden()
    await expect(screen.page.get_by_role("link", name="Weiter")).to_be_visible()
    assert "listitem: Guthaben (erledigt)" in await screen.element.aria_snapshot()
    assert "listitem: Zahlung (erledigt)" in await screen.element.aria_snapshot()
    await screen.call("it.words = { active: { text: ({ plan }) => `Tarif ${plan}` } }")
    await expect(screen.text).to_have_text("Tarif pro")


async def test_every_colour_and_part_can_be_the_pages_own(screen: Screen) -> None:
    """Custom properties go in, `::part` reaches each element, and `:state()` tells the states apart."""
    await screen.open()
    await screen.show("delayed")
    rules = [f"paidup-activation:state(delayed)::part({part}) {{ --seen: {part} }}" for part in PARTS]
    rules.append("paidup-activation { --paidup-accent: rgb(1, 2, 3); --paidup-padding: 7px; }")
    await screen.page.evaluate(RESTYLE, " ".join(rules))
    seen = await screen.call(SEEN)
    assert set(seen) == set(PARTS)
    assert await screen.call(f"{STYLE}('.button').backgroundColor") == "rgb(1, 2, 3)"
    assert await screen.call(f"{STYLE}('.screen').padding") == "7px"


@pytest.mark.parametrize(
    ("screen", "moves"),
    [({"reduced_motion": "no-preference"}, True), ({"reduced_motion": "reduce"}, False)],
    indirect=["screen"],
)
async def test_reduced_motion_is_respected(screen: Screen, moves: bool) -> None:
    """The turning arc and the rays are for those who did not ask for less."""
    await screen.open()
    await screen.show("verifying")
    running = "it.shadowRoot.getAnimations().length > 0"
    assert await screen.call(running) is moves
    await screen.show("active")
    assert await screen.call(running) is moves


async def test_loading_it_twice_is_harmless(screen: Screen) -> None:
    """As two bundles of one page do: the first definition counts, and the element works."""
    await screen.open()
    await screen.page.evaluate("import('/element/activation.js?second').then(() => {})")
    await screen.say("active", credits_granted=2000, balance=2000, via="webhook")
    await expect(screen.heading).to_have_text("Your plan is active")
