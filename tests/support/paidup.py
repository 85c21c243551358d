"""Paidup's side of a test: settings, running servers, and a customer who talks to them."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import aiohttp
import jwt
import uvicorn
from starlette.applications import Starlette

from paidup.app import create_app
from paidup.runtime.clock import Clock, now
from paidup.services import Services
from paidup.settings import Settings, make_settings
from paidup.uvicorn_server import uvicorn_options
from paidup.web.websocket.endpoint import SocketServer
from tests.support.processes import Child
from tests.support.stripe_sandbox import sign
from tests.support.waiting import wait_until

JWT_SECRET = "jwt-secret-of-the-tests-32-characters"
WEBHOOK_SECRET = "whsec_of_the_tests_and_of_no_endpoint_of_stripe"
ORIGIN = "http://app.example.test"


DEFAULTS: dict[str, Any] = {
    "secret_key": "secret-key-of-the-tests",
    "stripe_secret_key": "sk_test_of_the_tests_and_of_no_account",
    "stripe_publishable_key": "pk_test_of_the_tests_and_of_no_account",
    "stripe_webhook_secret": WEBHOOK_SECRET,
    "auth_jwt_secret": JWT_SECRET,
    "allowed_origins": ORIGIN,
    "stripe_requests_per_second": 1000,
    # Each test's first customer has the same account id, and all count in one Redis.
    "purchases_per_minute": 100_000,
    "adoptions_per_minute": 100_000,
    # All tests come from one address.
    "checkout_reads_per_minute": 100_000,
    "log_level": "WARNING",
}


def environment(**changes: Any) -> dict[str, str]:
    """The environment of a server under test; names in lower case, values of any type."""
    return {name.upper(): str(value) for name, value in {**DEFAULTS, **changes}.items()}


def settings(**changes: Any) -> Settings:
    return make_settings(environment(**changes))


class Paidup:
    """One running server. `app` is its inside where it runs in this process, else None."""

    def __init__(self, url: str, http: aiohttp.ClientSession, app: Starlette | None = None) -> None:
        self.url = url
        self._http = http
        self._app = app

    @property
    def app(self) -> Starlette:
        assert self._app is not None, "this server runs in another process"
        return self._app

    @property
    def services(self) -> Services:
        assert self._app is not None, "this server runs in another process"
        return cast(Services, self._app.state.services)

    @property
    def sockets(self) -> SocketServer:
        assert self._app is not None, "this server runs in another process"
        return cast(SocketServer, self._app.state.sockets)

    def customer(self, name: str = "ada") -> Customer:
        return Customer(self, self._http, name)

    async def get(self, path: str) -> tuple[int, Any]:
        async with self._http.get(self.url + path) as response:
            return response.status, await response.json()

    async def webhook(self, body: bytes, signature: str | None = None, **headers: str) -> tuple[int, Any]:
        """Deliver `body` as Stripe does; signed now with the right secret unless `signature` says else."""
        headers["Stripe-Signature"] = sign(body, WEBHOOK_SECRET) if signature is None else signature
        async with self._http.post(f"{self.url}/webhooks/stripe", data=body, headers=headers) as response:
            return response.status, await response.json()


def scope_of(path: str) -> dict[str, str]:
    """The scope that a product would use for this call: its backend moves credits, its page the rest."""
    return {"scope": "backend"} if path.startswith("/api/credits/") else {}


class Customer:
    """A user of the SaaS: their bearer token, calls and sockets."""

    def __init__(self, paidup: Paidup, http: aiohttp.ClientSession, name: str) -> None:
        self.paidup = paidup
        self.name = name
        self._http = http

    @property
    def http(self) -> aiohttp.ClientSession:
        return self._http

    def token(self, **claims: Any) -> str:
        """A page's token, unless `scope` says that it is the backend's. A claim that is None is left out."""
        body = {"sub": self.name, "exp": int(time.time()) + 600, **claims}
        given = {name: value for name, value in body.items() if value is not None}
        return jwt.encode(given, JWT_SECRET, "HS256")

    async def call(self, method: str, path: str, body: Any = None, **claims: Any) -> tuple[int, Any]:
        """The status and the decoded body of one call; the backend's where credits move, else the page's."""
        headers = {"Authorization": f"Bearer {self.token(**(scope_of(path) | claims))}"}
        url = self.paidup.url + path
        async with self._http.request(method, url, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def send(self, path: str, body: bytes) -> tuple[int, Any]:
        """POST these very bytes; every refusal must be a problem document."""
        token = self.token(**scope_of(path))
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        async with self._http.post(self.paidup.url + path, data=body, headers=headers) as response:
            assert response.status < 400 or response.content_type == "application/problem+json"
            return response.status, await response.json()

    async def buy(self, plan: str = "pro") -> Any:
        """POST /api/subscriptions; the purchase."""
        status, purchase = await self.call("POST", "/api/subscriptions", {"plan": plan})
        assert status in (200, 201), purchase
        return purchase

    async def spend(self, credits: int, key: str) -> tuple[int, Any]:
        return await self.call("POST", "/api/credits/spend", {"credits": credits, "key": key})

    async def balance(self) -> int:
        status, answer = await self.call("GET", "/api/credits")
        assert status == 200, answer
        return int(answer["balance"])

    @asynccontextmanager
    async def watch(
        self, purchase: Any, ticket: str | None = None, **headers: str
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A socket on the purchase's invoice."""
        async with self._http.ws_connect(
            f"{self.paidup.url}/ws/invoices/{purchase['invoice']}",
            protocols=("paidup.v1", ticket or purchase["ticket"]),
            headers={"Origin": ORIGIN, **headers},
        ) as socket:
            yield socket

    async def account_ticket(self) -> str:
        """A ticket for this customer's balance."""
        status, answer = await self.call("POST", "/api/account/ticket")
        assert status == 200, answer
        return str(answer["ticket"])

    @asynccontextmanager
    async def watch_balance(
        self, ticket: str | None = None
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A socket on this customer's account."""
        async with self._http.ws_connect(
            f"{self.paidup.url}/ws/account",
            protocols=("paidup.v1", ticket or await self.account_ticket()),
            headers={"Origin": ORIGIN},
        ) as socket:
            yield socket


async def next_balance(socket: aiohttp.ClientWebSocketResponse, within: float = 30.0) -> Any:
    """The next frame that tells a balance; heartbeats are passed over."""
    async with asyncio.timeout(within):
        while True:
            frame = await socket.receive_json()
            if frame["type"] == "balance":
                return frame


async def balance_with(socket: aiohttp.ClientWebSocketResponse, balance: int, within: float = 30.0) -> Any:
    """The next frame with this balance. A subscription's change sends one, too, and leaves the balance."""
    async with asyncio.timeout(within):
        while (frame := await next_balance(socket, within))["balance"] != balance:
            pass
        return frame


async def next_status(socket: aiohttp.ClientWebSocketResponse, within: float = 30.0) -> Any:
    """The next status frame; heartbeats are passed over."""
    async with asyncio.timeout(within):
        while True:
            frame = await socket.receive_json()
            if frame["type"] == "status":
                return frame


async def status_with(socket: aiohttp.ClientWebSocketResponse, within: float = 30.0, **wanted: Any) -> Any:
    """The first status frame that shows `wanted`."""
    async with asyncio.timeout(within):
        while True:
            frame = await next_status(socket, within)
            if all(frame[name] == value for name, value in wanted.items()):
                return frame


@asynccontextmanager
async def serving(
    configured: Settings,
    http: aiohttp.ClientSession,
    port: int,
    clock: Clock = now,
    app: Starlette | None = None,
) -> AsyncIterator[Paidup]:
    """A server in this process, over real HTTP, for as long as the block. `app`: with more in it."""
    app = app or create_app(configured, clock=clock)
    options = {**uvicorn_options(configured), "loop": "none"}
    server = _Server(uvicorn.Config(app, host="127.0.0.1", port=port, **options))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve())
    task.add_done_callback(lambda _: server.up.set())
    try:
        await server.up.wait()
        if task.done():
            task.result()
        yield Paidup(f"http://127.0.0.1:{port}", http, app)
    finally:
        server.stop()
        await task


class _Server(uvicorn.Server):
    """uvicorn's server, which begins and ends at once: its own pauses for tenths of a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        """It serves, or has ended."""
        self._told = asyncio.Event()

    def stop(self) -> None:
        self.should_exit = True
        self._told.set()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        self.up.set()
        await self._told.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Leaves no connection: where uvicorn waited in vain, a later test would be blamed for it."""
        state = self.server_state
        for server in self.servers:
            server.close()
        for connection in list(state.connections):
            connection.shutdown()
        await asyncio.sleep(0)  # those that are idle are closed then
        with suppress(AssertionError):
            await wait_until(
                lambda: not state.connections and not state.tasks,
                within=self.config.timeout_graceful_shutdown or 10.0,
            )
        for task in state.tasks:
            task.cancel()
        await self.lifespan.shutdown()
        for connection in list(state.connections):
            if connection.transport is not None:
                connection.transport.abort()


def serving_process(
    env: dict[str, str], port: int, log: Path, *arguments: str, forked: bool = False
) -> Child:
    """`paidup serve` in a process of its own, ready to serve. FLAMES and STALLS are for `tests.bench`."""
    command = ["-m", "paidup.cli", "serve", *arguments]
    if folder := os.environ.get("FLAMES"):
        command = ["-m", "tests.bench.flames", f"{folder}/serve-{port}.svg", *command[1:]]
    elif folder := os.environ.get("STALLS"):
        command = ["-m", "tests.bench.stalls", f"{folder}/serve-{port}.txt", *command[1:]]
    child = Child(command, {**env, "PORT": str(port)}, log, forked=forked)
    child.wait_for(f"http://127.0.0.1:{port}/readyz")
    return child
