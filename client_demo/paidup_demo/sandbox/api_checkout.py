"""The calls about Checkout Sessions. Validates the parameters and calls checkout_sessions.py."""

from __future__ import annotations

from paidup_demo.sandbox import checkout_sessions
from paidup_demo.sandbox.api import Call, Operation
from paidup_demo.sandbox.checkout_params import SESSION
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.expansion import present
from paidup_demo.sandbox.forms import METADATA, TEXT, choice
from paidup_demo.sandbox.pages import PAGING, PAGING_BY_DATE, page
from paidup_demo.sandbox.subscriptions import merged_metadata

PATH = "/v1/checkout/sessions"
FILTERS = ("customer", "payment_intent", "payment_link", "status", "subscription")


def create_session(call: Call) -> Json:
    """POST /v1/checkout/sessions"""
    return present(checkout_sessions.create(call.world, call.params, call.origin))


def retrieve_session(call: Call) -> Json:
    """GET /v1/checkout/sessions/{id}"""
    return present(checkout_sessions.named(call.world, call.id))


def update_session(call: Call) -> Json:
    """POST /v1/checkout/sessions/{id}: its metadata"""
    session = checkout_sessions.named(call.world, call.id)
    session["metadata"] = merged_metadata(session["metadata"], call.params.get("metadata", {}))
    return present(session)


def list_sessions(call: Call) -> Json:
    """GET /v1/checkout/sessions"""
    params = call.params
    email = params.get("customer_details", {}).get("email")

    def keep(row: Json) -> bool:
        typed = (row["customer_details"] or {}).get("email")
        return all(row[name] == params[name] for name in FILTERS if name in params) and (
            email is None or typed == email
        )

    checkout_sessions.expire_due(call.world)
    return page(call.url, call.world.store.newest(checkout_sessions.TABLE), params, keep)


def list_session_lines(call: Call) -> Json:
    """GET /v1/checkout/sessions/{id}/line_items: in the session's own order"""
    session = checkout_sessions.named(call.world, call.id)
    return page(call.url, checkout_sessions.lines_of(call.world, session), call.params)


def expire_session(call: Call) -> Json:
    """POST /v1/checkout/sessions/{id}/expire"""
    session = checkout_sessions.named(call.world, call.id)
    checkout_sessions.expire(call.world, session)
    return present(session)


OPERATIONS = [
    Operation("POST", PATH, create_session, SESSION),
    Operation("GET", f"{PATH}/{{id}}", retrieve_session),
    Operation("POST", f"{PATH}/{{id}}", update_session, {"metadata": METADATA}),
    Operation(
        "GET",
        PATH,
        list_sessions,
        {
            **PAGING_BY_DATE,
            **dict.fromkeys(FILTERS, TEXT),
            "customer_details": {"email": TEXT},
            "status": choice("complete", "expired", "open"),
        },
    ),
    Operation("GET", f"{PATH}/{{id}}/line_items", list_session_lines, PAGING),
    Operation("POST", f"{PATH}/{{id}}/expire", expire_session),
]
