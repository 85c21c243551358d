"""The sender: where it connects to, what it follows, how much it reads, and what it signs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook

from paidup.outbound.addresses import PrivateAddress, public_socket
from paidup.outbound.sender import KEPT, Sender
from paidup.outbound.signing import signed_headers
from paidup.runtime.clock import now
from tests.support.receivers import SECRET, Receiver

OTHER_SECRET = "whsec_" + "b3RoZXItc2VjcmV0LW9mLXRoZS10ZXN0cy1vZi1ldmVudHM="
BODY = b'{"type":"credits.granted"}'


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    opened = Sender(private_addresses=True, timeout_s=2.0)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def guarded() -> AsyncIterator[Sender]:
    opened = Sender(timeout_s=2.0)
    await opened.open()
    yield opened
    await opened.close()


def headers() -> dict[str, str]:
    return signed_headers("msg_1", now(), BODY, [SECRET])


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00::1", "ff02::1"),
        *("::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::"),
    ],
)
def test_no_connection_is_made_to_a_private_address(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with pytest.raises(PrivateAddress):
        public_socket((family, socket.SOCK_STREAM, 6, "", (address, 443)))


def test_a_public_address_is_connected_to() -> None:
    public_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 443))).close()


async def test_a_name_that_leads_to_a_private_address_is_refused(
    guarded: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is made when it connects, so DNS that changes its answer gains nothing."""
    port = int(receiver.url.rpartition(":")[2].partition("/")[0])

    def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    answer = await guarded.post(f"https://hooks.example.com:{port}/hook", BODY, headers())
    assert answer.status is None
    assert "private address" in str(answer.error)
    assert receiver.requests == 0


async def test_plain_http_and_a_private_url_are_refused(guarded: Sender, receiver: Receiver) -> None:
    for url in (receiver.url, "https://10.0.0.1/hook", "http://hooks.example.com/hook"):
        answer = await guarded.post(url, BODY, headers())
        assert (answer.status, answer.delivered) == (None, False)
        assert answer.error
    assert receiver.requests == 0


async def test_no_redirect_is_followed(sender: Sender, receiver: Receiver) -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": receiver.url})

    receiver.behaviours = [elsewhere]
    answer = await sender.post(receiver.url, BODY, headers())
    assert (answer.status, answer.delivered, receiver.requests) == (307, False, 1)


async def test_little_of_a_long_answer_is_kept_as_text(sender: Sender, receiver: Receiver) -> None:
    """PostgreSQL takes no NUL, and what is not UTF-8 is shown as such."""

    async def long(_: web.Request) -> web.Response:
        return web.Response(body=b"<script>\0\xff" + b"x" * 1_000_000)

    receiver.behaviours = [long]
    answer = await sender.post(receiver.url, BODY, headers())
    assert answer.delivered
    assert answer.body is not None
    assert answer.body.startswith("<script>\ufffd\ufffdxxx")
    assert len(answer.body) <= KEPT
    assert (await sender.post(receiver.url, BODY, headers())).delivered, "on another connection"


async def test_a_success_with_a_body_that_never_ends_is_a_success(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paidup.outbound.sender.BODY_WITHIN_S", 0.1)

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one moment")
        await asyncio.Event().wait()
        return response

    receiver.behaviours = [endless]
    answer = await sender.post(receiver.url, BODY, headers())
    assert (answer.status, answer.delivered) == (200, True)


async def test_what_an_endpoint_asks_for_is_waited_for(sender: Sender, receiver: Receiver) -> None:
    """Retry-After, as seconds or as a date; anything else says nothing."""
    given = {"120": 120.0, "Fri, 27 Nov 2020 00:00:00 GMT": 0.0, "soon": None, "-1": None}
    for header, expected in given.items():

        async def busy(_: web.Request, header: str = header) -> web.Response:
            return web.Response(status=503, headers={"Retry-After": header})

        receiver.behaviours = [busy]
        assert (await sender.post(receiver.url, BODY, headers())).retry_after_s == expected


def test_two_secrets_make_two_signatures_of_which_each_verifies() -> None:
    signed = signed_headers("msg_1", now(), BODY, [SECRET, OTHER_SECRET])
    assert len(signed["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, OTHER_SECRET):
        assert Webhook(secret).verify(BODY, signed) == {"type": "credits.granted"}
