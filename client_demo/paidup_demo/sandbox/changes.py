"""Carries out a planned change of a subscription: billed at once or later, or pending until it is paid.

change_plan.py plans it, prorations.py calculates the amounts and billing.py creates the invoices.
"""

from __future__ import annotations

from paidup_demo.sandbox import billing, invoices, payments
from paidup_demo.sandbox.change_plan import Change, given_back
from paidup_demo.sandbox.clock import HOUR_S
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.state import copied
from paidup_demo.sandbox.world import World

PENDING_FOR_S = 23 * HOUR_S
CHANGING = frozenset(
    {"items", "proration_behavior", "payment_behavior", "billing_cycle_anchor", "proration_date"}
)
# Parameters allowed next to the items if the change waits for its payment.
MAY_WAIT = CHANGING | {"metadata", "discounts", "off_session"}


def refuse_unpayable(world: World, subscription: Json, change: Change, params: Json) -> None:
    """Raise before anything is changed if an immediate payment is required and impossible."""
    behavior = params.get("payment_behavior") or "allow_incomplete"
    if behavior not in ("allow_incomplete", "error_if_incomplete"):
        return
    composed = _compose(world, subscription, change)
    if composed is None or _due(world, composed) == 0:
        return
    method = _method(world, subscription, params.get("default_payment_method"))
    billing.refuse_unpayable(world, method, behavior, off_session=bool(params.get("off_session")))


def _compose(world: World, subscription: Json, change: Change) -> billing.Composed | None:
    """The invoice that the change would create now, if any; not stored."""
    if not change.at_once or not change.parts:
        return None
    waiting = billing.waiting_items(world, subscription, others=False)
    return billing.compose(world, change.after, "subscription_update", change.parts, waiting)


def _due(world: World, composed: billing.Composed) -> int:
    customer = world.store.get("customer", composed.invoice["customer"])
    return max(0, int(composed.invoice["total"]) + int(customer["balance"]))


def _method(world: World, subscription: Json, named: str | None = None) -> Json | None:
    customer = world.store.get("customer", subscription["customer"])
    return billing.named_method(world, customer, named or subscription["default_payment_method"])


def carry_out(world: World, subscription: Json, change: Change, params: Json) -> None:
    """Apply the change now, or once its invoice is paid with `pending_if_incomplete`."""
    behavior = params.get("payment_behavior") or "allow_incomplete"
    drop_pending(world, subscription)
    composed = _compose(world, subscription, change)
    if composed is None:
        _apply(world, subscription, change.after)
        _postpone(world, subscription, change)
        return
    due = _due(world, composed)
    if due and behavior == "pending_if_incomplete":
        _propose(world, subscription, change, composed, params)
    else:
        _bill_now(world, subscription, change, composed)
    method = _method(world, subscription)
    if due and behavior != "default_incomplete" and method is not None:
        billing.try_to_pay(world, composed.invoice, method, off_session=bool(params.get("off_session")))
    _after_the_attempt(world, subscription, composed.invoice)


def _bill_now(world: World, subscription: Json, change: Change, composed: billing.Composed) -> None:
    """Apply the change, paid or not."""
    previous = _previous(subscription)
    _lay_over(subscription, change.after)
    _remember(world, change, billing.debits_of(composed))
    billing.issue(
        world,
        subscription,
        composed,
        lambda: world.events.record("customer.subscription.updated", subscription, previous),
    )


def _propose(
    world: World, subscription: Json, change: Change, composed: billing.Composed, params: Json
) -> None:
    """Create the change's invoice; the subscription stays unchanged until it is paid."""
    charged = billing.debits_of(composed)
    former = subscription["items"]["data"]
    expires = min(world.now() + PENDING_FOR_S, *(item["current_period_end"] for item in former))
    world.store.note(subscription["id"])["pending"] = {
        "after": change.after,
        "debits": {item_id: charged.get(item_id, []) for item_id in change.changed},
        "discounts": params.get("discounts"),
        "expires_at": expires,
        "invoice": composed.invoice["id"],
        "metadata": params.get("metadata"),
    }
    billing.issue(world, subscription, composed)


def _after_the_attempt(world: World, subscription: Json, invoice: Json) -> None:
    """Record the pending update, or the past due status of an unpaid change."""
    if invoice["status"] != "open":
        return
    pending, payment = pending_of(world, subscription), invoices.default_payment(world, invoice)
    if pending is None:
        waits = payment is not None and payment[1]["status"] in payments.CONFIRMABLE
        if waits and subscription["status"] == "active":
            world.events.change("customer.subscription.updated", subscription, status="past_due")
        return
    after = pending["after"]
    restarts = after["billing_cycle_anchor"] != subscription["billing_cycle_anchor"]
    shown = {
        "billing_cycle_anchor": after["billing_cycle_anchor"] if restarts else None,
        "discount": None,
        "discounts": None,
        "expires_at": pending["expires_at"],
        "metadata": pending["metadata"],
        "subscription_items": copied(after["items"]["data"]),
        "trial_end": None,
        "trial_from_plan": None,
    }
    world.events.change("customer.subscription.updated", subscription, pending_update=shown)


def _postpone(world: World, subscription: Json, change: Change) -> None:
    """Store the prorations as pending items of the next invoice."""
    charged: dict[str, list[Json]] = {}
    for part in change.parts:
        item = invoices.keep_item(world, billing.proration_item(world, subscription, part))
        world.events.record("invoiceitem.created", item)
        if part.amount >= 0:
            debit = billing.debit_of(part, discounts=list(part.discounts), invoice_item=item["id"])
            charged.setdefault(part.item["id"], []).append(debit)
    _remember(world, change, charged)


def _remember(world: World, change: Change, charged: dict[str, list[Json]]) -> None:
    billing.remember(world, {item_id: charged.get(item_id, []) for item_id in change.changed})


def _previous(subscription: Json) -> Json:
    return {key: copied(subscription[key]) for key in ("items", "billing_cycle_anchor", "latest_invoice")}


def _lay_over(subscription: Json, after: Json) -> None:
    subscription["items"]["data"] = copied(after["items"]["data"])
    subscription["billing_cycle_anchor"] = after["billing_cycle_anchor"]


def _apply(world: World, subscription: Json, after: Json) -> None:
    previous = _previous(subscription)
    _lay_over(subscription, after)
    world.events.record("customer.subscription.updated", subscription, previous)


def pending_of(world: World, subscription: Json) -> Json | None:
    """The stored pending change."""
    found: Json | None = world.store.note(subscription["id"]).get("pending")
    return found


def on_paid(world: World, subscription: Json, invoice_id: str) -> None:
    """Apply the pending change of a paid invoice."""
    pending = pending_of(world, subscription)
    if pending is None or pending["invoice"] != invoice_id:
        return
    del world.store.note(subscription["id"])["pending"]
    was_shown = subscription["pending_update"]
    previous = _previous(subscription) | ({"pending_update": was_shown} if was_shown else {})
    _lay_over(subscription, pending["after"])
    billing.remember(world, pending["debits"])
    subscription["pending_update"] = None
    if pending["metadata"] is not None:
        previous["metadata"] = subscription["metadata"]
        subscription["metadata"] = pending["metadata"]
    if pending["discounts"] is not None:
        subscription["discounts"] = discounts_from(world, subscription, pending["discounts"])
    if was_shown:
        world.events.record("customer.subscription.pending_update_applied", subscription, previous)
    world.events.record("customer.subscription.updated", subscription, previous)


def waits_for(world: World, subscription: Json, invoice_id: str) -> bool:
    """Whether the invoice belongs to a pending change only."""
    pending = pending_of(world, subscription)
    return pending is not None and pending["invoice"] == invoice_id


def on_voided(world: World, subscription: Json, invoice_id: str) -> None:
    """Discard the pending change of a voided invoice."""
    if not waits_for(world, subscription, invoice_id):
        return
    del world.store.note(subscription["id"])["pending"]
    previous = {"pending_update": subscription["pending_update"]}
    subscription["pending_update"] = None
    world.events.record("customer.subscription.pending_update_expired", subscription, previous)
    world.events.record("customer.subscription.updated", subscription, previous)


def drop_pending(world: World, subscription: Json) -> None:
    """Void the invoice of the pending change, which discards the change."""
    pending = pending_of(world, subscription)
    if pending is not None:
        invoices.void(world, world.store.get("invoice", pending["invoice"]))


def pending_expires_at(world: World, subscription: Json) -> int | None:
    """When the pending change expires; None while its payment is processing."""
    pending = pending_of(world, subscription)
    if pending is None:
        return None
    found = invoices.default_payment(world, world.store.get("invoice", pending["invoice"]))
    under_way = found is not None and found[1]["status"] not in payments.CONFIRMABLE
    return None if under_way else int(pending["expires_at"])


def discounts_from(world: World, subscription: Json, wanted: list[Json]) -> list[str]:
    """The discounts of an update: existing ones by id, and new ones from coupons."""
    kept = [each["discount"] for each in wanted if each.get("discount")]
    coupons = [
        world.store.get("coupon", each["coupon"], f"discounts[{position}][coupon]")
        for position, each in enumerate(wanted)
        if each.get("coupon")
    ]
    return [*kept, *billing.start_discounts(world, subscription, coupons)]


def end_items(world: World, subscription: Json, *, prorate: bool, invoice_now: bool) -> None:
    """The final invoice of a cancelled subscription: credit for unused time, and pending items."""
    parts = given_back(world, subscription, {}) if prorate else []
    ended = {item["id"] for item in subscription["items"]["data"]}
    change = Change(subscription, parts, ended if prorate else set(), at_once=invoice_now)
    waiting = billing.waiting_items(world, subscription, others=False)
    if not invoice_now or not (parts or waiting):
        _postpone(world, subscription, change)
        return
    composed = billing.compose(world, subscription, "subscription_update", parts, waiting)
    _remember(world, change, {})
    billing.issue(world, subscription, composed)
    method = invoices.saved_method(world, composed.invoice)
    if composed.invoice["status"] == "open" and method is not None:
        billing.try_to_pay(world, composed.invoice, method, off_session=True)
