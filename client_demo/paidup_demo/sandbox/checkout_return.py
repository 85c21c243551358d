"""The way back from a completed Checkout Session: whereto, and when."""

from __future__ import annotations

import asyncio
import time

from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.world import World

LOOK_AGAIN_S = 0.02


def redirect_of(world: World, session: Json, *, by_redirect: bool = False) -> str | None:
    """Where the customer goes from a completed session, with the template replaced; None: they stay.

    Embedded pages with `redirect_on_completion: if_required` leave only where the method did (`by_redirect`):
    https://docs.stripe.com/payments/checkout/custom-success-page?payment-ui=embedded-page
    """
    stays = session.get("redirect_on_completion") in ("never", "if_required") and not by_redirect
    if world.store.note(session["id"]).get("stays"):
        return None  # its Payment Link confirms on the page itself
    address: str | None = None if stays else session["success_url"] or session.get("return_url")
    return address and address.replace("{CHECKOUT_SESSION_ID}", session["id"])


async def told(world: World, session: Json) -> None:
    """Wait until each endpoint has answered `checkout.session.completed`, or the time is over."""
    deliveries = _deliveries(world, session["id"])
    deadline = time.monotonic() + world.conditions.checkout_redirect_wait_ms / 1000
    while time.monotonic() < deadline and _waits(deliveries):
        await asyncio.sleep(LOOK_AGAIN_S)


def _deliveries(world: World, session_id: str) -> list[Json]:
    """Those of the session's completion; they are updated as they are attempted."""
    for event in world.store.newest("event", type="checkout.session.completed"):
        if event["data"]["object"]["id"] == session_id:
            return list(world.store.newest("delivery", event=event["id"]))
    return []


def _waits(deliveries: list[Json]) -> bool:
    """Whether an endpoint has not answered yet. A delivery that was dropped never is."""
    answered = {one["endpoint"] for one in deliveries if one["attempts"] and one["status"] != "dropped"}
    return any(one["endpoint"] not in answered for one in deliveries)
