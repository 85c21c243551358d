"""What the sandbox's tests are built on: a running sandbox, a webhook receiver, waiting.

Everything goes over real HTTP on free loopback ports.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import stripe
import uvicorn
from aiohttp import web

from paidup_demo.sandbox.app import create_sandbox
from paidup_demo.sandbox.settings import SandboxSettings

from ..support.sdk_shapes import problems

Json = dict[str, Any]
SECRET = "whsec_test_of_the_sandbox"
CARD = "pm_card_visa"
CARD_3DS = "pm_card_authenticationRequired"


async def wait_until(predicate: Callable[[], bool], within: float = 30) -> None:
    """Waits for a condition; fails if it is not met in time."""
    deadline = asyncio.get_running_loop().time() + within
    while not predicate():
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not true within {within} s")
        await asyncio.sleep(0.005)


def check_shape(served: Json) -> None:
    """Fails unless the object, and all within it, is what the SDK's types say, and shows nothing else."""
    found = problems(served)
    assert not found, found


@dataclass
class Received:
    """One received delivery."""

    body: bytes
    signature: str

    @property
    def event(self) -> Json:
        """Its event."""
        return dict(json.loads(self.body))


class Receiver:
    """A webhook endpoint that records what it receives; `answers` are the next statuses, then 200."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: list[int] = []
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listens on a free port."""
        app = web.Application()
        app.router.add_post("/hook", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook"

    async def stop(self) -> None:
        """Stops listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.received.append(Received(await request.read(), request.headers["Stripe-Signature"]))
        status = self.answers.pop(0) if self.answers else 200
        return web.Response(status=status, headers={"Location": "/hook"} if 300 <= status < 400 else {})

    def types(self) -> list[str]:
        """The types received, in order."""
        return [one.event["type"] for one in self.received]

    def of(self, kind: str) -> list[Json]:
        """The events of one type."""
        return [one.event for one in self.received if one.event["type"] == kind]


@dataclass
class Reply:
    """An HTTP answer."""

    status: int
    body: Json
    headers: Mapping[str, str]


class Server:
    """A sandbox that is served from its own thread and event loop."""

    def __init__(self, settings: SandboxSettings) -> None:
        config = uvicorn.Config(
            create_sandbox(settings), host="127.0.0.1", port=0, log_level="warning", ws="none", lifespan="on"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, name="sandbox", daemon=True)
        self.url = ""

    def start(self) -> Server:
        """Serves on a free port."""
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the sandbox did not start"
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def stop(self) -> None:
        """Stops it as SIGTERM would."""
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive(), "the sandbox did not stop"


class Sandbox:
    """Client of a running sandbox: the SDK, a browser's calls (`browser`) and the controls (`control`)."""

    def __init__(self, url: str) -> None:
        self.url = url
        # uvicorn closes a connection that was idle for 5 s: on a busy machine, while a request is on its way.
        self.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(keepalive_timeout=1))
        self.stripe = self.client()

    async def close(self) -> None:
        """Closes the connections."""
        await self.http.close()

    def client(self, key: str = "sk_test_sandbox", retries: int = 0) -> stripe.StripeClient:
        """The real SDK, configured for this sandbox."""
        return stripe.StripeClient(
            key,
            http_client=stripe.AIOHTTPClient(session=self.http),
            base_addresses={"api": self.url},
            max_network_retries=retries,
        )

    @property
    def v1(self) -> Any:
        """The SDK's services."""
        return self.stripe.v1

    async def call(self, method: str, path: str, **request: Any) -> Reply:
        """Any HTTP request."""
        async with self.http.request(method, self.url + path, **request) as response:
            text = await response.read()
            return Reply(response.status, json.loads(text) if text else {}, response.headers)

    async def raw(self, method: str, path: str, key: str = "sk_test_raw", **request: Any) -> Reply:
        """A call of the API by plain HTTP."""
        headers = {"Authorization": f"Bearer {key}", **request.pop("headers", {})}
        return await self.call(method, path, headers=headers, **request)

    async def browser(self, method: str, path: str, **form: str) -> Reply:
        """A call with a publishable key."""
        return await self.raw(method, path, key="pk_test_raw", data=form or None)

    async def control(self, path: str, body: Json | None = None, *, expect: int = 200) -> Json:
        """POST of a control."""
        reply = await self.call("POST", "/sandbox" + path, json=body or {})
        assert reply.status == expect, reply
        return reply.body

    async def conditions(self, **wanted: Any) -> None:
        """Sets conditions."""
        await self.control("/conditions", wanted)

    async def calls(self) -> Json:
        """The response of GET /sandbox/calls."""
        return (await self.call("GET", "/sandbox/calls")).body

    async def plan(self, amount: int = 2000, interval: str = "month", **more: Any) -> Any:
        """A recurring price of a new product."""
        product = await self.v1.products.create_async({"name": "Pro"})
        recurring = {"interval": interval}
        params = {
            "product": product.id,
            "currency": "usd",
            "unit_amount": amount,
            "recurring": recurring,
            **more,
        }
        return await self.v1.prices.create_async(params)

    async def subscribe(self, **more: Any) -> Signup:
        """A customer with an incomplete subscription, created as Paidup does."""
        if "customer" not in more:
            more["customer"] = (await self.v1.customers.create_async({"email": "jenny@example.com"})).id
        if "items" not in more:
            more["items"] = [{"price": (await self.plan()).id}]
        subscription = await self.v1.subscriptions.create_async(
            {
                "payment_behavior": "default_incomplete",
                "payment_settings": {"save_default_payment_method": "on_subscription"},
                "metadata": {"account": "7"},
                "expand": [
                    "latest_invoice.confirmation_secret",
                    "latest_invoice.payments",
                    "pending_setup_intent",
                ],
                **more,
            }
        )
        return Signup(self, subscription)


class Signup:
    """A new subscription, and what its customer does in the browser."""

    def __init__(self, sandbox: Sandbox, subscription: Any) -> None:
        self._sandbox = sandbox
        self.subscription = subscription
        self.customer: str = subscription.customer
        self.invoice: str = subscription.latest_invoice.id
        secret = subscription.latest_invoice.confirmation_secret
        self.secret: str = secret.client_secret if secret else ""
        self.intent = self.secret.split("_secret_")[0]

    async def confirm(self, card: str = CARD) -> Reply:
        """Confirm with a card, as the browser does."""
        path = f"/v1/payment_intents/{self.intent}/confirm"
        return await self._sandbox.browser("POST", path, client_secret=self.secret, payment_method=card)

    async def authenticate(self, outcome: str) -> Json:
        """Answer the bank's check."""
        return await self._sandbox.control(
            f"/payment_intents/{self.intent}/authenticate", {"outcome": outcome}
        )

    async def read(self) -> tuple[str, str, str]:
        """The statuses of intent, invoice and subscription."""
        v1 = self._sandbox.v1
        intent = await v1.payment_intents.retrieve_async(self.intent)
        invoice = await v1.invoices.retrieve_async(self.invoice)
        subscription = await v1.subscriptions.retrieve_async(self.subscription.id)
        return intent.status, invoice.status, subscription.status


def settings(**more: Any) -> SandboxSettings:
    """Settings for a test: quick retries."""
    return SandboxSettings(**{"webhook_retry_delays_s": (0.02, 0.02, 0.02), **more})
