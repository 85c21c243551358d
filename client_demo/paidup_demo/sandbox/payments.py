"""What PaymentIntents, SetupIntents and charges do.

Changes their status and records the events. Invoices are updated by invoices.py through the agenda; refunds
and disputes are in reversals.py.
"""

from __future__ import annotations

import hmac
from typing import Any, NamedTuple

from paidup_demo.sandbox import bank_methods, cards, currencies, objects, vouchers
from paidup_demo.sandbox.agenda import JobName
from paidup_demo.sandbox.errors import CardError, InvalidRequestError, Json
from paidup_demo.sandbox.state import copied, new_id
from paidup_demo.sandbox.world import World

CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
AUTHENTICATION_FAILED: Json = {
    "code": "payment_intent_authentication_failure",
    "type": "invalid_request_error",
    "message": (
        "The provided PaymentMethod has failed authentication. You can provide payment_method_data or a new "
        "PaymentMethod to attempt to fulfill this PaymentIntent again."
    ),
}
SETUP_AUTHENTICATION_FAILED: Json = AUTHENTICATION_FAILED | {"code": "setup_intent_authentication_failure"}

_CHECKOUT_JOBS: dict[str, JobName] = {
    "note_failed_payment": "checkout_refused",
    "note_processing": "checkout_processing",
    "settle_invoice": "checkout_paid",
}
"""What a Checkout Session is told, by what an invoice is told."""


class Redirect(NamedTuple):
    """For methods with a page of their own: where it is served, and where it sends customers back to."""

    origin: str
    return_url: str | None


def new_intent(
    world: World, *, amount: int, currency: str, customer: str | None, invoice: str | None = None
) -> Json:
    """A stored PaymentIntent; `invoice` is who is told of its fate. The caller records its creation."""
    kinds = bank_methods.usable_types(list(world.conditions.payment_methods), currency)
    intent = world.store.add(
        objects.payment_intent(
            world.real_now(), amount=amount, currency=currency, customer=customer, kinds=kinds
        )
    )
    if invoice is not None:
        world.store.note(intent["id"])["invoice"] = invoice
    return intent


def of_secret(world: World, client_secret: str) -> Json:
    """The intent that this client secret is of. Raises Stripe's error where it is of none."""
    intent_id = client_secret.partition("_secret_")[0]
    table = "setup_intent" if intent_id.startswith("seti_") else "payment_intent"
    intent = world.store.get(table, intent_id, "client_secret")
    if not hmac.compare_digest(client_secret.encode(), intent["client_secret"].encode()):
        raise InvalidRequestError("The client_secret provided is invalid.", param="client_secret")
    return intent


def confirm(
    world: World,
    intent: Json,
    method: Json | None,
    *,
    off_session: bool = False,
    redirect: Redirect | None = None,
) -> None:
    """Try to pay with this method. Raises CardError if it is declined, after recording everything."""
    _refuse_unless_confirmable(intent)
    if intent["customer"]:
        world.store.get("customer", intent["customer"], "customer")  # unless it was deleted
    if method is None and intent["payment_method"] is None:
        raise _unexpected(
            intent,
            "You cannot confirm this PaymentIntent because it's missing a payment method. You can either"
            " update the PaymentIntent with a payment method and then confirm it again, or confirm it again"
            " directly with a payment method.",
        )
    chosen = method or world.store.get("payment_method", intent["payment_method"])
    action = _next_action(world, intent, chosen, redirect)
    intent.update(payment_method=chosen["id"], last_payment_error=None, next_action=None)
    world.store.touch()
    if not needs_authentication(world, chosen, off_session=off_session):
        _collect(world, intent)
    else:
        _require_action(world, intent, action)
    if intent["last_payment_error"] is not None:
        raise declined(intent["last_payment_error"], payment_intent=copied(intent))


def needs_authentication(world: World, method: Json, *, off_session: bool) -> bool:
    """Whether the bank requires authentication: always, or until the card is set up for off-session use."""
    note = world.store.note(method["id"])
    if note["authentication"] == "unless_set_up":
        return not (off_session and note["set_up"])
    return note["authentication"] in ("always", "redirect", "voucher")


def _next_action(world: World, intent: Json, method: Json, redirect: Redirect | None) -> Json:
    """What the customer has to do, if anything: on the bank's page, or in the dialog of 3-D Secure."""
    step = world.store.note(method["id"])["authentication"]
    if step == "voucher":
        origin = redirect.origin if redirect else world.settings.origin
        return vouchers.next_action(world, intent, method, origin)
    if step != "redirect":
        sdk = {
            "type": "three_d_secure_redirect",
            "source": new_id("payatt"),
            "stripe_js": f"/challenge/{intent['id']}",
        }
        return {"type": "use_stripe_sdk", "use_stripe_sdk": sdk}
    if redirect is None or not redirect.return_url:
        raise InvalidRequestError(
            f"You must provide a `return_url` when confirming a PaymentIntent with {method['type']}.",
            code="parameter_missing",
            param="return_url",
        )
    there = {"return_url": redirect.return_url, "url": f"{redirect.origin}/bank/{intent['id']}"}
    return {"type": "redirect_to_url", "redirect_to_url": there}


def _require_action(world: World, intent: Json, action: Json) -> None:
    world.events.change(
        "payment_intent.requires_action", intent, status="requires_action", next_action=action
    )
    tell_invoice(world, intent, "note_required_action")
    session = world.store.note(intent["id"]).get("checkout_session")
    if session is not None and vouchers.is_voucher(action):
        world.agenda.after(0, "checkout_processing", session)  # complete, and unpaid


def authenticate(world: World, intent: Json, *, passed: bool) -> None:
    """The answer of the bank's check. A decline after it shows in `last_payment_error`; none is raised."""
    if intent["status"] != "requires_action" or vouchers.shown_in(intent):
        raise _unexpected(intent, f"This intent is not waiting for authentication: it is {intent['status']}.")
    if intent["object"] == "setup_intent":
        _finish_setup(world, intent, passed=passed)
        return
    intent["next_action"] = None
    if passed:
        _collect(world, intent)
    else:
        fail(world, intent, AUTHENTICATION_FAILED, charge=None)


def _collect(world: World, intent: Json) -> None:
    """After authentication: charge the card, wait for the outcome, or decline."""
    decline = world.store.note(intent["payment_method"])["decline"]
    method = world.store.get("payment_method", intent["payment_method"])
    if method["type"] in bank_methods.DEBITS:
        world.agenda.after(0, "begin_debit", intent["id"])
    elif decline is not None:
        refuse(world, intent, decline)
    elif world.conditions.processing_ms > 0:
        intent["next_action"] = None
        world.events.change("payment_intent.processing", intent, status="processing")
        world.agenda.after(world.conditions.processing_ms, "finish_processing", intent["id"])
    else:
        succeed(world, intent)


def finish_processing(world: World, intent_id: str) -> None:
    """The outcome of a payment that took time, as the conditions say now."""
    intent = world.store.find("payment_intent", intent_id)
    if intent is None or intent["status"] != "processing":
        return
    if intent["latest_charge"] and world.store.get("charge", intent["latest_charge"])["status"] == "pending":
        return  # a debit, which the bank decides
    if world.conditions.processing_outcome == "succeeded":
        succeed(world, intent)
    else:
        refuse(world, intent, "generic_decline")


def succeed(world: World, intent: Json) -> None:
    """The customer's method is charged, and pays the intent."""
    method = world.store.get("payment_method", intent["payment_method"])
    charge = world.store.add(objects.charge(world.real_now(), intent, method))
    if method["type"] in bank_methods.SAVED_AS_DEBIT and intent["setup_future_usage"] and intent["customer"]:
        saved = bank_methods.saved_from_redirect(world.store, world.now(), method)
        charge["payment_method_details"][method["type"]]["generated_sepa_debit"] = saved["id"]
        world.store.note(intent["id"])["reusable"] = saved["id"]
    succeed_with(world, intent, charge)


def reusable_method(world: World, intent: Json) -> str | None:
    """The method of this payment that later ones can use: the account's debit after a redirect."""
    found: str | None = world.store.note(intent["id"]).get("reusable", intent["payment_method"])
    return found


def succeed_with(world: World, intent: Json, charge: Json) -> None:
    """This charge has paid the intent."""
    currencies.present_in(world, intent, charge)
    world.events.record("charge.succeeded", charge)
    world.events.change(
        "payment_intent.succeeded",
        intent,
        status="succeeded",
        amount_received=intent["amount"],
        latest_charge=charge["id"],
        next_action=None,
        processing=None,
    )
    if intent["setup_future_usage"] and intent["customer"]:
        method = world.store.get("payment_method", reusable_method(world, intent))
        attach(world, method, intent["customer"])
        world.store.note(method["id"])["set_up"] = True
    tell_invoice(world, intent, "settle_invoice", delay_ms=world.conditions.invoice_lag_ms)


def refuse(world: World, intent: Json, decline: str) -> None:
    """Decline: record a failed charge; the intent waits for another card."""
    fields = cards.decline_fields(decline)
    method = world.store.get("payment_method", intent["payment_method"])
    made = objects.charge(world.real_now(), intent, method)
    charge = world.store.add(objects.refused(made, fields["code"], fields["message"], decline))
    world.events.record("charge.failed", charge)
    intent["latest_charge"] = charge["id"]
    fail(world, intent, fields, charge=charge["id"])


def fail(world: World, intent: Json, error: Json, charge: str | None) -> None:
    """The attempt has failed: the intent waits for another payment method."""
    method = world.store.get("payment_method", intent["payment_method"])
    shown = error | {"doc_url": f"https://docs.stripe.com/error-codes/{error['code'].replace('_', '-')}"}
    shown |= {"payment_method": copied(method)} | ({"charge": charge} if charge else {})
    world.events.change(
        "payment_intent.payment_failed",
        intent,
        status="requires_payment_method",
        last_payment_error=shown,
        next_action=None,
        payment_method=None,
    )
    tell_invoice(world, intent, "note_failed_payment")


def cancel(world: World, intent: Json, reason: str | None) -> None:
    """Ends an intent that has not succeeded."""
    if intent["status"] not in CONFIRMABLE:
        raise _unexpected(
            intent,
            f"You cannot cancel this PaymentIntent because it has a status of {intent['status']}. Only a"
            " PaymentIntent with one of the following statuses may be canceled: requires_payment_method,"
            " requires_capture, requires_confirmation, requires_action, processing.",
        )
    world.events.change(
        "payment_intent.canceled",
        intent,
        status="canceled",
        canceled_at=world.real_now(),
        cancellation_reason=reason,
        next_action=None,
    )


def attach(world: World, method: Json, customer: str) -> None:
    """Save a card for a customer, unless it already is."""
    if method["customer"] == customer:
        return
    if method["customer"] is not None:
        raise InvalidRequestError("This payment method has already been attached to another customer.")
    world.events.change("payment_method.attached", method, customer=customer)


def refuse_unattachable(world: World, method: Json) -> None:
    """Raise for cards that Stripe declines when they are saved without a payment."""
    note = world.store.note(method["id"])
    if not note["attaches"]:
        raise declined(cards.decline_fields(note["decline"]))


def _refuse_unless_confirmable(intent: Json) -> None:
    status = intent["status"]
    if status in CONFIRMABLE:
        return
    if status == "succeeded":
        raise _unexpected(
            intent,
            "You cannot confirm this PaymentIntent because it has already succeeded after being previously"
            " confirmed.",
        )
    raise _unexpected(
        intent,
        f"You cannot confirm this PaymentIntent because it has a status of {status}. Only a PaymentIntent"
        " with one of the following statuses may be confirmed: requires_confirmation, requires_action.",
    )


def _unexpected(intent: Json, message: str) -> InvalidRequestError:
    kind = str(intent["object"])
    return InvalidRequestError(message, code=f"{kind}_unexpected_state", **{kind: copied(intent)})


def declined(error: Json, **more: Any) -> CardError:
    """A stored error, to be raised."""
    fields: Json = {key: value for key, value in error.items() if key not in ("type", "doc_url")}
    return CardError(**fields, **more)


def tell_invoice(world: World, intent: Json, job: JobName, delay_ms: float = 0) -> None:
    """Run this job for the invoice that the intent pays, if it pays one; then tell its Checkout Session."""
    note = world.store.note(intent["id"])
    if note.get("invoice") is not None:
        world.agenda.after(delay_ms, job, note["invoice"])
    if note.get("checkout_session") is not None and job in _CHECKOUT_JOBS:
        world.agenda.after(0, _CHECKOUT_JOBS[job], note["checkout_session"])


def confirm_setup(world: World, intent: Json, method: Json | None) -> None:
    """Saves a card for later. Raises CardError for a card that cannot be saved."""
    if intent["status"] not in CONFIRMABLE:
        raise _unexpected(
            intent, f"You cannot confirm this SetupIntent because it has a status of {intent['status']}."
        )
    if method is None:
        raise _unexpected(
            intent, "You cannot confirm this SetupIntent because it's missing a payment method."
        )
    refuse_unattachable(world, method)
    intent.update(payment_method=method["id"], last_setup_error=None)
    if world.store.note(method["id"])["authentication"] == "never":
        _finish_setup(world, intent, passed=True)
        return
    action = {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
    world.events.change("setup_intent.requires_action", intent, status="requires_action", next_action=action)


def _finish_setup(world: World, intent: Json, *, passed: bool) -> None:
    method = world.store.get("payment_method", intent["payment_method"])
    if not passed:
        error = SETUP_AUTHENTICATION_FAILED | {"payment_method": copied(method)}
        failed = {"status": "requires_payment_method", "last_setup_error": error, "payment_method": None}
        world.events.change("setup_intent.setup_failed", intent, next_action=None, **failed)
        return
    if intent["customer"]:
        attach(world, method, intent["customer"])
    world.store.note(method["id"])["set_up"] = True
    world.events.change("setup_intent.succeeded", intent, status="succeeded", next_action=None)
    world.agenda.after(0, "finish_setup", intent["id"])
