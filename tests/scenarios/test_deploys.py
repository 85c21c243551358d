"""Deploys: a process that gets SIGTERM closes its sockets, finishes its requests, and exits."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import aiohttp
import pytest

from paidup.web.websocket import endpoint as sockets
from tests.conftest import World
from tests.support.event_streams import streaming
from tests.support.paidup import Paidup, environment, next_status, serving_process
from tests.support.processes import alive, descendants, free_port
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until


@pytest.mark.parametrize("protocol", ["lightweight", "uvicorn"])
async def test_a_drain_closes_sockets_spread_out_and_with_a_reason(
    world: World, stripe_side: StripeSide, protocol: str
) -> None:
    """S30: each gets its own delay for reconnecting; new sockets are refused; statuses are still sent."""
    paidup = await world.server(shutdown_drain_s=1.0, websocket_protocol=protocol)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.conditions(api_down=True)  # only the webhook settles
    server = paidup.sockets
    async with AsyncExitStack() as stack:
        screens = [await stack.enter_async_context(ada.watch(purchase)) for _ in range(20)]
        for screen in screens:
            await next_status(screen)
        # In the middle of a long drain: half are closed, half still wait.
        draining = asyncio.create_task(server.drain())
        closed_at = [asyncio.create_task(_close_of(screen)) for screen in screens]
        await wait_until(lambda: server.draining)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await stack.enter_async_context(ada.watch(purchase))
        assert refused.value.status == 503
        assert (await paidup.get("/readyz"))[0] == 503
        assert (await paidup.get("/healthz"))[0] == 200
        closes = await asyncio.gather(*closed_at)
        await draining
    assert {code for code, _ in closes} == {1012}
    assert all(500 <= bye["reconnect_after_ms"] <= 1500 for _, bye in closes)
    assert len({bye["reconnect_after_ms"] for _, bye in closes}) > 5, "spread"


async def test_a_draining_process_still_delivers_statuses(
    world: World, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S30."""
    monkeypatch.setattr(sockets, "DRAIN_PER_S", 1)
    paidup = await world.server(shutdown_drain_s=600.0)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.conditions(api_down=True)
    server = paidup.sockets
    async with ada.watch(purchase) as one, ada.watch(purchase) as other:
        for screen in (one, other):
            await next_status(screen)
        draining = asyncio.create_task(server.drain())
        # One is closed at once, the other a second later.
        await wait_until(lambda: sum(session.closing is not None for session in server._sessions) == 1)
        left = next(session for session in server._sessions if session.closing is None)
        await stripe_side.confirm(purchase["client_secret"])
        await wait_until(lambda: left.closing is not None)
        assert left.closing is not None
        assert left.closing[1] == 1000, "it finished, and was not sent away"
        draining.cancel()


async def test_a_stopping_process_finishes_requests_in_progress(
    world: World, stripe_side: StripeSide
) -> None:
    """S30: after SIGTERM the socket gets "restarting", the request in progress is answered, and it exits."""
    env = environment(**world.given(redis_url="", stripe_timeout_s=20, port=(port := free_port())))
    child = await asyncio.to_thread(serving_process, env, port, world.folder / "server.log", forked=True)
    world.stack.callback(child.stop)
    paidup = Paidup(f"http://127.0.0.1:{port}", world.http)
    started = descendants(child.process.pid)
    ada, eve = paidup.customer("ada"), paidup.customer("eve")
    purchase = await ada.buy("pro")
    await stripe_side.conditions(api_latency_ms=300)
    async with ada.watch(purchase) as screen:
        await next_status(screen)
        asked = await stripe_side.calls("POST /v1/customers")
        buying = asyncio.create_task(eve.buy("pro"))

        async def in_hand() -> bool:
            return await stripe_side.calls("POST /v1/customers") > asked

        await wait_until(in_hand)
        child.process.send_signal(signal.SIGTERM)
        code, bye = await _close_of(screen)
        assert (code, bye["reason"]) == (1012, "restarting")
        assert (await buying)["status"]["status"] == "open"
    await wait_until(lambda: child.process.poll() is not None)
    assert child.process.returncode == 0
    await wait_until(lambda: not [pid for pid in started if alive(pid)])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_ctrl_c_ends_streams_and_long_polls_as_sigterm_does(world: World) -> None:
    """S30."""
    env = environment(**world.given(shutdown_drain_s=0.1, port=(port := free_port())))
    child = await asyncio.to_thread(serving_process, env, port, world.folder / "server.log", forked=True)
    world.stack.callback(child.stop)
    ada = Paidup(f"http://127.0.0.1:{port}", world.http).customer("ada")
    purchase = await ada.buy("pro")
    path, version = f"invoices/{purchase['invoice']}", purchase["status"]["version"]
    async with streaming(ada, f"{path}/events", purchase["ticket"]) as stream:
        await stream.until(status="open")
        polling = asyncio.create_task(ada.call("GET", f"/api/{path}?wait=30&version={version}"))
        await wait_until(partial(_is_held, world.http, ada.paidup.url))
        child.process.send_signal(signal.SIGINT)
        assert (await stream.rest())[-1]["reason"] == "restarting"
        assert (await polling)[1]["version"] == version
    await wait_until(lambda: child.process.poll() is not None)
    assert "Traceback" not in child.output


async def _is_held(http: aiohttp.ClientSession, url: str) -> bool:
    """Whether the server holds a long poll."""
    async with http.get(f"{url}/metrics") as response:
        return 'paidup_sockets{kind="invoice",transport="long_poll"} 1.0' in await response.text()


async def test_a_second_sigterm_does_not_wait(world: World) -> None:
    """S30: sockets are closed at once, still with 1012."""
    env = environment(**world.given(shutdown_drain_s=600, port=(port := free_port())))
    child = await asyncio.to_thread(serving_process, env, port, world.folder / "server.log", forked=True)
    world.stack.callback(child.stop)
    paidup = Paidup(f"http://127.0.0.1:{port}", world.http)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    async with AsyncExitStack() as stack:
        screens = [await stack.enter_async_context(ada.watch(purchase)) for _ in range(15)]
        for screen in screens:
            await next_status(screen)
        for _ in range(2):
            child.process.send_signal(signal.SIGTERM)
        codes = {code for code, _ in await asyncio.gather(*map(_close_of, screens))}
        assert codes == {1012}
    await wait_until(lambda: child.process.poll() is not None)


async def _close_of(screen: aiohttp.ClientWebSocketResponse) -> tuple[int | None, Any]:
    """The close code and the last frame."""
    async with asyncio.timeout(20):
        last = [json.loads(message.data) async for message in screen][-1:]
    return screen.close_code, last[0] if last else None
