"""What the documents promise, held against what the tests hear: docs/openapi.yaml and docs/asyncapi.yaml.

Owns the two documents, compiled once, and the sessions whose every answer and frame goes through them.
What is not described there, to the last field, raises `Undocumented` in the test that heard it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any
from urllib.parse import quote

import aiohttp
import jsonschema_rs
import msgspec
import yaml

from tests.support.processes import ROOT

BASE = "https://paidup.example/docs/"
OPENAPI, ASYNCAPI = "openapi.yaml", "asyncapi.yaml"


class Undocumented(AssertionError):
    """Something was heard that the documents do not describe."""


@cache
def document(name: str) -> Any:
    return yaml.load((ROOT / "docs" / name).read_text(), yaml.CSafeLoader)  # ten times as fast as safe_load


@cache
def validator(name: str, *pointer: str) -> jsonschema_rs.Draft202012Validator:
    """The validator of the schema at this place of a document, with all that it refers to."""
    path = "/".join(quote(part.replace("~", "~0").replace("/", "~1")) for part in pointer)
    return jsonschema_rs.Draft202012Validator(
        {"$ref": f"{BASE}{name}#/{path}"}, registry=_registry(), validate_formats=True
    )


@cache
def _registry() -> jsonschema_rs.Registry:
    return jsonschema_rs.Registry([(BASE + name, document(name)) for name in (OPENAPI, ASYNCAPI)])


def complaints(found: jsonschema_rs.Draft202012Validator, value: Any) -> list[str]:
    """What is wrong with `value`, in words."""
    return [
        f"{error.message} at /{'/'.join(map(str, error.instance_path))}" for error in found.iter_errors(value)
    ]


# Frames


@cache
def _messages(address: str, action: str) -> dict[str, jsonschema_rs.Draft202012Validator]:
    """By their `type`, what the server may `send` or `receive` on the channel of this address."""
    described = document(ASYNCAPI)
    found = {}
    for operation in described["operations"].values():
        channel = operation["channel"]["$ref"].rpartition("/")[2]
        if operation["action"] == action and _matches(described["channels"][channel]["address"], address):
            for message in operation["messages"]:
                place = message["$ref"].rpartition("/")[2]
                name = described["components"]["messages"][place].get("name", place)
                found[name] = validator(ASYNCAPI, "components", "messages", place, "payload")
    return found


def check_frame(address: str, frame: str | bytes, action: str = "send") -> None:
    """Raises Undocumented unless the server may `send` (or `receive`) this frame at this address."""
    value = msgspec.json.decode(frame)
    kind = value.get("type") if isinstance(value, dict) else None
    message = _messages(address, action).get(str(kind))
    wrong = ["no such frame there"] if message is None else complaints(message, value)
    if wrong:
        raise Undocumented(f"{address} {action}s {value}: {'; '.join(wrong)}")


# Answers

PROBLEM = ("components", "schemas", "Problem")


def check_answer(method: str, path: str, status: int, media_type: str, body: bytes) -> None:
    """Raises Undocumented unless the document describes this answer. Paths that it has not are let pass."""
    described = document(OPENAPI)["paths"]
    for template in [path] if path in described else described:
        if _matches(template, path):
            break
    else:
        return
    place = _place(template, method.lower(), status, media_type)
    if place is None:
        wrong = ["not described"]
    elif media_type.endswith("json"):
        wrong = complaints(validator(OPENAPI, *place), msgspec.json.decode(body))
    else:
        wrong = []
    if wrong:
        raise Undocumented(
            f"{method} {path} answers {status} {media_type} {body[:500]!r}: {'; '.join(wrong)}"
        )


@cache
def _place(template: str, method: str, status: int, media_type: str) -> tuple[str, ...] | None:
    """Where the document has the schema of such an answer; None where it does not describe any."""
    if method not in document(OPENAPI)["paths"][template]:
        return PROBLEM if (status, media_type) == (405, "application/problem+json") else None
    place: tuple[str, ...] = ("paths", template, method, "responses", str(status))
    found = document(OPENAPI)["paths"][template][method]["responses"].get(str(status))
    if found is not None and "$ref" in found:
        place = tuple(found["$ref"].removeprefix("#/").split("/"))
        found = document(OPENAPI)["components"]["responses"][place[-1]]
    if found is not None and "content" not in found:
        return place  # an answer without a body
    if found is None or media_type not in found["content"]:
        return None
    return (*place, "content", media_type, "schema")


@cache
def _matches(template: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path) is not None


# Sessions


class CheckedAnswer(aiohttp.ClientResponse):
    """An answer that is held against the document once it is read."""

    async def read(self) -> bytes:
        body = await super().read()
        if self.method != "HEAD":
            check_answer(self.method, self.url.raw_path, self.status, self.content_type, body)
        return body


class CheckedSocket(aiohttp.ClientWebSocketResponse):
    """A socket whose frames are held against the document as they come."""

    async def receive(self, timeout: float | None = None) -> aiohttp.WSMessage:
        message = await super().receive(timeout)
        if message.type is aiohttp.WSMsgType.TEXT:
            check_frame(self._response.url.raw_path, message.data)
        return message


def checked_session(**options: Any) -> aiohttp.ClientSession:
    """A session that believes the documents and nothing else; `options` are aiohttp's."""
    # uvicorn closes a connection that was idle for 5 s: on a busy machine, while a request is on its way.
    options.setdefault("connector", aiohttp.TCPConnector(keepalive_timeout=1))
    return aiohttp.ClientSession(response_class=CheckedAnswer, ws_response_class=CheckedSocket, **options)
