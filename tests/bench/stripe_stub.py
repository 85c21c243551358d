"""Stripe's side of the benches: invoices that are open until they are marked as paid, answered from memory.

Much lighter than the sandbox, which is there to be true and not to be fast. The state of each
stands in memory that the processes of the bench share.
"""

from __future__ import annotations

import json
import time
from collections.abc import MutableSequence
from typing import Any

import uvicorn

from server.core.plans import parse_catalogue
from server.settings import PACKAGED_PLANS
from tests.support.stripe_side import forged_event

MONTH_S = 30 * 24 * 3600
PRICE = "price_paidup_pro_monthly"
AMOUNT_MINOR = 2900
OPEN, PAID, PROCESSING = range(3)
_INTENTS = {OPEN: "requires_payment_method", PAID: "succeeded", PROCESSING: "processing"}


def name_of(number: int) -> str:
    """The id of invoice `number`."""
    return f"in_{number:06d}"


def invoice(number: int, state: int) -> dict[str, Any]:
    """The first invoice of a monthly plan, in the API's shape."""
    at, intent, paid = int(time.time()) - 60, f"pi_{number:06d}", state == PAID
    payment = {
        "id": intent,
        "object": "payment_intent",
        "status": _INTENTS[state],
        "customer": f"cus_{number:06d}",
        "currency": "usd",
        "amount": AMOUNT_MINOR,
        "amount_received": AMOUNT_MINOR if paid else 0,
    }
    link = {
        "id": f"inpay_{number:06d}",
        "object": "invoice_payment",
        "invoice": name_of(number),
        "status": "paid" if paid else "open",
        "created": at,
        "payment": {"type": "payment_intent", "payment_intent": payment},
    }
    line = {
        "id": f"il_{number:06d}",
        "object": "line_item",
        "amount": AMOUNT_MINOR,
        "currency": "usd",
        "quantity": 1,
        "period": {"start": at, "end": at + MONTH_S},
        "pricing": {"price_details": {"price": PRICE}},
        "parent": {"subscription_item_details": {"proration": False}},
    }
    return {
        "id": name_of(number),
        "object": "invoice",
        "status": "paid" if paid else "open",
        "customer": f"cus_{number:06d}",
        "currency": "usd",
        "amount_due": AMOUNT_MINOR,
        "amount_paid": AMOUNT_MINOR if paid else 0,
        "amount_remaining": 0 if paid else AMOUNT_MINOR,
        "total": AMOUNT_MINOR,
        "created": at,
        "number": "PAIDUP01-0001",
        "billing_reason": "subscription_create",
        "status_transitions": {"finalized_at": at},
        "parent": {"subscription_details": {"subscription": f"sub_{number:06d}", "metadata": {}}},
        "confirmation_secret": {"client_secret": f"{intent}_secret_x"},
        "lines": {"object": "list", "data": [line], "has_more": False},
        "payments": {"object": "list", "data": [link], "has_more": False},
    }


def paid_event(number: int) -> bytes:
    """The bytes of `invoice.paid`. As Stripe sends it: its payments are not expanded."""
    shown = invoice(number, PAID)
    del shown["payments"], shown["confirmation_secret"]
    return forged_event("invoice.paid", shown, id=f"evt_{number:06d}")


def _prices() -> dict[str, Any]:
    data = [
        {
            "id": f"price_{price.lookup_key}",
            "object": "price",
            "lookup_key": price.lookup_key,
            "unit_amount": price.amount_minor,
            "currency": price.currency,
            "recurring": {"interval": price.interval, "interval_count": 1}
            if price.interval in ("month", "year")
            else None,
        }
        for plan in parse_catalogue(PACKAGED_PLANS.read_bytes()).plans
        for price in plan.prices
    ]
    return {"object": "list", "data": data, "has_more": False}


def serve_stripe(port: int, states: MutableSequence[int]) -> None:
    """GET /v1/invoices/{id} and the lists that the server asks for, until the process is ended."""
    prices, nothing = _prices(), {"object": "list", "data": [], "has_more": False}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if path.startswith("/v1/invoices/in_"):
            number = int(path.rpartition("_")[2])
            body = invoice(number, states[number])
        else:
            body = prices if path == "/v1/prices" else nothing
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=600,
    )
