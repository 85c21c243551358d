"""The imitated bank's page for 3-D Secure. Shows the payment and sends the answer to the controls."""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable
from pathlib import Path
from string import Template

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from paidup_demo.sandbox.currencies import shown_amount
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.guard import page_headers
from paidup_demo.sandbox.world import World

_PAGE = Template((Path(__file__).parent / "challenge.html").read_text("utf-8"))


def page(world: World) -> Callable[[Request], Awaitable[Response]]:
    """GET /challenge/{payment or setup intent}"""

    async def endpoint(request: Request) -> Response:
        intent_id = request.path_params["id"]
        table = "setup_intent" if intent_id.startswith("seti_") else "payment_intent"
        intent = world.store.find(table, intent_id)
        if intent is None or (intent["next_action"] or {}).get("type") != "use_stripe_sdk":
            return HTMLResponse(
                "<!doctype html><title>3-D Secure</title><p>There is nothing to confirm here.", 404
            )
        method = world.store.get("payment_method", intent["payment_method"])
        # Only the allowed origins may embed this page.
        headers = page_headers("'self'", *world.settings.allowed_origins)
        return HTMLResponse(_PAGE.substitute(_shown(table, intent, method)), headers=headers)

    return endpoint


def _shown(table: str, intent: Json, method: Json) -> dict[str, str]:
    charged = table == "payment_intent"
    amount = shown_amount(intent["amount"], intent["currency"]) if charged else "no charge now"
    values = {"intent": intent["id"], "kind": f"{table}s", "amount": amount, "last4": method["card"]["last4"]}
    return {key: html.escape(value) for key, value in values.items()}
