"""The imitated bank's page of a redirect method (iDEAL, Bancontact): pay, or not, and back to the shop.

It adds what Stripe adds to the `return_url`: `payment_intent`, `payment_intent_client_secret` and
`redirect_status`. https://docs.stripe.com/payments/ideal/accept-a-payment. No JavaScript is needed.
"""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable
from pathlib import Path
from string import Template
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from paidup_demo.sandbox import payments
from paidup_demo.sandbox.bank_methods import NAMES
from paidup_demo.sandbox.currencies import shown_amount
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.guard import from_another_page, page_headers
from paidup_demo.sandbox.world import World

_PAGE = Template((Path(__file__).parent / "bank_page.html").read_text("utf-8"))
_HEADERS = page_headers()
_NOTHING = "<!doctype html><title>Bank of Sandbox</title><p>There is nothing to pay here."


def page(world: World) -> Callable[[Request], Awaitable[Response]]:
    """GET and POST /bank/{payment intent}"""

    async def endpoint(request: Request) -> Response:
        intent = world.store.find("payment_intent", request.path_params["id"])
        if intent is None or (intent["next_action"] or {}).get("type") != "redirect_to_url":
            return HTMLResponse(_NOTHING, 404, headers=_HEADERS)
        if request.method == "GET":
            method = world.store.get("payment_method", intent["payment_method"])
            return HTMLResponse(_PAGE.substitute(_shown(intent, method)), headers=_HEADERS)
        if from_another_page(request, ()):
            return HTMLResponse(_NOTHING, 403, headers=_HEADERS)
        return_url = intent["next_action"]["redirect_to_url"]["return_url"]
        passed = request.query_params.get("outcome") == "pass"
        payments.authenticate(world, intent, passed=passed)
        world.store.touch()
        return RedirectResponse(back_to(return_url, intent), 303, headers=_HEADERS)

    return endpoint


_REDIRECT_STATUS = {"succeeded": "succeeded", "processing": "pending"}


def back_to(return_url: str, intent: Json) -> str:
    """The `return_url` with what Stripe adds to it."""
    parts = urlsplit(return_url)
    added = {
        "payment_intent": intent["id"],
        "payment_intent_client_secret": intent["client_secret"],
        "redirect_status": _REDIRECT_STATUS.get(intent["status"], "failed"),
    }
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *added.items()])
    return urlunsplit(parts._replace(query=query))


def _shown(intent: Json, method: Json) -> dict[str, str]:
    amount = shown_amount(intent["amount"], intent["currency"])
    values = {"name": NAMES[method["type"]], "amount": amount, "intent": intent["id"]}
    return {key: html.escape(value) for key, value in values.items()}
