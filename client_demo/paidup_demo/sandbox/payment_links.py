"""Payment Links: an address that opens a new Checkout Session each time it is visited.

https://docs.stripe.com/payment-links/api. What the customer's address adds is not trusted, and what is wrong
there is left out without a word: https://docs.stripe.com/payment-links/url-parameters
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from paidup_demo.sandbox import checkout_sessions
from paidup_demo.sandbox.checkout_lines import priced_lines
from paidup_demo.sandbox.checkout_params import is_email, is_web_address
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.forms import require
from paidup_demo.sandbox.objects import checkout as objects
from paidup_demo.sandbox.state import copied, new_id
from paidup_demo.sandbox.world import World

REFERENCE = re.compile(r"[A-Za-z0-9_-]{1,200}")
ONCE_ONLY = ("customer_creation", "invoice_creation", "payment_intent_data")
CARRIED = ("billing_address_collection", "payment_method_types", "submit_type")
NO_REDIRECT = "https://stripe.com"
"""What the sessions of a link that confirms on its own page show as `success_url`."""


def create(world: World, params: Json, origin: str) -> Json:
    """A link to these prices, in subscription mode if one of them recurs."""
    require(params, "line_items")
    mode = _mode(world, params["line_items"])
    currency, lines = priced_lines(world, params | {"mode": mode}, None)
    for name in ONCE_ONLY:
        if mode == "subscription" and params.get(name):
            raise InvalidRequestError(
                f"`{name}` can only be used if the payment link does not contain any recurring prices.",
                param=name,
            )
    if mode == "payment" and params.get("subscription_data"):
        raise InvalidRequestError("You can not pass `subscription_data` without a recurring price.")
    _refuse_nowhere(params.get("after_completion") or {})
    link = objects.payment_link(f"{origin}/test_{new_id('', 18)[1:]}", currency, params)
    link.update({name: params.get(name) for name in ("inactive_message", "payment_method_types")})
    if mode == "subscription":
        link["subscription_data"] = objects.link_subscription_data(params.get("subscription_data", {}))
    elif params.get("payment_intent_data"):
        link["payment_intent_data"] = objects.link_payment_data(params["payment_intent_data"])
    if limit := params.get("restrictions", {}).get("completed_sessions", {}).get("limit"):
        link["restrictions"] = {"completed_sessions": {"count": 0, "limit": limit}}
    kept = {name: params[name] for name in (*CARRIED, "line_items", "subscription_data") if name in params}
    world.store.note(link["id"]).update(lines=lines, mode=mode, params=copied(kept | _once(params)))
    world.events.record("payment_link.created", world.store.add(link))
    return link


def _once(params: Json) -> Json:
    return {name: params[name] for name in ONCE_ONLY if params.get(name)}


def _mode(world: World, items: list[Json]) -> str:
    prices = [world.store.find("price", item.get("price")) for item in items]
    return "subscription" if any(price and price["recurring"] for price in prices) else "payment"


def _refuse_nowhere(after: Json) -> None:
    if after.get("type") != "redirect":
        return
    address = after.get("redirect", {}).get("url")
    if not address or not is_web_address(address):
        raise InvalidRequestError(
            "Not a valid URL", code="url_invalid", param="after_completion[redirect][url]"
        )


def open_session(world: World, link: Json, query: Mapping[str, str], origin: str) -> Json:
    """The session of one visit."""
    note, after = world.store.note(link["id"]), link["after_completion"]
    redirects = after["type"] == "redirect"
    params: Json = {
        **copied(note["params"]),
        "allow_promotion_codes": link["allow_promotion_codes"],
        "metadata": copied(link["metadata"]),
        "mode": note["mode"],
        "success_url": after["redirect"]["url"] if redirects else NO_REDIRECT,
    }
    if note["mode"] == "payment":
        params["customer_creation"] = link["customer_creation"]
    if REFERENCE.fullmatch(query.get("client_reference_id", "")):
        params["client_reference_id"] = query["client_reference_id"]
    locked = query.get("locked_prefilled_email", "")
    if is_email(locked):
        params["customer_email"] = locked
    session = checkout_sessions.create(world, params, origin)
    session["payment_link"] = link["id"]
    typed = query.get("prefilled_email", "")
    world.store.note(session["id"]).update(prefilled=typed if is_email(typed) else None, stays=not redirects)
    return session


def is_open(link: Json) -> bool:
    """Whether it can still be paid with."""
    limit = (link["restrictions"] or {}).get("completed_sessions")
    return bool(link["active"] and (limit is None or limit["count"] < limit["limit"]))


def count_completion(world: World, session: Json) -> None:
    """A session of this link is complete."""
    link = world.store.find("payment_link", session["payment_link"])
    if link is not None and link["restrictions"] is not None:
        link["restrictions"]["completed_sessions"]["count"] += 1
