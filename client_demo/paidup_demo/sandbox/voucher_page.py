"""Stripe's page of a voucher, imitated: its number, until when it can be paid, and buttons that decide it."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from string import Template

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from paidup_demo.sandbox import voucher_outcomes, vouchers
from paidup_demo.sandbox.bank_methods import NAMES
from paidup_demo.sandbox.currencies import shown_amount
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.guard import from_another_page, page_headers
from paidup_demo.sandbox.world import World

_PAGE = Template((Path(__file__).parent / "voucher_page.html").read_text("utf-8"))
_HEADERS = page_headers()
_NOTHING = "<!doctype html><title>Voucher</title><p>This voucher has been paid, or can no longer be paid."


def page(world: World) -> Callable[[Request], Awaitable[Response]]:
    """GET and POST /voucher/{payment intent}"""

    async def endpoint(request: Request) -> Response:
        intent = world.store.find("payment_intent", request.path_params["id"])
        shown = vouchers.shown_in(intent) if intent is not None else None
        if intent is None or shown is None:
            return HTMLResponse(_NOTHING, 404, headers=_HEADERS)
        if request.method == "GET":
            method = world.store.get("payment_method", intent["payment_method"])
            return HTMLResponse(_PAGE.substitute(_texts(intent, method, shown)), headers=_HEADERS)
        if from_another_page(request, ()):
            return HTMLResponse(_NOTHING, 403, headers=_HEADERS)
        paid = request.query_params.get("outcome") == "pay"
        voucher_outcomes.decide(world, intent, "succeeded" if paid else "failed")
        world.store.touch()
        return RedirectResponse(request.url.path, 303, headers=_HEADERS)

    return endpoint


def _texts(intent: Json, method: Json, shown: Json) -> dict[str, str]:
    zone = timezone(timedelta(hours=vouchers.ZONES[method["type"]]))
    until = datetime.fromtimestamp(vouchers.expires_at(shown), zone)
    values = {
        "name": NAMES[method["type"]],
        "payer": method["billing_details"]["name"],
        "amount": shown_amount(intent["amount"], intent["currency"]),
        "number": shown.get("number") or "Payment code 123456",
        "until": f"{until:%d %B %Y}".lstrip("0"),
        "intent": intent["id"],
    }
    return {key: html.escape(value) for key, value in values.items()}
