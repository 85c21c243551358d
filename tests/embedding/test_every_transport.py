"""The whole API through each client: blocking, asynchronous, and in the server's own process."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from paidup import client
from paidup.client import (
    AlreadyOnPlanError,
    AlreadySubscribedError,
    APIStatusError,
    AsyncPaidup,
    ConflictError,
    InsufficientCreditsError,
    InternalServerError,
    InvalidInputError,
    KeyReusedError,
    NotAuthenticatedError,
    NotFoundError,
    NotSubscribedError,
    Paidup,
    ReservationClosedError,
    UnknownPlanError,
    signed_with,
)
from paidup.client.async_methods import AsyncMethods
from paidup.client.errors import ERRORS
from paidup.credits import account_states
from paidup.mounting import InProcess
from tests.support.checkout_shop import EXTRA, CheckoutShop
from tests.support.contracts import OPENAPI, document
from tests.support.paidup import JWT_SECRET
from tests.support.paidup import Paidup as Server
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

TOKENS = signed_with(JWT_SECRET)
METHODS = sorted(name for name in vars(AsyncMethods) if not name.startswith("_"))


class InThread:
    """The blocking client with the asynchronous one's interface."""

    def __init__(self, blocking: Paidup) -> None:
        self._blocking = blocking

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: Any, **options: Any) -> Any:
            return await asyncio.to_thread(getattr(self._blocking, name), *arguments, **options)

        return call

    async def entries(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        for entry in await asyncio.to_thread(lambda: list(self._blocking.entries(*arguments, **options))):
            yield entry


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """The clients see no difference; tests/scenarios has these calls on both databases."""
    return sqlite_url


@pytest.fixture(params=["blocking", "asynchronous", "in_process"])
async def api(request: pytest.FixtureRequest, paidup: Server) -> AsyncIterator[Any]:
    makers: dict[str, Callable[[], Any]] = {
        "blocking": lambda: InThread(Paidup(paidup.url, TOKENS)),
        "asynchronous": lambda: AsyncPaidup(paidup.url, TOKENS),
        "in_process": lambda: InProcess(paidup.app),
    }
    made = makers[request.param]()
    yield made
    await made.close()


async def buy(api: Any, stripe_side: StripeSide, plan: str) -> Any:
    """Subscribe and pay; return the purchase once its credits are granted."""
    purchase = await api.subscribe("ada", plan, interval="month")
    await stripe_side.confirm(purchase.client_secret)

    async def active() -> bool:
        status = await api.status("ada", purchase.invoice)
        return bool(status.active)

    await wait_until(active)
    return purchase


async def test_a_customer_is_sold_to_and_spends(api: Any, stripe_side: StripeSide) -> None:
    on_sale = {plan.id: plan for plan in await api.plans()}
    assert (on_sale["pro"].credits, on_sale["pro"].top_up, on_sale["extra"].top_up) == (2000, False, True)
    assert on_sale["pro"].prices[0].interval == "month"
    assert ((await api.account("ada")).balance, (await api.account("ada")).subscription) == (0, None)
    await api.subscribe("ada", "pro", interval="month")
    unpaid = await api.account("ada")
    assert (unpaid.subscription.plan, unpaid.running_plans) == ("pro", frozenset())
    purchase = await buy(api, stripe_side, "pro")
    assert (await api.adopt("ada", purchase.invoice)).invoice == purchase.invoice
    assert (await api.ticket("ada", purchase.invoice)).ticket
    assert (await api.account_ticket("ada")).expires_at
    assert (await api.spend("ada", 5, "report-1", reason="Report 1")).balance == 1995
    assert (await api.spend("ada", 5, "report-1", reason="again")).balance == 1995
    assert (await api.reserve("ada", 95, "work", expires_in_s=60)).balance == 1900
    assert (await api.commit("ada", 45, "work", reason="Video")).balance == 1950
    assert (await api.reserve("ada", 10, "more")).balance == 1940
    assert (await api.release("ada", "more")).balance == 1950
    found = await api.credits("ada")
    assert (found.balance, found.grants[0].remaining, found.activating) == (1950, 1950, None)
    account = await api.account("ada")
    assert (account.subscription.plan, account.subscription.interval) == ("pro", "month")
    assert account.running_plans == {"pro"}


async def test_a_customer_pays_on_a_page_of_stripes(api: Any) -> None:
    page = await api.checkout("ada", plan="pro", interval="month", return_to="/welcome")
    assert (page.status, page.client_secret) == ("open", None)
    assert page.url
    assert (await api.checkout("ada", plan="pro", return_to="/welcome")).url == page.url
    assert (await api.account("ada")).checkout.checkout == page.checkout
    assert (await api.checkout("ada", top_up="extra", quantity=2, ui="embedded")).client_secret
    with pytest.raises(InvalidInputError):
        await api.checkout("ada")


async def test_a_checkout_session_is_followed(api: Any, stripe_side: StripeSide) -> None:
    """S38: by its id, and without a customer."""
    await api.account("ada")
    shop = CheckoutShop(stripe_side)
    session = await shop.open(client_reference_id="ada")
    unpaid = await api.checkout_status(session)
    assert (unpaid.stage, unpaid.active, unpaid.return_to) == ("awaiting_payment", False, None)
    await shop.pay(session)

    async def active() -> bool:
        return bool((await api.checkout_status(session)).active)

    await wait_until(active)
    paid = await api.checkout_status(session)
    assert (paid.checkout, paid.plan, paid.credits_granted) == (session, "pro", 2000)
    await refusal(NotFoundError, api.checkout_status("cs_test_elsewhere"))
    await refusal(NotFoundError, api.checkout_status("in_elsewhere/?"))


async def test_a_payment_that_belongs_to_nobody_is_claimed(api: Any, stripe_side: StripeSide) -> None:
    shop = CheckoutShop(stripe_side)
    session = await shop.open(EXTRA)
    with pytest.raises(ConflictError):
        await api.claim_link(session)
    await shop.pay(session)
    link = await api.claim_link(session)
    assert (link.checkout, link.url) == (session, None)
    with pytest.raises(InvalidInputError):
        await api.claim("ada", link.claim[1:])
    claimed = await api.claim("ada", link.claim)
    assert (claimed.active, claimed.credits_granted) == (True, 1000)
    with pytest.raises(ConflictError):
        await api.claim("bob", link.claim)
    assert (await api.account("ada")).balance == 1000


async def test_the_ledger_names_keys_and_reasons_page_by_page(api: Any, stripe_side: StripeSide) -> None:
    await buy(api, stripe_side, "pro")
    for number in range(4):
        await api.spend("ada", 1, f"a:b-{number}", reason=f"Report {number}")
    await api.reserve("ada", 10, "work")
    await api.commit("ada", 4, "work")
    for limit in (1, 3, 100):
        entries = [entry async for entry in api.entries("ada", limit=limit)]
        assert [(entry.kind, entry.key, entry.reason) for entry in entries] == [
            ("spend", "work", "reserved earlier"),
            ("release", "work", "reservation committed"),
            ("reserve", "work", "reserved"),
            *(("spend", f"a:b-{number}", f"Report {number}") for number in (3, 2, 1, 0)),
            ("grant", None, "pro, paid"),
        ]
    first = await api.entries_page("ada", limit=2)
    assert (len(first.entries), first.has_more) == (2, True)
    rest = await api.entries_page("ada", starting_after=first.entries[-1].id)
    assert [entry.id for entry in first.entries + rest.entries] == [entry.id for entry in entries]
    assert not rest.has_more
    for limit in (0, 101):
        with pytest.raises(InvalidInputError):
            await api.entries_page("ada", limit=limit)


async def test_a_plan_is_changed_cancelled_and_resumed(api: Any, stripe_side: StripeSide) -> None:
    """And topped up. A preview says what the change then costs, and changes nothing."""
    await buy(api, stripe_side, "basic")
    preview = await api.preview("ada", "pro")
    assert (preview.plan, preview.interval, preview.quantity) == ("pro", "month", 1)
    assert preview.total_minor == sum(line.amount_minor for line in preview.lines) > 0
    assert (preview.card.brand, preview.card.last4) == ("visa", "4242")
    assert (await api.account("ada")).subscription.plan == "basic"
    changed = await api.change("ada", "pro")
    invoiced = await stripe_side.api("GET", f"invoices/{changed.invoice}")
    # Prorations are to the second, and one may have passed.
    assert abs(invoiced["amount_due"] - preview.amount_due_minor) <= 1
    assert invoiced["currency"] == preview.currency
    assert changed.status.active, "the saved card has paid"
    back = await api.preview("ada", "basic")
    assert (back.amount_due_minor, back.card) == (0, None)
    assert (await api.cancel("ada")).cancel_at
    resumed = await api.resume("ada")
    assert (resumed.plan, resumed.cancel_at) == ("pro", None)
    top_up = await api.top_up("ada", "extra", quantity=2)
    assert top_up.client_secret
    assert (await api.account("ada")).activating.reason == "manual"
    assert (await api.account("ada")).running_plans == {"pro"}
    assert (await api.cancel("ada", when="now", subscription=resumed.id)).status == "canceled"
    ended = await api.account("ada")
    assert (ended.subscription.plan, ended.running_plans) == ("pro", frozenset())


async def refusal(kind: type[APIStatusError], call: Awaitable[Any]) -> Any:
    with pytest.raises(kind) as refused:
        await call
    assert type(refused.value) is kind
    assert refused.value.request_id
    return refused.value


async def test_refusals_are_typed(api: Any, stripe_side: StripeSide) -> None:
    refused = await refusal(InsufficientCreditsError, api.spend("ada", 5, "k"))
    assert (refused.balance, refused.needed, refused.activating, refused.renewing) == (0, 5, None, None)
    await refusal(UnknownPlanError, api.subscribe("ada", "gold"))
    await refusal(InvalidInputError, api.subscribe("ada", "extra"))
    await refusal(InvalidInputError, api.spend("ada", 0, "k"))
    await refusal(NotSubscribedError, api.change("ada", "pro"))
    await refusal(NotSubscribedError, api.preview("ada", "pro"))
    await refusal(NotSubscribedError, api.cancel("ada"))
    await refusal(NotSubscribedError, api.resume("ada"))
    await refusal(NotFoundError, api.status("ada", "in_elsewhere/?"))
    await refusal(NotFoundError, api.ticket("ada", "in_elsewhere"))
    await refusal(NotFoundError, api.commit("ada", 1, "k"))
    await refusal(NotAuthenticatedError, api.credits("a\x00"))
    await buy(api, stripe_side, "pro")
    running = (await refusal(AlreadySubscribedError, api.subscribe("ada", "basic"))).subscriptions
    assert [(each.plan, each.status) for each in running] == [("pro", "active")]
    await refusal(AlreadyOnPlanError, api.change("ada", "pro"))
    await refusal(AlreadyOnPlanError, api.preview("ada", "pro"))
    await api.spend("ada", 5, "k")
    await refusal(KeyReusedError, api.spend("ada", 6, "k"))
    await api.reserve("ada", 5, "work")
    await api.commit("ada", 5, "work")
    await refusal(ReservationClosedError, api.release("ada", "work"))


async def test_a_fault_of_the_server_is_typed(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(account_states, "read_states", broken)
    await refusal(InternalServerError, api.spend("ada", 5, "k"))


def test_the_packages_names_are_listed() -> None:
    """For completion in a Python shell: `AsyncPaidup` is imported on its first use."""
    assert set(client.__all__) <= set(dir(client))


def test_every_problem_has_an_error() -> None:
    kinds = document(OPENAPI)["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert {*ERRORS, "http"} == {kind.rpartition("/")[2] for kind in kinds}
    assert len(set(ERRORS.values())) == len(ERRORS)


@pytest.mark.parametrize("name", METHODS)
def test_blocking_methods_have_the_same_parameters_and_documents(name: str) -> None:
    blocking, asynchronous = getattr(Paidup, name), getattr(AsyncMethods, name)
    assert blocking.__doc__ == asynchronous.__doc__
    assert inspect.signature(blocking).parameters == inspect.signature(asynchronous).parameters
