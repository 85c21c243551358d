"""The controls of the sandbox, under /sandbox: what a test or the panel turns, and Stripe has not.

JSON in and out; errors are {"error": {"message": ...}}. No key is asked for, so a page of another origin
than the allowed ones is refused, and the sandbox listens on the loopback interface unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from paidup_demo.sandbox import due, payments, reversals, subscriptions
from paidup_demo.sandbox.conditions import Conditions, ConditionsError, changed
from paidup_demo.sandbox.errors import Json, StripeError
from paidup_demo.sandbox.expansion import present
from paidup_demo.sandbox.guard import from_another_page
from paidup_demo.sandbox.settings import API_VERSION
from paidup_demo.sandbox.world import World

MAX_BODY = 100_000
MAX_ADVANCE_S = 10 * 366 * 24 * 3600

Control = Callable[["Ask"], Any]


class ControlError(Exception):
    """A control was used wrongly: 400, or as said."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Ask:
    """One use of a control."""

    def __init__(self, world: World, request: Request, body: bytes) -> None:
        self.world = world
        self.body = body
        self.query = request.query_params
        self.id: str = request.path_params.get("id", "")

    def json(self, *known: str) -> Json:
        """The body as an object with no other members than these."""
        try:
            found = msgspec.json.decode(self.body or b"{}")
        except msgspec.DecodeError as error:
            raise ControlError(f"not JSON: {error}") from error
        if not isinstance(found, dict) or not found.keys() <= set(known):
            raise ControlError("a JSON object is expected with no other members than: " + ", ".join(known))
        return found

    def stored(self, table: str) -> Json:
        """The object that the path names."""
        return self.world.store.get(table, self.id, in_path=True)

    def limit(self) -> int:
        """How many rows are wanted."""
        text = self.query.get("limit", "50")
        if not text.isdecimal() or not 1 <= int(text) <= 1000:
            raise ControlError("limit must be a number from 1 to 1000")
        return int(text)


def health(_: Ask) -> Json:
    """GET /sandbox/health"""
    return {"status": "ok", "api_version": API_VERSION}


def get_conditions(ask: Ask) -> Json:
    """GET /sandbox/conditions"""
    return ask.world.conditions.as_json()


def set_conditions(ask: Ask) -> Json:
    """POST /sandbox/conditions: a partial update"""
    ask.world.conditions = changed(ask.world.conditions, ask.body)
    return ask.world.conditions.as_json()


def reset_conditions(ask: Ask) -> Json:
    """POST /sandbox/conditions/reset"""
    ask.world.conditions = Conditions()
    return ask.world.conditions.as_json()


def get_clock(ask: Ask) -> Json:
    """GET /sandbox/clock"""
    return {"now": ask.world.now(), "offset_seconds": ask.world.clock.offset_s}


def advance_clock(ask: Ask) -> Json:
    """POST /sandbox/clock {"advance_seconds": n}: all that becomes due on the way happens, in order"""
    seconds = ask.json("advance_seconds").get("advance_seconds")
    if type(seconds) is not int or not 0 <= seconds <= MAX_ADVANCE_S:
        raise ControlError(f"advance_seconds must be a whole number from 0 to {MAX_ADVANCE_S}")
    due.advance(ask.world, seconds)
    return get_clock(ask)


def get_calls(ask: Ask) -> Json:
    """GET /sandbox/calls"""
    counts = {kind: dict(sorted(counter.items())) for kind, counter in ask.world.calls.items()}
    return {**counts, "total": {kind: sum(counter.values()) for kind, counter in counts.items()}}


def reset_calls(ask: Ask) -> Json:
    """POST /sandbox/calls/reset"""
    for counter in ask.world.calls.values():
        counter.clear()
    return get_calls(ask)


def get_events(ask: Ask) -> Json:
    """GET /sandbox/events?limit=50: newest first, with their deliveries and every attempt"""
    store = ask.world.store
    shown = list(islice(store.newest("event"), ask.limit()))
    wanted: dict[str, list[Json]] = {event["id"]: [] for event in shown}
    for delivery in store.newest("delivery"):
        if delivery["event"] in wanted:
            wanted[delivery["event"]].insert(0, delivery)
    return {"events": [present(event) | {"deliveries": wanted[event["id"]]} for event in shown]}


def resend_event(ask: Ask) -> Json:
    """POST /sandbox/events/{id}/resend"""
    return {"deliveries": ask.world.courier.resend(ask.stored("event"))}


def flush_deliveries(ask: Ask) -> Json:
    """POST /sandbox/deliveries/flush: what is delayed or waits for its next try goes out now"""
    return {"deliveries": ask.world.agenda.hasten("deliver")}


def add_endpoint(ask: Ask) -> Json:
    """POST /sandbox/webhook_endpoints {"url", "secret"}: an endpoint whose secret is chosen by the caller"""
    wanted = ask.json("url", "secret", "api_version")
    url, secret, version = wanted.get("url"), wanted.get("secret"), wanted.get("api_version")
    if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https"):
        raise ControlError("url must be an http address")
    if not isinstance(secret, str) or not secret.startswith("whsec_"):
        raise ControlError("secret must begin with whsec_")
    if version is not None and not isinstance(version, str):
        raise ControlError("api_version must be a string or null")
    return present(ask.world.add_endpoint(url, ["*"], api_version=version, secret=secret))


def authenticate(ask: Ask) -> Json:
    """POST /sandbox/{payment_intents|setup_intents}/{id}/authenticate {"outcome": "pass"|"fail"}"""
    outcome = ask.json("outcome").get("outcome")
    if outcome not in ("pass", "fail"):
        raise ControlError('outcome must be "pass" or "fail"')
    intent = ask.stored("setup_intent" if ask.id.startswith("seti_") else "payment_intent")
    payments.authenticate(ask.world, intent, passed=outcome == "pass")
    return {"id": intent["id"], "status": intent["status"]}


def renew_subscription(ask: Ask) -> Json:
    """POST /sandbox/subscriptions/{id}/renew"""
    return present(subscriptions.renew(ask.world, ask.stored("subscription")))


def open_dispute(ask: Ask) -> Json:
    """POST /sandbox/disputes {"charge" | "payment_intent", "reason", "inquiry", "amount"}"""
    wanted = ask.json("charge", "payment_intent", "reason", "inquiry", "amount")
    store, charge_id, amount = ask.world.store, wanted.get("charge"), wanted.get("amount")
    if amount is not None and type(amount) is not int:
        raise ControlError("amount must be a whole number")
    if "payment_intent" in wanted:
        charge_id = store.get("payment_intent", wanted["payment_intent"], "payment_intent")["latest_charge"]
    charge = store.get("charge", charge_id, "charge")
    reason, inquiry = str(wanted.get("reason", "fraudulent")), bool(wanted.get("inquiry", False))
    return present(reversals.open_dispute(ask.world, charge, reason, inquiry=inquiry, amount=amount))


def escalate_dispute(ask: Ask) -> Json:
    """POST /sandbox/disputes/{id}/escalate: an inquiry becomes a dispute"""
    dispute = ask.stored("dispute")
    reversals.escalate_dispute(ask.world, dispute)
    return present(dispute)


def close_dispute(ask: Ask) -> Json:
    """POST /sandbox/disputes/{id}/close {"status": "won"|"lost"|"warning_closed"}"""
    status = ask.json("status").get("status")
    if status not in reversals.CLOSED:
        raise ControlError("status must be won, lost or warning_closed")
    dispute = ask.stored("dispute")
    reversals.close_dispute(ask.world, dispute, status)
    return present(dispute)


def fail_refund(ask: Ask) -> Json:
    """POST /sandbox/refunds/{id}/fail"""
    refund = ask.stored("refund")
    reversals.fail_refund(ask.world, refund)
    return present(refund)


def succeed_refund(ask: Ask) -> Json:
    """POST /sandbox/refunds/{id}/succeed: a pending one arrives"""
    refund = ask.stored("refund")
    reversals.succeed_refund(ask.world, refund)
    return present(refund)


def reset(ask: Ask) -> Json:
    """POST /sandbox/reset: forgets everything; the endpoints of the settings are made anew"""
    ask.world.forget()
    return health(ask)


CONTROLS: list[tuple[str, str, Control]] = [
    ("GET", "/health", health),
    ("GET", "/conditions", get_conditions),
    ("POST", "/conditions", set_conditions),
    ("POST", "/conditions/reset", reset_conditions),
    ("GET", "/clock", get_clock),
    ("POST", "/clock", advance_clock),
    ("GET", "/calls", get_calls),
    ("POST", "/calls/reset", reset_calls),
    ("GET", "/events", get_events),
    ("POST", "/events/{id}/resend", resend_event),
    ("POST", "/deliveries/flush", flush_deliveries),
    ("POST", "/webhook_endpoints", add_endpoint),
    ("POST", "/payment_intents/{id}/authenticate", authenticate),
    ("POST", "/setup_intents/{id}/authenticate", authenticate),
    ("POST", "/subscriptions/{id}/renew", renew_subscription),
    ("POST", "/disputes", open_dispute),
    ("POST", "/disputes/{id}/close", close_dispute),
    ("POST", "/disputes/{id}/escalate", escalate_dispute),
    ("POST", "/refunds/{id}/fail", fail_refund),
    ("POST", "/refunds/{id}/succeed", succeed_refund),
    ("POST", "/reset", reset),
]


def routes(world: World) -> list[Route]:
    """The controls as routes."""
    return [Route("/sandbox" + path, _endpoint(world, act), methods=[verb]) for verb, path, act in CONTROLS]


def _endpoint(world: World, act: Control) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            _refuse_foreign_pages(world, request)
            ask = Ask(world, request, await _body(request))
            result, status = act(ask), 200
            if request.method == "POST":
                world.store.touch()
        except (ControlError, StripeError) as error:
            result, status = {"error": {"message": str(error)}}, error.status
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        except ConditionsError as error:
            result, status = {"error": {"message": str(error)}}, 400
        return Response(msgspec.json.encode(result), status, media_type="application/json")

    return answer


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise ControlError("the body is too large", 413)
    return bytes(body)


def _refuse_foreign_pages(world: World, request: Request) -> None:
    """Only the sandbox's own pages and those of the allowed origins may turn the controls."""
    if request.method == "POST" and from_another_page(request, world.settings.allowed_origins):
        raise ControlError("this origin may not use the sandbox's controls", 403)
