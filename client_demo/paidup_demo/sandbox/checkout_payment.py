"""What a customer does on the page of a Checkout Session: they pay, are declined, or authenticate.

Nothing but a PaymentIntent (and a customer, where there was none) exists before the payment is made. Then the
session is fulfilled: subscription or invoice, their events, and last `checkout.session.completed`.
"""

from __future__ import annotations

from paidup_demo.sandbox import (
    checkout_billing,
    checkout_saved,
    currencies,
    objects,
    payment_links,
    payment_methods,
    payments,
)
from paidup_demo.sandbox.checkout_discounts import count_redemption
from paidup_demo.sandbox.checkout_params import is_email, refused_email
from paidup_demo.sandbox.checkout_sessions import TABLE, close, expire, intent_of, may_expire
from paidup_demo.sandbox.checkout_tax import add_tax
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.objects.checkout import customer_details
from paidup_demo.sandbox.world import World

PLACE = {"city": None, "country": "US", "line1": None, "line2": None, "postal_code": "94107", "state": None}
"""Where the sandbox's customers live, unless they say otherwise."""


def pay(world: World, session: Json, payer: Json, method: Json | None, origin: str) -> Json | None:
    """Try to pay with this method; `payer` has what was typed: email, name, address.

    Raises CardError when it is declined: the session stays open. Returns the PaymentIntent, which requires
    action where the bank asks for it; None where nothing is due. `origin`: where the pages are served.
    """
    _refuse_unless_payable(world, session)
    customer = _customer(world, session, payer)
    add_tax(world, session)
    due = _due(session, customer)
    if due == 0:
        _save_without_payment(world, session, customer, method)
        _forget_attempts(world, session)
        fulfil(world, session, "no_payment_required")
        return None
    if method is None:
        raise InvalidRequestError("A payment method is required.", param="payment_method")
    intent = _intent(world, session, customer, due)
    payment_methods.refuse_other_type(intent, method)
    back = f"{origin}/c/pay/{session['id']}"
    payments.confirm(world, intent, method, redirect=payments.Redirect(origin, back))
    return intent


def _refuse_unless_payable(world: World, session: Json) -> None:
    """The page says so, too: https://docs.stripe.com/api/checkout/sessions/expire"""
    if may_expire(world, session) and session["expires_at"] <= world.now():
        expire(world, session)
    if session["status"] != "open":
        raise InvalidRequestError(
            f"This Checkout Session can no longer be paid: its status is {session['status']}.",
            code="checkout_session_not_open",
        )
    intent = intent_of(world, session)
    if intent is not None and intent["status"] not in payments.CONFIRMABLE:
        raise InvalidRequestError("A payment of this Checkout Session is being processed.")


def _due(session: Json, customer: Json | None) -> int:
    """The amount to pay now: a subscription's first invoice takes the customer's balance into account."""
    total = int(session["amount_total"])
    if session["mode"] == "subscription" and customer is not None:
        return max(0, total + int(customer["balance"]))
    return total


def _customer(world: World, session: Json, payer: Json) -> Json | None:
    """The session's customer, or a new one where one is needed; keeps what was typed."""
    known = world.store.get("customer", session["customer"], "customer") if session["customer"] else None
    email = (known and known["email"]) or session["customer_email"] or payer.get("email")
    if not email:
        raise InvalidRequestError("An email address is required.", code="email_invalid", param="email")
    if not is_email(email):
        raise refused_email(email, "email")
    typed = {"email": email, "name": payer.get("name"), "address": PLACE | (payer.get("address") or {})}
    note = world.store.note(session["id"])
    note["payer"] = typed
    if known is not None or not _needs_customer(session, note):
        return known
    if note.get("customer"):  # made by an attempt that was declined
        return world.store.get("customer", note["customer"])
    made = world.store.add(objects.customer(world.now(), {}) | typed)
    note["customer"] = made["id"]
    world.events.record("customer.created", made)
    return made


def _needs_customer(session: Json, note: Json) -> bool:
    """In payment mode there may be none: https://docs.stripe.com/payments/checkout/guest-customers"""
    return bool(
        session["mode"] == "subscription"
        or session["customer_creation"] == "always"
        or session["invoice_creation"]["enabled"]
        or note["payment_intent_data"].get("setup_future_usage")
    )


def _intent(world: World, session: Json, customer: Json | None, due: int) -> Json:
    """The PaymentIntent of the session, made at the first attempt:
    https://docs.stripe.com/changelog/2022-08-01/deferred-paymentintent-checkout-session
    """
    found = intent_of(world, session)
    if found is not None:
        found["amount"] = due  # a promotion code may have changed it
        return found
    intent = payments.new_intent(
        world,
        amount=due,
        currency=session["currency"],
        customer=customer["id"] if customer is not None else None,
    )
    note = world.store.note(session["id"])
    note["intent"] = intent["id"]
    world.store.note(intent["id"])["checkout_session"] = session["id"]
    kinds = list(session["payment_method_types"])
    intent.update(payment_method_types=kinds, payment_method_options=objects.options_of(kinds))
    if session["mode"] == "subscription":
        intent.update(description="Subscription creation", setup_future_usage="off_session")
    else:
        intent.update(note["payment_intent_data"])
        session["payment_intent"] = intent["id"]
    world.events.record("payment_intent.created", intent)
    return intent


def _save_without_payment(world: World, session: Json, customer: Json | None, method: Json | None) -> None:
    """A subscription that costs nothing now still collects a card, unless that was left to be decided."""
    if session["mode"] == "payment" or session["payment_method_collection"] == "if_required":
        return
    if method is None or customer is None:
        raise InvalidRequestError("A payment method is required.", param="payment_method")
    payments.refuse_unattachable(world, method)
    payments.attach(world, method, customer["id"])
    world.store.note(session["id"])["method"] = method["id"]


def _forget_attempts(world: World, session: Json) -> None:
    """Nothing is due any more: the PaymentIntent of a declined attempt is not needed."""
    intent = intent_of(world, session)
    if intent is not None:
        payments.cancel(world, intent, "abandoned")
        world.store.note(session["id"])["intent"] = session["payment_intent"] = None


def on_paid(world: World, session_id: str) -> None:
    """The PaymentIntent of the session succeeded: at once, or after days with a delayed method."""
    session = world.store.get(TABLE, session_id)
    if session["status"] == "open":
        fulfil(world, session, "paid")
    elif _awaited(world, session):
        session["payment_status"] = "paid"
        if session["invoice"] is None:
            _bill(world, session, _customer_of(world, session), intent_of(world, session))
        world.events.record("checkout.session.async_payment_succeeded", session)


def on_processing(world: World, session_id: str) -> None:
    """A delayed method has been accepted: the session is complete, and not paid."""
    session = world.store.get(TABLE, session_id)
    if session["status"] == "open":
        world.store.note(session_id)["awaits"] = True
        fulfil(world, session, "unpaid")


def on_refused(world: World, session_id: str) -> None:
    """Declined: the session stays open; a delayed method that failed later is told by an event."""
    session = world.store.get(TABLE, session_id)
    if _awaited(world, session):
        world.events.record("checkout.session.async_payment_failed", session)


def _awaited(world: World, session: Json) -> bool:
    """Whether the outcome of a delayed method is still open; it is told once, later attempts are not."""
    return bool(world.store.note(session["id"]).pop("awaits", False))


def fulfil(world: World, session: Json, payment_status: str) -> None:
    """Make what was bought, and complete the session; its event is the last one."""
    payer = world.store.note(session["id"])["payer"]
    customer = _customer_of(world, session)
    intent = intent_of(world, session)
    if customer is not None:
        _save_typed(world, session, customer)
    session["payment_status"] = payment_status
    if payment_status == "paid":
        currencies.present_in(world, session)
    _bill(world, session, customer, intent)
    if customer is not None:
        saved = (
            payments.reusable_method(world, intent)
            if intent
            else world.store.note(session["id"]).get("method")
        )
        checkout_saved.keep(world, session, customer, saved)
    session["customer_details"] = customer_details(payer["email"], payer["name"], payer["address"])
    session["customer"] = customer and customer["id"]
    count_redemption(world, session)
    payment_links.count_completion(world, session)
    close(session, "complete")
    world.events.record("checkout.session.completed", session)


def _bill(world: World, session: Json, customer: Json | None, intent: Json | None) -> None:
    """The subscription with its invoice; in payment mode the invoice of a payment that has succeeded."""
    if customer is None:
        return
    if session["mode"] == "subscription":
        method = _kept_method(world, session, customer, intent)
        invoice = checkout_billing.subscribe(world, session, customer, method, intent)
    elif session["invoice_creation"]["enabled"] and session["payment_status"] != "unpaid":
        invoice = checkout_billing.bill_once(world, session, customer, intent)
    else:
        return
    session["invoice"] = invoice["id"]
    if intent is not None and intent["status"] == "succeeded":
        world.agenda.after(world.conditions.invoice_lag_ms, "settle_invoice", invoice["id"])
    elif intent is not None:
        world.agenda.after(0, "note_processing", invoice["id"])


def _kept_method(world: World, session: Json, customer: Json, intent: Json | None) -> str | None:
    """What the subscription's later invoices are paid with, saved for the customer."""
    if intent is None:
        found: str | None = world.store.note(session["id"]).get("method")
        return found
    kept = payments.reusable_method(world, intent)
    payments.attach(world, world.store.get("payment_method", kept), customer["id"])
    return kept


def _customer_of(world: World, session: Json) -> Json | None:
    """The session's customer, or the one that was made when it was paid."""
    found = session["customer"] or world.store.note(session["id"]).get("customer")
    return world.store.get("customer", found) if found else None


def _save_typed(world: World, session: Json, customer: Json) -> None:
    """Save what the customer typed where the session says so; an e-mail address where there was none."""
    note = world.store.note(session["id"])
    typed, wanted = note["payer"], note["customer_update"]
    new = {name: typed[name] for name in ("address", "name") if wanted.get(name) == "auto" and typed[name]}
    if customer["email"] is None:
        # https://docs.stripe.com/api/checkout/sessions/create#create_checkout_session-customer
        new["email"] = typed["email"]
    if new:
        world.events.change("customer.updated", customer, **new)
