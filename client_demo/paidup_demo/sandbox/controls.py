"""The sandbox's control API under /sandbox, used by tests and the panel; not part of Stripe's API.

JSON in and out; errors are {"error": {"message": ...}}. It needs no key, so pages of other origins than the
allowed ones are rejected, and the sandbox listens on the loopback interface unless configured otherwise.
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

from paidup_demo.sandbox import (
    checkout_controls,
    debits,
    due,
    payments,
    renewals,
    restricted_keys,
    reversals,
    subscriptions,
    voucher_outcomes,
    vouchers,
)
from paidup_demo.sandbox.conditions import Conditions, ConditionsError, changed
from paidup_demo.sandbox.errors import Json, StripeError
from paidup_demo.sandbox.expansion import present
from paidup_demo.sandbox.guard import from_another_page, own_origin
from paidup_demo.sandbox.limits import reads_in_window
from paidup_demo.sandbox.settings import API_VERSION
from paidup_demo.sandbox.world import World

MAX_BODY = 100_000
MAX_ADVANCE_S = 10 * 366 * 24 * 3600

Control = Callable[["ControlRequest"], Any]


class ControlError(Exception):
    """An invalid control request: 400 unless another status is given."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class ControlRequest:
    """One control request."""

    def __init__(self, world: World, request: Request, body: bytes) -> None:
        self.world = world
        self.body = body
        self.query = request.query_params
        self.id: str = request.path_params.get("id", "")
        self.origin = own_origin(request)

    def json(self, *known: str) -> Json:
        """The body as a JSON object with these members only."""
        try:
            found = msgspec.json.decode(self.body or b"{}")
        except msgspec.DecodeError as error:
            raise ControlError(f"not JSON: {error}") from error
        if not isinstance(found, dict) or not found.keys() <= set(known):
            raise ControlError("a JSON object is expected with no other members than: " + ", ".join(known))
        return found

    def stored(self, table: str) -> Json:
        """The object in the path."""
        return self.world.store.get(table, self.id, in_path=True)

    def limit(self) -> int:
        """The requested number of rows."""
        text = self.query.get("limit", "50")
        if not text.isdecimal() or not 1 <= int(text) <= 1000:
            raise ControlError("limit must be a number from 1 to 1000")
        return int(text)


def health(_: ControlRequest) -> Json:
    """GET /sandbox/health"""
    return {"status": "ok", "api_version": API_VERSION}


def get_conditions(ask: ControlRequest) -> Json:
    """GET /sandbox/conditions"""
    return ask.world.conditions.as_json()


def set_conditions(ask: ControlRequest) -> Json:
    """POST /sandbox/conditions: a partial update"""
    ask.world.conditions = changed(ask.world.conditions, ask.body)
    return ask.world.conditions.as_json()


def reset_conditions(ask: ControlRequest) -> Json:
    """POST /sandbox/conditions/reset"""
    ask.world.conditions = Conditions()
    return ask.world.conditions.as_json()


def get_clock(ask: ControlRequest) -> Json:
    """GET /sandbox/clock"""
    return {"now": ask.world.now(), "offset_seconds": ask.world.clock.offset_s}


def advance_clock(ask: ControlRequest) -> Json:
    """POST /sandbox/clock {"advance_seconds": n}: runs everything that becomes due, in order

    With `"past_drafts": true`, it goes on until the drafts of renewals that have begun are collected.
    """
    wanted = ask.json("advance_seconds", "past_drafts")
    seconds = wanted.get("advance_seconds")
    if type(seconds) is not int or not 0 <= seconds <= MAX_ADVANCE_S:
        raise ControlError(f"advance_seconds must be a whole number from 0 to {MAX_ADVANCE_S}")
    due.advance(ask.world, seconds)
    if wanted.get("past_drafts") is True:
        due.advance(ask.world, renewals.longest_draft_s(ask.world))
    return get_clock(ask)


def get_calls(ask: ControlRequest) -> Json:
    """GET /sandbox/calls"""
    counts = {kind: dict(sorted(counter.items())) for kind, counter in ask.world.calls.items()}
    total = {kind: sum(counter.values()) for kind, counter in counts.items()}
    return {**counts, "total": total, "reads": reads_in_window(ask.world)}


def reset_calls(ask: ControlRequest) -> Json:
    """POST /sandbox/calls/reset"""
    ask.world.forget_calls()
    return get_calls(ask)


def get_events(ask: ControlRequest) -> Json:
    """GET /sandbox/events?limit=50: newest first, with their deliveries and every attempt"""
    store = ask.world.store
    shown = list(islice(store.newest("event"), ask.limit()))
    wanted: dict[str, list[Json]] = {event["id"]: [] for event in shown}
    for delivery in store.newest("delivery"):
        if delivery["event"] in wanted:
            wanted[delivery["event"]].insert(0, delivery)
    return {"events": [present(event) | {"deliveries": wanted[event["id"]]} for event in shown]}


def resend_event(ask: ControlRequest) -> Json:
    """POST /sandbox/events/{id}/resend"""
    return {"deliveries": ask.world.webhook_sender.resend(ask.stored("event"))}


def flush_deliveries(ask: ControlRequest) -> Json:
    """POST /sandbox/deliveries/flush: sends delayed deliveries and retries now"""
    return {"deliveries": ask.world.agenda.run_all("deliver") + ask.world.webhook_sender.retry_now()}


def add_endpoint(ask: ControlRequest) -> Json:
    """POST /sandbox/webhook_endpoints {"url", "secret"}: an endpoint with a given secret"""
    wanted = ask.json("url", "secret", "api_version")
    url, secret, version = wanted.get("url"), wanted.get("secret"), wanted.get("api_version")
    if not isinstance(url, str) or urlsplit(url).scheme not in ("http", "https"):
        raise ControlError("url must be an http address")
    if not isinstance(secret, str) or not secret.startswith("whsec_"):
        raise ControlError("secret must begin with whsec_")
    if version is not None and not isinstance(version, str):
        raise ControlError("api_version must be a string or null")
    return present(ask.world.add_endpoint(url, ["*"], api_version=version, secret=secret))


def create_restricted_key(ask: ControlRequest) -> Json:
    """POST /sandbox/restricted_keys {"permissions": ["customer_write", "event_read"]}"""
    wanted = ask.json("permissions").get("permissions")
    if not isinstance(wanted, list) or not set(map(str, wanted)) <= restricted_keys.KNOWN:
        raise ControlError("permissions must be a list of: " + ", ".join(sorted(restricted_keys.KNOWN)))
    return {"key": restricted_keys.create(ask.world.store, wanted)}


def authenticate(ask: ControlRequest) -> Json:
    """POST /sandbox/{payment_intents|setup_intents}/{id}/authenticate {"outcome": "pass"|"fail"}"""
    outcome = ask.json("outcome").get("outcome")
    if outcome not in ("pass", "fail"):
        raise ControlError('outcome must be "pass" or "fail"')
    intent = ask.stored("setup_intent" if ask.id.startswith("seti_") else "payment_intent")
    payments.authenticate(ask.world, intent, passed=outcome == "pass")
    return {"id": intent["id"], "status": intent["status"]}


def decide_debit(ask: ControlRequest) -> Json:
    """POST /sandbox/payment_intents/{id}/decide {"outcome": "succeeded"|"failed"}: the bank's answer, now

    Or the end of a voucher. Without an outcome, it is what the test account's number or the e-mail says.
    """
    outcome = ask.json("outcome").get("outcome")
    if outcome not in (None, "succeeded", "failed"):
        raise ControlError('outcome must be "succeeded" or "failed"')
    intent = ask.stored("payment_intent")
    decide = voucher_outcomes.decide if vouchers.shown_in(intent) else debits.decide
    decide(ask.world, intent, outcome)
    return {"id": intent["id"], "status": intent["status"]}


def renew_subscription(ask: ControlRequest) -> Json:
    """POST /sandbox/subscriptions/{id}/renew: now, and collected at once"""
    return present(subscriptions.renew_now(ask.world, ask.stored("subscription")))


def complete_checkout(ask: ControlRequest) -> Json:
    """POST /sandbox/checkout/{id}/complete {"card", "email", ...}: pays as on its page"""
    wanted = ask.json("card", "email", "name", "address", "payment_method_data", "quantity", "save")
    if type(wanted.get("quantity", 1)) is not int:
        raise ControlError("quantity must be a whole number")
    return checkout_controls.complete(ask.world, ask.id, wanted, ask.origin)


def open_dispute(ask: ControlRequest) -> Json:
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


def escalate_dispute(ask: ControlRequest) -> Json:
    """POST /sandbox/disputes/{id}/escalate: an inquiry becomes a dispute"""
    dispute = ask.stored("dispute")
    reversals.escalate_dispute(ask.world, dispute)
    return present(dispute)


def appeal_dispute(ask: ControlRequest) -> Json:
    """POST /sandbox/disputes/{id}/appeal {"status": "appeal_needs_response"|"appeal_under_review"}"""
    status = ask.json("status").get("status", "appeal_under_review")
    if status not in reversals.APPEALS:
        raise ControlError("status must be appeal_needs_response or appeal_under_review")
    dispute = ask.stored("dispute")
    reversals.appeal_dispute(ask.world, dispute, status)
    return present(dispute)


def close_dispute(ask: ControlRequest) -> Json:
    """POST /sandbox/disputes/{id}/close {"status": "won"|"lost"|"warning_closed"}"""
    status = ask.json("status").get("status")
    if status not in reversals.CLOSED:
        raise ControlError("status must be won, lost or warning_closed")
    dispute = ask.stored("dispute")
    reversals.close_dispute(ask.world, dispute, status)
    return present(dispute)


def fail_refund(ask: ControlRequest) -> Json:
    """POST /sandbox/refunds/{id}/fail"""
    refund = ask.stored("refund")
    reversals.fail_refund(ask.world, refund)
    return present(refund)


def succeed_refund(ask: ControlRequest) -> Json:
    """POST /sandbox/refunds/{id}/succeed: completes a pending one"""
    refund = ask.stored("refund")
    reversals.succeed_refund(ask.world, refund)
    return present(refund)


def reset(ask: ControlRequest) -> Json:
    """POST /sandbox/reset: deletes everything; creates the configured prices and endpoints again"""
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
    ("POST", "/restricted_keys", create_restricted_key),
    ("POST", "/payment_intents/{id}/authenticate", authenticate),
    ("POST", "/setup_intents/{id}/authenticate", authenticate),
    ("POST", "/payment_intents/{id}/decide", decide_debit),
    ("POST", "/subscriptions/{id}/renew", renew_subscription),
    ("POST", "/checkout/{id}/complete", complete_checkout),
    ("POST", "/disputes", open_dispute),
    ("POST", "/disputes/{id}/appeal", appeal_dispute),
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
            _check_origin(world, request)
            ask = ControlRequest(world, request, await _body(request))
            result, status = act(ask), 200
            if request.method == "POST":
                world.store.touch()
        except (ControlError, StripeError) as error:
            result, status = {"error": {"message": str(error)}}, error.status
        except ClientDisconnect:
            return Response(status_code=400)  # the client has disconnected
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


def _check_origin(world: World, request: Request) -> None:
    """Reject requests from pages of other origins than the allowed ones."""
    if request.method == "POST" and from_another_page(request, world.settings.allowed_origins):
        raise ControlError("this origin may not use the sandbox's controls", 403)
