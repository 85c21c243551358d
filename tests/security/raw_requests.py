"""Raw requests, byte by byte: well-formed ones in which some parts are replaced by malformed ones.

Each is a function of its seed alone, so that a finding can be had again. `send` tells the status that
a server answers, or that it answers nothing.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import Any

METHODS = [b"GET", b"POST"] * 20 + [
    *(b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PATCH", b"TRACE", b"CONNECT", b"PROPFIND", b"M-SEARCH"),
    *(b"get", b"", b"GE T", b"\x00", b"\xff", b"GET" * 50),
]
VERSIONS = [b"HTTP/1.1"] * 200 + [
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"HTTP/1.",
    b"HTTP/9999999999.1",
    b"",
]
NASTY = [
    *(b"%00", b"%", b"%zz", b"%ff", b"%c0%af", b"%ed%a0%80", b"%u0041", b"%0d%0aX-Injected: 1", b"%2e%2e%2f"),
    *(b"\xff", b"\x80\x81", b"\xed\xa0\x80", b"\xc3\xa9", b"\x00", b"\x01", b"\x7f", b"\x0b", b"\x85", b"\t"),
    *(
        b"../..",
        b"//",
        b"\\",
        b"?",
        b"??&&==",
        b"#",
        b";",
        b",",
        b",,",
        b"=",
        b"'\"<>",
        b"{}",
        b"*",
        b":",
        b"@",
        b" ",
    ),
    *(
        b"-1",
        b"0",
        b"9" * 30,
        b"9" * 5000,
        b"1e400",
        b"NaN",
        b"0x10",
        b"\xd9\xa1",
        b"true",
        b"null",
        b"A" * 5000,
    ),
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\r\nX: y", b"%s%n", b"${jndi}", b"a=b=c", b"[::1", b"[", b"]"),
]
TARGETS = [
    *(
        b"*",
        b"/",
        b"",
        b"//",
        b"http://[::1/api/plans",
        b"http://x:99999/api/plans",
        b"http://\xff/api/plans",
    ),
    *(
        b"http://a@b:c@d/api/plans",
        b"https://paidup.example/api/plans",
        b"x:443",
        b"/api/plans#f",
        b"api/plans",
    ),
    *(b"/" + b"a" * 70_000, b"/api/invoices/" + b"%00" * 50, b"/demo/..%2f..%2f.env", b"/demo//etc/passwd"),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 1.5, 2**53, 2**63, 2**64, 10**400, -(10**30), "", "a", "a\x00b", "\ud800"),
    *(
        "é" * 300,
        "A" * 20_000,
        [],
        {},
        [[]],
        {"a": {}},
        "1",
        "\u202e",
        "pro",
        "in_1",
        "evt_1",
        "\r\n",
        "../x",
    ),
]
RAW_VALUES = [
    "1e400",
    "NaN",
    "-Infinity",
    "1E-400",
    "-0",
    "01",
    "9" * 5000,
    "[" * 5000,
    '"\\ud800"',
    '"\\u0000"',
    "{",
]
FRAMES = [
    *(b"\x81\x80\x00\x00\x00\x00", b"\x8a\x80\x00\x00\x00\x00", b"\x88\x80\x00\x00\x00\x00", b"\xff" * 20),
    *(b"\x81\x05hello", b"\x81\xff" + b"\xff" * 8, b"\x83\x80\x00\x00\x00\x00", b"\x01\x80\x00\x00\x00\x00"),
    *(
        b"\x81\x82\x00\x00\x00\x00\xff\xff",
        b"\x88\x82\x00\x00\x00\x00\x00\x00",
        b"\x89\xfe\x04\x00\x00\x00\x00\x00",
    ),
    *(b"\x81\x93\x00\x00\x00\x00" + b'{"type": "verify"}\n', b"\x00", b"GET / HTTP/1.1\r\n\r\n"),
]


class Maker:
    """Generates requests to `paths`. `known` are valid headers, `bodies` valid bodies by path."""

    def __init__(
        self,
        paths: Sequence[str],
        known: Mapping[str, str],
        bodies: Mapping[str, Mapping[str, Any]],
        protocols: Sequence[str] = (),
    ) -> None:
        self._paths = paths
        self._known = known
        self._bodies = bodies
        self._protocols = protocols

    def request(self, seed: int) -> bytes:
        """The request of this seed."""
        random = Random(seed)
        if self._protocols and random.random() < 0.25:
            return self._handshake(random)
        path = random.choice(self._paths)
        body = self._body(random, path)
        method = b"POST" if path in self._bodies and random.random() < 0.8 else random.choice(METHODS)
        headers = {name: value.encode() for name, value in self._known.items()}
        if random.random() < 0.5:
            name = random.choice(sorted(headers))
            headers[name] = _spoilt(random, headers[name])
        fields = [*headers.items(), *_framing(random, body)]
        return _assembled(random, method, _target(random, path), fields, body)

    def _body(self, random: Random, path: str) -> bytes:
        good = self._bodies.get(path, {"a": 1})
        value = {name: random.choice(VALUES) if random.random() < 0.3 else of for name, of in good.items()}
        if random.random() < 0.1:
            value[random.choice(["", "x", "\x00", *good])] = random.choice(VALUES)
        text = json.dumps(value)
        if random.random() < 0.1:
            text = re.sub(r":[^,}]*", lambda _: ": " + random.choice(RAW_VALUES), text, count=1)
        body = text.encode()
        return _spoilt(random, body) if random.random() < 0.15 else body

    def _handshake(self, random: Random) -> bytes:
        path = random.choice(["/ws/account", "/ws/invoices/in_1", *(p for p in self._paths if "/ws/" in p)])
        fields = {
            "Host": self._known["Host"].encode(),
            "Origin": self._known.get("Origin", "http://127.0.0.1").encode(),
            "Upgrade": b"websocket",
            "Connection": b"Upgrade",
            "Sec-WebSocket-Version": b"13",
            "Sec-WebSocket-Key": base64.b64encode(random.randbytes(16)),
            "Sec-WebSocket-Protocol": f"paidup.v1, {random.choice(self._protocols)}".encode(),
        }
        for _ in range(random.randrange(3)):
            name = random.choice(sorted(fields))
            fields[name] = _spoilt(random, fields[name])
        if random.random() < 0.1:
            del fields[random.choice(sorted(fields))]
        listed = [*fields.items(), *random.choices(list(fields.items()), k=random.choice([0, 0, 0, 1]))]
        return _assembled(random, b"GET", _target(random, path), listed, b"")


def _target(random: Random, path: str) -> bytes:
    target = path.encode()
    if random.random() < 0.04:
        return random.choice(TARGETS)
    if random.random() < 0.15:
        target = _spoilt(random, target)
    if random.random() < 0.3:
        name = random.choice([b"before", b"reference", b"q", b"", b"wait"])
        target += b"?" + name + b"=" + random.choice([b"1", *NASTY])
    return target


def _framing(random: Random, body: bytes) -> list[tuple[str, bytes]]:
    """The Content-Length: nearly always the correct one."""
    if random.random() < 0.85:
        return [("Content-Length", b"%d" % len(body))]
    length = random.choice(
        [b"0", b"5", b"-1", b"+3", b"99999", b"9" * 30, b"\xd9\xa1", b"1, 1", b"0x10", b"", b"1e3"]
    )
    chunked = random.choice([b"chunked", b"chunked, gzip", b"identity", b"xchunked", b"\xff", b""])
    both = [("Content-Length", length), ("Transfer-Encoding", chunked)]
    return random.choice([both, both[:1], both[1:], both[:1] * 2, [("Content-Encoding", b"gzip")], []])


def _spoilt(random: Random, value: bytes) -> bytes:
    """`value` with something malformed inserted, replaced by it, or truncated."""
    nasty, at = random.choice(NASTY), random.randrange(len(value) + 1)
    return random.choice([nasty, value[:at] + nasty + value[at:], value[:at] + nasty, value[:at], value * 2])


def _assembled(
    random: Random, method: bytes, target: bytes, fields: Sequence[tuple[str, bytes]], body: bytes
) -> bytes:
    line = b" ".join((method, target, random.choice(VERSIONS)))
    head = [b"%b: %b" % (name.encode(), value) for name, value in fields]
    if random.random() < 0.05:
        head.insert(random.randrange(len(head) + 1), random.choice([*NASTY, b"X" * 70_000 + b": y", b": y"]))
    whole = b"\r\n".join((line, *head, b"", body))
    if random.random() < 0.03:
        whole = whole[: random.randrange(1, len(whole) + 1)]
    return whole


async def send(host: str, port: int, request: bytes, max_wait_s: float) -> int | None:
    """The status of the response; None if there was none within `max_wait_s`, or the connection closed."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return None
    try:
        writer.write(request)
        async with asyncio.timeout(max_wait_s):
            answer = await reader.read(64)
            found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
            if found and found[1] == b"101":
                random = Random(request)
                writer.write(b"".join(random.choices(FRAMES, k=3)))
                await reader.read(1000)
        return int(found[1]) if found else None
    except (TimeoutError, OSError):
        return None
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
