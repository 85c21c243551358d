"""A whole Paidup and a whole sandbox in one process: a database in memory, no sockets, and no threads.

`reset` empties both, so that each schedule begins in an empty shop and depends on its seed alone: Stripe's
ids and the order in which tasks go on are drawn from it as well.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch
from urllib.parse import urlencode, urlsplit

import msgspec
from redis.asyncio import Redis
from starlette.types import ASGIApp, Message
from stripe import APIConnectionError, HTTPClient, StripeClient

from paidup.db.connection import open_database
from paidup.domain.catalog import Catalogue
from paidup.domain.plans_toml import parse_catalogue
from paidup.payments import checkout_verification, verification
from paidup.payments.timeline import Timeline
from paidup.reconciliation.stripe_events import store
from paidup.runtime.clock import now
from paidup.runtime.metrics import Metrics
from paidup.services import PaymentServices, compose
from paidup.settings import PACKAGED_PLANS
from paidup.stripe_api.client import RateLimitedClient
from paidup.stripe_api.events import Event
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.schemas import decode
from paidup.subscriptions.checkout import Checkout
from paidup.subscriptions.open_sessions import OpenSessions
from paidup.subscriptions.own_subscriptions import OwnSubscriptions
from paidup.subscriptions.session_purchases import SessionPurchases
from paidup_demo.sandbox import app, state
from paidup_demo.sandbox.settings import SandboxSettings
from paidup_demo.sandbox.world import World
from tests.support.direct_sqlite import direct_sqlite, give_way
from tests.support.publishing_hub import PublishingHub

HOST = "127.0.0.1:8001"
ADDRESS = f"http://{HOST}"
SECRET = {"Authorization": "Bearer sk_test_schedules"}
EMPTY: Mapping[str, str] = {}
YIELDS = (0, 0, 0, 0, 1, 1, 2, 5)
KEPT = frozenset({"sqlite_sequence", "tortoise_migrations", "prices"})
PUBLISHABLE = {"Authorization": "Bearer pk_test_schedules"}


class Unlimited:
    """The rate limiter of a Stripe account without limits."""

    async def take(self, *_: Any) -> None:
        return

    async def refused(self, *_: Any) -> None:
        return

    def require_resumed(self, *_: Any) -> None:
        return

    def answered(self, *_: Any) -> None:
        return


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Transport(HTTPClient):
    """Calls the sandbox without a network. While `loses_next`, the next answer to a POST is lost."""

    name = "in-process"

    def __init__(self, app: ASGIApp, yields: Callable[[], int]) -> None:
        super().__init__()
        self.loses_next = False
        self._app = app
        self._yields = yields

    async def request_async(
        self, method: str, url: str, headers: Any, post_data: Any = None
    ) -> tuple[bytes, int, dict[str, str]]:
        await give_way(self._yields())
        answer = await self.call(method, url, dict(headers), (post_data or "").encode())
        await give_way(self._yields())
        if self.loses_next and method.upper() == "POST":
            self.loses_next = False
            raise APIConnectionError("the answer is lost")  # type: ignore[no-untyped-call]
        return answer.body, answer.status, answer.headers

    async def sleep_async(self, secs: float) -> None:
        await asyncio.sleep(0)

    async def call(self, method: str, url: str, headers: dict[str, str], body: bytes = b"") -> Answer:
        parts = urlsplit(url)
        given = {"host": HOST, "content-length": str(len(body)), **headers}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method.upper(),
            "scheme": "http",
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8001),
            "root_path": "",
        }
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        shown = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], shown, b"".join(each.get("body", b"") for each in sent[1:]))


@dataclass
class Shop:
    transport: Transport
    prices: PriceCatalog
    payments: PaymentServices
    checkout: Checkout
    pages: SessionPurchases
    stripe: World
    memory: sqlite3.Connection
    chance: Chance
    stock_of_stripe: bytes = b""
    emptying: str = ""

    async def stock(self, catalogue: Catalogue) -> None:
        """Make the catalogue's prices, and remember the shop as it is now."""
        for plan in catalogue.plans:
            for price in plan.prices:
                form = {"currency": price.currency, "unit_amount": str(price.amount_minor)}
                form |= {"lookup_key": price.lookup_key, "product_data[name]": plan.name}
                recurring = {} if plan.top_up else {"recurring[interval]": str(price.interval)}
                await self.api("POST", "prices", form | recurring)
        await self.prices.load()
        self.stock_of_stripe = msgspec.json.encode(self.stripe.store.tables)
        tables = self.memory.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        names = [name for (name,) in tables if name not in KEPT]
        deletes = "".join(f'DELETE FROM "{name}";' for name in names)
        self.emptying = f"PRAGMA foreign_keys=OFF;BEGIN;{deletes}COMMIT;PRAGMA foreign_keys=ON;"

    def reset(self, seed: int) -> None:
        """Back to what it was when it opened. What is random from here on follows from `seed`."""
        self.chance.draw = Random(seed)
        self.stripe.forget()
        self.stripe.store.tables = msgspec.json.decode(self.stock_of_stripe)
        self.memory.executescript(self.emptying)

    async def api(
        self, method: str, path: str, form: Mapping[str, str] = EMPTY, headers: Mapping[str, str] = SECRET
    ) -> Any:
        """A call of the SaaS's own or of the browser; an answer of any status."""
        text = urlencode(form)
        url = f"{ADDRESS}/v1/{path}" + (f"?{text}" if method == "GET" else "")
        typed = {**headers, "content-type": "application/x-www-form-urlencoded"}
        answer = await self.transport.call(method, url, typed, b"" if method == "GET" else text.encode())
        return msgspec.json.decode(answer.body)

    async def pay(self, session: str, card: str) -> Any:
        """Pay a page; what has become of it, or Stripe's refusal."""
        body = {"card": card, "email": "ada@example.com"}
        url = f"{ADDRESS}/sandbox/checkout/{session}/complete"
        typed = {"content-type": "application/json"}
        answer = await self.transport.call("POST", url, typed, msgspec.json.encode(body))
        return msgspec.json.decode(answer.body)

    async def events(self, about: set[str], seen: set[str]) -> list[Any]:
        """Events of these objects or customers that are not in `seen`, oldest first."""
        found = (await self.api("GET", "events", {"limit": "100"}))["data"]
        new = [each for each in reversed(found) if each["id"] not in seen]
        return [each for each in new if about & _mentioned(each["data"]["object"])]

    async def deliver(self, event: Any) -> None:
        """As the webhook's endpoint does, with a signature that was right."""
        body = msgspec.json.encode(event).decode()
        read = decode(Event, body)
        await store(read, body)
        await self.payments.events.handle(read)


def _mentioned(shown: Any) -> set[str]:
    return {str(shown.get(name)) for name in ("id", "customer", "invoice", "subscription") if shown.get(name)}


class Chance:
    """Whatever is random in a shop: `draw` is a schedule's own."""

    def __init__(self) -> None:
        self.draw = Random(0)

    def yields(self) -> int:
        """How often a task gives way to others before and after it waits for something."""
        return YIELDS[self.draw.getrandbits(3)]

    def token_bytes(self, number: int) -> bytes:
        """As `secrets.token_bytes`, of which the sandbox makes its ids."""
        return self.draw.randbytes(number)


@asynccontextmanager
async def a_shop(template: Path) -> AsyncIterator[Shop]:
    """A shop on a copy of the empty, migrated database in `template`."""
    async with AsyncExitStack() as stack:
        chance = Chance()
        for module in (verification, checkout_verification):
            stack.enter_context(patch.object(module, "RESULT_TTL_S", 0.0))  # nobody waits for real seconds
        stack.enter_context(patch.object(state, "secrets", chance))
        memory = stack.enter_context(direct_sqlite(template, chance.yields))
        stripe = World(SandboxSettings())
        with patch.object(app, "World", lambda _: stripe):
            sandbox = app.create_sandbox(stripe.settings)
        await stack.enter_async_context(sandbox.router.lifespan_context(sandbox))
        transport = Transport(sandbox, chance.yields)
        await stack.enter_async_context(open_database("sqlite://:memory:"))
        gateway = _gateway(transport)
        redis = Redis()  # connects to nothing until it is used, and it is not
        stack.push_async_callback(redis.aclose)
        catalogue = parse_catalogue(PACKAGED_PLANS.read_bytes())
        prices = PriceCatalog(catalogue, gateway.account)
        payments = compose(prices, gateway, PublishingHub(redis, _lost), Timeline(), Metrics())
        own = OwnSubscriptions(gateway, payments.subscriptions, now)
        sessions = OpenSessions(gateway, payments.checkouts, prices)
        checkout = Checkout(
            prices, gateway, payments.verification, payments.subscriptions, own, sessions, now
        )
        pages = SessionPurchases(gateway, prices, checkout, own, sessions)
        shop = Shop(transport, prices, payments, checkout, pages, stripe, memory, chance)
        await shop.stock(catalogue)
        yield shop


def _gateway(transport: Transport) -> StripeGateway:
    sdk = StripeClient(
        "sk_test_schedules", http_client=transport, max_network_retries=0, base_addresses={"api": ADDRESS}
    )
    limiter: Any = Unlimited()
    return StripeGateway(RateLimitedClient(sdk, limiter, 1.0))


async def _lost(_: Any) -> bool:
    """Redis is away, and nobody listens: no background task outlives a schedule."""
    return False
