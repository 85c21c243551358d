"""The Python client, blocking and asynchronous, against a running server."""

from __future__ import annotations

import asyncio
import runpy
import subprocess
import sys
import time
from ast import literal_eval
from contextlib import suppress
from typing import Any

import jwt
import pytest
from fastapi import HTTPException

from paidup.client import (
    AlreadyOnPlanError,
    APIConnectionError,
    APIError,
    APIStatusError,
    AsyncPaidup,
    InsufficientCreditsError,
    KeyReusedError,
    NotFoundError,
    Paidup,
    ReservationClosedError,
    StorageUnavailableError,
    backend_token,
    page_token,
    signed_with,
)
from paidup.client.calls import cancel_call, change_call, change_steps, subscribe_call
from paidup.client.retries import HttpResponse
from tests.conftest import World
from tests.support.paidup import JWT_SECRET, status_with
from tests.support.paidup import Paidup as Server
from tests.support.processes import ROOT, free_port
from tests.support.stripe_sandbox import StripeSide
from tests.support.tcp import serving_tcp
from tests.support.waiting import wait_until

TOKENS = signed_with(JWT_SECRET)
OPTIONAL_IMPORTS = {"cryptography", "_cffi_backend", "_openssl", "typing_extensions", "brotli", "zstandard"}


class LossyPaidup(Paidup):
    """Loses the first `lost` responses, after the server has handled the request."""

    lost = 0

    def _send(self, request: Any) -> Any:
        response = super()._send(request)
        if self.lost:
            self.lost -= 1
            return None
        return response


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_refused_spend_succeeds_after_the_purchase(world: World, stripe_side: StripeSide) -> None:
    server = await world.server()
    async with AsyncPaidup(server.url, TOKENS) as paidup:
        with pytest.raises(InsufficientCreditsError) as refused:
            await paidup.spend("ada", 5, "report-1")
        assert (refused.value.balance, refused.value.needed, refused.value.activating) == (0, 5, None)
        purchase = await paidup.subscribe("ada", "pro", interval="month")
        assert await paidup.adopt("ada", purchase.invoice) is not None
        with pytest.raises(InsufficientCreditsError) as refused:
            await paidup.spend("ada", 5, "report-1")
        assert refused.value.activating is not None
        assert refused.value.activating.invoice == purchase.invoice
        assert purchase.client_secret is not None
        await stripe_side.confirm(purchase.client_secret)

        async def active() -> bool:
            return (await paidup.status("ada", purchase.invoice)).active

        await wait_until(active)
        assert (await paidup.spend("ada", 5, "report-1")).balance == 1995
        assert (await paidup.reserve("ada", 95, "work", expires_in_s=60)).balance == 1900
        assert (await paidup.commit("ada", 45, "work")).balance == 1950
        with pytest.raises(ReservationClosedError):
            await paidup.release("ada", "work")
        found = await paidup.credits("ada")
        assert (found.balance, found.activating) == (1950, None)
        assert [(grant.plan, grant.remaining) for grant in found.grants] == [("pro", 1950)]
        with pytest.raises(KeyReusedError):
            await paidup.spend("ada", 6, "report-1")
        with pytest.raises(NotFoundError):
            await paidup.status("bob", purchase.invoice)
        with pytest.raises(APIStatusError) as subscribed:
            await paidup.subscribe("ada", "basic")
        running = [(each.plan, each.status) for each in subscribed.value.subscriptions]
        assert (subscribed.value.problem, running) == ("already-subscribed", [("pro", "active")])
        with pytest.raises(APIStatusError) as unknown:
            await paidup.subscribe("bob", "gold")
        assert (unknown.value.status, unknown.value.problem) == (422, "unknown-plan")
    await asyncio.to_thread(_check_the_blocking_client, server.url, purchase.invoice)


def _check_the_blocking_client(url: str, invoice: str) -> None:
    with LossyPaidup(url + "/", TOKENS) as paidup:
        paidup.lost = 2
        assert paidup.spend("ada", 50, "report-2").balance == 1900, "sent three times, spent once"
        assert paidup.status("ada", invoice).credits_granted == 2000
        assert paidup.reserve("ada", 100, "more").balance == 1800
        assert paidup.release("ada", "more").balance == 1900
        assert paidup.commit.__doc__ == AsyncPaidup.commit.__doc__
        with pytest.raises(InsufficientCreditsError):
            paidup.spend("ada", 1901, "report-3")
        paidup.lost = 100
        paidup._retry_budget._tokens = 1.0
        with pytest.raises(APIConnectionError):
            paidup.credits("ada")
        assert paidup.lost == 98, "no retry without a token of the retry budget"
    with Paidup(url, signed_with("another secret of thirty-two characters")) as stranger:
        with pytest.raises(APIStatusError) as refused:
            stranger.credits("ada")
        assert refused.value.problem == "not-authenticated"


@pytest.mark.parametrize("client", [Paidup, AsyncPaidup])
def test_an_address_without_a_scheme_is_refused_at_once(client: Any) -> None:
    """Not after a deadline of retries, as a server that gives no response."""
    with pytest.raises(ValueError, match=r"'127\.0\.0\.1:8000'"):
        client("127.0.0.1:8000", TOKENS)


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_waits_at_least_retry_after(status: int) -> None:
    """S64: `Retry-After` is a minimum; jitter only adds to it."""
    for _ in range(20):
        steps = Paidup("http://127.0.0.1", TOKENS)._steps(subscribe_call("ada", "pro", None, 1))
        next(steps)
        pause = steps.send(_response(status, retry_after="3"))
        assert isinstance(pause, float)
        assert 3 <= pause < 4


def test_a_rate_limit_beyond_the_deadline_raises_a_status_error() -> None:
    """S64: a 429 is a definite answer, so the caller need not retry to learn what happened."""
    steps = Paidup("http://127.0.0.1", TOKENS)._steps(subscribe_call("ada", "pro", None, 1))
    next(steps)
    with pytest.raises(APIStatusError) as refused:
        steps.send(_response(429, retry_after="60"))
    assert (refused.value.status, refused.value.problem) == (429, "too-many-requests")


@pytest.mark.parametrize("answer", [None, 503])
def test_an_end_at_once_is_retried_only_where_it_names_what_to_end(answer: int | None) -> None:
    """Done again, it could end another subscription. After a 429, nothing was done."""
    for when, subscription in (("now", "sub_1"), ("period_end", None), ("now", None)):
        steps = Paidup("http://127.0.0.1", TOKENS)._steps(cancel_call("ada", when, subscription))
        next(steps)
        assert isinstance(steps.send(_response(429, "0")), float)
        next(steps)
        lost = HttpResponse(answer, "", b"") if answer else None
        if (when, subscription) == ("now", None):
            with pytest.raises(APIConnectionError):
                steps.send(lost)
        else:
            assert isinstance(steps.send(lost), float)


def test_a_refusal_says_that_any_earlier_attempt_may_have_done_it() -> None:
    """Not only the one right before it: the last was refused by a rate limit."""
    steps = Paidup("http://127.0.0.1", TOKENS)._steps(change_call("ada", "pro", None, None, None))
    for lost in (None, _response(429, "0")):
        next(steps)
        assert isinstance(steps.send(lost), float)
    next(steps)
    body = b'{"type": "https://paidup.dev/problems/already-on-plan", "detail": "On it."}'
    with pytest.raises(AlreadyOnPlanError) as refused:
        steps.send(HttpResponse(409, "", body))
    assert refused.value.repeated
    change = change_steps("ada", "pro", None, None, None)
    next(change)
    with pytest.raises(AlreadyOnPlanError):
        change.throw(refused.value)  # it names no invoice


def _response(status: int, retry_after: str) -> HttpResponse:
    body = b'{"type": "https://paidup.dev/problems/too-many-requests", "detail": "Too many."}'
    return HttpResponse(status, retry_after, body)


def test_an_outage_is_a_typed_error_and_an_unknown_result() -> None:
    """A proxy's 503 has no type: of it, only the unknown result is told."""
    for body, kind in (
        (b'{"type": "https://paidup.dev/problems/storage-unavailable"}', StorageUnavailableError),
        (b"<html>Bad gateway</html>", APIConnectionError),
    ):
        caller = Paidup("http://127.0.0.1", TOKENS, deadline_s=1)
        steps = caller._steps(subscribe_call("ada", "pro", None, 1))
        next(steps)
        with pytest.raises(APIConnectionError) as refused:
            steps.send(HttpResponse(503, "60", body, "req_1"))
        assert type(refused.value) is kind
    assert issubclass(StorageUnavailableError, APIStatusError)


async def test_a_call_ends_at_its_deadline() -> None:
    """Where the server is silent, is not Paidup, or does not listen at all."""

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client gives up

    async def not_paidup(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")

    async with serving_tcp(silent) as silence, serving_tcp(not_paidup) as other:
        ports = (silence, other, free_port())
        for port, kind in zip(ports, (APIConnectionError, APIError, APIConnectionError), strict=True):
            url, began = f"http://127.0.0.1:{port}", time.monotonic()
            async with AsyncPaidup(url, TOKENS, deadline_s=0.4) as paidup:
                with pytest.raises(kind):
                    await paidup.credits("ada")
            with Paidup(url, TOKENS, deadline_s=0.4) as blocking, pytest.raises(kind):
                await asyncio.to_thread(blocking.credits, "ada")
            assert time.monotonic() - began < 30


async def test_the_asynchronous_client_is_used_plainly(paidup: Server) -> None:
    """As the module's document shows it for the blocking one: made, called, closed, and called again."""
    client = AsyncPaidup(paidup.url, TOKENS)
    assert (await client.credits("ada")).balance == 0
    await client.close()
    async with client as again:
        assert (await again.credits("ada")).balance == 0
    await client.close()


async def test_one_client_serves_one_event_loop_after_another(paidup: Server) -> None:
    client = AsyncPaidup(paidup.url, TOKENS)

    async def balance() -> int:
        found = await client.credits("ada")
        await client.close()
        return found.balance

    for _ in range(2):
        assert await asyncio.to_thread(asyncio.run, balance()) == 0


@pytest.mark.parametrize(
    "begun", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n"]
)
async def test_a_response_that_drips_ends_at_the_deadline(begun: bytes) -> None:
    """A byte now and then keeps no caller waiting, in the headers and in the body."""

    async def dripping(__: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + begun)
        with suppress(OSError):
            for _ in range(60):
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.1)

    async with serving_tcp(dripping) as port:
        url = f"http://127.0.0.1:{port}"
        with Paidup(url, TOKENS, deadline_s=0.6) as blocking, pytest.raises(APIConnectionError):
            await asyncio.to_thread(blocking.credits, "ada")
        async with AsyncPaidup(url, TOKENS, deadline_s=0.6) as client:
            with pytest.raises(APIConnectionError):
                await client.credits("ada")


def test_tokens_carry_audience_issuer_and_scope() -> None:
    """The client itself uses backend tokens."""
    options: dict[str, Any] = {"audience": "paidup", "issuer": "shop", "ttl_s": 30}
    for token, scope in (
        (page_token(JWT_SECRET, "ada", **options), "browser"),
        (backend_token(JWT_SECRET, "ada", **options), "backend"),
        (signed_with(JWT_SECRET, **options)("ada"), "backend"),
    ):
        claims = jwt.decode(token, JWT_SECRET, ["HS256"], audience="paidup", issuer="shop")
        assert (claims["sub"], claims["scope"]) == ("ada", scope)
        assert claims["exp"] - time.time() <= 30


def test_importing_the_client_loads_no_server_module() -> None:
    """Only the standard library, msgspec, PyJWT (with the cryptography that it finds) and urllib3."""
    allowed = {"paidup", "msgspec", "jwt", "urllib3"} | OPTIONAL_IMPORTS
    code = (
        "import sys; before = set(sys.modules); import paidup.client;"
        "loaded = set(sys.modules) - before;"
        "print(sorted({name.partition('.')[0] for name in loaded} - sys.stdlib_module_names));"
        "print(sorted(name for name in loaded if name.startswith('paidup.') and not"
        " name.startswith('paidup.client')))"
    )
    packages, server_modules = _run_python(code).splitlines()
    assert set(literal_eval(packages)) <= allowed
    assert literal_eval(server_modules) == []


def test_the_asynchronous_client_says_that_it_needs_aiohttp() -> None:
    code = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from paidup.client import Paidup\n"
        "try: from paidup.client import AsyncPaidup\n"
        "except ImportError as error: print(error)"
    )
    assert _run_python(code) == 'AsyncPaidup needs aiohttp: pip install "paidup[async]"\n'


def _run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_documented_backend_sells_and_spends(
    world: World, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await world.server()
    monkeypatch.setenv("PAIDUP_URL", server.url)
    monkeypatch.setenv("AUTH_JWT_SECRET", JWT_SECRET)
    backend = runpy.run_path(str(ROOT / "docs" / "examples" / "backend.py"))

    async def run(name: str, *arguments: Any) -> Any:
        return await asyncio.to_thread(backend[name], *arguments)

    assert await run("make_report", "ada", 1) == (402, {"show": "plans"})
    purchase = await run("choose_plan", "ada", "pro")
    status, shown = await run("make_report", "ada", 1)
    assert (status, shown["show"], shown["invoice"]) == (402, "activating", purchase["invoice"])
    async with server.customer("ada").watch(purchase, ticket=shown["ticket"]) as screen:
        await stripe_side.confirm(purchase["client_secret"])
        await status_with(screen, status="active")
    assert await run("make_report", "ada", 1) == (200, {"report": "...", "balance": 1995})
    assert await run("translate", "ada", "job-1", ["one page", "", "another"]) == 1993
    token = (await run("page_settings", "ada"))["token"]
    claims = jwt.decode(token, JWT_SECRET, ["HS256"])
    assert (claims["sub"], claims["scope"]) == ("ada", "browser")
    backend["paidup"].close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_documented_asynchronous_backend_sells_and_spends(
    world: World, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await world.server()
    monkeypatch.setenv("PAIDUP_URL", server.url)
    monkeypatch.setenv("AUTH_JWT_SECRET", JWT_SECRET)
    backend = runpy.run_path(str(ROOT / "docs" / "examples" / "async_backend.py"))
    async with backend["lifespan"](backend["app"]):
        with pytest.raises(HTTPException) as refused:
            await backend["make_report"]("ada", 1)
        assert refused.value.status_code == 402
        assert str(refused.value.detail) == "{'needed': 5, 'activating': None}"
        with pytest.raises(HTTPException, match="part of Pro"):
            await backend["export"]("ada")
        purchase = await backend["paidup"].subscribe("ada", "pro")
        async with server.customer("ada").watch({"invoice": purchase.invoice}, purchase.ticket) as screen:
            await stripe_side.confirm(purchase.client_secret)
            await status_with(screen, status="active")
        assert await backend["make_report"]("ada", 1) == {"report": "...", "balance": 1995}
        history = await backend["history"]("ada")
        shown = [(entry["credits"], entry["reason"], entry["key"]) for entry in history]
        assert shown == [(-5, "Report 1", "report-1"), (2000, "pro, paid", None)]
        assert await backend["export"]("ada") == {"export": "..."}
