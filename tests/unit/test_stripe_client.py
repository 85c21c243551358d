"""Calls to Stripe: a locked object is not a rate limit, and is asked for again, alone and limited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import stripe

from paidup.errors import StripeRefused, StripeUnavailable
from paidup.runtime.metrics import Metrics
from paidup.runtime.redis_client import connect_redis
from paidup.stripe_api import client as module
from paidup.stripe_api.client import LOCK_RETRIES, RateLimitedClient, decode_answer
from paidup.stripe_api.rate_limiter import RateLimiter
from paidup.stripe_api.schemas import StripeInvoice
from tests.support.stripe_sandbox import StripeSide

LOCKED = {"error": {"code": "lock_timeout", "type": "invalid_request_error", "message": "locked"}}


class Calls:
    """Answers 429 `locked` times, as the SDK raises it, and then "done"."""

    def __init__(self, locked: int, headers: dict[str, str]) -> None:
        self.locked, self.headers, self.made = locked, headers, 0

    async def __call__(self) -> str:
        self.made += 1
        if self.made > self.locked:
            return "done"
        raise stripe.RateLimitError("locked", "{}", 429, LOCKED, self.headers)


@pytest.fixture
async def client(valkey: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RateLimitedClient]:
    monkeypatch.setattr(module, "LOCK_RETRY_S", 0.0)
    redis = connect_redis(valkey)
    limiter = RateLimiter(redis, 1000, Metrics())
    yield RateLimitedClient(stripe.StripeClient("sk_test_none"), limiter, max_wait_s=5)
    await redis.aclose()


@pytest.mark.parametrize("locked", [0, 1, LOCK_RETRIES])
async def test_a_call_whose_object_is_locked_is_made_again(client: RateLimitedClient, locked: int) -> None:
    """Stripe refuses what concerns one object: https://docs.stripe.com/rate-limits#object-lock-timeouts"""
    call = Calls(locked, {})
    assert await client.call("locked.again", call) == "done"
    assert call.made == locked + 1


@pytest.mark.parametrize(
    ("headers", "slot_acquired", "made"),
    [({}, False, LOCK_RETRIES + 1), ({"stripe-should-retry": "true"}, False, 1), ({}, True, 1)],
    ids=["limited", "the SDK has retried", "the caller retries"],
)
async def test_a_lock_ends_in_an_error_and_pauses_nobody(
    client: RateLimitedClient, headers: dict[str, str], slot_acquired: bool, made: int
) -> None:
    call = Calls(99, headers)
    with pytest.raises(StripeUnavailable, match="code lock_timeout"):
        await client.call("locked.limited", call, slot_acquired=slot_acquired)
    assert call.made == made
    assert client._rate_limiter._endpoints["locked.limited"].pause_s == 0


async def test_a_rate_limit_pauses_the_endpoint(client: RateLimitedClient) -> None:
    """With Stripe's reason, whatever the code."""
    call = Calls(1, {"Stripe-Rate-Limited-Reason": "endpoint-rate"})
    with pytest.raises(StripeUnavailable, match="rate limited"):
        await client.call("limited", call)
    assert call.made == 1
    assert client._rate_limiter._endpoints["limited"].pause_s >= 1


async def test_a_slot_taken_before_a_rate_limit_is_not_used_during_its_pause(
    client: RateLimitedClient,
) -> None:
    """S34: the verification queue takes up to four at once, and uses them one after the other."""
    limiter = client._rate_limiter
    assert await limiter.take("several", 1, at_most=4) == 4
    call = Calls(1, {"Stripe-Rate-Limited-Reason": "endpoint-rate", "Retry-After": "30"})
    with pytest.raises(StripeUnavailable, match="rate limited"):
        await client.call("several", call, slot_acquired=True)
    with pytest.raises(StripeUnavailable, match="slow down") as told:
        await client.call("several", call, slot_acquired=True)
    assert call.made == 1
    state = limiter._endpoints["several"]
    assert 0 < told.value.retry_after_s <= state.pause_s
    state.paused_until = state.resume_at = float("-inf")  # it is over
    await limiter.take("several", 5)
    assert await client.call("several", call, slot_acquired=True) == "done", "one sent after it tests it"
    await limiter.refused("several", asyncio.get_running_loop().time(), 0)
    limiter.answered("several")
    assert await client.call("several", call, slot_acquired=True) == "done", "another's success ends it"


@pytest.mark.parametrize("body", ["<html>", "{}", '{"id": 1}', "[" * 10_000, b'{"id": "\xff"}'])
def test_an_answer_of_another_shape_is_no_refusal(body: str | bytes) -> None:
    """A proxy's page, or a later version of the API: what was asked may have been done."""
    with pytest.raises(StripeUnavailable, match="an answer is not understood"):
        decode_answer(StripeInvoice, body)


@pytest.fixture
async def connected(valkey: str, stripe_side: StripeSide) -> AsyncIterator[RateLimitedClient]:
    """Connected to the sandbox as the server is to Stripe."""
    redis = connect_redis(valkey)
    limiter = RateLimiter(redis, 1000, Metrics())
    async with module.open_client("sk_test_keys", stripe_side.url, 30.0, limiter) as client:
        yield client
    await redis.aclose()


async def test_a_post_with_the_same_key_makes_one_object(connected: RateLimitedClient) -> None:
    """A purchase that is repeated after a lost answer: https://docs.stripe.com/api/idempotent_requests"""
    given = {"name": "Ada"}
    keys = ("same-key", "same-key", "another-key", None)
    made = [await connected.post("customers.create", "/v1/customers", given, key) for key in keys]
    first, again, *others = (msgspec.json.decode(body)["id"] for body in made)
    assert again == first
    assert len({first, *others}) == 3


async def test_the_sdk_reads_errors_and_no_other_body(
    connected: RateLimitedClient, caplog: pytest.LogCaptureFixture
) -> None:
    """It would format each for its log, four lines a call. What it makes of an error is the same as ever."""
    with caplog.at_level("DEBUG", "stripe"):
        body = await connected.post("customers.create", "/v1/customers", {"name": "Ada Lovelace"})
        made = msgspec.json.decode(body)
        again = await connected.read("customers.retrieve", f"/v1/customers/{made['id']}", {})
        assert msgspec.json.decode(again)["name"] == made["name"] == "Ada Lovelace"
        assert not [record for record in caplog.records if record.name == "stripe"]
        with pytest.raises(StripeRefused, match="HTTP 404, code resource_missing") as refused:
            await connected.read("customers.retrieve", "/v1/customers/cus_none", {})
    assert (refused.value.is_missing, refused.value.http_status) == (True, 404)


class BrokenOff:
    """A server that breaks off its first `times` answers, and notes the idempotency keys."""

    def __init__(self, times: int) -> None:
        self.times, self.keys = times, list[str]()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        await reader.readexactly(int(fields.get("content-length", 0)))
        self.keys.append(fields.get("idempotency-key", ""))
        body = b'{"id": "cus_whole"}'
        sent = body[:5] if len(self.keys) <= self.times else body
        length = f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + length.encode() + sent)
        await writer.drain()
        writer.close()


@pytest.mark.parametrize("parsed", [True, False], ids=["objects", "bodies"])
@pytest.mark.parametrize("times", [1, 9])
async def test_an_answer_that_breaks_off_is_asked_for_again_with_its_key(
    valkey: str, monkeypatch: pytest.MonkeyPatch, times: int, parsed: bool
) -> None:
    """What was asked may have been done: https://docs.stripe.com/error-low-level#idempotency"""
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0.0)
    redis = connect_redis(valkey)
    limiter = RateLimiter(redis, 1000, Metrics())
    broken = BrokenOff(times)
    server = await asyncio.start_server(broken, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, module.open_client("sk_test_keys", url, 30.0, limiter) as client:

        async def create() -> object:
            if parsed:
                return await client.call("customers.create", client.platform_v1.customers.create_async)
            return await client.post("customers.create", "/v1/customers", {"name": "Ada"}, "one-key")

        if times == 1:
            await create()
            assert len(broken.keys) == 2
        else:
            with pytest.raises(StripeUnavailable, match="no good answer"):
                await create()
            assert len(broken.keys) == module.NETWORK_RETRIES + 1
        assert len(set(broken.keys)) == 1
        assert broken.keys[0]
    await redis.aclose()


async def test_a_page_of_a_proxy_is_no_success(
    connected: RateLimitedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where only the success matters: `paidup doctor` would else find each permission given."""

    async def page(*_: object) -> tuple[bytes, int, dict[str, str]]:
        return b"<html>", 200, {}

    monkeypatch.setattr(stripe.AIOHTTPClient, "request_async", page)
    with pytest.raises(StripeUnavailable, match="an answer is not understood"):
        await connected.send("permissions", "get", "/v1/products", {"limit": 1})
