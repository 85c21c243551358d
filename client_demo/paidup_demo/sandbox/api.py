"""Handles every API call: key, conditions, parameters, idempotency, expansion, headers and errors.

What a call does is its Operation's `handle`. It is synchronous, so that calls never interleave.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from paidup_demo.sandbox import errors, forms, restricted_keys
from paidup_demo.sandbox.errors import Json, StripeError
from paidup_demo.sandbox.events import current_request
from paidup_demo.sandbox.expansion import expand
from paidup_demo.sandbox.guard import from_another_page, own_origin
from paidup_demo.sandbox.idempotency import Answer, IdempotencyKeys
from paidup_demo.sandbox.limits import Limits, count_read
from paidup_demo.sandbox.settings import API_VERSION
from paidup_demo.sandbox.state import new_id
from paidup_demo.sandbox.world import World

logger = logging.getLogger(__name__)

MAX_BODY = 1_000_000
CHANCE = secrets.SystemRandom()
EXPAND: forms.Shape = {"expand": [forms.TEXT]}


@dataclass(frozen=True)
class Call:
    """One validated call. `publishable`: made by a browser with a publishable key.

    `origin`: the sandbox's own, as the caller knows it.
    """

    world: World
    params: Json
    path: Mapping[str, str]
    url: str
    publishable: bool
    origin: str

    @property
    def id(self) -> str:
        """The id in the path."""
        return self.path["id"]

    def named(self, table: str) -> Json:
        """The stored object that the path names."""
        return self.world.store.get(table, self.id, in_path=True)


@dataclass(frozen=True)
class Operation:
    """A method and path, its parameters, and its handler, which returns the object to serve."""

    method: str
    route: str
    handle: Callable[[Call], Json]
    accepts: forms.Shape = field(default_factory=dict)
    publishable: bool = False

    @property
    def name(self) -> str:
        """The name under which calls are counted and rate-limited."""
        return f"{self.method} {self.route}"


@dataclass(frozen=True)
class Incoming:
    """One parsed request. `raw` holds its parameters before validation."""

    operation: Operation
    path: Mapping[str, str]
    url: str
    api_key: str
    raw: Json
    key: str | None
    version: str
    request_id: str
    origin: str
    account: str | None = None

    @property
    def publishable(self) -> bool:
        return self.api_key.startswith("pk_")


class Api:
    """Answers the calls of operations in one world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._keys = IdempotencyKeys(world.store)
        self._limits = Limits(world)

    async def answer(self, operation: Operation, request: Request) -> Response:
        """The HTTP answer to one call of this operation."""
        request_id, allowed = new_id("req", 14), self._world.settings.allowed_origins
        try:
            return await self._answer(await _read(operation, request, request_id, allowed))
        except StripeError as error:
            return respond(error.status, error.envelope(request_id), request_id, _error_headers(error))
        except ClientDisconnect:
            return Response(status_code=400)  # the client has disconnected
        except Exception:
            logger.exception("the sandbox failed in %s", operation.name)
            failure = errors.ServerError("The sandbox failed: see its log.")
            return respond(failure.status, failure.envelope(request_id), request_id)

    async def _answer(self, asked: Incoming) -> Response:
        operation = asked.operation
        self._world.calls["publishable" if asked.publishable else "secret"][operation.name] += 1
        if operation.method == "GET" and not asked.publishable:
            count_read(self._world.reads, self._world.real_now())
        if asked.publishable and not operation.publishable:
            raise errors.UnauthorizedError(
                "This API call cannot be made with a publishable API key. Please use a secret API key.",
                code="secret_key_required",
            )
        if asked.account and asked.account != self._world.conditions.webhook_account:
            raise errors.PermissionRefusedError(
                f"The provided key '{asked.api_key[:8]}****' does not have access to account"
                f" '{asked.account}' (or that account does not exist). Application access may have been"
                " revoked.",
                code="account_invalid",
            )
        if asked.version != API_VERSION:
            raise errors.ParameterError(f"This sandbox only implements version {API_VERSION}.")
        if asked.api_key.startswith(restricted_keys.PREFIX):
            paths = forms.check({"expand": asked.raw.get("expand", [])}, EXPAND)["expand"]
            store = self._world.store
            restricted_keys.refuse_unless_permitted(
                store, asked.api_key, operation.method, operation.route, paths
            )
        if self._affected(asked):
            self._fail_as_configured(operation, asked.path)
        answer = await self._outcome(asked) if asked.key is None else await self._once(asked, asked.key)
        if answer.request_id != asked.request_id:
            headers = {"Idempotent-Replayed": "true", "Original-Request": answer.request_id}
            return respond(answer.status, answer.body, asked.request_id, headers)
        if self._affected(asked) and CHANCE.random() < self._world.conditions.api_lost_reply_rate:
            # The work is done and recorded; only the response is lost.
            raise errors.ServerError("The reply was lost (as the sandbox's conditions ask).", status=502)
        return respond(answer.status, answer.body, asked.request_id)

    def _affected(self, asked: Incoming) -> bool:
        """Whether the API conditions apply: always to the server, to the browser only if requested."""
        return self._world.conditions.affect_browser or not asked.publishable

    async def _once(self, asked: Incoming, key: str) -> Answer:
        """The recorded answer of this idempotency key; executes and records the call if there is none."""
        scoped = f"{'pk' if asked.publishable else 'sk'}:{key}"
        call = (scoped, asked.operation.method, asked.url, asked.raw)
        replay = self._keys.begin(*call)
        if replay is not None:
            return replay
        answer: Answer | None = None
        try:
            answer = await self._outcome(asked)
        except StripeError as error:
            if error.recorded:
                answer = Answer(error.status, error.envelope(asked.request_id), asked.request_id)
            raise
        finally:
            self._keys.finish(*call, answer)
        return answer

    async def _outcome(self, asked: Incoming) -> Answer:
        params = forms.check(asked.raw, {**asked.operation.accepts, **EXPAND})
        if self._affected(asked):
            await asyncio.sleep(self._world.conditions.api_latency_ms / 1000)
            if CHANCE.random() < self._world.conditions.api_error_rate:
                raise errors.ServerError("An unknown error occurred (as the sandbox's conditions ask).")
        paths = params.pop("expand", [])
        call = Call(self._world, params, asked.path, asked.url, asked.publishable, asked.origin)
        token = current_request.set({"id": asked.request_id, "idempotency_key": asked.key})
        try:
            served = asked.operation.handle(call)
        finally:
            current_request.reset(token)
        if asked.operation.method != "GET":
            self._world.store.touch()
        return Answer(200, expand(self._world.store, served, paths), asked.request_id)

    def _fail_as_configured(self, operation: Operation, path: Mapping[str, str]) -> None:
        conditions = self._world.conditions
        if conditions.api_down:
            raise errors.ServerError(
                "Stripe is down (as the sandbox's conditions ask).", status=503, recorded=False
            )
        if not set(conditions.locked_ids).isdisjoint(path.values()):
            raise errors.LockTimeoutError
        self._limits.refuse_if_beyond(operation.method, operation.name)


def respond(status: int, body: Any, request_id: str, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer with the headers of every answer of Stripe's."""
    more = {
        "Request-Id": request_id,
        "Stripe-Version": API_VERSION,
        "Cache-Control": "no-store",
        **(headers or {}),
    }
    return Response(msgspec.json.encode(body), status, more, media_type="application/json")


async def unknown_url(request: Request) -> Response:
    """Stripe's answer to an unknown URL, also given for those that the sandbox does not implement."""
    request_id = new_id("req", 14)
    error = errors.MissingError(
        f"Unrecognized request URL ({request.method}: {request.url.path}). If you are trying to list objects,"
        " remove the trailing slash. If you are trying to retrieve an object, make sure you passed a valid"
        " (non-empty) identifier in your code. (This sandbox implements only a part of Stripe.)"
    )
    return respond(404, error.envelope(request_id), request_id)


async def _read(
    operation: Operation, request: Request, request_id: str, allowed_origins: tuple[str, ...]
) -> Incoming:
    """The request's key and parameters; raises UnauthorizedError or ParameterError."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise errors.ParameterError("Request body too large.")
    raw = forms.decode(request.url.query) | forms.decode(body.decode("utf-8", "replace"))
    api_key = _api_key(request, raw)
    if not api_key.startswith("pk_") and from_another_page(request, allowed_origins):
        # The key can be sent in a form, and any page can send a form.
        raise errors.UnauthorizedError("Secret API keys are not accepted from pages of other origins.")
    return Incoming(
        operation=operation,
        path=request.path_params,
        url=request.url.path,
        api_key=api_key,
        raw=raw,
        key=request.headers.get("idempotency-key") if operation.method == "POST" else None,
        version=request.headers.get("stripe-version", API_VERSION),
        request_id=request_id,
        origin=own_origin(request),
        account=request.headers.get("stripe-account"),
    )


def _api_key(request: Request, raw: Json) -> str:
    """The key of the call; raises UnauthorizedError for anything but a test key."""
    key = _bearer(request.headers.get("authorization", "")) or raw.pop("key", None)
    if not key:
        raise errors.UnauthorizedError(
            "You did not provide an API key. You need to provide your API key in the Authorization header,"
            " using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY')."
        )
    if isinstance(key, str) and key.startswith(("sk_test_", "pk_test_", restricted_keys.PREFIX)):
        return key
    raise errors.UnauthorizedError(
        f"Invalid API Key provided: {str(key)[:8]}****. (This sandbox takes test keys only.)"
    )


def _bearer(header: str) -> str | None:
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError):
        return None


def _error_headers(error: StripeError) -> Mapping[str, str]:
    if isinstance(error, errors.LockTimeoutError):
        return {"Stripe-Should-Retry": "true"}
    return {"Stripe-Rate-Limited-Reason": error.reason} if isinstance(error, errors.RateLimitError) else {}
