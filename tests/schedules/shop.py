"""A whole Paidup and a whole sandbox in one process: a database file, and no sockets.

Each customer has a name of their own, so that thousands of schedules share one shop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest.mock import patch
from urllib.parse import urlencode, urlsplit

from redis.asyncio import Redis
from starlette.types import ASGIApp, Message
from stripe import APIConnectionError, HTTPClient, StripeClient

from paidup.db.connection import open_database
from paidup.domain.catalog import parse_catalogue
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
from paidup_demo.sandbox.app import create_sandbox
from paidup_demo.sandbox.settings import SandboxSettings
from tests.support.publishing_hub import PublishingHub

HOST = "127.0.0.1:8001"
ADDRESS = f"http://{HOST}"
SECRET = {"Authorization": "Bearer sk_test_schedules"}
EMPTY: Mapping[str, str] = {}
PUBLISHABLE = {"Authorization": "Bearer pk_test_schedules"}


class Unlimited:
    """The rate limiter of a Stripe account without limits."""

    async def take(self, *_: Any) -> None:
        return

    async def refused(self, *_: Any) -> None:
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

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self.loses_next = False
        self._app = app

    async def request_async(
        self, method: str, url: str, headers: Any, post_data: Any = None
    ) -> tuple[bytes, int, dict[str, str]]:
        answer = await self.call(method, url, dict(headers), (post_data or "").encode())
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

    async def api(
        self, method: str, path: str, form: Mapping[str, str] = EMPTY, headers: Mapping[str, str] = SECRET
    ) -> Any:
        """A call of the SaaS's own or of the browser; an answer of any status."""
        text = urlencode(form)
        url = f"{ADDRESS}/v1/{path}" + (f"?{text}" if method == "GET" else "")
        typed = {**headers, "content-type": "application/x-www-form-urlencoded"}
        answer = await self.transport.call(method, url, typed, b"" if method == "GET" else text.encode())
        return json.loads(answer.body)

    async def pay(self, session: str, card: str) -> Any:
        """Pay a page; what has become of it, or Stripe's refusal."""
        body = {"card": card, "email": "ada@example.com"}
        url = f"{ADDRESS}/sandbox/checkout/{session}/complete"
        typed = {"content-type": "application/json"}
        return json.loads((await self.transport.call("POST", url, typed, json.dumps(body).encode())).body)

    async def events(self, about: set[str], seen: set[str]) -> list[Any]:
        """Events of these objects or customers that are not in `seen`, oldest first."""
        found = (await self.api("GET", "events", {"limit": "100"}))["data"]
        new = [each for each in reversed(found) if each["id"] not in seen]
        return [each for each in new if about & _mentioned(each["data"]["object"])]

    async def deliver(self, event: Any) -> None:
        """As the webhook's endpoint does, with a signature that was right."""
        body = json.dumps(event)
        await store(decode(Event, body), body)
        await self.payments.events.handle(decode(Event, body))


def _mentioned(shown: Any) -> set[str]:
    return {str(shown.get(name)) for name in ("id", "customer", "invoice", "subscription") if shown.get(name)}


@asynccontextmanager
async def a_shop(database_url: str) -> AsyncIterator[Shop]:
    """A shop on an empty, migrated database."""
    async with AsyncExitStack() as stack:
        for module in (verification, checkout_verification):
            stack.enter_context(patch.object(module, "RESULT_TTL_S", 0.001))  # nobody waits for real seconds
        sandbox = create_sandbox(SandboxSettings())
        await stack.enter_async_context(sandbox.router.lifespan_context(sandbox))
        transport = Transport(sandbox)
        stripe = StripeClient(
            "sk_test_schedules",
            http_client=transport,
            max_network_retries=0,
            base_addresses={"api": ADDRESS},
        )
        limiter: Any = Unlimited()
        gateway = StripeGateway(RateLimitedClient(stripe, limiter, 1.0))
        await stack.enter_async_context(open_database(database_url))
        redis = Redis()  # connects to nothing until it is used, and it is not
        stack.push_async_callback(redis.aclose)
        catalogue = parse_catalogue(PACKAGED_PLANS.read_bytes())
        prices = PriceCatalog(catalogue, gateway.account)
        hub = PublishingHub(redis, _taken)
        payments = compose(prices, gateway, hub, Timeline(), Metrics())
        own = OwnSubscriptions(gateway, payments.subscriptions, now)
        sessions = OpenSessions(gateway, payments.checkouts, prices)
        checkout = Checkout(
            prices, gateway, payments.verification, payments.subscriptions, own, sessions, now
        )
        shop = Shop(
            transport,
            prices,
            payments,
            checkout,
            SessionPurchases(gateway, prices, checkout, own, sessions),
        )
        for plan in catalogue.plans:
            for price in plan.prices:
                form = {"currency": price.currency, "unit_amount": str(price.amount_minor)}
                form |= {"lookup_key": price.lookup_key, "product_data[name]": plan.name}
                await shop.api("POST", "prices", form | _recurring(plan.top_up, str(price.interval)))
        await prices.load()
        yield shop


def _recurring(top_up: bool, interval: str) -> dict[str, str]:
    return {} if top_up else {"recurring[interval]": interval}


async def _taken(_: Any) -> bool:
    return True
