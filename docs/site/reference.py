"""Render openapi.yaml and asyncapi.yaml as Markdown: every operation, message and field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]
OPENAPI = "openapi.yaml"
METHODS = ("get", "post", "put", "patch", "delete")


def http_reference(api: Schema) -> str:
    """All operations by tag, then all schemas."""
    lines = ["# HTTP API, every field", "", api["info"].get("description", ""), ""]
    for tag in api["tags"]:
        lines += [f"## {tag['name'].capitalize()}", "", tag.get("description", ""), ""]
        for path, item in api["paths"].items():
            for method in METHODS:
                if tag["name"] in item.get(method, {}).get("tags", ()):
                    lines += _operation(api, path, method, item)
    return "\n".join([*lines, *_schemas(api)]) + "\n"


def websocket_reference(api: Schema, openapi: Schema) -> str:
    """All channels with their messages, then all schemas; some are those of `openapi`."""
    # Its own references, which start at its root, have to start there from here as well.
    text = json.dumps(openapi, default=str).replace('"#/', f'"{OPENAPI}#/')
    api = api | {OPENAPI: json.loads(text)}
    lines = ["# WebSockets, every field", "", api["info"].get("description", ""), ""]
    for channel in api["channels"].values():
        lines += [f"## `{channel['address']}`", "", channel.get("description", ""), ""]
        for reference in channel["messages"].values():
            message = _resolved(api, reference)
            lines += [f"### {message.get('title') or message['name']}", ""]
            lines += [message.get("summary") or message.get("description", ""), ""]
            lines += _fields(api, message["payload"])
            lines += [line for each in message.get("examples", ()) for line in _example(each["payload"])]
    return "\n".join([*lines, *_schemas(api)]) + "\n"


def _operation(api: Schema, path: str, method: str, item: Schema) -> Iterator[str]:
    operation = item[method]
    yield from (f"### `{method.upper()} {path}`", "", operation["summary"] + ".", "")
    yield from (operation.get("description", ""), "")
    parameters = [
        _resolved(api, each) for each in (*item.get("parameters", ()), *operation.get("parameters", ()))
    ]
    if parameters:
        yield from ("| parameter | in | type | |", "|---|---|---|---|")
        for each in parameters:
            yield f"| `{each['name']}` | {each['in']} | {_type(each['schema'])} | {_text(each)} |"
        yield ""
    if body := operation.get("requestBody"):
        yield from ("**Body**", "")
        yield from _content(api, body)
    yield from ("| status | body | |", "|---|---|---|")
    for status, reference in operation["responses"].items():
        response = _resolved(api, reference)
        types = [_type(content.get("schema", {})) for content in response.get("content", {}).values()]
        yield f"| {status} | {', '.join(types)} | {_text(response)} |"
    yield ""
    for status, reference in operation["responses"].items():
        if status.startswith("2"):
            yield from _examples(_resolved(api, reference))


def _content(api: Schema, body: Schema) -> Iterator[str]:
    for content in _resolved(api, body)["content"].values():
        yield from (_type(content["schema"]), "")
        yield from _fields(api, content["schema"])
    yield from _examples(_resolved(api, body))


def _examples(holder: Schema) -> Iterator[str]:
    for content in holder.get("content", {}).values():
        if isinstance(content.get("example"), dict | list):
            yield from _example(content["example"])


def _example(value: Any) -> list[str]:
    return ["```json", json.dumps(value, indent=2, ensure_ascii=False, default=str), "```", ""]


def _schemas(api: Schema) -> Iterator[str]:
    yield from ("## Schemas", "")
    for name, schema in api["components"]["schemas"].items():
        yield from (f"### {name}", "", schema.get("description", ""), "")
        yield from _fields(api, schema)


def _fields(api: Schema, schema: Schema) -> Iterator[str]:
    """A table of an object's fields; nothing for another type."""
    found = _resolved(api, schema)
    parts = [_resolved(api, part) for part in found.get("allOf", ())]
    properties = {name: each for part in (*parts, found) for name, each in part.get("properties", {}).items()}
    required = {name for part in (*parts, found) for name in part.get("required", ())}
    if properties:
        yield from ("| field | type | |", "|---|---|---|")
        for name, each in properties.items():
            optional = "" if name in required else ", optional"
            yield f"| `{name}` | {_type(each)}{optional} | {_text(each)} |"
        yield ""


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        page = "http-reference.md" if schema["$ref"].startswith(OPENAPI) else ""
        return f"[{name}]({page}#{name.lower()})"
    for key in ("oneOf", "anyOf", "allOf"):
        if key in schema:
            return " or ".join(_type(each) for each in schema[key])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _text(holder: Schema) -> str:
    return str(holder.get("description", "")).strip().replace("\n", " ").replace("|", "\\|")


def _resolved(api: Schema, schema: Schema) -> Schema:
    while "$ref" in schema:
        found: Any = api
        for key in schema["$ref"].removeprefix("#/").replace("#", "").split("/"):
            found = found[key]
        schema = found
    return schema
