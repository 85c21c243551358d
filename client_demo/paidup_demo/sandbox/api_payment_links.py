"""The calls about Payment Links, and the address that a customer opens: /test_..."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from paidup_demo.sandbox import payment_links
from paidup_demo.sandbox.api import Call, Operation
from paidup_demo.sandbox.api_catalogue import retriever, updated
from paidup_demo.sandbox.bank_methods import METHOD_TYPES
from paidup_demo.sandbox.checkout_page import over
from paidup_demo.sandbox.checkout_params import (
    INVOICE_CREATION,
    LINK_SUBSCRIPTION_DATA,
    PAYMENT_INTENT_DATA,
)
from paidup_demo.sandbox.checkout_quantities import ADJUSTABLE
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.expansion import present
from paidup_demo.sandbox.forms import BOOLEAN, INTEGER, METADATA, TEXT, Shape, choice
from paidup_demo.sandbox.guard import own_origin
from paidup_demo.sandbox.pages import PAGING, page
from paidup_demo.sandbox.world import World

LINK_UPDATE: Shape = {"active": BOOLEAN, "inactive_message": TEXT, "metadata": METADATA}
LINK: Shape = {
    "after_completion": {
        "hosted_confirmation": {"custom_message": TEXT},
        "redirect": {"url": TEXT},
        "type": choice("hosted_confirmation", "redirect"),
    },
    "allow_promotion_codes": BOOLEAN,
    "billing_address_collection": choice("auto", "required"),
    "currency": TEXT,
    "customer_creation": choice("always", "if_required"),
    "inactive_message": TEXT,
    "invoice_creation": INVOICE_CREATION,
    "line_items": [{"adjustable_quantity": ADJUSTABLE, "price": TEXT, "quantity": INTEGER}],
    "metadata": METADATA,
    "payment_intent_data": PAYMENT_INTENT_DATA,
    "payment_method_types": [choice(*METHOD_TYPES)],
    "restrictions": {"completed_sessions": {"limit": INTEGER}},
    "submit_type": choice("auto", "book", "donate", "pay", "subscribe"),
    "subscription_data": LINK_SUBSCRIPTION_DATA,
}
CLOSED = "This link has been deactivated"


def create_payment_link(call: Call) -> Json:
    """POST /v1/payment_links"""
    return present(payment_links.create(call.world, call.params, call.origin))


def update_payment_link(call: Call) -> Json:
    """POST /v1/payment_links/{id}"""
    return updated(call.world, call.named("payment_link"), call.params, "payment_link.updated")


def list_payment_links(call: Call) -> Json:
    """GET /v1/payment_links"""
    active = call.params.get("active")
    rows = call.world.store.newest("payment_link")
    return page(call.url, rows, call.params, lambda row: active is None or row["active"] == active)


def list_payment_link_lines(call: Call) -> Json:
    """GET /v1/payment_links/{id}/line_items"""
    link = call.named("payment_link")
    return page(call.url, call.world.store.note(link["id"])["lines"], call.params)


OPERATIONS = [
    Operation("POST", "/v1/payment_links", create_payment_link, LINK),
    retriever("payment_link"),
    Operation("POST", "/v1/payment_links/{id}", update_payment_link, LINK_UPDATE),
    Operation("GET", "/v1/payment_links", list_payment_links, {**PAGING, "active": BOOLEAN}),
    Operation("GET", "/v1/payment_links/{id}/line_items", list_payment_link_lines, PAGING),
]


def route(world: World) -> Route:
    """GET /test_...: a new session, and its page."""
    return Route("/test_{code}", _visit(world))


def _visit(world: World) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        ending = f"/test_{request.path_params['code']}"
        links = world.store.newest("payment_link")
        link = next((row for row in links if row["url"].endswith(ending)), None)
        if link is None or not payment_links.is_open(link):
            words = (link or {}).get("inactive_message") or "Please ask the shop for another one."
            return over(CLOSED, html.escape(words), None, 404 if link is None else 200)
        session = payment_links.open_session(world, link, request.query_params, own_origin(request))
        return RedirectResponse(session["url"], 303, headers={"Cache-Control": "no-store"})

    return endpoint
