"""docs/openapi.yaml and docs/asyncapi.yaml match the code: routes, problems, frames, schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import msgspec
import pytest
from starlette.routing import Route, WebSocketRoute

from paidup import __version__
from paidup.credits import ledger, reservations
from paidup.db.models import EntryKind
from paidup.domain import catalog as plans
from paidup.domain import messages
from paidup.domain import payment_facts as facts
from paidup.domain.messages import MAX_FRAME, SUBPROTOCOL, CloseCode, encode
from paidup.operations import invoice_report, overview
from paidup.operations.event_deliveries import DeliveryDetails, DeliveryPage, DeliveryReport
from paidup.operations.event_endpoints import EndpointDetails
from paidup.operations.event_replay import Replayed
from paidup.operations.event_stream import StreamedEvent, StreamPage, Triggered
from paidup.reconciliation import alarms
from paidup.stripe_api.charged_cards import ChargedCard
from paidup.subscriptions import change_previews
from paidup.web import api, credits_api, entitlements_api, event_streams, events_api, ledger_api, problems
from paidup.web.routes import ROUTES
from paidup.web.websocket import endpoint as sockets
from tests.support.contracts import (
    ASYNCAPI,
    OPENAPI,
    Undocumented,
    check_answer,
    check_frame,
    complaints,
    document,
    validator,
)
from tests.support.node import MODULES

HTTP_ROUTES = [route for route in ROUTES if isinstance(route, Route)]
SLUGS = {
    *(slug for *_, slug, _ in problems._PROBLEMS),
    *(slug for slug, _ in problems._HTTP_PROBLEMS.values()),
    *("http", "internal"),
}
ASYNCAPI_SCHEMA = MODULES / "@asyncapi" / "specs" / "schemas" / "3.0.0.json"


# The documents themselves


def test_the_http_document_is_openapi() -> None:
    from schemathesis.specs.openapi.definitions import OPENAPI_31  # takes a second

    assert complaints(jsonschema_rs.Draft202012Validator(OPENAPI_31), document(OPENAPI)) == []


def test_the_sockets_document_is_asyncapi() -> None:
    if not ASYNCAPI_SCHEMA.exists():
        pytest.skip("npm's packages are not there: `make test` installs them")
    official = jsonschema_rs.Draft7Validator(json.loads(ASYNCAPI_SCHEMA.read_text()))
    assert [error.message for error in official.iter_errors(document(ASYNCAPI))] == []


@pytest.mark.parametrize("name", [OPENAPI, ASYNCAPI])
def test_every_reference_resolves_and_every_component_is_used(name: str) -> None:
    used = {target for each in (OPENAPI, ASYNCAPI) for target in references(each)}
    for document_, _, pointer in (target.partition("#/") for target in used):
        found = document(document_)
        for part in pointer.split("/"):
            found = found[part]
    components = {
        f"{name}#/components/{kind}/{each}"
        for kind, all_of in document(name)["components"].items()
        if kind != "securitySchemes"
        for each in all_of
    }
    assert components - used == set()


def references(name: str) -> Iterator[str]:
    """All references of a document, each with the document that it leads to."""
    for node in nodes(document(name)):
        if isinstance(node, dict) and isinstance(node.get("$ref"), str):
            target = node["$ref"]
            yield name + target if target.startswith("#") else target


def nodes(value: Any) -> Iterator[Any]:
    yield value
    for below in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(below)


def test_the_documents_are_of_this_version() -> None:
    assert {document(name)["info"]["version"] for name in (OPENAPI, ASYNCAPI)} == {__version__}


# Routes, channels, problems


def test_the_http_document_has_the_routes_and_methods_of_the_server_and_no_others() -> None:
    described = {
        (method.upper(), path)
        for path, item in document(OPENAPI)["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert described == {
        (method, route.path) for route in HTTP_ROUTES for method in (route.methods or set()) - {"HEAD"}
    }
    assert {type(route) for route in ROUTES} == {Route, WebSocketRoute}


def test_the_sockets_document_has_the_channels_of_the_server_and_no_others() -> None:
    channels = document(ASYNCAPI)["channels"].values()
    routes = {route.path for route in sockets.ROUTES} | {route.path for route in event_streams.ROUTES}
    assert {channel["address"] for channel in channels} == routes


def test_every_problem_is_in_the_http_document_and_no_other() -> None:
    kinds = document(OPENAPI)["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert {kind.removeprefix(problems.TYPE_PREFIX) for kind in kinds} == SLUGS


def test_every_problem_is_documented_as_a_response() -> None:
    """Except those that any request may get."""
    answers = {**document(OPENAPI)["paths"], **document(OPENAPI)["components"]["responses"]}
    told = {
        word.removeprefix(problems.TYPE_PREFIX)
        for word in nodes(answers)
        if isinstance(word, str) and word.startswith(problems.TYPE_PREFIX)
    }
    of_any = {"internal", "method-not-allowed", "http"}
    assert SLUGS - told == of_any


def test_the_sockets_document_names_the_subprotocol_the_close_codes_and_the_refusals() -> None:
    words = document(ASYNCAPI)["info"]["description"]
    assert f"`{SUBPROTOCOL}`" in words
    assert {int(code) for code in re.findall(r"^\| (\d{4}) ", words, re.MULTILINE)} == set(CloseCode)
    refusals = re.findall(r"^\| (\d{3}) \|(.*?)\|", words, re.MULTILINE)
    assert {slug for _, slugs in refusals for slug in re.findall(r"`([a-z-]+)`", slugs)} == {
        *("not-authenticated", "not-allowed", "too-many-requests", "too-many-sockets", "restarting")
    }


# Examples


def examples_of(name: str) -> list[tuple[str, tuple[str, ...], Any]]:
    """Each example of a document: its path, the path of its schema, and the example."""
    found = []

    def look(node: Any, place: tuple[str, ...]) -> None:
        if not isinstance(node, dict):
            return
        if "example" in node and "schema" in node:
            found.append(("/".join(place), (*place, "schema"), node["example"]))
        if "payload" in node and "examples" in node:
            found.extend(("/".join(place), (*place, "payload"), each["payload"]) for each in node["examples"])
        for key, below in node.items():
            look(below, (*place, key))

    look(document(name), ())
    return found


@pytest.mark.parametrize("name", [OPENAPI, ASYNCAPI])
def test_every_example_matches_its_schema(name: str) -> None:
    examples = examples_of(name)
    assert len(examples) >= 5
    assert {
        where: wrong
        for where, schema, value in examples
        if (wrong := complaints(validator(name, *schema), value))
    } == {}


# Schemas: msgspec's of a struct, and the documents'

REQUESTS = [
    *(api.BuyBody, api.ChangeBody, api.CancelBody, api.TopUpBody, api.AdoptBody),
    *(credits_api.SpendBody, credits_api.ReserveBody, credits_api.CommitBody, credits_api.ReleaseBody),
    *(events_api.EndpointBody, events_api.EndpointChangeBody, events_api.RotationBody),
    *(events_api.ReplayBody, events_api.TriggerBody),
]
ANSWERS = [
    *(
        messages.StatusMessage,
        messages.CheckoutMessage,
        facts.PaymentError,
        plans.PlanPrice,
        ledger.Spent,
        reservations.Reserved,
        entitlements_api.BalanceParts,
        entitlements_api.CurrentEntitlements,
    ),
    *(
        change_previews.ChangeCost,
        change_previews.CostLine,
        ChargedCard,
        alarms.Alarm,
        overview.Overview,
        overview.PendingInvoice,
        overview.SettledInvoice,
    ),
    *(
        invoice_report.Explanation,
        invoice_report.InvoiceReport,
        invoice_report.InvoiceDetails,
        invoice_report.GrantDetails,
        invoice_report.TimelineEvent,
        invoice_report.StoredEvent,
    ),
    *(EndpointDetails, DeliveryPage, DeliveryDetails, DeliveryReport, Replayed),
    *(StreamPage, StreamedEvent, Triggered),
]
FRAMES = [messages.BalanceMessage, messages.Heartbeat, messages.Bye, messages.Verify]


@pytest.mark.parametrize("struct", REQUESTS)
def test_request_schemas_match_their_structs(struct: type[msgspec.Struct]) -> None:
    """Including every bound: the document allows exactly what is decoded."""
    assert plain(described(OPENAPI, struct)) == plain(typed(struct))


@pytest.mark.parametrize(
    ("name", "struct"), [*((OPENAPI, each) for each in ANSWERS), *((ASYNCAPI, each) for each in FRAMES)]
)
def test_response_schemas_match_their_structs(name: str, struct: type[msgspec.Struct]) -> None:
    """Its members, their types, and which may be left out; the document may restrict values further."""
    told, made = plain(described(name, struct)), plain(typed(struct))
    assert told["additionalProperties"] is False
    left_out = {each.encode_name for each in msgspec.structs.fields(struct) if each.default is msgspec.UNSET}
    assert set(told["required"]) | left_out == set(told["properties"]) == set(made["properties"])
    assert not set(told["required"]) & left_out
    for member, schema in made["properties"].items():
        schema.pop("default", None)  # defaults are always written
        assert {key: told["properties"][member].get(key) for key in schema} == schema, member


def described(name: str, struct: type[msgspec.Struct]) -> Any:
    return document(name)["components"]["schemas"][struct.__name__]


def typed(struct: type[msgspec.Struct]) -> Any:
    _, components = msgspec.json.schema_components([struct])
    return {**components[struct.__name__], "$defs": components}


def plain(schema: Any, definitions: Any = None) -> Any:
    """A common form: no descriptions, no references, `type` as a set that may include null."""
    definitions = schema.get("$defs", definitions)
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        found = definitions[name] if definitions else document(OPENAPI)["components"]["schemas"][name]
        if found.get("type") == "object":
            return {"type": {"object"}}  # compared separately
        return plain({**found, **{key: value for key, value in schema.items() if key != "$ref"}}, definitions)
    if "anyOf" in schema and {"type": "null"} in schema["anyOf"]:
        (other,) = [plain(each, definitions) for each in schema["anyOf"] if each != {"type": "null"}]
        return {**other, "type": other["type"] | {"null"}, **default_of(schema)}
    result: dict[str, Any] = default_of(schema)
    result["type"] = {schema["type"]} if isinstance(schema.get("type"), str) else set(schema.get("type", ()))
    if values := schema.get("enum", [schema["const"]] if "const" in schema else None):
        result["enum"] = {value for value in values if value is not None}
        result["type"] |= {"string"}
    if "pattern" in schema:
        result["pattern"] = schema["pattern"].replace(r"\A", "^").replace(r"\Z", "$")
    if "items" in schema:
        result["items"] = plain(schema["items"], definitions)
    for bound in ("minimum", "maximum", "minLength", "maxLength", "additionalProperties"):
        if bound in schema:
            other = schema[bound]
            result[bound] = plain(other, definitions) if isinstance(other, dict) else other
    if "properties" in schema:
        result["properties"] = {name: plain(each, definitions) for name, each in schema["properties"].items()}
        result["required"] = sorted(schema.get("required", ()))
    return result


def default_of(schema: Any) -> dict[str, Any]:
    return {"default": schema["default"]} if "default" in schema else {}


def test_entry_kinds_match_the_ledger() -> None:
    entry = document(OPENAPI)["components"]["schemas"]["Entry"]
    assert set(entry["properties"]["kind"]["enum"]) == set(EntryKind)
    assert (
        document(OPENAPI)["components"]["schemas"]["Entries"]["properties"]["entries"]["maxItems"]
        == ledger_api.MAX_ENTRIES_PER_PAGE
    )


# The checks fail where they should

BYE = {"type": "bye", "reason": "restarting", "reconnect_after_ms": 1}


@pytest.mark.parametrize(
    ("address", "frame", "action"),
    [
        ("/ws/account", {**BYE, "hint": "an unknown field"}, "send"),
        ("/ws/account", {**BYE, "reconnect_after_ms": "soon"}, "send"),
        ("/ws/account", {"type": "bye", "reason": "restarting"}, "send"),
        ("/ws/account", {"type": "status"}, "send"),
        ("/ws/account", {"type": "verify"}, "receive"),
        ("/ws/invoices/in_1", {"type": "balance"}, "send"),
        ("/ws/invoices/in_1", {"type": "verify"}, "send"),
        ("/ws/elsewhere", {"type": "heartbeat"}, "send"),
        ("/api/account/events", {"type": "heartbeat"}, "send"),
        ("/ws/account", ["bye"], "send"),
    ],
)
def test_an_undocumented_frame_fails(address: str, frame: Any, action: str) -> None:
    with pytest.raises(Undocumented):
        check_frame(address, json.dumps(frame), action)


def test_an_invalid_date_time_fails() -> None:
    balance = '{"type":"balance","version":1,"balance":0,"at":"%s","held":0}'
    check_frame("/ws/account", balance % "2026-11-23T09:00:00.123000Z")
    with pytest.raises(Undocumented, match="date-time"):
        check_frame("/ws/account", balance % "2026-11-23 09:00")


def test_documented_frames_pass() -> None:
    for address in ("/ws/account", "/ws/invoices/in_1"):
        check_frame(address, encode(messages.Heartbeat()))
        check_frame(address, json.dumps(BYE))
    verify = '{"type":"verify"}'
    check_frame("/ws/invoices/in_1", verify, "receive")
    assert len(verify) < MAX_FRAME


NOT_FOUND = {"type": f"{problems.TYPE_PREFIX}not-found", "title": "t", "status": 404, "detail": "d"}
SPENT = {"balance": 1, "credits": 1, "key": "k"}


@pytest.mark.parametrize(
    ("method", "path", "status", "media_type", "body"),
    [
        ("POST", "/api/credits/spend", 200, "application/json", {**SPENT, "extra": 1}),
        ("POST", "/api/credits/spend", 200, "application/json", {"balance": 1, "credits": 1}),
        ("POST", "/api/credits/spend", 200, "text/plain", SPENT),
        ("POST", "/api/credits/spend", 404, "application/problem+json", NOT_FOUND),
        ("GET", "/api/invoices/in_1", 200, "application/json", NOT_FOUND),
        ("GET", "/api/invoices/in_1", 404, "application/problem+json", {**NOT_FOUND, "type": "about:blank"}),
        ("GET", "/api/invoices/in_1", 500, "text/plain", None),
        ("DELETE", "/api/invoices/in_1", 404, "application/problem+json", NOT_FOUND),
    ],
)
def test_an_undocumented_response_fails(
    method: str, path: str, status: int, media_type: str, body: Any
) -> None:
    with pytest.raises(Undocumented):
        check_answer(method, path, status, media_type, json.dumps(body).encode())


def test_documented_responses_pass() -> None:
    check_answer("POST", "/api/credits/spend", 200, "application/json", json.dumps(SPENT).encode())
    check_answer("GET", "/api/invoices/in_1", 404, "application/problem+json", json.dumps(NOT_FOUND).encode())
    check_answer("GET", "/demo/config.json", 200, "application/json", b"{}")
