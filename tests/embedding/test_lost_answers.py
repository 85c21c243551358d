"""Each call whose first answer is lost after the server did it: its own retry returns the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from paidup.client import (
    AlreadyOnPlanError,
    AlreadySubscribedError,
    APIConnectionError,
    AsyncPaidup,
    NotFoundError,
    NotSubscribedError,
    Paidup,
)
from paidup.client.retries import HttpRequest, HttpResponse
from paidup.db.models import Invoice, LedgerEntry, Subscription
from tests.conftest import World
from tests.embedding.test_every_transport import TOKENS, InThread, buy, refusal
from tests.security.test_nothing_for_nothing import with_a_free_plan
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Paidup as Server
from tests.support.stripe_sandbox import StripeSide


class Losses:
    """The ends of the addresses whose next answer is lost, and how many attempts there were."""

    def __init__(self) -> None:
        self.ends: set[str] = set()
        self.attempts = 0

    def of(self, request: HttpRequest, response: HttpResponse | None) -> HttpResponse | None:
        self.attempts += 1
        end = request.url.rpartition("/")[2]
        lost = end in self.ends
        self.ends.discard(end)
        return None if lost else response


class LossyBlocking(Paidup):
    losses: Losses

    def _send(self, request: HttpRequest) -> HttpResponse | None:
        return self.losses.of(request, super()._send(request))


class LossyAsync(AsyncPaidup):
    losses: Losses

    async def _send(self, request: HttpRequest) -> HttpResponse | None:
        return self.losses.of(request, await super()._send(request))


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is lost is between the client and the server."""
    return sqlite_url


@pytest.fixture
async def server(world: World) -> Server:
    return await world.server(plans_file=await with_a_free_plan(world))


@pytest.fixture
def losses() -> Losses:
    return Losses()


@pytest.fixture(params=["blocking", "asynchronous"])
async def api(request: pytest.FixtureRequest, server: Server, losses: Losses) -> AsyncIterator[Any]:
    made: Any
    if request.param == "blocking":
        made = LossyBlocking(server.url, TOKENS)
        made.losses = losses
        made = InThread(made)
    else:
        made = LossyAsync(server.url, TOKENS)
        made.losses = losses
    yield made
    await made.close()


async def test_a_subscription_with_nothing_to_pay_is_the_one_that_was_made(api: Any, losses: Losses) -> None:
    """It ran at once, and the retry was refused for it."""
    losses.ends = {"subscriptions"}
    made = await api.subscribe("ada", "free")
    assert not losses.ends
    assert made.status.active
    assert (await api.account("ada")).running_plans == {"free"}
    assert await Invoice.all().values_list("id", flat=True) == [made.invoice]
    assert (await refusal(AlreadySubscribedError, api.subscribe("ada", "free"))).invoice == made.invoice
    losses.ends = {"subscriptions"}
    assert (await refusal(AlreadySubscribedError, api.subscribe("ada", "basic"))).invoice is None
    await assert_books_balance(grants=1)


async def test_an_end_at_once_is_the_one_that_was_made(
    api: Any, losses: Losses, stripe_side: StripeSide
) -> None:
    await buy(api, stripe_side, "basic")
    (named,) = (await api.account("ada")).subscriptions
    await refusal(NotFoundError, api.cancel("ada", when="now", subscription="sub_elsewhere"))
    losses.ends = {"cancel"}
    ended = await api.cancel("ada", when="now", subscription=named.id)
    assert not losses.ends
    assert (ended.id, ended.status, ended.plan) == (named.id, "canceled", "basic")
    assert ended.ended_at
    await refusal(NotFoundError, api.cancel("bob", when="now", subscription=named.id))
    await refusal(NotFoundError, api.cancel("ada", subscription=named.id))
    await refusal(NotFoundError, api.resume("ada", subscription=named.id))
    await refusal(NotSubscribedError, api.cancel("ada", when="now"))


async def test_an_end_at_once_of_what_is_not_named_is_made_once(api: Any, losses: Losses) -> None:
    await api.subscribe("ada", "free")
    losses.ends, losses.attempts = {"cancel"}, 0
    with pytest.raises(APIConnectionError):
        await api.cancel("ada", when="now")
    assert losses.attempts == 1
    assert await Subscription.filter(status="canceled").count() == 1


async def test_a_change_is_the_one_that_was_made(api: Any, losses: Losses, stripe_side: StripeSide) -> None:
    basic = await buy(api, stripe_side, "basic")
    losses.ends = {"change"}
    made = await api.change("ada", "pro")
    assert not losses.ends
    assert made.invoice != basic.invoice
    assert (await api.account("ada")).running_plans == {"pro"}
    assert (await refusal(AlreadyOnPlanError, api.change("ada", "pro"))).invoice == made.invoice


async def test_what_waits_for_a_payment_or_has_a_key_is_made_once(
    api: Any, losses: Losses, stripe_side: StripeSide
) -> None:
    losses.ends = {"subscriptions"}
    await buy(api, stripe_side, "basic")
    losses.ends |= {"top-ups", "cancel", "resume", "checkout", "invoices"}
    top_up = await api.top_up("ada", "extra")
    assert (await api.adopt("ada", top_up.invoice)).invoice == top_up.invoice
    assert (await api.cancel("ada")).cancel_at
    assert (await api.resume("ada")).cancel_at is None
    assert await Invoice.all().count() == 2
    losses.ends |= {"spend", "reserve", "commit", "release"}
    assert (await api.spend("ada", 5, "report")).balance == 495
    assert (await api.reserve("ada", 20, "work")).balance == 475
    assert (await api.commit("ada", 15, "work")).balance == 480
    await api.reserve("ada", 20, "other")
    assert (await api.release("ada", "other")).balance == 480
    assert losses.ends == {"checkout"}
    assert await LedgerEntry.filter(kind="spend").count() == 2
    assert (await api.checkout("bob", plan="pro")).checkout == (
        await api.checkout("bob", plan="pro")
    ).checkout
    assert not losses.ends
    await assert_books_balance(grants=1)
