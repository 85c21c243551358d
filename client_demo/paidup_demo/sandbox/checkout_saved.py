"""Saved cards on the page of a Checkout Session: which it shows, and which it saves.

https://docs.stripe.com/payments/checkout/save-during-payment: those of its customer whose `allow_redisplay`
is among the session's filters. The customer's consent makes it `always`; what is saved without consent, since
a subscription or `setup_future_usage` needs it, is `limited`. Not imitated: that Stripe fills in a card only
if its billing details are complete, and `payment_method_remove`.
"""

from __future__ import annotations

from paidup_demo.sandbox import payments
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.world import World


def shown_methods(world: World, session: Json) -> list[Json]:
    """The customer's saved cards that this page shows, newest first."""
    options = session["saved_payment_method_options"]
    if session["customer"] is None or options is None or "card" not in session["payment_method_types"]:
        return []
    known = world.store.newest("payment_method", customer=session["customer"], type="card")
    return [each for each in known if each["allow_redisplay"] in options["allow_redisplay_filters"]]


def may_save(session: Json) -> bool:
    """Whether the page asks for consent. Without a customer nothing is saved."""
    options = session["saved_payment_method_options"] or {}
    has_customer = session["customer"] is not None or session["customer_creation"] == "always"
    return has_customer and options.get("payment_method_save") == "enabled"


def keep(world: World, session: Json, customer: Json, method_id: str | None) -> None:
    """The session has been paid: save its card if the customer agreed, and mark what was saved."""
    if method_id is None:
        return
    method = world.store.get("payment_method", method_id)
    agreed = may_save(session) and bool(world.store.note(session["id"]).get("saves"))
    if agreed:
        payments.attach(world, method, customer["id"])
    if method["customer"] == customer["id"] and method["allow_redisplay"] != "always":
        method["allow_redisplay"] = "always" if agreed else "limited"
