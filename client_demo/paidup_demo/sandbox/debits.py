"""Bank debits: processing for days by the sandbox's clock, then succeeded or failed as the account says.

https://docs.stripe.com/payments/payment-methods#payment-notification: delayed notification. The charge is
pending meanwhile, and its invoice stays open.
"""

from __future__ import annotations

from datetime import UTC, datetime

from paidup_demo.sandbox import objects, payments, reversals
from paidup_demo.sandbox.clock import DAY_S
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.state import copied
from paidup_demo.sandbox.world import World

USUAL_DAYS = {"sepa_debit": 5, "us_bank_account": 4}
"""https://docs.stripe.com/payments/sepa-debit and https://docs.stripe.com/payments/ach-direct-debit"""
FAILURES = {
    "account_closed": "The customer's bank account has been closed.",
    "debit_not_authorized": "The customer has notified their bank that this payment was unauthorized.",
    "generic_decline": "The payment was declined by the customer's bank.",
    "incorrect_account_holder_name": "The payment was declined by the customer's bank.",
    "insufficient_funds": "The customer's account has insufficient funds to cover this payment.",
    "no_account": "The customer's bank account could not be located.",
}


_UNNAMED = ("generic_decline", "incorrect_account_holder_name")
"""The PaymentIntent's error does not name these, the charge does: https://github.com/gburgyan/aat has seen it
of Stripe's failing test IBAN, and of ACH `insufficient_funds` and `account_closed` in both places."""


def begin(world: World, intent_id: str) -> None:
    """The debit was confirmed: its outcome comes days later."""
    intent = world.store.get("payment_intent", intent_id)
    method = world.store.get("payment_method", intent["payment_method"])
    days = world.conditions.debit_days
    days = USUAL_DAYS[method["type"]] if days is None else days
    decided_at = world.now() + days * DAY_S
    expected_on = datetime.fromtimestamp(decided_at, UTC).strftime("%Y-%m-%d")
    made = objects.charge(world.real_now(), intent, method)
    charge = world.store.add(objects.pending(made, expected_on))
    world.events.record("charge.pending", charge)
    if not world.store.note(method["id"])["debit"]["stays"]:
        world.store.note(intent["id"])["decided_at"] = decided_at
    new = {"status": "processing", "latest_charge": charge["id"], "next_action": None}
    world.events.change("payment_intent.processing", intent, **new)
    payments.tell_invoice(world, intent, "note_processing")


def decided_at(world: World, intent: Json) -> int | None:
    """When the bank answers; None where no debit is waiting."""
    if intent["status"] != "processing":
        return None
    moment: int | None = world.store.note(intent["id"]).get("decided_at")
    return moment


def decide(world: World, intent: Json, outcome: str | None = None) -> None:
    """The bank's answer: as the test account says, unless an outcome is given."""
    charge = world.store.find("charge", intent["latest_charge"])
    if intent["status"] != "processing" or charge is None or charge["status"] != "pending":
        raise InvalidRequestError(
            f"No bank debit of this PaymentIntent is processing: it is {intent['status']}."
        )
    account = world.store.note(intent["payment_method"])["debit"]
    failure = account["failure"] or "generic_decline"
    world.store.note(intent["id"]).pop("decided_at", None)
    if outcome == "failed" or (outcome is None and account["failure"]):
        _fail(world, intent, charge, failure)
        return
    charge.update(status="succeeded", paid=True)
    payments.succeed_with(world, intent, charge)
    if account["disputes"]:
        # Disputes of bank debits are final, and both events are sent when one is created:
        # https://docs.stripe.com/payments/ach-direct-debit ("Disputed payments") and
        # https://support.stripe.com/questions/sepa-direct-debit-payment-disputes
        dispute = reversals.open_dispute(world, charge, "debit_not_authorized", inquiry=False)
        reversals.close_dispute(world, dispute, "lost")


def _fail(world: World, intent: Json, charge: Json, failure: str) -> None:
    """The error's type is that of a card, and its message is for the merchant.

    So it was seen of SEPA: dev/examples/stripe/webhook_ipn_paymentintent_failed_sepa.txt in
    https://github.com/Dolibarr/dolibarr. Nothing was found of ACH.
    """
    message = FAILURES[failure]
    charge.update(objects.refused(copied(charge), failure, message, failure))
    world.events.record("charge.failed", charge)
    code = "payment_intent_payment_attempt_failed" if failure in _UNNAMED else failure
    error = {"type": "card_error", "code": code, "message": message}
    if failure in _UNNAMED:
        error["decline_code"] = "generic_decline"
    payments.fail(world, intent, error, charge=charge["id"])
