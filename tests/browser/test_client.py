"""paidup.js in a real Chromium, with a socket, a server and a clock that the test holds in its hand.

Owns the browser client's promises: when it connects, what it believes, when it stops. Nothing here waits for
real time, and nothing talks to a Paidup server: the end-to-end tests do that.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Error, Page

pytestmark = pytest.mark.asyncio(loop_scope="session")

FILES = Path(__file__).parents[2] / "client_demo"
WORLD = Path(__file__).with_name("world.js")
NOTHING = {"timers": 0, "listeners": 0, "open": 0}


class Files(SimpleHTTPRequestHandler):
    """client_demo/, and one empty page with the world in it."""

    def do_GET(self) -> None:
        own = {
            "/": ("text/html", '<script type="module" src="/world.js"></script>'),
            "/world.js": ("text/javascript", WORLD.read_text()),
        }
        if self.path not in own:
            return super().do_GET()
        kind, text = own[self.path]
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.end_headers()
        self.wfile.write(text.encode())
        return None

    def do_POST(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(FILES))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def tab(browser: Browser) -> AsyncIterator[Page]:
    """One tab, for all of this module."""
    tab = await browser.new_page()
    yield tab
    await tab.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(tab: Page, address: str) -> AsyncIterator[Page]:
    """A new world in the tab; a test fails if anything in it threw and was not caught."""
    thrown: list[str] = []

    def note(error: Error) -> None:
        thrown.append(str(error))

    await tab.goto(address)
    await tab.wait_for_function("window.ready")
    tab.on("pageerror", note)
    yield tab
    tab.remove_listener("pageerror", note)
    assert thrown == []


async def play(page: Page, script: str) -> Any:
    """Run `script`, the body of an asynchronous function that knows `world`, `clock` and `socket()`."""
    return await page.evaluate(
        f"async () => {{ const {{ balance, clock, socket, status }} = world; {script} }}"
    )


async def test_backoff_has_full_jitter_under_a_growing_ceiling(page: Page) -> None:
    """Between 0 and 0.5 s at first, doubling, and never above 20 s however often it failed (S30)."""
    highest = await play(page, "return [0, 1, 2, 5, 6, 50, 5000].map((n) => world.backoff(n, () => 1))")
    assert highest == [500, 1000, 2000, 16000, 20000, 20000, 20000]
    assert await play(page, "return world.backoff(9, () => 0)") == 0
    drawn = await play(page, "return Array.from({length: 500}, () => world.backoff(3))")
    assert 0 <= min(drawn) < 1000
    assert 3000 < max(drawn) <= 4000


async def test_the_first_connection_uses_the_ticket_in_hand(page: Page) -> None:
    """S01: nothing is asked of the server before the socket, and the ticket is never in the URL."""
    seen = await play(
        page,
        """await world.start();
        const { url, protocols } = socket();
        return { url: url.replace(/:[0-9]+/, ""), protocols, requests: world.requests };""",
    )
    assert seen["url"] == "ws://127.0.0.1/ws/invoices/in_1"
    assert seen["protocols"] == ["paidup.v1", "first"]
    assert seen["requests"] == []


async def test_active_resolves_and_leaves_nothing_behind(page: Page) -> None:
    """S01: a terminal status ends the wait for good: no timer, no listener, no socket, no way back."""
    seen = await play(
        page,
        """await world.start(); await socket().open();
        await socket().say(status(2, "open")); await socket().say(status(3, "active"));
        const left = world.left();
        await socket().end(1000); await world.window.fire("online"); await clock.advance(600_000);
        world.activation.verify(); world.activation.close();
        return { left, sockets: world.sockets.length, requests: world.requests, ended: world.ended,
                 stages: world.heard("stage"), connection: world.heard("connection") };""",
    )
    assert seen["left"] == NOTHING
    assert seen["sockets"] == 1
    assert seen["requests"] == []
    assert seen["ended"] == "active"
    assert seen["stages"] == ["verifying", "active"]
    assert seen["connection"] == ["open", "closed"]


async def test_an_older_version_is_not_believed(page: Page) -> None:
    """S05: versions only grow; the same version may bring a new stage, and is told once."""
    seen = await play(
        page,
        """await world.start(); await socket().open();
        await socket().say(status(4, "processing"));
        await socket().say(status(3, "open"));
        await socket().say(status(4, "processing"));
        await socket().say(status(4, "processing", { stage: "delayed" }));
        await socket().say(status(9, "active", { invoice: "in_2" }));
        await socket().sayText("<html>a proxy's page</html>");
        await socket().say({ type: "something new" });
        return [world.heard("status"), world.heard("stage"), world.activation.status.status];""",
    )
    assert seen == [[4, 4], ["processing", "delayed"], "processing"]


async def test_a_late_success_follows_a_failure(page: Page) -> None:
    """S07: a failed attempt leaves the line open, and the success that comes after it is told."""
    seen = await play(
        page,
        """await world.start(); await socket().open();
        await socket().say(status(2, "failed", { error: { code: "card_declined", message: "No." } }));
        const between = [world.ended ?? null, world.left().open];
        await socket().say(status(3, "active"));
        return { between, ended: world.ended, stages: world.heard("stage") };""",
    )
    assert seen == {"between": [None, 1], "ended": "active", "stages": ["failed", "active"]}


@pytest.mark.parametrize("last", ["void", "reversed"])
async def test_other_ends_are_ends_too(page: Page, last: str) -> None:
    """A payment that was voided or taken back ends the wait as well."""
    script = f"""await world.start(); await socket().open(); await socket().say(status(2, "{last}"));
        return [world.ended, world.left()];"""
    assert await play(page, script) == [last, NOTHING]


async def test_a_bye_says_when_to_come_back(page: Page) -> None:
    """S30: after a deploy the client returns when it was told to, not before, and with a fresh ticket."""
    seen = await play(
        page,
        """await world.start(); await socket().open();
        await socket().say({ type: "bye", reason: "restarting", reconnect_after_ms: 1200 });
        await socket().end(1012);
        await clock.advance(1199); const early = world.sockets.length;
        await clock.advance(1);
        return [early, world.sockets.map(({ protocols }) => protocols[1]), world.requests];""",
    )
    assert seen == [1, ["first", "fresh-1"], ["POST /api/invoices/in_1/ticket"]]


async def test_an_absurd_bye_is_bounded(page: Page) -> None:
    """A bye that asks for a day is obeyed for a minute."""
    seen = await play(
        page,
        """await world.start(); await socket().open();
        await socket().say({ type: "bye", reason: "?", reconnect_after_ms: 86_400_000 });
        await socket().end(1012);
        await clock.advance(60_000); return world.sockets.length;""",
    )
    assert seen == 2


async def test_each_connection_has_its_own_ticket(page: Page) -> None:
    """S28: a ticket is never used twice; a page may mint them by a road of its own."""
    seen = await play(
        page,
        """let minted = 0;
        await world.start({ refreshTicket: async () => `own-${++minted}` });
        for (let n = 0; n < 3; n++) {
          await socket().open(); await socket().end(1006); await clock.advance(7_000);
        }
        return [world.sockets.map(({ protocols }) => protocols[1]), world.requests];""",
    )
    assert seen == [["first", "own-1", "own-2", "own-3"], []]


async def test_without_a_ticket_one_is_fetched_with_the_pages_headers(page: Page) -> None:
    """A page that only knows the invoice names its customer by a header."""
    seen = await play(
        page,
        """await world.start({ ticket: undefined, headers: async () => ({ Authorization: "Bearer jwt" }) });
        return [world.requests, world.authorization, socket().protocols[1]];""",
    )
    assert seen == [["POST /api/invoices/in_1/ticket"], "Bearer jwt", "fresh-1"]


async def test_reconnections_back_off_and_start_afresh_once_stable(page: Page) -> None:
    """S29: the ceiling doubles while connections die young, and falls back after one that lived."""
    seen = await play(
        page,
        """world.jitter = 1; await world.start();
        const waits = [];
        for (const lived of [0, 0, 0, 10_000, 0]) {
          await socket().open(); clock.time += lived; await socket().end(1006);
          const began = clock.time, before = world.sockets.length;
          while (world.sockets.length === before) await clock.advance(100);
          waits.push(clock.time - began);
        }
        return waits;""",
    )
    assert seen == [500, 1000, 2000, 500, 1000]


async def test_silence_is_death(page: Page) -> None:
    """S29: heartbeats keep a socket; 35 s without a word, and another is opened."""
    seen = await play(
        page,
        """await world.start(); await socket().open();
        for (let n = 0; n < 6; n++) {
          await clock.advance(15_000); await socket().say({ type: "heartbeat" });
        }
        const alive = world.sockets.length;
        await clock.advance(34_999); const patient = world.sockets[0].closed;
        await clock.advance(1); const dead = world.sockets[0].closed;
        await clock.advance(500);
        return { alive, patient, dead, sockets: world.sockets.length };""",
    )
    assert seen == {"alive": 1, "patient": False, "dead": True, "sockets": 2}


async def test_a_handshake_that_hangs_is_given_up(page: Page) -> None:
    """A proxy that swallows the handshake does not hold the screen: the status is fetched instead."""
    seen = await play(
        page,
        """world.get = { status: 200, body: status(2, "processing") };
        await world.start(); await clock.advance(8_000);
        return [world.sockets[0].closed, world.activation.stage, world.activation.connection];""",
    )
    assert seen == [True, "processing", "polling"]


async def test_polling_takes_over_where_sockets_are_forbidden(page: Page) -> None:
    """S29: no socket at all, yet active is told; the socket is tried again each time."""
    seen = await play(
        page,
        """world.get = { status: 200, body: status(1, "open") };
        await world.start();
        for (let n = 0; n < 3; n++) { await socket().end(1006); await clock.advance(7_000); }
        world.get = { status: 200, body: status(2, "active") };
        await socket().end(1006);
        return { ended: world.ended, sockets: world.sockets.length, left: world.left(),
                 gets: world.requests.filter((request) => request === "GET /api/invoices/in_1").length };""",
    )
    assert seen == {"ended": "active", "sockets": 4, "left": NOTHING, "gets": 4}


@pytest.mark.parametrize(
    "trouble", ['"down"', '"hang"', "{ status: 503, headers: { 'Retry-After': '7' } }", "{ status: 429 }"]
)
async def test_trouble_is_not_an_answer(page: Page, trouble: str) -> None:
    """S33: while the server is gone, slow or overloaded the client keeps trying, and gets there."""
    seen = await play(
        page,
        f"""world.get = world.ticket = {trouble};
        await world.start(); await socket().end(1006); await clock.advance(90_000);
        const during = [world.ended ?? null, world.heard("error"), world.sockets.length];
        world.get = {{ status: 503 }}; world.ticket = null;
        await clock.advance(60_000);
        await socket().open(); await socket().say(status(2, "active"));
        return [during, world.ended];""",
    )
    assert seen == [[None, [], 1], "active"]


async def test_retry_after_is_obeyed(page: Page) -> None:
    """S34: a server that asks for seven seconds gets them, and is not asked for the status meanwhile."""
    seen = await play(
        page,
        """world.ticket = { status: 503, headers: { "Retry-After": "7" } };
        await world.start({ ticket: undefined });
        await clock.advance(7_000); const early = world.requests.length;
        await clock.advance(1_000);
        return [early, world.requests.slice(0, 2), new Set(world.requests).size];""",
    )
    assert seen == [1, ["POST /api/invoices/in_1/ticket"] * 2, 1]


@pytest.mark.parametrize(
    ("http", "code"), [(401, "unauthorized"), (403, "forbidden"), (404, "unknown_invoice"), (410, "gone")]
)
async def test_a_final_refusal_is_final(page: Page, http: int, code: str) -> None:
    """S28: a refused ticket ends the activation with an error that says why, and nothing is left behind."""
    seen = await play(
        page,
        f"""world.ticket = {{ status: {http} }}; await world.start(); await socket().end(1006);
        await clock.advance(60_000);
        const error = await world.activation.finished.catch((it) => [it.name, it.code, it.status]);
        return [error, world.heard("error"), world.left()];""",
    )
    assert seen == [["ActivationError", code, http], [code], NOTHING]


@pytest.mark.parametrize(
    "wake", ['world.window.fire("online")', 'world.window.fire("pageshow", { persisted: true })']
)
async def test_a_new_network_or_a_cached_page_connects_anew_at_once(page: Page, wake: str) -> None:
    """S31: iOS kills a socket without closing it; the page does not trust the one it holds."""
    seen = await play(
        page,
        f"""await world.start(); await socket().open(); await {wake};
        const tickets = world.sockets.map(({{ protocols }}) => protocols[1]);
        return [tickets, world.sockets[0].closed, world.left().open];""",
    )
    assert seen == [["first", "fresh-1"], True, 1]


async def test_a_tab_that_is_looked_at_again_asks_at_once(page: Page) -> None:
    """S31: after a short nap the socket is asked; if nothing is heard within 20 s it was dead."""
    seen = await play(
        page,
        """await world.start(); await socket().open(); clock.sleep(10_000);
        world.document.visibilityState = "hidden"; await world.document.fire("visibilitychange");
        const hidden = [...socket().sent];
        world.document.visibilityState = "visible"; await world.document.fire("visibilitychange");
        const shown = [...socket().sent];
        await world.window.fire("pageshow", { persisted: false });
        await clock.advance(20_000);
        return [hidden, shown, world.sockets[0].closed];""",
    )
    assert seen == [[], ["verify"], True]


async def test_a_tab_that_slept_long_does_not_trust_its_socket(page: Page) -> None:
    """S31: silent for more than 35 s of sleep: dead, replaced at once, and the payment is told."""
    seen = await play(
        page,
        """await world.start(); await socket().open(); clock.sleep(3_600_000);
        await world.document.fire("visibilitychange");
        const [first, second] = world.sockets;
        await second.open(); await second.say(status(2, "active"));
        return [first.closed, first.sent, world.sockets.length, world.ended];""",
    )
    assert seen == [True, [], 2, "active"]


async def test_a_wake_up_cuts_the_pause_short(page: Page) -> None:
    """S31: whoever comes back while the client waits its turn does not wait with it."""
    seen = await play(
        page,
        """world.jitter = 1; await world.start(); await socket().open(); await socket().end(1006);
        const before = [world.sockets.length, world.activation.connection];
        await world.document.fire("visibilitychange");
        return [before, world.sockets.length, world.activation.connection];""",
    )
    assert seen == [[1, "waiting"], 2, "connecting"]


async def test_after_thirty_seconds_it_says_delayed(page: Page) -> None:
    """S06: the stage becomes `delayed` by the client's own clock, stays so, and still gives way to news."""
    seen = await play(
        page,
        """await world.start(); await socket().open(); await socket().say(status(2, "open"));
        await clock.advance(29_999); const before = world.activation.stage;
        await clock.advance(1); const after = world.activation.stage;
        await socket().say(status(2, "open", { stage: "waiting" }));
        await socket().say(status(3, "open", { stage: "verifying" })); const still = world.activation.stage;
        world.activation.verify(); const asked = world.activation.stage;
        await clock.advance(30_000); await socket().say(status(4, "active"));
        return { seen: [before, after, still, asked], stages: world.heard("stage"), sent: socket().sent };""",
    )
    assert seen["seen"] == ["verifying", "delayed", "delayed", "verifying"]
    assert seen["stages"] == ["verifying", "delayed", "verifying", "delayed", "active"]
    assert seen["sent"] == ["verify"]


async def test_delayed_is_said_even_where_nobody_answers(page: Page) -> None:
    """S06: a server that cannot be reached does not make the page spin for ever."""
    script = 'world.get = world.ticket = "down"; await world.start(); await socket().end(1006);'
    script += "await clock.advance(30_000); return world.activation.stage;"
    assert await play(page, script) == "delayed"


async def test_waited_too_long_means_slow_polling(page: Page) -> None:
    """S24: after 4408 no socket is opened; the status is fetched now and then, and days later it is told."""
    seen = await play(
        page,
        """world.get = { status: 200, body: status(1, "open") };
        await world.start(); await socket().open(); await socket().end(4408);
        const stage = world.activation.stage;
        await clock.advance(600_000);
        const count = world.requests.length, sockets = world.sockets.length;
        world.get = { status: 200, body: status(2, "active") };
        await clock.advance(60_000);
        return { stage, count, sockets, ended: world.ended };""",
    )
    assert seen["stage"] == "delayed"
    assert 10 <= seen["count"] <= 21
    assert seen["sockets"] == 1
    assert seen["ended"] == "active"


async def test_asking_again_after_waiting_too_long_opens_a_socket(page: Page) -> None:
    """S07: a second attempt at the payment deserves a live line again."""
    seen = await play(
        page,
        """world.get = { status: 200, body: status(1, "open") };
        await world.start(); await socket().open(); await socket().end(4408);
        world.activation.verify(); await world.settle();
        return [world.sockets.length, socket().protocols[1]];""",
    )
    assert seen == [2, "fresh-1"]


async def test_a_failure_told_after_a_success_is_of_the_attempt_before(page: Page) -> None:
    """S06: Stripe.js said succeeded, the server still tells of a failure: verifying, then delayed."""
    seen = await play(
        page,
        """await world.start(); world.activation.confirmed("succeeded");
        await socket().open(); await socket().say(status(2, "failed")); const first = world.activation.stage;
        await socket().say(status(3, "requires_action", { stage: "action_required" }));
        const second = world.activation.stage;
        await clock.advance(30_000); const late = world.activation.stage;
        await socket().say(status(4, "active"));
        return [first, second, late, world.ended];""",
    )
    assert seen == ["verifying", "verifying", "delayed", "active"]


async def test_a_payment_in_processing_may_still_fail(page: Page) -> None:
    """S24: confirming again hides the failure told before, and asks; one that comes later is told."""
    seen = await play(
        page,
        """await world.start(); await socket().open(); await socket().say(status(2, "failed"));
        const before = world.activation.stage;
        world.activation.confirmed("processing"); const meanwhile = world.activation.stage;
        await socket().say(status(3, "processing")); await socket().say(status(4, "failed"));
        return [before, meanwhile, world.activation.stage, socket().sent];""",
    )
    assert seen == ["failed", "verifying", "failed", ["verify"]]


async def test_a_clean_close_without_an_answer_fetches_it(page: Page) -> None:
    """S05: the server says finished, but its last word was lost on the way."""
    seen = await play(
        page,
        """world.get = { status: 200, body: status(5, "active") };
        await world.start(); await socket().open(); await socket().end(1000);
        return [world.ended, world.requests];""",
    )
    assert seen == ["active", ["GET /api/invoices/in_1"]]


@pytest.mark.parametrize(
    "moment",
    [
        "",
        "await socket().open();",
        "await socket().end(1006);",
        'world.get = "hang"; await socket().end(1006);',
    ],
)
async def test_aborting_leaves_nothing_behind(page: Page, moment: str) -> None:
    """An abort signal ends it in whatever state it is: connecting, open, pausing, asking."""
    seen = await play(
        page,
        f"""const control = new AbortController(); await world.start({{ signal: control.signal }}); {moment}
        control.abort(); await world.settle();
        const left = world.left(); await clock.advance(600_000);
        return [world.ended, left, world.sockets.length, world.heard("error")];""",
    )
    assert seen == ["aborted", NOTHING, 1, []]


async def test_a_signal_aborted_before_the_start_opens_nothing(page: Page) -> None:
    """Nothing is opened for a page that has already gone away."""
    script = "await world.start({ signal: AbortSignal.abort() }); return [world.ended, world.left()];"
    assert await play(page, script) == ["aborted", NOTHING]


async def test_iterating_yields_each_status_and_ends(page: Page) -> None:
    """A reader in a loop sees what is told; one that is slow sees the newest; the end ends the loop."""
    seen = await play(
        page,
        """await world.start(); const versions = [];
        const read = async () => { for await (const told of world.activation) versions.push(told.version); };
        const reading = read();
        await socket().open();
        await socket().say(status(1, "open")); await socket().say(status(2, "processing"));
        socket().say(status(3, "open")); socket().say(status(4, "failed")); await world.settle();
        await socket().say(status(5, "active")); await reading;
        return versions;""",
    )
    assert seen == [1, 2, 4, 5]


async def test_iterating_throws_a_final_error_and_ends_on_close(page: Page) -> None:
    """A loop hears of a refusal; a page that closed the line itself just leaves the loop."""
    script = """const read = async () => { for await (const _ of world.activation); return "left"; };
        await world.start(); let reading = read(); world.activation.close(); const closed = await reading;
        world.ticket = { status: 410 }; await world.start({ ticket: undefined });
        const refused = await read().catch((error) => error.code);
        return [closed, refused];"""
    assert await play(page, script) == ["left", "gone"]


# The balance


async def test_the_balance_is_watched_with_a_ticket_of_its_own(page: Page) -> None:
    """The page names nobody: its ticket does; the balance as it is comes first, then each change, once."""
    seen = await play(
        page,
        """await world.watch({ headers: { Authorization: "Bearer jwt" } });
        const url = socket().url.replace(/:[0-9]+/, "");
        await socket().open();
        for (const [version, credits] of [[4, 120], [4, 120], [6, -5], [5, 90]])
          await socket().say(balance(version, credits));
        await socket().say(status(9, "active")); await socket().say({ type: "balance" });
        await socket().sayText("<html>a proxy's page</html>");
        const { latest, connection } = world.watching;
        const { requests, authorization } = world;
        return { url, protocols: socket().protocols, requests, authorization, told: world.heard("balance"),
                 latest: latest.balance, connection };""",
    )
    assert seen == {
        "url": "ws://127.0.0.1/ws/account",
        "protocols": ["paidup.v1", "fresh-1"],
        "requests": ["POST /api/account/ticket"],
        "authorization": "Bearer jwt",
        "told": [4, 6],
        "latest": -5,
        "connection": "open",
    }


async def test_version_zero_is_a_balance_too(page: Page) -> None:
    """Of an account that has no entry yet."""
    script = "await world.watch(); await socket().open(); await socket().say(balance(0, 0));"
    assert await play(page, script + 'return world.heard("balance")') == [0]


@pytest.mark.parametrize("code", [4408, 1012, 1006, 1000])
async def test_the_balance_comes_back_with_a_fresh_ticket_whatever_closed_it(page: Page, code: int) -> None:
    """S30: waited too long, a deploy, a lost network: nothing finishes it, and nothing is polled for."""
    seen = await play(
        page,
        f"""await world.watch({{ ticket: "first" }});
        await socket().open(); await socket().say(balance(4, 120));
        await socket().say({{ type: "bye", reason: "?", reconnect_after_ms: 1200 }});
        await socket().end({code});
        await clock.advance(1199); const early = world.sockets.length;
        await clock.advance(1); await socket().open();
        await socket().say(balance(4, 120)); await socket().say(balance(5, 110));
        const tickets = world.sockets.map(({{ protocols }}) => protocols[1]);
        return {{ early, tickets, told: world.heard("balance"), requests: world.requests,
                 connection: world.heard("connection") }};""",
    )
    assert seen == {
        "early": 1,
        "tickets": ["first", "fresh-1"],
        "told": [4, 5],
        "requests": ["POST /api/account/ticket"],
        "connection": ["open", "waiting", "connecting", "open"],
    }


async def test_a_refused_handshake_is_tried_again_with_a_fresh_ticket(page: Page) -> None:
    """S28: a page cannot see a 401: each connection has its own ticket, and the pauses grow."""
    seen = await play(
        page,
        """world.jitter = 1; await world.watch({ ticket: "expired" });
        const waits = [];
        for (let n = 0; n < 3; n++) {
          const began = clock.time, before = world.sockets.length;
          await socket().end(1006);
          while (world.sockets.length === before) await clock.advance(100);
          waits.push(clock.time - began);
        }
        return [waits, world.sockets.map(({ protocols }) => protocols[1]), new Set(world.requests).size];""",
    )
    assert seen == [[500, 1000, 2000], ["expired", "fresh-1", "fresh-2", "fresh-3"], 1]


@pytest.mark.parametrize(
    ("http", "code"), [(401, "unauthorized"), (403, "forbidden"), (404, "unknown_account"), (410, "gone")]
)
async def test_a_customer_who_is_refused_a_ticket_is_told_why(page: Page, http: int, code: str) -> None:
    """S28: signed out, or never in: the watch ends with an error, and nothing is left behind."""
    seen = await play(
        page,
        f"""world.ticket = {{ status: {http} }}; await world.watch(); await clock.advance(60_000);
        return [world.heard("error"), world.watching.connection, world.requests.length, world.left()];""",
    )
    assert seen == [[code], "closed", 1, NOTHING]


@pytest.mark.parametrize("trouble", ['"down"', '"hang"', "{ status: 503 }", "{ status: 429 }"])
async def test_the_balance_is_waited_for_while_the_server_is_away(page: Page, trouble: str) -> None:
    """S33: trouble is no answer: the watch keeps trying, and gets there."""
    seen = await play(
        page,
        f"""world.ticket = {trouble}; await world.watch(); await clock.advance(90_000);
        const during = [world.heard("error"), world.sockets.length];
        world.ticket = null; await clock.advance(60_000);
        await socket().open(); await socket().say(balance(4, 120));
        return [during, world.heard("balance")];""",
    )
    assert seen == [[[], 0], [4]]


@pytest.mark.parametrize(
    "wake", ['world.window.fire("online")', 'world.window.fire("pageshow", { persisted: true })']
)
async def test_the_balance_connects_anew_on_another_network(page: Page, wake: str) -> None:
    """S31: as an invoice's line does: the old socket may claim to be open for ever."""
    script = f"""await world.watch(); await socket().open(); await {wake};
        return [world.sockets[0].closed, world.sockets.length, world.left().open];"""
    assert await play(page, script) == [True, 2, 1]


async def test_a_balance_that_is_looked_at_again_must_hear_a_heartbeat_soon(page: Page) -> None:
    """S31: there is nothing to ask, so nothing is said; 20 s without a word after a nap is death."""
    seen = await play(
        page,
        """await world.watch(); await socket().open(); clock.sleep(10_000);
        await world.document.fire("visibilitychange");
        await clock.advance(19_999); const patient = socket().closed;
        await clock.advance(1);
        return [patient, world.sockets[0].closed, world.sockets[0].sent];""",
    )
    assert seen == [False, True, []]


@pytest.mark.parametrize(
    "moment",
    [
        "",
        "await socket().open();",
        "await socket().end(1006);",
        'world.ticket = "hang"; await socket().end(1006); await clock.advance(500);',
    ],
)
@pytest.mark.parametrize("how", ["world.watching.close()", "control.abort()"])
async def test_a_balance_that_is_closed_leaves_nothing_behind(page: Page, moment: str, how: str) -> None:
    """Whatever it was doing: no timer, no listener, no socket, and no event any more."""
    seen = await play(
        page,
        f"""const control = new AbortController(); await world.watch({{ signal: control.signal }}); {moment}
        {how}; await world.settle();
        const left = world.left(), sockets = world.sockets.length; await clock.advance(600_000);
        return [left, world.sockets.length - sockets, world.watching.connection, world.heard("error")];""",
    )
    assert seen == [NOTHING, 0, "closed", []]


async def test_the_real_browser_is_the_default(page: Page) -> None:
    """Without seams it uses the page's own WebSocket, fetch and timers, and cleans up after itself."""
    seen = await page.evaluate(
        """async () => {
        const { activate } = await import("/paidup.js");
        const activation = activate({ invoice: "in_1" });
        return activation.finished.catch((error) => [error.code, activation.connection]);
        }"""
    )
    assert seen == ["unknown_invoice", "closed"]
