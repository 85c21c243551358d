"""Invalid input: each gets a clear error, an RFC 9457 problem document, and nothing changes."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import jwt
import pytest

from paidup.db.models import Account, LedgerEntry
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance, row_counts
from tests.support.paidup import JWT_SECRET, Customer, Paidup
from tests.support.stripe_sandbox import StripeSide

NOW = int(time.time())
LONG = 3 * 3600
"""Longer than the whole suite takes, since this module is imported when it begins."""
SOON = NOW + LONG


async def test_invalid_subscriptions_are_refused(world: World, subtests: pytest.Subtests) -> None:
    """An unknown plan, malformed JSON, wrong types, unknown members, too large."""
    ada = await _known(world)
    await _expect_refusals(
        ada,
        subtests,
        "/api/subscriptions",
        {
            "an unknown plan": (422, "unknown-plan", b'{"plan": "enterprise"}'),
            "an empty plan": (422, "unknown-plan", b'{"plan": ""}'),
            "no plan": (422, "invalid-input", b"{}"),
            "a number": (422, "invalid-input", b'{"plan": 1}'),
            "null": (422, "invalid-input", b'{"plan": null}'),
            "a list": (422, "invalid-input", b'{"plan": ["pro"]}'),
            "no object": (422, "invalid-input", b'"pro"'),
            "an unknown member": (422, "invalid-input", b'{"plan": "pro", "paid": true}'),
            "no JSON": (422, "invalid-input", b"plan=pro"),
            "truncated JSON": (422, "invalid-input", b'{"plan": "pr'),
            "no body": (422, "invalid-input", b""),
            "no UTF-8": (422, "invalid-input", b'{"plan": "\xff"}'),
            "nested without end": (422, "invalid-input", b'{"x":' + b"[" * 10_000),
            "a large body": (413, "too-large", b'{"plan": "pro"}' + b" " * 20_000),
        },
    )


async def test_invalid_spends_are_refused(world: World, subtests: pytest.Subtests) -> None:
    """Zero, negative, huge, fractional, wrong types, a bad key, or more than the balance."""
    ada = await _known(world)
    await _expect_refusals(
        ada,
        subtests,
        "/api/credits/spend",
        {
            "zero": (422, "invalid-input", b'{"credits": 0, "key": "k"}'),
            "negative": (422, "invalid-input", b'{"credits": -10, "key": "k"}'),
            "above the limit": (422, "invalid-input", b'{"credits": 1000001, "key": "k"}'),
            "huge": (422, "invalid-input", b'{"credits": 9223372036854775807, "key": "k"}'),
            "huger": (422, "invalid-input", b'{"credits": 1e400, "key": "k"}'),
            "fractional": (422, "invalid-input", b'{"credits": 1.5, "key": "k"}'),
            "text": (422, "invalid-input", b'{"credits": "10", "key": "k"}'),
            "a truth": (422, "invalid-input", b'{"credits": true, "key": "k"}'),
            "not a number": (422, "invalid-input", b'{"credits": NaN, "key": "k"}'),
            "no credits": (422, "invalid-input", b'{"key": "k"}'),
            "no key": (422, "invalid-input", b'{"credits": 10}'),
            "an empty key": (422, "invalid-input", b'{"credits": 10, "key": ""}'),
            "a long key": (422, "invalid-input", b'{"credits": 10, "key": "%b"}' % (b"k" * 201)),
            "a key of another type": (422, "invalid-input", b'{"credits": 10, "key": 7}'),
            "a key with a NUL": (422, "invalid-input", b'{"credits": 10, "key": "a\\u0000b"}'),
            "half a character": (422, "invalid-input", b'{"credits": 10, "key": "\\ud800"}'),
            "an unknown member": (422, "invalid-input", b'{"credits": 10, "key": "k", "account": 2}'),
            "over the balance": (402, "insufficient-credits", b'{"credits": 1, "key": "k"}'),
        },
    )


async def test_invalid_adoptions_are_refused(
    world: World, stripe_side: StripeSide, subtests: pytest.Subtests
) -> None:
    """Not an invoice id, an invoice unknown to Stripe, or another customer's."""
    ada = await _known(world)
    foreign = await stripe_side.subscribe(await stripe_side.customer(), "pro", "mallory")
    nobodys = await stripe_side.subscribe(await stripe_side.customer(), "pro")
    await _expect_refusals(
        ada,
        subtests,
        "/api/invoices",
        {
            "no id of an invoice": (422, "invalid-input", b'{"invoice": "pi_1"}'),
            "a path": (422, "invalid-input", b'{"invoice": "in_1/../../customers"}'),
            "an unknown one": (404, "not-found", b'{"invoice": "in_unknown"}'),
            "another customer's": (404, "not-found", _naming(foreign)),
            "nobody's": (404, "not-found", _naming(nobodys)),
        },
    )


async def test_an_adopted_invoice_is_whose_the_metadata_says(world: World, stripe_side: StripeSide) -> None:
    """Its Stripe customer is Bob's, and its metadata names Ada: it is Ada's, and the customer stays Bob's."""
    paidup = await world.server(webhooks=False)
    bob, ada = paidup.customer("bob"), paidup.customer("ada")
    await bob.buy("basic")
    await ada.balance()
    bobs = (await Account.get(external_id="bob")).stripe_customer
    assert bobs is not None
    body = _naming(await stripe_side.subscribe(bobs, "pro", "ada"))
    for refused in (bob, paidup.customer("mallory")):
        await refused.balance()
        before = await row_counts()
        status, problem = await refused.send("/api/invoices", body)
        _assert_problem(status, problem, 404, "not-found")
        assert bobs not in str(problem)
        assert await row_counts() == before
    status, adopted = await ada.send("/api/invoices", body)
    assert (status, adopted["status"]["status"]) == (201, "open")
    assert (await Account.get(external_id="bob")).stripe_customer == bobs
    assert (await Account.get(external_id="ada")).stripe_customer is None


async def test_a_spend_is_made_once_per_key(paidup: Paidup, stripe_side: StripeSide) -> None:
    """A repeated key returns the same response; with another amount it is a conflict."""
    ada = await _with_credits(paidup, stripe_side)
    answer = (200, {"balance": 1990, "credits": 10, "key": "report-1"})
    assert await ada.spend(10, "report-1") == answer
    assert await ada.spend(30, "report-2") == (200, {"balance": 1960, "credits": 30, "key": "report-2"})
    assert await ada.spend(10, "report-1") == answer
    status, problem = await ada.spend(11, "report-1")
    _assert_problem(status, problem, 409, "key-reused")
    assert await ada.balance() == 1960
    status, problem = await ada.spend(1961, "report-3")
    _assert_problem(status, problem, 402, "insufficient-credits")
    assert (problem["balance"], problem["needed"], problem["activating"]) == (1960, 1961, None)
    assert (await ada.spend(1960, "report-3"))[1]["balance"] == 0, "a refused key is not used up"
    await assert_books_balance(grants=1)


async def test_concurrent_spends_never_go_below_zero(paidup: Paidup, stripe_side: StripeSide) -> None:
    """Thirty concurrent spends of 100 from 2,000, each sent twice: twenty succeed, once each."""
    ada = await _with_credits(paidup, stripe_side)
    keys = [f"job-{number}" for number in range(30)] * 2
    answers = await asyncio.gather(*(ada.spend(100, key) for key in keys))
    assert sorted(status for status, _ in answers) == [200] * 40 + [402] * 20
    assert len({answer["key"] for status, answer in answers if status == 200}) == 20
    assert await ada.balance() == 0
    assert await LedgerEntry.filter(kind="spend").count() == 20
    await assert_books_balance(grants=1)


async def test_the_same_key_of_two_customers_is_two_spends(paidup: Paidup, stripe_side: StripeSide) -> None:
    """Keys are per customer: another customer may use the same."""
    for name in ("ada", "bob"):
        customer = await _with_credits(paidup, stripe_side, name)
        assert (await customer.spend(10, "report-1"))[1]["balance"] == 1990
    await assert_books_balance(grants=2)


async def test_invalid_tokens_are_refused(world: World, subtests: pytest.Subtests) -> None:
    """Missing, expired, of another key or algorithm, without a subject: 401, and no account is created."""
    paidup = await world.server(webhooks=False, auth_jwt_audience="paidup", auth_jwt_issuer="saas")
    good = {"sub": "ada", "exp": SOON, "aud": "paidup", "iss": "saas"}
    other = "another-secret-of-32-characters-at-least"
    without = {name: {key: good[key] for key in good if key != name} for name in good}
    tokens: dict[str, str | None] = {
        "missing": None,
        "empty": "Bearer ",
        "another scheme": f"Basic {_token(good)}",
        "nonsense": "Bearer nonsense",
        "expired": f"Bearer {_token({**good, 'exp': NOW - 60})}",
        "not yet valid": f"Bearer {_token({**good, 'nbf': NOW + LONG})}",
        "of another key": f"Bearer {_token(good, other)}",
        "of no algorithm": f"Bearer {jwt.encode(good, '', 'none')}",
        "altered": f"Bearer {_token(good)[:-3]}AAA",
        "without a subject": f"Bearer {_token(without['sub'])}",
        "without an end": f"Bearer {_token(without['exp'])}",
        "without an audience": f"Bearer {_token(without['aud'])}",
        "for another audience": f"Bearer {_token({**good, 'aud': 'other'})}",
        "of another issuer": f"Bearer {_token({**good, 'iss': 'other'})}",
        "an empty subject": f"Bearer {_token({**good, 'sub': ''})}",
        "a subject with a NUL": f"Bearer {_token({**good, 'sub': 'a' + chr(0)})}",
        "half a character for a subject": f"Bearer {_token({**good, 'sub': chr(0xD800)})}",
        "half a character for a customer": f"Bearer {_token({**good, 'stripe_customer': chr(0xDFFF)})}",
        "a long customer": f"Bearer {_token({**good, 'stripe_customer': 'c' * 256})}",
        "a long subject": f"Bearer {_token({**good, 'sub': 'a' * 201})}",
        "a customer of another type": f"Bearer {_token({**good, 'stripe_customer': 7})}",
    }
    for name, header in tokens.items():
        with subtests.test(name):
            headers = {"Authorization": header} if header is not None else {}
            async with world.http.get(f"{paidup.url}/api/credits", headers=headers) as response:
                _assert_problem(response.status, await response.json(), 401, "not-authenticated")
                assert response.content_type == "application/problem+json"
                assert response.headers["WWW-Authenticate"] == "Bearer"
    assert await Account.all().count() == 0
    headers = {"Authorization": f"Bearer {_token(good)}"}
    async with world.http.get(f"{paidup.url}/api/credits", headers=headers) as response:
        assert response.status == 200


async def test_another_customers_invoice_is_not_found(world: World, subtests: pytest.Subtests) -> None:
    """Status, ticket and adoption respond as for an invoice that does not exist."""
    paidup = await world.server(webhooks=False)
    ada, mallory = paidup.customer("ada"), paidup.customer("mallory")
    invoice = (await ada.buy("pro"))["invoice"]
    await mallory.balance()
    before = await row_counts()
    calls: list[tuple[str, str, Any]] = [
        ("GET", "/api/invoices/{}", None),
        ("POST", "/api/invoices/{}/ticket", None),
        ("POST", "/api/invoices", {"invoice": invoice}),
    ]
    for method, path, body in calls:
        with subtests.test(f"{method} {path}"):
            status, problem = await mallory.call(method, path.format(invoice), body)
            _assert_problem(status, problem, 404, "not-found")
            if body is None:
                unknown = await mallory.call(method, path.format("in_unknown"))
                assert unknown[0] == status
                assert unknown[1]["detail"].replace("in_unknown", invoice) == problem["detail"]
    assert await row_counts() == before
    assert (await ada.call("POST", f"/api/invoices/{invoice}/ticket"))[0] == 200


async def test_unknown_paths_and_methods_are_refused(world: World, subtests: pytest.Subtests) -> None:
    """An unknown path is 404, an unsupported method 405, each with a problem document."""
    ada = await _known(world)
    calls = [
        ("GET", "/api/subscriptions", 405, "method-not-allowed"),
        ("PUT", "/api/credits", 405, "method-not-allowed"),
        ("GET", "/api/credits/spend", 405, "method-not-allowed"),
        ("DELETE", "/api/invoices/in_1", 405, "method-not-allowed"),
        ("GET", "/webhooks/stripe", 405, "method-not-allowed"),
        ("GET", "/api", 404, "not-found"),
        ("POST", "/", 404, "not-found"),
        ("GET", "/api/invoices/in_1/../../../etc/passwd", 404, "not-found"),
        ("GET", "/api/invoices/pi_1", 404, "not-found"),
        ("GET", "/api/invoices/in_1%00", 404, "not-found"),
        ("GET", "/api/invoices/" + "in_" * 500, 404, "not-found"),
    ]
    for method, path, expected, slug in calls:
        with subtests.test(f"{method} {path[:40]}"):
            status, problem = await ada.call(method, path)
            _assert_problem(status, problem, expected, slug)


async def _known(world: World) -> Customer:
    """Ada, who has an account and no credits."""
    ada = (await world.server(webhooks=False)).customer("ada")
    assert await ada.balance() == 0
    return ada


async def _with_credits(paidup: Paidup, stripe_side: StripeSide, name: str = "ada") -> Customer:
    """A customer who has paid for pro and has its 2,000 credits."""
    customer = paidup.customer(name)
    purchase = await customer.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    taken_up = await customer.call("POST", "/api/invoices", {"invoice": purchase["invoice"]})
    assert taken_up[1]["status"]["status"] == "active"
    assert await customer.balance() == 2000
    return customer


async def _expect_refusals(
    customer: Customer,
    subtests: pytest.Subtests,
    path: str,
    bodies: dict[str, tuple[int, str, bytes]],
) -> None:
    """Each body is refused with its status and problem, and no table changes."""
    before = await row_counts()
    for name, (expected, slug, body) in bodies.items():
        with subtests.test(name):
            status, problem = await customer.send(path, body)
            _assert_problem(status, problem, expected, slug)
            assert await row_counts() == before
    assert await customer.balance() == 0


def _assert_problem(status: int, problem: Any, expected: int, slug: str) -> None:
    assert (status, problem["status"]) == (expected, expected), problem
    assert problem["type"] == f"https://paidup.dev/problems/{slug}"
    assert problem["title"]
    assert problem["detail"]


def _naming(subscription: Any) -> bytes:
    return json.dumps({"invoice": subscription["latest_invoice"]["id"]}).encode()


def _token(claims: dict[str, Any], secret: str = JWT_SECRET) -> str:
    return jwt.encode(claims, secret, "HS256")
