"""Checkout Sessions until they are paid: creation with its totals, discounts, and expiry.

What the customer does there is in checkout_payment.py. A session's lines, and the parameters for what is made
at its completion, are notes of it: Stripe shows them nowhere, or only where they are asked for.
"""

from __future__ import annotations

from paidup_demo.sandbox import bank_methods, payments
from paidup_demo.sandbox.checkout_discounts import apply_discounts
from paidup_demo.sandbox.checkout_lines import priced_lines
from paidup_demo.sandbox.checkout_params import EXPIRES_UNTIL_S, refuse_impossible
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.objects import checkout as objects
from paidup_demo.sandbox.objects import nulls
from paidup_demo.sandbox.state import new_id
from paidup_demo.sandbox.world import World

TABLE = "checkout.session"
LEAST = {"usd": 50, "eur": 50, "gbp": 30}
"""The smallest amounts that Stripe charges: https://docs.stripe.com/currencies#minimum-and-maximum-charge-amounts"""
SHOWN = nulls(
    "allow_promotion_codes billing_address_collection cancel_url client_reference_id customer_email"
    " integration_identifier locale metadata origin_context payment_method_collection submit_type success_url"
)
KEPT = ("customer_update", "payment_intent_data", "subscription_data")


def create(world: World, params: Json, origin: str) -> Json:
    """An open session; `origin` is where its page is served."""
    refuse_impossible(world, params)
    customer = _customer(world, params)
    currency, lines = priced_lines(world, params, customer)
    mode, ui_mode = params["mode"], params.get("ui_mode") or "hosted_page"
    session = objects.checkout_session(world.now(), mode, ui_mode)
    session |= {name: params[name] for name in SHOWN if params.get(name) is not None}
    session.update(
        currency=currency,
        customer=customer and customer["id"],
        customer_creation=_creation(mode, params, customer),
        expires_at=params.get("expires_at") or world.now() + EXPIRES_UNTIL_S,
        invoice_creation=_invoice_creation(mode, params),
        payment_method_types=_method_types(world, params, currency),
    )
    _show_ui(session, params, origin)
    _show_customer(session, customer, params)
    if params.get("automatic_tax", {}).get("enabled"):
        _refuse_unknown_place(params, customer)
        session["automatic_tax"] = objects.automatic_tax()
    note = world.store.note(session["id"])
    note.update({name: params.get(name) or {} for name in KEPT}, lines=lines)
    apply_discounts(world, session, params.get("discounts", []))
    _refuse_too_small(session)
    return world.store.add(session)


def _customer(world: World, params: Json) -> Json | None:
    return world.store.get("customer", params["customer"], "customer") if params.get("customer") else None


def _creation(mode: str, params: Json, customer: Json | None) -> str | None:
    if customer is not None:
        return None
    return "always" if mode == "subscription" else params.get("customer_creation") or "if_required"


def _invoice_creation(mode: str, params: Json) -> Json | None:
    return objects.invoice_creation(params.get("invoice_creation", {})) if mode == "payment" else None


def _method_types(world: World, params: Json, currency: str) -> list[str]:
    """Those asked for; without any, the account's dynamic ones that take this currency."""
    wanted = params.get("payment_method_types")
    enabled = list(wanted or world.conditions.payment_methods)
    usable = bank_methods.usable_types(enabled, currency, recurring=params["mode"] == "subscription")
    if params.get("redirect_on_completion") == "never" and not wanted:
        usable = [kind for kind in usable if kind not in bank_methods.REDIRECTS]
    if wanted and usable != wanted:
        raise InvalidRequestError(
            f"The payment method types provided do not all support the currency {currency} and this mode.",
            param="payment_method_types",
        )
    return usable


def _show_ui(session: Json, params: Json, origin: str) -> None:
    """A hosted page has an address; the others a secret for Stripe.js, and where to return to."""
    if session["ui_mode"] == "hosted_page":
        # Stripe's has a long fragment, too, without which its page does not work.
        session["url"] = f"{origin}/c/pay/{session['id']}#fid{new_id('', 300)[1:]}%2F"
        return
    session["client_secret"] = f"{session['id']}_secret_{new_id('', 40)[1:]}"
    session["return_url"] = params.get("return_url")
    if session["ui_mode"] == "embedded_page":
        session["redirect_on_completion"] = params.get("redirect_on_completion") or "always"


def _show_customer(session: Json, customer: Json | None, params: Json) -> None:
    email = customer["email"] if customer else params.get("customer_email")
    if email:
        session["customer_details"] = objects.customer_details(email, None, None)
    wanted = params.get("saved_payment_method_options")
    if customer is not None or wanted:
        session["saved_payment_method_options"] = objects.SAVED_METHODS | (wanted or {})


def _refuse_unknown_place(params: Json, customer: Json | None) -> None:
    """https://docs.stripe.com/error-codes#customer-tax-location-invalid"""
    saves = "auto" in params.get("customer_update", {}).values()
    if customer is not None and customer["address"] is None and not saves:
        raise InvalidRequestError(
            "Automatic tax calculation in Checkout requires a valid address on the Customer. Add a valid"
            " address to the Customer or set either `customer_update[address]` to 'auto' to save the billing"
            " address entered in Checkout to the Customer.",
            code="customer_tax_location_invalid",
        )


def lines_of(world: World, session: Json) -> list[Json]:
    """The session's line items."""
    return list(world.store.note(session["id"])["lines"])


def _refuse_too_small(session: Json) -> None:
    least = LEAST.get(session["currency"], 1)
    if 0 < session["amount_total"] < least:
        raise InvalidRequestError(
            f"The Checkout Session's total amount due must add up to at least {least / 100:.2f}"
            f" {session['currency']}",
            code="amount_too_small",
        )


def find(world: World, session_id: str) -> Json | None:
    """The session, expired if its time is over."""
    session = world.store.find(TABLE, session_id)
    if session is not None and may_expire(world, session) and session["expires_at"] <= world.now():
        expire(world, session)
    return session


def expire_due(world: World) -> None:
    """Expire every session whose time is over."""
    for session in list(world.store.newest(TABLE, status="open")):
        find(world, session["id"])


def named(world: World, session_id: str) -> Json:
    """The session that a path names."""
    find(world, session_id)
    return world.store.get(TABLE, session_id, in_path=True)


def expire(world: World, session: Json) -> None:
    """End an open session, and cancel its PaymentIntent: nobody can pay it any more."""
    if session["status"] != "open":
        raise InvalidRequestError(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a'
            f" status of `{session['status']}`."
        )
    if not may_expire(world, session):
        raise InvalidRequestError("This Checkout Session cannot be expired while its payment is processing.")
    intent = intent_of(world, session)
    if intent is not None:
        payments.cancel(world, intent, "expired")
    close(session, "expired")
    world.events.record("checkout.session.expired", session)


def may_expire(world: World, session: Json) -> bool:
    """Whether it is open, and no payment of it is processing."""
    intent = intent_of(world, session)
    return session["status"] == "open" and (intent is None or intent["status"] in payments.CONFIRMABLE)


def intent_of(world: World, session: Json) -> Json | None:
    """The PaymentIntent of the attempts to pay it, in either mode."""
    found = world.store.note(session["id"]).get("intent")
    return world.store.find("payment_intent", found) if found else None


def close(session: Json, status: str) -> None:
    """A session that is not open has no page and no secret any more."""
    session.update(status=status, url=None, client_secret=None)
