"""Malformed requests: each is refused correctly, and none counts as a server error."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from paidup.db.models import StripeEvent
from tests.conftest import World
from tests.support.paidup import WEBHOOK_SECRET, Paidup
from tests.support.stripe_sandbox import forged_event, sign
from tests.support.waiting import wait_until

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Protocol: {offered}\r\n\r\n"
)


async def answer_to(paidup: Paidup, request: bytes) -> bytes:
    """The beginning of the server's response to these bytes."""
    address = urlsplit(paidup.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request)
    async with asyncio.timeout(30):
        answer = await reader.read(2000)
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("websocket_protocol", ["lightweight", "uvicorn"])
async def test_odd_subprotocols_are_refused_and_counted(
    world: World, websocket_protocol: str, subtests: pytest.Subtests
) -> None:
    """S28: anything but the subprotocol and one ticket gets 401, and is counted as such."""
    paidup = await world.server(webhooks=False, websocket_protocol=websocket_protocol)
    offers = ["paidup.v1, paidup.v1", "paidup.v1, paidup.v1, a", "paidup.v1", "a, b", "paidup.v1, a, b"]
    if websocket_protocol == "lightweight":  # uvicorn's class refuses these itself
        offers += ["paidup.v1,", ",", "paidup.v1, é"]
    for path in ("/ws/invoices/in_1", "/ws/account"):
        for offered in offers:
            with subtests.test(f"{path} {offered}"):
                request = HANDSHAKE.format(path=path, offered=offered).encode()
                before = _refused(paidup)
                assert (await answer_to(paidup, request)).startswith(b"HTTP/1.1 401 ")
                assert _refused(paidup) == before + 1
    assert _failed(paidup) == {}


@pytest.mark.parametrize("websocket_protocol", ["lightweight", "uvicorn"])
async def test_invalid_utf_8_before_a_close_is_not_a_server_error(
    world: World, websocket_protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    """S28: the connection is closed, and no exception reaches the event loop."""
    paidup = await world.server(webhooks=False, websocket_protocol=websocket_protocol)
    ticket = await paidup.customer("ada").account_ticket()
    request = HANDSHAKE.format(path="/ws/account", offered=f"paidup.v1, {ticket}").encode()
    address = urlsplit(paidup.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request)
    async with asyncio.timeout(30):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(b"\x81\x82\x00\x00\x00\x00\xff\xff" + b"\x88\x80\x00\x00\x00\x00")
        await reader.read()
    writer.close()
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


async def test_a_client_that_disconnects_during_a_body_is_not_a_server_error(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """No 5xx is counted, no traceback is logged, and nothing is stored."""
    paidup = await world.server(webhooks=False)
    token = paidup.customer("ada").token(scope="backend")
    event = forged_event("invoice.paid", {"id": "in_1", "object": "invoice"})
    heads = [
        f"POST /api/credits/spend HTTP/1.1\r\nAuthorization: Bearer {token}\r\n",
        f"POST /webhooks/stripe HTTP/1.1\r\nStripe-Signature: {sign(event, WEBHOOK_SECRET)}\r\n",
    ]
    with capture_logs() as logged:
        for head in heads:
            for length in ("Content-Length: 900\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n384\r\n"):
                await _leave_after(paidup, f"{head}Host: x\r\n{length}".encode() + event[:50])
        await wait_until(lambda: len([entry for entry in logged if entry["event"] == "client_left"]) == 4)
    assert {entry["log_level"] for entry in logged if entry["event"] == "client_left"} == {"debug"}
    assert [entry for entry in logged if entry["log_level"] == "error" or "exc_info" in entry] == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert _failed(paidup) == {}
    assert await StripeEvent.all().count() == 0


async def _leave_after(paidup: Paidup, request: bytes) -> None:
    address = urlsplit(paidup.url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request)
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def _refused(paidup: Paidup) -> float:
    return float(paidup.services.metrics.sockets_refused.labels(401, "websocket")._value.get())


def _failed(paidup: Paidup) -> dict[str, float]:
    (family,) = paidup.services.metrics.requests_failed.collect()
    return {
        sample.labels["status"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_total") and sample.labels["status"].startswith("5")
    }
