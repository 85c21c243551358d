"""Checks of Redis, and of the public URL through DNS, TLS and proxies."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import aiohttp

from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import SUBPROTOCOL, StatusMessage
from paidup.domain.stages import Stage, stage_of
from paidup.errors import ConfigurationError
from paidup.operations.doctor.report import Check, fail, ok
from paidup.operations.stripe_setup import WEBHOOK_PATH
from paidup.realtime.hub import INVOICES, Hub
from paidup.realtime.tickets import Tickets
from paidup.runtime.clock import now
from paidup.runtime.connection_urls import without_password as without_credentials
from paidup.runtime.embedded_valkey import embedded_valkey
from paidup.runtime.outgoing import without_password
from paidup.runtime.redis_client import REDIS_ERRORS, RedisClient, connect_redis
from paidup.settings import Settings

ROUND_TRIP_TIMEOUT_S = 3.0
PUBLIC_URL_TIMEOUT_S = 10.0
PROBLEM_MEDIA_TYPE = "application/problem+json"
WEBSOCKET_ADVICE = "let the proxy pass WebSockets, and use the server's own ALLOWED_ORIGINS and SECRET_KEY"
UNREACHABLE_REDIS_URL = "redis://127.0.0.1:1"


@dataclass(frozen=True)
class OpenedRedis:
    """A client of the Redis at `address`. `not_started`: why the embedded Valkey is not there."""

    client: RedisClient
    address: str
    not_started: str | None = None


@asynccontextmanager
async def open_redis(settings: Settings) -> AsyncIterator[OpenedRedis]:
    """Yield a Redis client. If Redis cannot be reached, the checks that use the client report it."""
    async with AsyncExitStack() as stack:
        url, not_started = settings.redis_url, None
        if not url:
            try:
                url = stack.enter_context(embedded_valkey(settings.data_dir))
            except (ConfigurationError, OSError) as error:
                url, not_started = UNREACHABLE_REDIS_URL, str(error)
        redis = connect_redis(url, settings.redis_cluster)
        stack.push_async_callback(redis.aclose)
        yield OpenedRedis(
            redis, without_credentials(settings.redis_url) or "the embedded Valkey", not_started
        )


async def check_redis(opened: OpenedRedis) -> Check:
    """Whether Redis answers, and a message published by one hub reaches another."""
    redis, advice = opened.client, "check REDIS_URL and that Redis is running"
    if opened.not_started:
        return fail("redis", opened.not_started, advice)
    try:
        await redis.ping()
    except REDIS_ERRORS as error:
        reason = without_password(str(error)) or type(error).__name__
        return fail("redis", f"{opened.address} does not answer: {reason}", advice)
    if (arrived_ms := await _round_trip_ms(redis)) is None:
        return fail("redis", f"{opened.address}: a published message did not arrive", advice)
    return ok("redis", f"a message arrives in {arrived_ms:.0f} ms")


async def _round_trip_ms(redis: RedisClient) -> float | None:
    """How long a message takes from one hub to another. None if it does not arrive in time."""
    publisher, subscriber = Hub(redis), Hub(redis)
    received = _MessageReceived()
    probe = _probe_message()
    began = time.monotonic()
    await subscriber.open()
    try:
        async with asyncio.timeout(ROUND_TRIP_TIMEOUT_S):
            subscribed = await subscriber.subscribe(INVOICES, probe.invoice, received)
            if subscribed and await publisher.publish(probe):
                await received.event.wait()
                return (time.monotonic() - began) * 1000
    except TimeoutError:
        pass
    finally:
        await subscriber.close()
    return None


class _MessageReceived:
    """A subscriber that only records that it received a message."""

    known_version = -1

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def offer(self, status: StatusMessage, frame: bytes) -> bool:
        self.event.set()
        return True

    def offer_stage(self, stage: Stage) -> None:
        pass


def _probe_message() -> StatusMessage:
    return StatusMessage(
        invoice=f"doctor-{secrets.token_hex(8)}",
        version=0,
        status=InvoiceStatus.OPEN,
        stage=stage_of(InvoiceStatus.OPEN),
        plan=None,
        credits_granted=0,
        balance=0,
        via=None,
        at=now(),
    )


async def check_public_url(settings: Settings, url: str) -> Check:
    """Whether webhooks and WebSockets reach this server through DNS, TLS and proxies."""
    base = url.rstrip("/")
    tickets = Tickets(settings.secret_key, settings.ticket_ttl_s)
    try:
        timeout = aiohttp.ClientTimeout(total=PUBLIC_URL_TIMEOUT_S)
        async with settings.outgoing.session(base, timeout=timeout) as http:
            async with http.post(base + WEBHOOK_PATH, data=b"{}") as response:
                if response.status != 400 or response.content_type != PROBLEM_MEDIA_TYPE:
                    text = (
                        f"an unsigned POST {WEBHOOK_PATH} is answered {response.status}; Paidup answers 400"
                    )
                    return fail("public url", text, "let the proxy pass this path with its body and headers")
            async with http.ws_connect(
                f"{base}/ws/account",
                protocols=(SUBPROTOCOL, tickets.issue_for_account(0)),
                origin=settings.origins.example(),
            ) as socket:
                if socket.protocol != SUBPROTOCOL:
                    return fail("public url", "a WebSocket opens without its subprotocol", WEBSOCKET_ADVICE)
    except aiohttp.WSServerHandshakeError as error:
        return fail("public url", f"a WebSocket is refused with {error.status}", WEBSOCKET_ADVICE)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        return fail(
            "public url",
            f"{base} does not respond: {without_password(str(error)) or type(error).__name__}",
            "check DNS, TLS and --url, or HTTPS_PROXY and NO_PROXY",
        )
    return ok("public url", f"{base} responds, and WebSockets open")
