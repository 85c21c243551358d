"""The Python client, blocking and asynchronous, against a running server."""

from __future__ import annotations

import asyncio
import runpy
import subprocess
import sys
import time
from typing import Any

import jwt
import pytest

from paidup import client
from paidup.client import (
    AsyncPaidup,
    KeyReused,
    NotEnoughCredits,
    NotFound,
    Paidup,
    PaidupError,
    Refused,
    ReservationOver,
    Unavailable,
    backend_token,
    page_token,
    signed_with,
)
from tests.conftest import World
from tests.support.paidup import JWT_SECRET, status_with
from tests.support.processes import ROOT, free_port
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

TOKENS = signed_with(JWT_SECRET)


class Forgetful(Paidup):
    """Its first answers are lost on the way back, after the server has done what it was asked."""

    lost = 0

    def _send(self, request: Any) -> Any:
        answer = super()._send(request)
        if self.lost:
            self.lost -= 1
            return None
        return answer


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_backends_calls_from_the_refusal_to_the_spend(world: World, stripe_side: StripeSide) -> None:
    server = await world.server()
    async with AsyncPaidup(server.url, TOKENS) as paidup:
        with pytest.raises(NotEnoughCredits) as refused:
            await paidup.spend("ada", 5, "report-1")
        assert (refused.value.balance, refused.value.needed, refused.value.activating) == (0, 5, None)
        purchase = await paidup.subscribe("ada", "pro", interval="month")
        assert await paidup.adopt("ada", purchase.invoice) is not None
        with pytest.raises(NotEnoughCredits) as refused:
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
        with pytest.raises(ReservationOver):
            await paidup.release("ada", "work")
        found = await paidup.credits("ada")
        assert (found.balance, found.activating) == (1950, None)
        assert [(grant.plan, grant.remaining) for grant in found.grants] == [("pro", 1950)]
        with pytest.raises(KeyReused):
            await paidup.spend("ada", 6, "report-1")
        with pytest.raises(NotFound):
            await paidup.status("bob", purchase.invoice)
        with pytest.raises(Refused) as unknown:
            await paidup.subscribe("bob", "gold")
        assert (unknown.value.status, unknown.value.problem) == (422, "unknown-plan")
    await asyncio.to_thread(_the_blocking_client_is_the_same, server.url, purchase.invoice)


def _the_blocking_client_is_the_same(url: str, invoice: str) -> None:
    with Forgetful(url + "/", TOKENS) as paidup:
        paidup.lost = 2
        assert paidup.spend("ada", 50, "report-2").balance == 1900, "sent three times, spent once"
        assert paidup.status("ada", invoice).credits_granted == 2000
        assert paidup.reserve("ada", 100, "more").balance == 1800
        assert paidup.release("ada", "more").balance == 1900
        assert paidup.commit.__doc__ == AsyncPaidup.commit.__doc__
        with pytest.raises(NotEnoughCredits):
            paidup.spend("ada", 1901, "report-3")
        paidup.lost = 100
        paidup._budget._tokens = 1.0
        with pytest.raises(Unavailable):
            paidup.credits("ada")
        assert paidup.lost == 98, "no repetition without a token"
    with Paidup(url, signed_with("another secret of thirty-two characters")) as stranger:
        with pytest.raises(Refused) as refused:
            stranger.credits("ada")
        assert refused.value.problem == "not-authenticated"


@pytest.mark.parametrize("status", [429, 503])
def test_a_repetition_comes_no_earlier_than_the_server_asked_for(status: int) -> None:
    """S64: `Retry-After` is the least pause, whatever chance adds."""
    for _ in range(20):
        steps = Paidup("http://127.0.0.1", TOKENS)._steps(client._subscribe("ada", "pro", None, 1))
        next(steps)
        pause = steps.send(_answer(status, retry_after="3"))
        assert isinstance(pause, float)
        assert 3 <= pause < 4


def test_a_limit_that_outlasts_the_deadline_is_told_as_a_refusal() -> None:
    """S64: the server answered and did nothing: the caller is not left in doubt."""
    steps = Paidup("http://127.0.0.1", TOKENS)._steps(client._subscribe("ada", "pro", None, 1))
    next(steps)
    with pytest.raises(Refused) as refused:
        steps.send(_answer(429, retry_after="60"))
    assert (refused.value.status, refused.value.problem) == (429, "too-many-requests")


def _answer(status: int, retry_after: str) -> client._Answer:
    body = b'{"type": "https://paidup.dev/problems/too-many-requests", "detail": "Too many."}'
    return client._Answer(status, retry_after, body)


async def test_a_call_ends_at_its_deadline() -> None:
    """Whether nobody listens, or whoever does says nothing, or something else."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the other side has had enough
        writer.close()

    async def strange(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        writer.close()

    ports = [free_port() for _ in range(3)]
    listeners = [
        await asyncio.start_server(answer, "127.0.0.1", port)
        for answer, port in zip((silent, strange), ports, strict=False)
    ]
    for port, kind in zip(ports, (Unavailable, PaidupError, Unavailable), strict=True):
        url, began = f"http://127.0.0.1:{port}", time.monotonic()
        async with AsyncPaidup(url, TOKENS, deadline_s=0.4) as paidup:
            with pytest.raises(kind):
                await paidup.credits("ada")
        with Paidup(url, TOKENS, deadline_s=0.4) as blocking, pytest.raises(kind):
            await asyncio.to_thread(blocking.credits, "ada")
        assert time.monotonic() - began < 3
    for listener in listeners:
        listener.close()


def test_a_token_says_what_the_settings_ask_for() -> None:
    """And which of the two it is: the client's own are the backend's."""
    named: dict[str, Any] = {"audience": "paidup", "issuer": "shop", "ttl_s": 30}
    for token, scope in (
        (page_token(JWT_SECRET, "ada", **named), "browser"),
        (backend_token(JWT_SECRET, "ada", **named), "backend"),
        (signed_with(JWT_SECRET, **named)("ada"), "backend"),
    ):
        claims = jwt.decode(token, JWT_SECRET, ["HS256"], audience="paidup", issuer="shop")
        assert (claims["sub"], claims["scope"]) == ("ada", scope)
        assert claims["exp"] - time.time() <= 30


def test_the_client_stands_alone() -> None:
    """A copy of the file works; importing it loads nothing of the server."""
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1], run_name='copied');"
        "print(sorted({name.partition('.')[0] for name in sys.modules}"
        " & {'server', 'tortoise', 'stripe', 'redis', 'starlette', 'uvicorn', 'structlog'}))"
    )
    command = [sys.executable, "-c", code, str(client.__file__)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_backend_of_the_document_sells_and_spends(
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
