"""The status of a Checkout Session, for a browser that has nothing but its id."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from paidup.db.models import Account, CheckoutSession, Invoice
from paidup.errors import TooManyRequests
from paidup.rate_limits.address_limits import AddressLimits
from paidup.realtime.hub import CHECKOUTS
from paidup.realtime.publishing import publish_checkout
from paidup.realtime.resync import resync
from paidup.runtime.clock import now
from paidup.runtime.metrics import Metrics
from tests.conftest import World
from tests.support.checkout_shop import CheckoutShop
from tests.support.paidup import ORIGIN, Paidup, next_status, settings, status_with
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

SESSION = "cs_test_a1of4the4tests"
OF_THE_ACCOUNT = ("balance", "invoice", "account", "email", "name", "customer")


async def given_session(checkout: str = SESSION, **columns: Any) -> CheckoutSession:
    """A row as a verification leaves it; open, unless `columns` say else."""
    at = now()
    defaults = {
        "mode": "subscription", "status": "open", "payment_status": "unpaid", "plan": "pro",
        "expires_at": at + timedelta(days=1), "created_at": at,
    }  # fmt: skip
    return await CheckoutSession.create(id=checkout, **{**defaults, **columns})


async def given_linked(paidup: Paidup, name: str = "ada") -> Any:
    """A purchase of this customer's that came from SESSION, which is complete."""
    purchase = await paidup.customer(name).buy("pro")
    row = await Invoice.get(id=purchase["invoice"])
    done: dict[str, Any] = {"status": "complete", "payment_status": "paid", "completed_at": now()}
    await given_session(
        account_id=row.account_id, invoice=row.id, return_to="https://app.example.com/start", **done
    )
    await Invoice.filter(id=row.id).update(checkout=SESSION)
    return purchase


async def forget_reads(paidup: Paidup) -> None:
    """All tests of a minute come from one address, and count in one Redis."""
    redis: Any = paidup.services.redis
    async for key in redis.scan_iter("*paidup-address*"):
        await redis.delete(key)


@asynccontextmanager
async def watching(
    paidup: Paidup, http: aiohttp.ClientSession, checkout: str = SESSION, **headers: str
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A socket on the session, opened without a login."""
    url = f"{paidup.url}/api/checkout/{checkout}/ticket"
    async with http.post(url) as answer:
        assert answer.status == 200, await answer.text()
        ticket = (await answer.json())["ticket"]
    async with http.ws_connect(
        f"{paidup.url}/ws/checkout/{checkout}",
        protocols=("paidup.v1", ticket),
        headers={"Origin": ORIGIN, **headers},
    ) as socket:
        yield socket


async def test_a_browser_without_a_login_is_told_of_its_session(
    paidup: Paidup, stripe_side: StripeSide, http: aiohttp.ClientSession
) -> None:
    """S38: GET, ticket and socket need the id alone; the credits are told on the session's channel, too."""
    purchase = await given_linked(paidup)
    status, before = await paidup.get(f"/api/checkout/{SESSION}")
    assert (status, before["status"], before["stage"]) == (200, "open", "verifying")
    assert (before["return_to"], before["version"]) == (None, 3)
    async with watching(paidup, http) as socket:
        await next_status(socket)
        await stripe_side.confirm(purchase["client_secret"])
        active = await status_with(socket, status="active")
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1000
    assert (active["credits_granted"], active["checkout"]) == (2000, SESSION)
    assert active["return_to"] == "https://app.example.com/start"
    _, after = await paidup.get(f"/api/checkout/{SESSION}")
    assert after == active


async def test_the_id_shows_nothing_of_the_account(paidup: Paidup, http: aiohttp.ClientSession) -> None:
    """S49: no name, no email, no balance, no invoice; and an id opens no other session."""
    await given_linked(paidup)
    await given_session("cs_test_another")
    _, seen = await paidup.get(f"/api/checkout/{SESSION}")
    assert not [name for name in OF_THE_ACCOUNT if name in seen]
    assert not [word for word in ("in_", "ada") if word in str(seen)]
    async with http.post(f"{paidup.url}/api/checkout/{SESSION}/ticket") as answer:
        ticket = (await answer.json())["ticket"]
    for path in ("checkout/cs_test_another", "account", f"invoices/{(await Invoice.get()).id}"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{paidup.url}/ws/{path}", protocols=("paidup.v1", ticket))
        assert refused.value.status in (401, 403)
    ada = paidup.customer("ada")
    for ticket in (await ada.account_ticket(), (await ada.buy("pro"))["ticket"]):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(f"{paidup.url}/ws/checkout/{SESSION}", protocols=("paidup.v1", ticket))
        assert refused.value.status == 401


@pytest.mark.parametrize(
    "made_up",
    [
        "in_1",
        "cs_test_",
        "cs_test_a%00b",
        "cs_test_a'--",
        "cs_live_a1of4the4tests",
        f"cs_test_{'a' * 300}",
        "cs_1",
    ],
)
async def test_what_is_no_id_reaches_nothing(
    paidup: Paidup, stripe_side: StripeSide, made_up: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S49: a malformed id, and one of the other mode, are answered 404 without a query or a read."""

    async def untouched(*_: Any) -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr("paidup.web.checkout_status.read_checkout", untouched)
    await stripe_side.control("calls/reset")
    assert (await paidup.get(f"/api/checkout/{made_up}"))[0] == 404
    assert await stripe_side.calls() == 0


async def test_an_end_without_an_invoice_is_told_on_the_socket(
    paidup: Paidup, http: aiohttp.ClientSession
) -> None:
    """S38: expired, and paid by somebody who is not known yet: each changes the open screen."""
    await given_session()
    await given_session("cs_test_unclaimed")
    async with watching(paidup, http) as one, watching(paidup, http, "cs_test_unclaimed") as other:
        assert (await next_status(one))["version"] == 0
        await next_status(other)
        await CheckoutSession.filter(id=SESSION).update(status="expired")
        await publish_checkout(paidup.services.hub, SESSION)
        assert (await status_with(one, status="void"))["stage"] == "void"
        await CheckoutSession.filter(id="cs_test_unclaimed").update(status="complete", payment_status="paid")
        await resync(paidup.services.hub)  # a message that was lost
        assert (await status_with(other, stage="unclaimed"))["status"] == "open"
    await wait_until(lambda: paidup.services.hub.subscribed_keys(CHECKOUTS) == [])


async def test_an_open_session_is_said_to_be_unpaid_once_stripe_has_answered(
    world: World, stripe_side: StripeSide, http: aiohttp.ClientSession
) -> None:
    """S38: what Stripe says of a session that no event has named, and at last the credits."""
    paidup = await world.server(webhooks=False)
    await Account.create(external_id="ada")
    shop = CheckoutShop(stripe_side)
    session = await shop.open(client_reference_id="ada")
    async with watching(paidup, http, session) as socket:
        await status_with(socket, stage="awaiting_payment")
        await shop.pay(session)
        await socket.send_json({"type": "verify"})
        active = await status_with(socket, status="active")
    assert (active["credits_granted"], active["via"]) == (2000, "verification")


async def test_only_listed_pages_and_the_servers_own_open_a_socket(
    paidup: Paidup, http: aiohttp.ClientSession
) -> None:
    """S28: Paidup's own page is not in ALLOWED_ORIGINS, and opens a session's socket all the same."""
    await given_session()
    async with watching(paidup, http, Origin=paidup.url) as socket:
        assert (await next_status(socket))["checkout"] == SESSION
    for origin in ("https://elsewhere.example", paidup.url + "0", f"{paidup.url}@elsewhere.example", "null"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with watching(paidup, http, Origin=origin):
                pass
        assert refused.value.status == 403
    ada = paidup.customer("ada")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with ada.watch(await ada.buy("pro"), Origin=paidup.url):
            pass
    assert refused.value.status == 403, "an invoice's socket is for listed pages only"


async def test_one_address_reads_so_often_and_no_more(world: World) -> None:
    """S64: 429 with Retry-After, a problem document, and no query; a malformed id costs nothing."""
    paidup = await world.server(webhooks=False, checkout_reads_per_minute=3)
    await forget_reads(paidup)
    await given_session()
    answers = [(await paidup.get(f"/api/checkout/{SESSION}"))[0] for _ in range(5)]
    async with world.http.post(f"{paidup.url}/api/checkout/{SESSION}/ticket") as refused:
        problem = await refused.json()
    assert answers == [200, 200, 200, 429, 429]
    assert (refused.status, problem["detail"]) == (
        429, "Too many checkout reads for this address. Please wait a moment."
    )  # fmt: skip
    assert int(refused.headers["Retry-After"]) > 0


async def test_processes_share_the_limit_of_an_address(world: World) -> None:
    """Two processes let one address through as often as one does."""
    paidup = await world.server(webhooks=False)
    address = f"192.0.2.{id(world) % 250}"
    limited = settings(**world.given(checkout_reads_per_minute=6))
    one, other = (AddressLimits(paidup.services.redis, limited, Metrics()) for _ in range(2))
    passed = 0
    for turn in range(12):
        try:
            await (one, other)[turn % 2].count_read(address)
            passed += 1
        except TooManyRequests:
            pass
    assert passed == 6


async def test_a_refusal_says_whose_limit_it_is(world: World) -> None:
    """S64: an address that has asked for nothing unknown yet is not blamed for what others asked for."""
    paidup = await world.server(webhooks=False)
    await forget_reads(paidup)
    limited = settings(**world.given(checkout_reads_per_minute=2))
    limits = AddressLimits(paidup.services.redis, limited, Metrics())
    await limits.count_unknown("192.0.2.1")
    with pytest.raises(TooManyRequests, match="for this address"):
        await limits.count_unknown("192.0.2.1")
    with pytest.raises(TooManyRequests, match="for all addresses together"):
        await limits.count_unknown("192.0.2.2")


async def test_a_publish_of_an_invoice_reaches_the_session_in_other_processes(
    world: World, stripe_side: StripeSide
) -> None:
    """S38: the webhook is handled by one process, and the socket is open in another."""
    paidup = await world.server()
    purchase = await given_linked(paidup)
    other = await world.process(webhooks=False)
    async with watching(other, world.http) as socket:
        await next_status(socket)
        await stripe_side.confirm(purchase["client_secret"])
        await status_with(socket, status="active")
    assert (await Account.get()).balance == 2000


async def test_sockets_of_one_session_are_limited(world: World) -> None:
    """As those of one invoice: further handshakes are refused until one is closed."""
    paidup = await world.server(webhooks=False, max_sockets_per_invoice=1)
    await given_session()
    async with watching(paidup, world.http) as socket:
        await next_status(socket)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with asyncio.timeout(10), watching(paidup, world.http):
                pass
        assert refused.value.status == 503
