"""The controls of Checkout Sessions: a test pays without a browser."""

from __future__ import annotations

from paidup_demo.sandbox import (
    checkout_payment,
    checkout_quantities,
    checkout_sessions,
    payment_methods,
)
from paidup_demo.sandbox.checkout_return import redirect_of
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.world import World


def complete(world: World, session_id: str, wanted: Json, origin: str) -> Json:
    """Pay the session as its customer would on the page. A declined card is Stripe's 402, and leaves it open.

    `quantity` is first chosen for its adjustable line; `save`: they agree to have their card saved.

    Where the bank asks for authentication the session is still open: answer it with the controls of the
    `payment_intent`. `redirect_to` is where the page goes once the session is complete.
    """
    session = checkout_sessions.named(world, session_id)
    if "quantity" in wanted:
        checkout_quantities.choose(world, session, None, wanted["quantity"])
    world.store.note(session["id"])["saves"] = bool(wanted.get("save"))
    payer = {name: wanted.get(name) for name in ("email", "name", "address")}
    checkout_payment.pay(world, session, payer, _method(world, wanted), origin)
    return outcome(world, session)


def _method(world: World, wanted: Json) -> Json | None:
    """The method of `payment_method_data`, or of an id in `card`, which may be of another type, too."""
    if data := wanted.get("payment_method_data"):
        billing = {name: wanted[name] for name in ("email", "name") if wanted.get(name)}
        typed = data | {"billing_details": billing | data.get("billing_details", {})}
        return payment_methods.method_from(world.store, world.now(), typed)
    card = wanted.get("card", "pm_card_visa")
    return payment_methods.resolve(world.store, world.now(), card) if card else None


def outcome(world: World, session: Json) -> Json:
    """What has become of a session."""
    intent = checkout_sessions.intent_of(world, session)
    return {
        "id": session["id"],
        "status": session["status"],
        "payment_status": session["payment_status"],
        "payment_intent": intent and intent["id"],
        "payment_intent_status": intent and intent["status"],
        "customer": session["customer"],
        "subscription": session["subscription"],
        "invoice": session["invoice"],
        "redirect_to": redirect_of(world, session),
    }
