"""Corrections over the operators' API and by commands: each has its opposite, and a row of the audit log."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from paidup.db.connection import open_database
from paidup.db.customers import account_id_of
from paidup.db.models import Account, StripeEvent
from paidup.runtime.clock import now
from tests.conftest import World
from tests.operators.conftest import OPERATOR_TOKEN, Run, document, paid_elsewhere, parked
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Paidup
from tests.support.stripe_sandbox import StripeSide

WHY = {"by": "grace", "reason": "they asked for it"}


class Support:
    """Calls the operators' API of one server."""

    def __init__(self, paidup: Paidup, http: aiohttp.ClientSession) -> None:
        self._paidup = paidup
        self._http = http

    async def post(self, action: str, token: str = OPERATOR_TOKEN, **body: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{self._paidup.url}/operators/api/{action}"
        async with self._http.post(url, json={**WHY, **body}, headers=headers) as response:
            return response.status, await response.json()

    async def listed(self, query: str = "") -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
        url = f"{self._paidup.url}/operators/api/corrections{query}"
        async with self._http.get(url, headers=headers) as response:
            return response.status, await response.json()


@pytest.fixture
async def served(world: World) -> Paidup:
    return await world.server(operator_token=OPERATOR_TOKEN)


@pytest.fixture
def support(served: Paidup, http: aiohttp.ClientSession) -> Support:
    return Support(served, http)


async def test_credits_are_granted_adjusted_and_revoked_over_http(support: Support, served: Paidup) -> None:
    ada = served.customer("ada")
    assert await ada.balance() == 0
    steps: list[tuple[str, dict[str, Any], int]] = [
        ("grant", {"account": "ada", "credits": 500, "plan": "pro"}, 500),
        ("adjust", {"account": "ada", "credits": -30}, 470),
        ("adjust", {"account": "ada", "credits": 30}, 500),
        ("revoke", {"granted": "key-0"}, 0),
    ]
    for number, (action, body, balance) in enumerate(steps):
        status, done = await support.post(action, key=f"key-{number}", **body)
        assert (status, done["action"], done["after"]) == (200, action, {"balance": balance}), done
        assert (await support.post(action, key=f"key-{number}", **body)) == (200, done)
        assert await ada.balance() == balance
    status, problem = await support.post("adjust", key="key-0", account="ada", credits=1)
    assert (status, problem["type"].rpartition("/")[2]) == (409, "conflict")
    status, _ = await support.post("adjust", key="key-9", account="ada", credits=-1)
    assert status == 402
    status, listed = await support.listed("?account=ada")
    assert (status, [each["key"] for each in listed["corrections"]]) == (
        200, ["key-3", "key-2", "key-1", "key-0"],
    )  # fmt: skip
    await assert_books_balance(grants=0)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_api_takes_the_operators_token_and_no_password(
    support: Support, served: Paidup, http: aiohttp.ClientSession
) -> None:
    """A browser would add the password to a request that another site's page makes."""
    await served.customer("ada").balance()
    url, body = f"{served.url}/operators/api/grant", {**WHY, "account": "ada", "credits": 5, "key": "k"}
    password = {"Authorization": aiohttp.encode_basic_auth("anybody", OPERATOR_TOKEN)}
    async with http.post(url, json=body, headers=password) as response:
        assert response.status == 401
    assert (await support.post("grant", "wrong", account="ada", credits=5, key="k"))[0] == 401
    for missing in ("by", "reason", "key"):
        text = {name: value for name, value in body.items() if name != missing}
        headers = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
        async with http.post(url, json=text, headers=headers) as response:
            assert response.status == 422
    assert await served.customer("ada").balance() == 0


async def test_a_link_credits_what_waits_and_unlink_undoes_it(
    support: Support, served: Paidup, stripe_side: StripeSide
) -> None:
    """The payment of an unknown customer is credited by the link alone. What came stays after its undo."""
    ada, bob = served.customer("ada"), served.customer("bob")
    assert (await ada.balance(), await bob.balance()) == (0, 0)
    customer = await stripe_side.customer()
    await paid_elsewhere(stripe_side, customer)
    await parked(served, "unknown_customer")
    await StripeEvent.filter(handled_at__isnull=True).update(next_attempt_at=None)  # given up
    status, done = await support.post("link-customer", customer=customer, account="ada", key="T-1")
    assert (status, done["details"]["customer"]) == (200, customer)
    assert done["details"]["events_woken"] > 0
    await served.services.reconciler.sweep()
    assert await ada.balance() == 2000
    other = {"customer": customer, "account": "bob"}
    assert (await support.post("link-customer", key="T-2", **other))[0] == 409
    assert (await support.post("unlink-customer", key="T-3", **other))[0] == 409
    assert (await support.post("unlink-customer", key="T-4", customer=customer, account="ada"))[0] == 200
    assert await account_id_of(customer) is None
    assert await ada.balance() == 2000
    assert (await support.post("link-customer", key="T-5", **other))[0] == 200
    assert await account_id_of(customer) == (await Account.get(external_id="bob")).id


async def test_a_dismissed_event_is_reopened(support: Support) -> None:
    for number in (1, 2):
        await StripeEvent.create(
            id=f"evt_{number}", type="invoice.paid", payload="{}", received_at=now(), error="parked: odd"
        )
    events: dict[str, Any] = {"events": ["evt_1", "evt_2"]}
    status, done = await support.post("dismiss", key="T-1", **events)
    assert (status, done["before"]) == (200, {"waiting": ["evt_1", "evt_2"]})
    assert await StripeEvent.filter(outcome="dismissed").count() == 2
    status, done = await support.post("reopen", key="T-2", events=["evt_1"])
    assert (status, done["after"]) == (200, {"waiting": ["evt_1"]})
    row = await StripeEvent.get(id="evt_1")
    assert (row.handled_at, row.outcome, row.dismissed_by, row.error) == (None, None, None, "parked: odd")
    assert (await support.post("reopen", key="T-3", events=["evt_1"]))[0] == 409
    # Under its key, what was dismissed before is not dismissed a second time after it was reopened.
    assert (await support.post("dismiss", key="T-1", **events))[0] == 200


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_commands_do_the_same(world: World, run: Run) -> None:
    async with open_database(world.database_url):
        for name in ("ada", "bob"):
            await Account.create(external_id=name)
    assert await run("audit-log") == (0, "No operator has changed anything.\n")
    why = ("--reason", "they asked", "--by", "grace")
    code, output = await run("grant", "ada", "--credits", "500", *why, "--key", "T-1", "--json")
    assert (code, document(output)["after"]) == (0, {"balance": 500}), output
    code, output = await run("adjust", "ada", "--credits=-40", *why, "--key", "T-2")
    assert (code, "balance 500 -> 460" in output) == (0, True), output
    code, output = await run("revoke", "T-1", *why, "--key", "T-3")
    assert (code, "balance 460 -> -40" in output) == (0, True), output
    code, output = await run("link-customer", "cus_9", "ada", *why, "--key", "T-4", "--json")
    assert (code, document(output)["details"]) == (0, {"customer": "cus_9", "events_woken": 0}), output
    code, output = await run("unlink-customer", "cus_9", "ada", *why, "--key", "T-5")
    assert code == 0, output
    code, output = await run("audit-log", "ada")
    assert (code, output.count("grace")) == (0, 5), output
    code, output = await run("grant", "ada", *why, "--key", "T-6")
    assert (code, "either" in output) == (1, True), output
    merge = ("merge-accounts", "bob", "ada", *why, "--key", "T-7")
    code, output = await run(*merge)  # asks, and nobody answers
    assert (code, "cannot be undone" in output) == (1, True), output
    code, output = await run(*merge, "--yes")
    assert (code, "balance 0 -> -40" in output) == (0, True), output
    code, output = await run("erase", "bob", *why, "--key", "T-8", "--also", "Bob B", "--yes")
    assert (code, "erase erased-" in output) == (0, True), output
    code, output = await run("audit")
    assert (code, output.strip()) == (0, "2 accounts, 0 differences")
