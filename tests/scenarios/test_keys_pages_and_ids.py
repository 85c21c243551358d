"""Idempotency keys in a header, pages of the ledger, request ids, the access log, the API's version."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import World
from tests.support.paidup import Paidup
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until


async def post(paidup: Paidup, path: str, body: Any, **headers: str) -> tuple[int, Any, Any]:
    """A backend's call with these headers; underscores in their names are dashes."""
    ada = paidup.customer("ada")
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    given["Authorization"] = f"Bearer {ada.token(scope='backend')}"
    async with ada.http.post(paidup.url + path, json=body, headers=given) as response:
        return response.status, await response.json(), response.headers


async def with_credits(paidup: Paidup, stripe_side: StripeSide) -> None:
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])

    async def granted() -> bool:
        return await ada.balance() == 2000

    await wait_until(granted)


async def test_a_key_in_the_header_is_the_key(paidup: Paidup, stripe_side: StripeSide) -> None:
    await with_credits(paidup, stripe_side)
    for headers, body in (
        ({"Idempotency_Key": "job-1"}, {"credits": 5}),
        ({}, {"credits": 5, "key": "job-1"}),
        ({"Idempotency_Key": "job-1"}, {"credits": 5, "key": "job-1"}),
    ):
        status, answer, _ = await post(paidup, "/api/credits/spend", body, **headers)
        assert (status, answer) == (200, {"balance": 1995, "credits": 5, "key": "job-1"})
    for path, body, status in (
        ("reserve", {"credits": 20}, 201),
        ("commit", {"credits": 7}, 200),
        ("reserve", {"credits": 10}, 409),
    ):
        answered, answer, _ = await post(paidup, f"/api/credits/{path}", body, Idempotency_Key="work")
        assert answered == status, answer
    assert (await post(paidup, "/api/credits/reserve", {"credits": 9, "key": "more"}))[0] == 201
    assert (await post(paidup, "/api/credits/release", None, Idempotency_Key="more"))[0] == 200
    assert await paidup.customer("ada").balance() == 1988


async def test_two_keys_or_none_are_refused(paidup: Paidup, stripe_side: StripeSide) -> None:
    await with_credits(paidup, stripe_side)
    for path, body in (("spend", {"credits": 5}), ("reserve", {"credits": 5}), ("commit", {"credits": 5})):
        status, refused, _ = await post(
            paidup, f"/api/credits/{path}", {**body, "key": "one"}, Idempotency_Key="two"
        )
        assert (status, refused["type"].rpartition("/")[2]) == (400, "key-mismatch")
        status, refused, _ = await post(paidup, f"/api/credits/{path}", body)
        assert (status, refused["type"].rpartition("/")[2]) == (422, "invalid-input")
    for key in ("", "k" * 201, "k\xe9"):
        status, _, _ = await post(paidup, "/api/credits/spend", {"credits": 5}, Idempotency_Key=key)
        assert status == 422
    assert await paidup.customer("ada").balance() == 2000


async def test_the_ledger_is_read_in_pages(paidup: Paidup, stripe_side: StripeSide) -> None:
    await with_credits(paidup, stripe_side)
    ada = paidup.customer("ada")
    for number in range(4):
        await ada.spend(1, f"job-{number}")
    seen: list[Any] = []
    query = "?limit=2"
    while query:
        status, page = await ada.call("GET", f"/api/account/entries{query}")
        assert (status, len(page["entries"]) <= 2) == (200, True)
        seen += page["entries"]
        query = f"?limit=2&starting_after={seen[-1]['id']}" if page["has_more"] else ""
    assert [entry["key"] for entry in seen] == ["job-3", "job-2", "job-1", "job-0", None]
    _, older = await ada.call("GET", f"/api/account/entries?before={seen[1]['id']}")
    assert older["entries"] == seen[2:], "the older name still works"
    for wrong in ("limit=0", "limit=101", "limit=x", "starting_after=-1", "starting_after=3&before=3"):
        assert (await ada.call("GET", f"/api/account/entries?{wrong}"))[0] == 422


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_every_answer_has_a_request_id_and_the_apis_version(paidup: Paidup) -> None:
    http = paidup.customer("ada").http
    for path in ("/api/plans", "/api/account", "/elsewhere", "/healthz"):
        async with http.get(paidup.url + path, headers={"X-Request-Id": "9f3c-a:1"}) as response:
            assert response.headers["X-Request-Id"] == "9f3c-a:1"
            assert response.headers["Paidup-Api-Version"] == "1"
            if response.status >= 400:
                assert (await response.json())["request_id"] == "9f3c-a:1"
        made = []
        for headers in ({}, {"X-Request-Id": "two words"}, {"X-Request-Id": "x" * 129}):
            async with http.get(paidup.url + path, headers=headers) as response:
                made.append(response.headers["X-Request-Id"])
        assert len(set(made)) == 3
        assert all(request_id.startswith("req_") for request_id in made)


async def refused_handshakes(server: Paidup) -> list[tuple[int, str, str]]:
    """Status, id and body of handshakes: a wrong ticket, the same with an id, no such path, and no offer."""
    told = []
    for path, key in (
        ("/ws/account", ""),
        ("/ws/account", "trace-9"),
        ("/ws/none", ""),
        ("/ws/account?a=b", ""),
    ):
        asked = f"GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        asked += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        asked += f"Sec-WebSocket-Protocol: paidup.v1, no-ticket\r\nX-Request-Id: {key}\r\n\r\n"
        told.append(await raw_answer(server, asked.encode()))
    return told


async def raw_answer(server: Paidup, asked: bytes) -> tuple[int, str, str]:
    """The status, the id and the body that these bytes are answered with."""
    address = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(asked)
    async with asyncio.timeout(20):
        answer = (await reader.read(100_000)).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    assert head.lower().count("\r\nx-request-id: ") == 1, head
    assert "paidup-api-version: 1" in head.lower()
    request_id = re.search(r"(?i)x-request-id: (\S+)", head)
    assert request_id is not None
    return int(head.split()[1]), request_id[1], body


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("protocol", ["lightweight", "uvicorn"])
async def test_what_is_refused_early_has_an_id_too(world: World, protocol: str) -> None:
    """A handshake, and a request that is too large to be read: both are in the access log."""
    server = await world.process(
        access_log=True, log_level="INFO", log_format="json", websocket_protocol=protocol
    )
    handshakes = await refused_handshakes(server)
    assert [status for status, _, _ in handshakes] == [401, 401, 403, 401]
    assert handshakes[1][1] == "trace-9"
    for _, request_id, body in (handshakes[0], handshakes[1], handshakes[3]):
        assert json.loads(body)["request_id"] == request_id
    large = await raw_answer(server, b"GET / HTTP/1.1\r\na: " + b"a" * 40_000)
    wrong = await raw_answer(server, b"GE T / HTTP/9\r\n\r\n")
    assert (large[0], wrong[0]) == (431, 400)
    (log,) = world.folder.glob("server-*.log")
    expected = {(request_id, status) for status, request_id, _ in [*handshakes, large, wrong]}
    assert len(expected) == 6

    def logged() -> set[tuple[str, int]]:
        written = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        return {(line["request_id"], line["status"]) for line in written if line["event"] == "request"}

    await wait_until(lambda: expected <= logged())


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("access_log", [True, False])
async def test_the_access_log_has_one_line_for_each_request(
    world: World, stripe_side: StripeSide, access_log: bool
) -> None:
    """If it is on. A failure is logged with the id that its answer has, in any case.

    S48: not the whole id of a Checkout Session, which opens its status to those who read logs.
    """
    server = await world.process(access_log=access_log, log_level="INFO", log_format="json")
    await stripe_side.conditions(api_down=True)
    await server.get("/api/plans?token=secret")
    session = f"cs_test_{'a1B2c3' * 10}"
    encoded = session.replace("_", "%5F")
    for written in (session, encoded):
        line = f"GET /api/checkout/{written} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        assert (await raw_answer(server, line.encode()))[0] == 503
    status, problem, headers = await post(
        server, "/api/subscriptions", {"plan": "pro"}, X_Request_Id="trace-7"
    )
    assert (status, problem["request_id"], headers["X-Request-Id"]) == (503, "trace-7", "trace-7")
    (log,) = world.folder.glob("server-*.log")

    def lines(event: str) -> list[Any]:
        written = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        return [line for line in written if line["event"] == event]

    await wait_until(lambda: any(line["request_id"] == "trace-7" for line in lines("request_failed")))
    assert session[20:] not in log.read_text()
    if not access_log:
        assert lines("request") == []
        return
    await wait_until(lambda: any(line["path"] == "/api/subscriptions" for line in lines("request")))
    ours = [line for line in lines("request") if not line["path"].endswith("z")]  # readyz of the start
    assert [(line["method"], line["path"], line["status"]) for line in ours] == [
        ("GET", "/api/plans", 200),
        ("GET", f"/api/checkout/{session[:20]}...", 503),
        ("GET", f"/api/checkout/{encoded[:24]}...", 503),
        ("POST", "/api/subscriptions", 503),
    ]
    assert ours[-1]["request_id"] == "trace-7"
    assert all(line["level"] == "info" and line["duration_ms"] >= 0 for line in ours)
