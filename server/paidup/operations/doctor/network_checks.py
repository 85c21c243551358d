"""Checks of Redis, and of the public URL through DNS, TLS and proxies."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

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
from paidup.runtime.embedded_valkey import embedded_valkey
from paidup.runtime.outgoing import without_password
from paidup.runtime.redis_client import RedisClient, connect_redis
from paidup.settings import Settings

ROUND_TRIP_TIMEOUT_S = 3.0
PUBLIC_URL_TIMEOUT_S = 10.0
PROBLEM_MEDIA_TYPE = "application/problem+json"
WEBSOCKET_ADVICE = "let the proxy pass WebSockets, and use the server's own ALLOWED_ORIGINS and SECRET_KEY"
UNREACHABLE_REDIS_URL = "redis://127.0.0.1:1"


@asynccontextmanager
async def open_redis(settings: Settings) -> AsyncIterator[RedisClient]:
    """Yield a Redis client. If Redis cannot be reached, the checks that use the client report it."""
    async with AsyncExitStack() as stack:
        url = settings.redis_url
        if not url:
            try:
                url = stack.enter_context(embedded_valkey(settings.data_dir))
            except (ConfigurationError, OSError):
                url = UNREACHABLE_REDIS_URL
        redis = connect_redis(url, settings.redis_cluster)
        stack.push_async_callback(redis.aclose)
        yield redis


async def check_redis(redis: RedisClient) -> Check:
    """Whether a message published by one hub reaches another."""
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
                return ok("redis", f"a message arrives in {(time.monotonic() - began) * 1000:.0f} ms")
    except TimeoutError:
        pass
    finally:
        await subscriber.close()
    return fail("redis", "a published message did not arrive", "check REDIS_URL and that Redis is running")


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
