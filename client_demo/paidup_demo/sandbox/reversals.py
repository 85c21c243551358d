"""Refunds (immediate, pending or failing) and disputes with their inquiries.

They change the charge; the invoice stays paid. Credit notes are in credit_notes.py.
"""

from __future__ import annotations

from paidup_demo.sandbox import currencies, objects
from paidup_demo.sandbox.clock import DAY_S
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.world import World

# "Some time later", in Stripe's words: when a refund of the cards that delay or fail one is decided.
REFUND_DECIDED_AFTER_S = 60
CLOSED = ("won", "lost", "warning_closed")
APPEALS = {"appeal_needs_response": ("lost",), "appeal_under_review": ("lost", "appeal_needs_response")}
"""The statuses of an appeal, and those that each follows."""


def refund(world: World, charge: Json, amount: int | None, reason: str | None, metadata: Json) -> Json:
    """Refund the remaining amount, or a part of it."""
    left = charge["amount"] - charge["amount_refunded"]
    if not charge["paid"] or left == 0:
        raise InvalidRequestError(
            f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded"
        )
    wanted = left if amount is None else amount
    if not 0 < wanted <= left:
        shown = f"{wanted / 100:.2f}"
        raise InvalidRequestError(
            f"Refund amount (${shown}) is greater than unrefunded amount on charge (${left / 100:.2f})",
            param="amount",
        )
    made = world.store.add(objects.refund(world.real_now(), charge, wanted, reason) | {"metadata": metadata})
    currencies.present_in(world, made)
    _foresee(world, made, charge)
    world.events.record("refund.created", made)
    _set_refunded(world, charge, charge["amount_refunded"] + wanted, "charge.refunded")
    return made


def _foresee(world: World, made: Json, charge: Json) -> None:
    """The outcome of this refund, from the card or the conditions."""
    how = world.store.note(charge["payment_method"]).get("refund")
    if world.conditions.refund_pending or how == "pending":
        made.update(status="pending", pending_reason="processing")
    if how is not None:
        world.store.note(made["id"])["settles_at"] = world.now() + REFUND_DECIDED_AFTER_S


def settle_refund(world: World, made: Json) -> None:
    """Later: complete a pending refund, or fail one that had succeeded."""
    world.store.note(made["id"]).pop("settles_at", None)
    if made["status"] == "pending":
        succeed_refund(world, made)
    elif made["status"] == "succeeded":
        fail_refund(world, made)


def succeed_refund(world: World, made: Json) -> None:
    """A pending refund has arrived."""
    if made["status"] != "pending":
        raise InvalidRequestError(f"This refund has a status of {made['status']}.")
    del made["pending_reason"]
    world.events.change("refund.updated", made, status="succeeded")


def fail_refund(world: World, made: Json) -> None:
    """Fail a refund days later: the merchant has the money again."""
    if made["status"] not in ("pending", "succeeded"):
        raise InvalidRequestError(f"This refund has a status of {made['status']}.")
    previous = {"status": made["status"]}
    made.pop("pending_reason", None)
    made.update(status="failed", failure_reason="lost_or_stolen_card")
    world.store.note(made["id"]).pop("settles_at", None)
    world.events.record("refund.updated", made, previous)
    world.events.record("refund.failed", made, previous)
    charge = world.store.get("charge", made["charge"])
    _set_refunded(world, charge, charge["amount_refunded"] - made["amount"], "charge.updated")


def _set_refunded(world: World, charge: Json, amount: int, event: str) -> None:
    world.events.change(event, charge, amount_refunded=amount, refunded=amount == charge["amount"])


def open_dispute(
    world: World, charge: Json, reason: str, *, inquiry: bool, amount: int | None = None
) -> Json:
    """Open a dispute, or an inquiry, for the charge or a part of it."""
    if not charge["paid"] or charge["disputed"]:
        raise InvalidRequestError("Only a successful charge that is not disputed can be disputed.")
    if amount is not None and not 0 < amount <= charge["amount"]:
        raise InvalidRequestError("The amount must be from 1 to the amount of the charge.", param="amount")
    status = "warning_needs_response" if inquiry else "needs_response"
    due_by = world.real_now() + 9 * DAY_S
    made = world.store.add(objects.dispute(world.real_now(), charge, reason, status, due_by))
    made["amount"] = amount or charge["amount"]
    charge["disputed"] = True
    world.events.record("charge.dispute.created", made)
    if not inquiry:
        _move_funds(world, made, -made["amount"])
    return made


def _move_funds(world: World, dispute: Json, amount: int) -> None:
    """Withdraw the disputed money (below zero) or reinstate it. Stripe sends an event of its own."""
    moved = objects.balance_transaction(world.now(), dispute, amount)
    moves = [*dispute["balance_transactions"], moved]
    event = "charge.dispute.funds_withdrawn" if amount < 0 else "charge.dispute.funds_reinstated"
    world.events.change(event, dispute, balance_transactions=moves)


def escalate_dispute(world: World, dispute: Json) -> None:
    """Turn an inquiry into a dispute, which withdraws the money."""
    if not dispute["status"].startswith("warning") or dispute["status"] in CLOSED:
        raise InvalidRequestError("Only an inquiry that is open can be escalated.")
    if "payment_method_details" in dispute:
        dispute["payment_method_details"]["card"]["case_type"] = "chargeback"
    new = {"status": "needs_response", "is_charge_refundable": False}
    world.events.change("charge.dispute.updated", dispute, **new)
    _move_funds(world, dispute, -dispute["amount"])


def appeal_dispute(world: World, dispute: Json, status: str) -> None:
    """Appeal a lost dispute, or have the appeal reviewed; `close_dispute` ends it again."""
    if dispute["status"] not in APPEALS[status]:
        raise InvalidRequestError(f"This dispute has a status of {dispute['status']}.")
    world.events.change("charge.dispute.updated", dispute, status=status)


def close_dispute(world: World, dispute: Json, status: str) -> None:
    """The end of a dispute (won or lost) or of an inquiry (warning_closed)."""
    if dispute["status"] in CLOSED:
        raise InvalidRequestError("This dispute is already closed.")
    had_withdrawn = not dispute["status"].startswith("warning")
    if status == "lost" and not had_withdrawn:
        escalate_dispute(world, dispute)
    world.events.change("charge.dispute.closed", dispute, status=status)
    if status == "won" and had_withdrawn:
        _move_funds(world, dispute, dispute["amount"])
