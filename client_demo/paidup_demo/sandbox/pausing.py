"""Pauses: of a subscription, and of the collection of its invoices.

A paused subscription has the status `paused`, makes no invoices and begins no period; it resumes with a
new one (subscriptions.py). While only collection is paused, the status stays, and each renewal's invoice
is given up. Keeping them as drafts is not imitated, nor is an end of the pause at a date.
"""

from __future__ import annotations

from paidup_demo.sandbox import invoices
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.forms import require
from paidup_demo.sandbox.world import World


def pause(world: World, subscription: Json) -> None:
    """Pause it now. The unused time is not credited."""
    if subscription["status"] not in ("active", "trialing", "past_due"):
        raise InvalidRequestError(f"A subscription that is {subscription['status']} cannot be paused.")
    world.events.change("customer.subscription.paused", subscription, status="paused")


def collection_pause(wanted: Json) -> Json | None:
    """`pause_collection` as it is stored; None where an empty value ends the pause."""
    if not wanted:
        return None
    require(wanted, "behavior")
    return {"behavior": wanted["behavior"], "resumes_at": None}


def leave_uncollected(world: World, subscription: Json, invoice: Json) -> None:
    """Give up a renewal's invoice, in the way that the pause of collection says."""
    if invoice["status"] != "open":
        return
    if subscription["pause_collection"]["behavior"] == "void":
        invoices.void(world, invoice)
    else:
        invoices.mark_uncollectible(world, invoice)
