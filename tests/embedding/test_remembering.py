"""What the Python client remembers: entitlements, and the spends of an outage of Paidup."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from paidup.client import (
    AllowDuringOutage,
    APIConnectionError,
    AsyncPaidup,
    DeferredSpend,
    InsufficientCreditsError,
    Paidup,
    signed_with,
)
from paidup.client.outages import Outage
from paidup.client.retries import HttpResponse, RetryBudget
from paidup.db.models import Account, LedgerEntry
from tests.conftest import World
from tests.support.factories import granted, three_sums
from tests.support.paidup import JWT_SECRET, serving, settings
from tests.support.paidup import Paidup as Server
from tests.support.processes import free_port

TOKENS = signed_with(JWT_SECRET)
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Counting(AsyncPaidup):
    """Counts requests, tries each once, and loses the answers to the next `lost` of them."""

    sent, lost = 0, 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._retry_budget = RetryBudget(0)

    async def _send(self, request: Any) -> Any:
        self.sent += 1
        response = await super()._send(request)
        if self.lost:
            self.lost -= 1
            return None
        return response


async def rich(client: Any, credits: int = 100, name: str = "ada") -> Account:
    await client.account(name)
    account = await Account.get(external_id=name)
    account.stripe_customer = f"cus_{name}"  # of the invoice alone
    await granted(account, credits)
    return account


def event(account: str | None, version: int) -> bytes:
    data = {"account": account, "version": version, "balance": 0, "invoice": None, "subscription": None}
    return json.dumps({"type": "credits.granted", "timestamp": "2026-11-27T00:00:00Z", "data": data}).encode()


@pytest.fixture
async def client(paidup: Server) -> AsyncIterator[Counting]:
    async with Counting(paidup.url, TOKENS) as made:
        yield made


@ON_SQLITE
async def test_entitlements_are_asked_for_once_until_an_event_says_more(client: Counting) -> None:
    await rich(client)
    first = await client.entitlements("ada")
    assert (first.plan, first.balance.available) == (None, 100)
    sent = client.sent
    assert await client.entitlements("ada") == first
    client.on_event(event("ada", first.version))  # it is known already
    client.on_event(event("bob", 99))
    client.on_event(event(None, 1))
    client.on_event({"type": "something else"})
    assert (await client.entitlements("ada"), client.sent) == (first, sent)
    await client.spend("ada", 10, "report")
    client.on_event(json.loads(event("ada", first.version + 1)))
    assert (await client.entitlements("ada")).balance.available == 90
    assert client.sent == sent + 2


@ON_SQLITE
async def test_what_is_older_than_an_event_is_not_kept(client: Counting) -> None:
    """An answer that was under way while the event came: S59, no cached "no plan"."""
    await rich(client)
    client.on_event(event("ada", 99))
    sent = client.sent
    for _ in range(2):
        await client.entitlements("ada")
    assert client.sent == sent + 2


@ON_SQLITE
async def test_after_a_while_they_are_asked_for_by_their_etag(paidup: Server) -> None:
    statuses = []

    class Reading(AsyncPaidup):
        async def _send(self, request: Any) -> Any:
            response = await super()._send(request)
            statuses.append(response and response.status)
            return response

    async with Reading(paidup.url, TOKENS, entitlements_max_age_s=0) as client:
        assert await client.entitlements("ada") == await client.entitlements("ada")
    assert statuses == [200, 304]


@ON_SQLITE
async def test_without_a_policy_nothing_is_allowed_in_an_outage(client: Counting) -> None:
    await client.entitlements("ada")
    away = Counting(f"http://127.0.0.1:{free_port()}", TOKENS)
    async with away:
        with pytest.raises(APIConnectionError):
            await away.spend("ada", 1, "report")
        with pytest.raises(APIConnectionError):
            await away.entitlements("ada")
        assert (away.deferred, await away.send_deferred()) == ([], 0)


async def test_spends_of_an_outage_are_charged_once_when_it_is_over(
    world: World, http: aiohttp.ClientSession
) -> None:
    """S59: the server is gone and comes back; the answer to the last spend before was lost."""
    port = free_port()
    configured = settings(**world.given(port=port))
    policy = AllowDuringOutage(credits_per_customer=50, probe_every_s=0)
    async with Counting(f"http://127.0.0.1:{port}", TOKENS, outage=policy) as client:
        async with serving(configured, http, port):
            account = await rich(client)
            assert (await client.entitlements("ada")).balance.available == 100
            client.lost = 1
            unsure = await client.spend("ada", 7, "unsure")  # charged, and nobody knows
        assert (unsure.deferred, unsure.balance) == (True, 93)
        for _ in range(2):
            again = await client.spend("ada", 20, "report")
        assert (again.deferred, again.balance) == (True, 73)
        assert (await client.entitlements("ada")).balance.available == 100, "the last that is known"
        with pytest.raises(APIConnectionError):
            await client.spend("ada", 24, "beyond the bound")
        assert [each.key for each in client.deferred] == ["unsure", "report"]
        async with serving(configured, http, port):
            settled = await client.spend("ada", 1, "back")
            assert (settled.deferred, client.deferred) == (False, [])
            assert (await client.spend("ada", 20, "report")).deferred is False
            entries = [row.credits for row in await LedgerEntry.filter(kind="spend").order_by("id")]
            assert entries == [-7, -1, -20]
            assert await three_sums(account.id) == (72, 72, 72)


async def test_a_deferred_spend_that_is_refused_is_told_of(world: World, http: aiohttp.ClientSession) -> None:
    refused = []
    policy = AllowDuringOutage(
        probe_every_s=0, on_refused=lambda spend, error: refused.append((spend, error))
    )
    port = free_port()
    async with Counting(f"http://127.0.0.1:{port}", TOKENS, outage=policy) as client:
        assert (await client.spend("ada", 5, "report")).deferred
        async with serving(settings(**world.given(port=port)), http, port):
            assert await client.send_deferred() == 0
        ((spend, error),) = refused
        assert (spend, type(error)) == (DeferredSpend("ada", 5, "report"), InsufficientCreditsError)


async def test_an_answer_that_says_nothing_of_a_deferred_spend_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that fails, or a proxy in front of it, has not refused to charge."""

    async def failed(_: AsyncPaidup, __: Any) -> HttpResponse:
        return HttpResponse(500, "", b"<h1>Internal Server Error</h1>")

    refused: list[DeferredSpend] = []
    policy = AllowDuringOutage(on_refused=lambda spend, _: refused.append(spend))
    async with Counting(f"http://127.0.0.1:{free_port()}", TOKENS, outage=policy) as client:
        assert (await client.spend("ada", 5, "report")).deferred
        monkeypatch.setattr(AsyncPaidup, "_send", failed)
        assert (await client.send_deferred(), refused) == (1, [])


def test_the_blocking_client_defers_as_well() -> None:
    policy = AllowDuringOutage(max_spends=2, probe_every_s=60)
    with Paidup(f"http://127.0.0.1:{free_port()}", TOKENS, outage=policy) as client:
        client._retry_budget = RetryBudget(0)
        assert client.spend("ada", 5, "one").deferred
        assert client.spend("bob", 5, "two").deferred, "at once: it is not tried again for a minute"
        with pytest.raises(APIConnectionError):
            client.spend("eve", 5, "three")
        assert client.send_deferred() == 2


def test_an_outage_is_bounded_in_time_and_by_what_is_known() -> None:
    at = [0.0]
    outage = Outage(AllowDuringOutage(credits_per_customer=50, for_s=100, probe_every_s=5), lambda: at[0])
    spend = DeferredSpend("ada", 10, "one")
    assert outage.defer(spend, None) is None, "there is no outage"
    outage.failed()
    assert (outage.skips(), outage.tolerable) == (True, True)
    assert outage.defer(spend, 15) is not None
    assert outage.defer(DeferredSpend("ada", 10, "two"), 15) is None, "more than they had"
    assert outage.defer(DeferredSpend("ada", 9, "one"), 15) is None, "the same key for another amount"
    at[0] = 5
    assert [outage.skips(), outage.skips()] == [False, True], "one call in five seconds is tried"
    at[0] = 101
    assert (outage.skips(), outage.tolerable) == (False, False)
    assert outage.defer(DeferredSpend("bob", 1, "three"), None) is None
    outage.answered()
    outage.charged("ada", "one")
    assert outage.waiting == []
