"""Collects the invoices of renewals: a draft for an hour, then a charge, then retries over days.

https://docs.stripe.com/billing/invoices/subscription (the draft's hour) and
https://docs.stripe.com/billing/subscriptions/webhooks (up to 72 hours where `invoice.created` is not
acknowledged). dunning.py has the retries. subscriptions.py begins the periods, and due.py calls this when the
time has come.
"""

from __future__ import annotations

from paidup_demo.sandbox import billing, invoices, pausing
from paidup_demo.sandbox.clock import HOUR_S
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.world import World

DRAFT_FOR_S = HOUR_S
DRAFT_AT_MOST_S = 72 * HOUR_S


def schedule(world: World, draft: Json) -> None:
    """Finalise this draft in an hour."""
    draft.update(auto_advance=True, automatically_finalizes_at=world.now() + DRAFT_FOR_S)


def next_step_at(invoice: Json) -> int | None:
    """When this invoice is finalised or charged again without anybody's call; None: never."""
    if not invoice["auto_advance"] or invoice["status"] not in ("draft", "open"):
        return None
    step = "automatically_finalizes_at" if invoice["status"] == "draft" else "next_payment_attempt"
    moment: int | None = invoice[step]
    return moment


def longest_draft_s(world: World) -> int:
    """How long it takes until the drafts of now are collected, up to an hour; 0 without drafts."""
    until = [next_step_at(draft) or 0 for draft in world.store.newest("invoice", status="draft")]
    left = [moment - world.now() for moment in until]
    return max((s for s in left if s <= DRAFT_FOR_S), default=0) if left else 0


def advance(world: World, invoice: Json) -> None:
    """Take the step that is due: finalise the draft and charge it, or charge it once more."""
    if invoice["status"] == "draft" and _is_held_back(world, invoice):
        invoice["automatically_finalizes_at"] = world.now() + DRAFT_FOR_S
        return
    collect(world, invoice)


def _is_held_back(world: World, draft: Json) -> bool:
    """Whether an endpoint has not acknowledged its `invoice.created`, although it was tried."""
    if world.now() >= draft["created"] + DRAFT_AT_MOST_S:
        return False
    created = {
        event["id"]
        for event in world.store.newest("event", type="invoice.created")
        if event["data"]["object"]["id"] == draft["id"]
    }
    return any(
        delivery["attempts"]
        and world.store.find("receipt", f"{delivery['event']}:{delivery['endpoint']}") is None
        for delivery in world.store.newest("delivery")
        if delivery["event"] in created
    )


def collect(world: World, invoice: Json) -> None:
    """Charge the saved card off-session, unless the subscription says otherwise; finalises a draft first."""
    if invoice["status"] == "draft":
        invoices.finalize(world, invoice)
    subscription = invoices.subscription_of(world, invoice)
    if subscription and subscription["pause_collection"]:
        pausing.leave_uncollected(world, subscription, invoice)
    if invoice["status"] != "open" or (
        subscription and subscription["collection_method"] != "charge_automatically"
    ):
        return
    method = invoices.saved_method(world, invoice)
    if method is None:
        invoices.note_failed_payment(world, invoice["id"])
        return
    billing.try_to_pay(world, invoice, method, off_session=True)
    found = invoices.default_payment(world, invoice)
    if found is not None and found[1]["status"] == "requires_action":
        # Off-session, nobody can authenticate: the attempt fails and the customer is asked to authenticate.
        invoices.note_failed_payment(world, invoice["id"])


def stop_collecting(world: World, subscription: Json) -> None:
    """The subscription has ended: its unpaid invoices stay as they are.

    https://docs.stripe.com/billing/subscriptions/cancel#handle-invoice-items-when-canceling-subscriptions
    """
    for invoice in world.store.newest("invoice", customer=subscription["customer"]):
        if (
            invoice["status"] in ("draft", "open")
            and invoices.subscription_of(world, invoice) is subscription
        ):
            invoice.update(auto_advance=False, automatically_finalizes_at=None, next_payment_attempt=None)
