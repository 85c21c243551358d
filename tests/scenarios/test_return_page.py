"""The page that a customer comes back to from Stripe's: it knows their status, with nothing but the id."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from paidup.db.models import Account, CheckoutSession, Invoice
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.stages import Stage
from paidup.errors import ConfigurationError, StripeUnavailable
from paidup.realtime.checkout_queries import read_checkout
from paidup.runtime.return_page_file import read_return_page
from paidup.web import checkout_status
from tests.conftest import World
from tests.scenarios.test_checkout_status import forget_reads
from tests.support.checkout_shop import EXTRA, SEPA, CheckoutShop
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import ORIGIN, Paidup
from tests.support.waiting import wait_until

START = f"{ORIGIN}/start?welcome=1"
OWN = {"client_reference_id": "ada"}
REFRESH = re.compile(r'<noscript><meta http-equiv="refresh" content="(\d+);url=([^"]+)"></noscript>')


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The page shows what test_checkout_status.py reads from both databases."""
    return sqlite_url


@pytest.fixture
async def deaf(world: World) -> Paidup:
    """A server that no webhook reaches, and an account."""
    paidup = await world.server(webhooks=False)
    await Account.create(external_id="ada")
    return paidup


class Page:
    """An answer of /activate, as a browser without scripts sees it."""

    def __init__(self, response: aiohttp.ClientResponse, html: str) -> None:
        self.response = response
        self.code = response.status
        self.headers = response.headers
        self.html = html

    def text(self, pattern: str) -> str:
        found = re.search(pattern, self.html, re.DOTALL)
        return unescape(found[1]) if found else ""

    @property
    def heading(self) -> str:
        return self.text(r"<h1[^>]*>(.*?)</h1>")

    @property
    def state(self) -> str:
        return self.text(r'data-state="(\w+)"')

    @property
    def refresh(self) -> tuple[int, str] | None:
        found = REFRESH.search(self.html)
        return (int(found[1]), unescape(found[2])) if found else None

    def shown_link(self, name: str) -> str | None:
        """Where a link of the page leads, if it is shown."""
        found = re.search(rf'<a [^>]*id="{name}" href="([^"]*)"[^>]*>', self.html)
        return None if found is None or " hidden" in found[0] else unescape(found[1])


async def visit(paidup: Paidup, session: str, method: str = "GET", query: str = "", **headers: str) -> Page:
    """What a browser gets that has no cookie, and has never been here."""
    url = f"{paidup.url}/activate"
    address = f"{url}{query}" if query else f"{url}?session_id={session}"
    async with (
        aiohttp.ClientSession() as browser,
        browser.request(method, address, headers=headers, allow_redirects=False) as response,
    ):
        return Page(response, await response.text())


async def row_of(session: str) -> dict[str, Any]:
    return dict(await CheckoutSession.get(id=session).values())


async def test_the_first_paint_finds_the_credits_without_a_webhook(deaf: Paidup, shop: CheckoutShop) -> None:
    """S38: one read of Stripe in the very request, and the page says so at once; the next needs none."""
    session = await shop.open(**OWN)
    await shop.pay(session)
    page = await visit(deaf, session)
    assert (page.code, page.state, page.heading) == (200, "active", "Your plan is active")
    assert "2,000 credits are in your account" in page.html
    assert await shop.reads() == 1
    assert (await visit(deaf, session)).state == "active"
    assert await shop.stripe.calls("GET /v1/invoices/{id}") == 0
    assert await shop.reads() == 1
    await assert_books_balance()


async def test_what_the_webhook_settled_is_shown_without_asking(paidup: Paidup, shop: CheckoutShop) -> None:
    """S38: Stripe holds the redirect until the webhook is answered, and the row is active by then."""
    await Account.create(external_id="ada")
    session = await shop.open(**OWN)
    await shop.pay(session)
    page = await visit(paidup, session)
    while page.state != "active":  # the sandbox's webhook may still be on its way
        page = await visit(paidup, session)

    async def is_shown_without_asking() -> bool:
        await shop.stripe.control("calls/reset")
        assert (await visit(paidup, session)).state == "active"
        return await shop.reads() == 0

    await wait_until(is_shown_without_asking)  # a read that an earlier visit began may still be under way


async def test_the_page_cannot_be_framed_cached_indexed_or_made_to_run_a_script(
    deaf: Paidup, shop: CheckoutShop
) -> None:
    """S48: the address with the id is sent to nobody, and what is loaded comes from this server."""
    page = await visit(deaf, await shop.open(**OWN))
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert (page.headers["Referrer-Policy"], page.headers["Cache-Control"]) == ("no-referrer", "no-store")
    assert "noindex" in page.headers["X-Robots-Tag"]
    assert "Set-Cookie" not in page.headers
    assert not re.search(r"<script(?![^>]*type=\"(?:module|application/json)\")", page.html)
    assert " style=" not in page.html


async def test_nothing_of_the_account_is_on_the_page(deaf: Paidup, shop: CheckoutShop) -> None:
    """S49: no name, no email, no customer, no invoice and no balance, neither shown nor hidden."""
    session = await shop.open(**OWN)
    await shop.pay(session, email="ada@secret.example", name="Ada Secret")
    page = await visit(deaf, session)
    row = await Invoice.get()
    told = ("ada@secret", "Secret", "in_", "cus_", "sub_", "pi_", 'balance":', row.customer)
    assert [word for word in told if word in page.html] == []


async def test_reading_in_advance_changes_nothing_and_asks_nobody(deaf: Paidup, shop: CheckoutShop) -> None:
    """S48: HEAD, a prefetch and a mail scanner: no row changes, and nothing is credited that is not paid."""
    session = await shop.open(**OWN)
    await visit(deaf, session)  # now it is known here
    before = await row_of(session)
    await shop.stripe.control("calls/reset")
    for method, headers in (
        ("HEAD", {}),
        ("GET", {"Sec-Purpose": "prefetch"}),
        ("GET", {"Sec-Purpose": "prefetch;prerender"}),
        ("GET", {"Purpose": "prefetch"}),
        ("HEAD", {"User-Agent": "a mail scanner"}),
    ):
        page = await visit(deaf, session, method, **headers)
        assert page.code == 200
    assert (await shop.stripe.calls(), await row_of(session)) == (0, before)
    unknown = await shop.open(**OWN)
    assert (await visit(deaf, unknown, "HEAD")).code == 404
    assert await CheckoutSession.filter(id=unknown).count() == 0
    await shop.pay(session)
    await visit(deaf, session, **{"User-Agent": "a mail scanner"})
    assert (await visit(deaf, session)).state == "active"
    assert (await Account.get()).balance == 2000


async def test_a_page_without_scripts_refreshes_itself_until_the_end(
    deaf: Paidup, shop: CheckoutShop
) -> None:
    """S38: with JavaScript blocked the page comes again by itself, and stops once it is active."""
    session = await shop.open(**OWN)
    page = await visit(deaf, session)
    assert page.state == "awaiting_payment"
    waits = []
    for _ in range(12):
        assert page.refresh is not None
        waits.append(page.refresh[0])
        page = await visit(deaf, session, query=page.refresh[1])
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (2, 60)
    assert page.shown_link("again") is not None
    await shop.pay(session)
    page = await visit(deaf, session)
    assert (page.state, page.refresh, page.shown_link("again")) == ("active", None, None)
    late = await visit(deaf, await shop.open(**OWN), query="?session_id=" + await shop.open(**OWN) + "&n=240")
    assert late.refresh is None, "after hours the customer reloads it by themselves"


@pytest.mark.parametrize(
    ("address", "goes"),
    [
        (START, True),
        (ORIGIN, True),
        ("https://elsewhere.example/", False),
        (f"{ORIGIN}.elsewhere.example/", False),
        (f"{ORIGIN}@elsewhere.example/", False),
        (f"{ORIGIN}\\@elsewhere.example/", False),
        (f"{ORIGIN}:81/", False),
        ("//app.example.test/", False),
        ("/start", False),
        ("javascript:alert(1)//app.example.test", False),
        (f"{ORIGIN}/\n<script>", False),
        (f'{ORIGIN}/"><script>alert(1)</script>', True),
        (f"{ORIGIN.upper()}/start", False),
    ],
)
async def test_the_page_is_no_open_redirect(
    deaf: Paidup, shop: CheckoutShop, address: str, goes: bool
) -> None:
    """S49: it goes on to an allowed origin, by a link, a script and a refresh; and nowhere else."""
    session = await shop.open(**OWN)
    await shop.pay(session)
    await visit(deaf, session)
    await CheckoutSession.filter(id=session).update(return_to=address)
    page = await visit(deaf, session)
    assert page.state == "active"
    assert page.shown_link("go") == (address if goes else None)
    assert page.refresh == ((3, address) if goes else None)
    assert "<script>alert" not in page.html
    if not goes:
        assert f'"home":"{ORIGIN}"' not in page.html


async def test_the_way_back_is_the_origin_alone_until_it_is_active(deaf: Paidup, shop: CheckoutShop) -> None:
    """The id of an open session shows no address of the product's."""
    session = await shop.open(**OWN)
    await visit(deaf, session)
    await CheckoutSession.filter(id=session).update(return_to=START)
    page = await visit(deaf, session)
    assert (page.shown_link("home"), page.shown_link("go")) == (ORIGIN, None)
    assert "welcome" not in page.html


async def test_each_state_says_what_is_awaited(deaf: Paidup, shop: CheckoutShop) -> None:
    """S38, S41, S44: not completed, expired, unclaimed, and a bank debit that takes days."""
    expired = await shop.open(**OWN)
    await shop.stripe.api("POST", f"checkout/sessions/{expired}/expire")
    nobodys = await shop.open(EXTRA)
    await shop.pay(nobodys)
    price = await shop.price(EXTRA)
    await shop.stripe.api("POST", f"prices/{price}", **{"currency_options[eur][unit_amount]": "1400"})
    await shop.stripe.conditions(payment_methods=["card", "sepa_debit"])
    debit = await shop.open(EXTRA, currency="eur", **OWN)
    paid = await shop.pay(debit, payment_method_data=SEPA)
    assert paid["payment_status"] == "unpaid"
    wanted = {
        await shop.open(**OWN): ("awaiting_payment", 200),
        expired: ("void", 200),
        nobodys: ("unclaimed", 200),
        debit: ("processing", 200),
        "cs_test_unknown": ("unknown", 404),
        "in_1": ("unknown", 404),
        "": ("unknown", 404),
    }
    for session, (state, code) in wanted.items():
        page = await visit(deaf, session)
        assert (page.state, page.code) == (state, code), session
    assert (await visit(deaf, expired)).refresh is None
    slow = (await visit(deaf, debit)).refresh
    assert slow is not None
    assert slow[0] == 60
    assert "failed" not in (await visit(deaf, debit)).heading.lower()


async def test_a_session_of_another_stripe_account_opens_nothing(deaf: Paidup, shop: CheckoutShop) -> None:
    """S49: an id that Stripe does not know is read once, remembered, and kept nowhere."""
    for _ in range(5):
        assert (await visit(deaf, "cs_test_another1account")).code == 404
        assert (await deaf.get("/api/checkout/cs_test_another1account"))[0] == 404
    assert await shop.reads() == 1
    assert await CheckoutSession.all().count() == 0


async def test_invented_ids_use_up_no_reads(world: World, shop: CheckoutShop) -> None:
    """S64: one address has few reads of ids that only Stripe can tell; then it waits, and others do not."""
    paidup = await world.server(webhooks=False, checkout_reads_per_minute=24)
    await forget_reads(paidup)
    await Account.create(external_id="ada")
    session = await shop.open(**OWN)
    assert (await visit(paidup, session)).code == 200
    codes = [(await visit(paidup, f"cs_test_invented{number}{id(world)}")).code for number in range(4)]
    assert codes == [404, 429, 429, 429]
    assert await shop.reads() == 2
    assert (await visit(paidup, session)).code == 200, "what is known here is not counted among them"


async def test_while_stripe_is_away_the_page_says_so_and_comes_again(
    deaf: Paidup, shop: CheckoutShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S34: what is known is shown; for what is not, a refresh, and no word of a failure."""
    known, unknown = await shop.open(**OWN), await shop.open(**OWN)
    await visit(deaf, known)

    async def away(*_: Any) -> None:
        raise StripeUnavailable("away")

    monkeypatch.setattr(deaf.services.checkouts, "verify", away)
    page = await visit(deaf, known)
    assert (page.code, page.state) == (200, "verifying")
    page = await visit(deaf, unknown)
    assert (page.code, page.state, page.headers["Retry-After"]) == (503, "unavailable", "5")
    assert 'http-equiv="refresh"' in page.html
    status, problem = await deaf.get(f"/api/checkout/{unknown}")
    assert (status, problem["type"].rpartition("/")[2]) == (503, "stripe-unavailable")
    monkeypatch.undo()
    assert (await visit(deaf, unknown)).state == "awaiting_payment"


async def test_a_slow_answer_of_stripes_does_not_hold_the_page(
    deaf: Paidup, shop: CheckoutShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S34: after its deadline the page shows what is known, and its socket goes on asking."""
    session = await shop.open(**OWN)
    await visit(deaf, session)
    await shop.pay(session)
    await shop.stripe.conditions(api_latency_ms=5_000)
    monkeypatch.setattr(checkout_status, "ASK_TIMEOUT_S", 0.2)
    page = await visit(deaf, session)
    assert (page.code, page.state) == (200, "verifying")
    await shop.stripe.conditions(api_latency_ms=0)
    monkeypatch.setattr(checkout_status, "ASK_TIMEOUT_S", 10.0)
    while page.state != "active":  # the lease of the read that was given up lasts a moment
        page = await visit(deaf, session)


async def test_the_page_is_in_the_products_words_and_colours(world: World, shop: CheckoutShop) -> None:
    """The file's language, or that of the address if the file has it; its texts are escaped."""
    file = world.folder / "return-page.toml"
    file.write_text(
        'lang = "de"\nname = "Halftone & Co"\nhome = "https://halftone.example/start"\n'
        '[light]\naccent = "rebeccapurple"\n[dark]\naccent = "#c9a0ff"\n'
        '[words.de.active]\nheading = "Ihr Tarif ist <aktiv>"\ntext = "{credits} Punkte"\n'
        '[words.ar.active]\nheading = "خطتك نشطة"\ntext = "{credits} نقطة"\n'
    )
    paidup = await world.server(webhooks=False, return_page_file=file)
    await Account.create(external_id="ada")
    session = await shop.open(**OWN)
    await shop.pay(session)
    page = await visit(paidup, session)
    assert (page.heading, page.text(r"<title>(.*?)</title>")) == (
        "Ihr Tarif ist <aktiv>", "Ihr Tarif ist <aktiv> · Halftone & Co"
    )  # fmt: skip
    assert "<aktiv>" not in page.html
    assert "2.000 Punkte" in page.html
    assert "--accent: rebeccapurple;" in page.html
    assert page.shown_link("go") == "https://halftone.example/start"
    arabic = await visit(paidup, session, query=f"?session_id={session}&lang=ar-EG")
    assert (arabic.heading, arabic.text(r'<html lang="(\w+)" dir="auto"')) == ("خطتك نشطة", "ar")
    assert "2,000 نقطة" in arabic.html, "as the script of the page writes it"
    assert (
        await visit(paidup, session, query=f"?session_id={session}&lang=en")
    ).heading == "Your plan is active"
    hostile = await visit(paidup, session, query=f'?session_id={session}&lang="><script>')
    assert "<script>" not in hostile.html


async def test_the_script_is_served_and_revalidated(deaf: Paidup) -> None:
    async with aiohttp.ClientSession() as browser:
        async with browser.get(f"{deaf.url}/activate.js") as response:
            assert response.content_type == "text/javascript"
            tag = response.headers["ETag"]
        async with browser.get(f"{deaf.url}/activate.js", headers={"If-None-Match": tag}) as response:
            assert response.status == 304


async def test_no_credentials_are_needed_and_other_sites_read_nothing(
    deaf: Paidup, shop: CheckoutShop
) -> None:
    """Listed pages may read the status by CORS; any other site reads neither it nor the page."""
    session = await shop.open(**OWN)
    await visit(deaf, session)
    async with aiohttp.ClientSession() as browser:
        for path, origin, allowed in (
            (f"/api/checkout/{session}", ORIGIN, True),
            (f"/api/checkout/{session}", "https://elsewhere.example", False),
            (f"/activate?session_id={session}", "https://elsewhere.example", False),
        ):
            async with browser.get(deaf.url + path, headers={"Origin": origin}) as response:
                assert response.status == 200
                assert ("Access-Control-Allow-Origin" in response.headers) is allowed


async def test_a_status_that_changed_meanwhile_is_shown(
    deaf: Paidup, shop: CheckoutShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S10: another request, or the webhook, has Stripe asked already: the page waits for what it finds."""
    session = await shop.open(**OWN)
    await visit(deaf, session)
    known = await read_checkout(session)
    assert known is not None
    paid = replace(known, version=1, stage=Stage.VERIFYING)
    active = replace(known, version=4, status=InvoiceStatus.ACTIVE, stage=Stage.ACTIVE)
    answers = iter([known, known, paid, active])

    async def leased(*_: Any) -> None:
        return None

    async def changing(_: str) -> Any:
        return next(answers, None)

    monkeypatch.setattr(deaf.services.checkouts, "verify", leased)
    monkeypatch.setattr(checkout_status, "read_checkout", changing)
    assert (await visit(deaf, session)).state == "active"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("lang = 7", "line 1: lang"),
        ('lang = "en\\" onload=x"', "line 1: lang"),
        ('[light]\naccent = "red; } body { display: none"', "line 2: light.accent"),
        ('home = "javascript:alert(1)"', "line 1: home: not an address"),
        ('[words.de.activ]\nheading = "x"', "there is no such state"),
        ('[words.de.active]\nheadin = "x"', "unknown text"),
        ("words", "return-page.toml"),
    ],
)
def test_a_faulty_file_is_refused_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    """With its line and key, before anything is served."""
    file = tmp_path / "return-page.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(complaint)):
        read_return_page(str(file))


async def test_old_sessions_are_read_without_a_limit_on_their_age(deaf: Paidup, shop: CheckoutShop) -> None:
    """A page that is opened from the history weeks later still knows."""
    session = await shop.open(**OWN)
    await shop.pay(session)
    await visit(deaf, session)
    row = await CheckoutSession.get(id=session)
    await CheckoutSession.filter(id=session).update(created_at=row.created_at - timedelta(days=90))
    assert (await visit(deaf, session)).state == "active"
