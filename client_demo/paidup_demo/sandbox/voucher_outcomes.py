"""What becomes of a voucher: it is paid, or it expires and its PaymentIntent waits for another method."""

from __future__ import annotations

from paidup_demo.sandbox import payments, vouchers
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.world import World

EXPIRED = {
    "type": "invalid_request_error",
    "code": "payment_intent_payment_attempt_expired",
    "message": "The latest payment attempt for the PaymentIntent has expired.",
}
"""https://docs.stripe.com/error-codes#payment-intent-payment-attempt-expired"""


def decide(world: World, intent: Json, outcome: str | None = None) -> None:
    """It is paid, or expires: as its e-mail address says, unless an outcome is given."""
    if vouchers.shown_in(intent) is None:
        raise InvalidRequestError(f"No voucher of this PaymentIntent is waiting: it is {intent['status']}.")
    found = world.store.note(intent["id"]).pop("voucher", {"paid": True})
    if outcome == "succeeded" or (outcome is None and found["paid"]):
        payments.succeed(world, intent)
    else:
        payments.fail(world, intent, EXPIRED, charge=None)


def decide_by_id(world: World, intent_id: str) -> None:
    """The agenda's job, for what happens at once."""
    intent = world.store.find("payment_intent", intent_id)
    if intent is not None and vouchers.shown_in(intent) is not None:
        decide(world, intent)
