"""The operators' API for events: endpoints, deliveries and replays. It needs OPERATOR_TOKEN."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup.domain.endpoint_urls import without_secrets
from paidup.errors import InvalidInput, NotFound, TooManyRequests
from paidup.operations import event_deliveries, event_endpoints
from paidup.operations.audit_log import Operator
from paidup.operations.event_deliveries import MAX_PAGE, DeliveryFilter
from paidup.operations.event_endpoints import DEFAULT_OVERLAP_H, EndpointChanges, EndpointDetails
from paidup.operations.event_replay import Replay, replay
from paidup.operations.event_stream import read_stream, trigger
from paidup.web.dependencies import get_services
from paidup.web.http import PRINTABLE, json_response, read_json
from paidup.web.operator_token import Role, bearer_token, for_operators, role_of

PAGE = 50
BY_PROGRAM = "operators' API"
"""Who did it, where a request does not say."""
MAX_WAIT_S = 10
"""How long a listener's request is held. Shorter than what proxies take for a dead connection."""
AGAIN_S = 0.25
MAX_LISTENERS = 10
"""Requests that a process holds at a time: they are for development."""
LARGEST_ID = 2**63 - 1
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
Types = Annotated[list[Annotated[str, msgspec.Meta(max_length=60)]], msgspec.Meta(max_length=50)]
DeliveryId = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_ID)]


class Noted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who does it and why, for the audit log: both may be left out."""

    by: Annotated[str, msgspec.Meta(pattern=PRINTABLE, min_length=1, max_length=200)] = BY_PROGRAM
    reason: Annotated[str, msgspec.Meta(pattern=PRINTABLE, min_length=1, max_length=2000)] | None = None

    @property
    def operator(self) -> Operator:
        return Operator(self.by, self.reason or "")


class EndpointBody(Noted, frozen=True, kw_only=True):
    """`types` []: all. Without a name, it is made of the URL."""

    url: Text
    types: Types = []
    name: Annotated[str, msgspec.Meta(max_length=200)] = ""


class EndpointChangeBody(Noted, frozen=True, kw_only=True):
    """What is to be another; all may be left out."""

    url: Text | None = None
    types: Types | None = None
    enabled: bool | None = None


class RotationBody(Noted, frozen=True, kw_only=True):
    """For how long the old secret stays valid."""

    overlap_hours: Annotated[int, msgspec.Meta(ge=0, le=168)] = DEFAULT_OVERLAP_H


class ReplayBody(Noted, frozen=True, kw_only=True):
    """See `operations.event_replay.Replay`."""

    delivery: DeliveryId | None = None
    event: Text | None = None
    endpoint: Text | None = None
    since: datetime | None = None
    until: datetime | None = None
    dead: bool = False


class TriggerBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`endpoint`: only there; else wherever the type is wanted. `account`: the user id that it names."""

    type: Text
    endpoint: Text | None = None
    account: Annotated[str, msgspec.Meta(pattern=PRINTABLE, max_length=200)] | None = None


async def endpoints(request: Request) -> Response:
    """GET and POST /operators/api/endpoints: all; or a new one, with its secret, which is shown this once."""
    if request.method != "POST":
        found = await event_endpoints.list_endpoints()
        return json_response({"endpoints": [_shown(request, each) for each in found]})
    body = await read_json(request, EndpointBody)
    made = await event_endpoints.create_endpoint(
        body.url, body.types, body.name, _private_allowed(request), body.operator
    )
    get_services(request).dispatcher.refresh()
    return json_response(made, 201)


async def endpoint(request: Request) -> Response:
    """GET, PATCH and DELETE /operators/api/endpoints/{endpoint}: by its id or its name."""
    reference = request.path_params["endpoint"]
    if request.method == "DELETE":
        changed = await event_endpoints.delete_endpoint(reference, _operator(request))
    elif request.method == "PATCH":
        body = await read_json(request, EndpointChangeBody)
        changes = EndpointChanges(body.url, body.types, body.enabled)
        private = _private_allowed(request)
        changed = await event_endpoints.change_endpoint(reference, changes, private, body.operator)
    else:  # also HEAD, which Starlette adds
        return json_response(_shown(request, await event_endpoints.read_endpoint(reference)))
    get_services(request).dispatcher.refresh()
    return json_response(changed)


def _shown(request: Request, found: EndpointDetails) -> EndpointDetails:
    """What a reader may see of an endpoint: its URL without a key in it."""
    if role_of(get_services(request).settings, bearer_token(request)) is Role.WRITER:
        return found
    return msgspec.structs.replace(found, url=without_secrets(found.url))


async def rotate_secret(request: Request) -> Response:
    """POST /operators/api/endpoints/{endpoint}/secret: a new one, which is shown this once."""
    body = await read_json(request, RotationBody, RotationBody())
    reference, overlap = request.path_params["endpoint"], timedelta(hours=body.overlap_hours)
    return json_response(await event_endpoints.rotate_secret(reference, overlap, body.operator))


async def list_deliveries(request: Request) -> Response:
    """GET /operators/api/deliveries: the newest first, by pages."""
    given = request.query_params
    wanted = DeliveryFilter(**{name: given.get(name, "") for name in DeliveryFilter.__struct_fields__})
    before, limit = _number(request, "before", LARGEST_ID), _number(request, "limit", MAX_PAGE)
    return json_response(await event_deliveries.list_deliveries(wanted, before, limit or PAGE))


async def show_delivery(request: Request) -> Response:
    """GET /operators/api/deliveries/{delivery}: with its request and its last answer."""
    text = request.path_params["delivery"]
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:30]) <= LARGEST_ID):
        raise NotFound("There is no such delivery.")
    return json_response(await event_deliveries.read_delivery(int(text)))


async def replay_events(request: Request) -> Response:
    """POST /operators/api/replay: send one delivery, one event, or an endpoint's events again."""
    body = await read_json(request, ReplayBody)
    wanted = Replay(body.delivery, body.event, body.endpoint, body.since, body.until, body.dead)
    done = await replay(wanted, body.operator)
    get_services(request).dispatcher.refresh()
    return json_response(done)


async def stream_events(request: Request) -> Response:
    """GET /operators/api/events: those after an id; with `wait_s`, as soon as there are any."""
    given = request.query_params
    types = [each for each in given.get("types", "").split(",") if each]
    after, have = _number(request, "after", LARGEST_ID, 0), _number(request, "have", LARGEST_ID, 0) or 0
    wait_s = _number(request, "wait_s", MAX_WAIT_S, 0) or 0
    if not wait_s:
        return json_response(await read_stream(after, types))
    state = request.app.state
    state.event_listeners = getattr(state, "event_listeners", 0) + 1
    try:
        if state.event_listeners > MAX_LISTENERS:
            raise TooManyRequests("listeners", wait_s, "this process")
        ends = asyncio.get_running_loop().time() + wait_s
        while True:
            page = await read_stream(after, types)
            if after is None or len(page.events) > have or asyncio.get_running_loop().time() >= ends:
                return json_response(page)
            if state.sockets.draining or await request.is_disconnected():
                return json_response(page)
            await asyncio.sleep(AGAIN_S)
    finally:
        state.event_listeners -= 1


async def trigger_event(request: Request) -> Response:
    """POST /operators/api/events/test: an example of an event, marked as a test."""
    body = await read_json(request, TriggerBody)
    done = await trigger(body.type, body.endpoint, body.account)
    get_services(request).dispatcher.refresh()
    return json_response(done, 201)


def _operator(request: Request) -> Operator:
    """Of a request without a body: who does it, and why, in its query."""
    given = {name: value for name in ("by", "reason") if (value := request.query_params.get(name))}
    try:
        return msgspec.convert(given, Noted).operator
    except msgspec.ValidationError as error:
        raise InvalidInput(f"The query is not valid: {error}") from None


def _private_allowed(request: Request) -> bool:
    return get_services(request).settings.allows_private_addresses


def _number(request: Request, name: str, largest: int, least: int = 1) -> int | None:
    """A number of the query; None where it is not there. Raises InvalidInput."""
    text = request.query_params.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and least <= int(text[:30]) <= largest):
        raise InvalidInput(f"`{name}` is a number from {least} to {largest}.")
    return int(text)


ROUTES = [
    Route("/operators/api/endpoints", for_operators(endpoints), methods=["GET", "POST"]),
    Route("/operators/api/endpoints/{endpoint}", for_operators(endpoint), methods=["GET", "PATCH", "DELETE"]),
    Route("/operators/api/endpoints/{endpoint}/secret", for_operators(rotate_secret), methods=["POST"]),
    Route("/operators/api/deliveries", for_operators(list_deliveries), methods=["GET"]),
    Route("/operators/api/deliveries/{delivery}", for_operators(show_delivery), methods=["GET"]),
    Route("/operators/api/events", for_operators(stream_events), methods=["GET"]),
    Route("/operators/api/events/test", for_operators(trigger_event), methods=["POST"]),
    Route("/operators/api/replay", for_operators(replay_events), methods=["POST"]),
]
