"""`paidup listen` and `paidup trigger`: events forwarded to an address of the developer's machine."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from standardwebhooks import Webhook

from paidup.db.outbound_models import EventDelivery, EventEndpoint, OutboundEvent
from paidup.domain.example_events import example_event
from paidup.domain.outbound_events import OutboundEventType
from paidup.errors import InvalidInput, StorageUnavailable
from paidup.operations import event_listening
from paidup.operations.event_listening import Listener, OperatorClient, WrongServer, forward_address
from paidup.runtime.clock import now
from tests.conftest import World
from tests.operators.conftest import OPERATOR_TOKEN
from tests.support.paidup import Paidup
from tests.support.waiting import wait_until

SECRET = "whsec_" + base64.b64encode(b"the secret of this listener 0001").decode()


class Receiver:
    """What a developer runs: verifies each message, and answers `status`."""

    def __init__(self) -> None:
        self.status = 204
        self.received: list[dict[str, Any]] = []

    async def receive(self, request: web.Request) -> web.Response:
        event = Webhook(SECRET).verify(await request.read(), dict(request.headers))
        self.received.append({"id": request.headers["webhook-id"], **event})
        return web.Response(status=self.status, text="" if self.status < 300 else "no such\x1b[2J user")

    def has(self, message: str) -> bool:
        return bool(self.received[-1]["id"] == message)

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.received]


@pytest.fixture
async def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def hook(receiver: Receiver) -> AsyncIterator[str]:
    """Where the receiver listens."""
    app = web.Application()
    app.router.add_post("/hook", receiver.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/hook"  # type: ignore[union-attr]
    await runner.cleanup()


@pytest.fixture
async def server(world: World) -> Paidup:
    return await world.server(webhooks=False, operator_token=OPERATOR_TOKEN)


@pytest.fixture
def client(server: Paidup, http: aiohttp.ClientSession) -> OperatorClient:
    return OperatorClient(http, server.url, OPERATOR_TOKEN)


@pytest.fixture
async def said(client: OperatorClient, hook: str, http: aiohttp.ClientSession) -> AsyncIterator[list[str]]:
    """The lines that a running listener has printed."""
    lines: list[str] = []
    listening = asyncio.create_task(Listener(client, http, hook, SECRET, lines.append).run([]))
    await client.trigger("balance.low", None, None)
    yield lines
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_each_event_is_forwarded_once_signed_and_in_order(
    said: list[str], client: OperatorClient, receiver: Receiver, hook: str
) -> None:
    """What the server had before is not; the first example here may have been made just before."""
    await wait_until(lambda: _triggered(client, receiver))
    for event_type in ("credits.granted", "payment.failed", "checkout.unclaimed"):
        await client.trigger(event_type, None, "user-17")
    await wait_until(
        lambda: receiver.types[-3:] == ["credits.granted", "payment.failed", "checkout.unclaimed"]
    )
    granted, failed, unclaimed = receiver.received[-3:]
    assert (granted["data"]["account"], granted["data"]["test"]) == ("user-17", True)
    assert failed["data"]["error"]["code"] == "card_declined"
    assert unclaimed["data"]["account"] is None
    assert len({event["id"] for event in receiver.received}) == len(receiver.received)
    assert f"--> credits.granted [{granted['id']}]" in " ".join(said)
    assert f"<-- [204] POST {hook} [{granted['id']}]" in " ".join(said)

    receiver.status = 404
    await client.trigger("credits.granted", None, None)
    await wait_until(lambda: "[404]" in said[-1])
    assert "no such[2J user" in said[-1], "an answer cannot steer the terminal"

    # A transaction that took longer commits a lower id.
    newest = await OutboundEvent.all().order_by("-id").first()
    assert newest
    for number in (2, 1):
        row = OutboundEvent(message=f"msg_late_{number}", type="balance.low", data={}, created_at=now())
        row.id = newest.id + number
        await row.save(force_create=True)
        await wait_until(partial(receiver.has, row.message))
    assert len({event["id"] for event in receiver.received}) == len(receiver.received)


async def _triggered(client: OperatorClient, receiver: Receiver) -> bool:
    """Make an example until the listener forwards: it begins with what comes after its first request."""
    if not receiver.received:
        await client.trigger("balance.low", None, None)
    return bool(receiver.received)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_every_type_has_an_example_and_none_touches_the_books(client: OperatorClient) -> None:
    quiet: dict[str, Any] = {
        "secret": "whsec_YQ==",
        "retry_at": now() + timedelta(hours=1),
    }  # nothing is sent meanwhile
    first = await EventEndpoint.create(name="first", url="https://a.example.com", types=[], **quiet)
    await EventEndpoint.create(name="other", url="https://b.example.com", types=["balance.low"], **quiet)
    for event_type in OutboundEventType:
        made = await client.trigger(event_type, None, None)
        assert (made.type, made.endpoints) == (event_type, 2 if event_type == "balance.low" else 1)
    rows = await OutboundEvent.all().order_by("id")
    assert [row.type for row in rows] == list(OutboundEventType)
    assert all(row.account_id is None and row.data["test"] is True for row in rows)

    only = await client.trigger("balance.low", "first", None)
    deliveries = await EventDelivery.filter(event__message=only.event)
    assert (only.endpoints, [row.endpoint_id for row in deliveries]) == (1, [first.id])
    await EventEndpoint.filter(id=first.id).update(state="disabled")
    with pytest.raises(InvalidInput, match="enable it first"):
        await client.trigger("balance.low", "first", None)
    with pytest.raises(InvalidInput, match=r"no event type 'credits\.gifted'. There are: credits\.granted, "):
        await client.trigger("credits.gifted", None, None)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_server_that_will_never_answer_is_named_and_one_that_is_away_is_asked_again(
    server: Paidup, hook: str, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WrongServer, match="does not know this token"):
        await OperatorClient(http, server.url, "wrong").events(None, 0, [])
    with pytest.raises(WrongServer, match="has no operators' API"):
        await OperatorClient(http, f"{server.url}/elsewhere", OPERATOR_TOKEN).events(None, 0, [])
    nowhere = OperatorClient(http, "http://127.0.0.1:1", OPERATOR_TOKEN)
    with pytest.raises(StorageUnavailable, match="does not answer"):
        await nowhere.trigger("balance.low", None, None)

    monkeypatch.setattr(event_listening, "LONGEST_PAUSE_S", 0.01)
    lines: list[str] = []
    listening = asyncio.create_task(Listener(nowhere, http, hook, SECRET, lines.append).run([]))
    await wait_until(lambda: len(lines) == 1)
    assert "http://127.0.0.1:1 does not answer" in lines[0]
    assert not listening.done()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


def test_where_to_forward_to_is_a_url_or_a_host_with_a_port() -> None:
    assert forward_address("localhost:3000/hook") == "http://localhost:3000/hook"
    assert forward_address("https://dev.example.com/hook") == "https://dev.example.com/hook"
    for wrong in ("", "ftp://localhost/hook", "http://", "http://[::1/hook"):
        with pytest.raises(InvalidInput, match="no address to forward to"):
            forward_address(wrong)


def test_examples_are_json_of_the_payloads_shape() -> None:
    """Every type has one, with facts that JSON can hold."""
    for event_type in OutboundEventType:
        assert json.loads(json.dumps(example_event(event_type, now()).data))["test"] is True
