"""What becomes of a subscription when its invoice is paid, is being paid, fails, or is voided.

The agenda calls these, as it does when the card of a trial was saved.
"""

from __future__ import annotations

from paidup_demo.sandbox import changes, dunning, invoices, payments, renewals, subscriptions
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.world import World


def on_invoice_paid(world: World, invoice_id: str) -> None:
    """An invoice was paid: incomplete or past due becomes active, the card is saved if requested, and a
    pending change of this invoice is applied.
    """
    invoice = world.store.get("invoice", invoice_id)
    subscription = invoices.subscription_of(world, invoice)
    if subscription is None or subscription["status"] in ("canceled", "incomplete_expired"):
        return
    new: Json = {}
    was_paused = subscription["status"] == "paused"
    owes = was_paused or subscription["status"] in ("incomplete", "past_due", "unpaid")
    if owes and _settles_debt(world, subscription, invoice):
        new["status"] = "active"
    if subscription["payment_settings"]["save_default_payment_method"] == "on_subscription":
        found = invoices.default_payment(world, invoice)
        if found and found[1]["payment_method"]:
            new["default_payment_method"] = payments.reusable_method(world, found[1])
    if world.conditions.presentment_currency:
        new["presentment_details"] = {"presentment_currency": world.conditions.presentment_currency}
    if any(subscription.get(key) != value for key, value in new.items()):
        happened = "resumed" if was_paused and "status" in new else "updated"
        world.events.change(f"customer.subscription.{happened}", subscription, **new)
    changes.on_paid(world, subscription, invoice_id)


def _settles_debt(world: World, subscription: Json, paid: Json) -> bool:
    """Whether no newer invoice is unpaid: paying an older one does not settle this period."""
    for invoice in world.store.newest("invoice", customer=subscription["customer"]):
        if invoice is paid:
            return True
        owed = invoice["status"] == "open" and invoices.subscription_of(world, invoice) is subscription
        if owed and not changes.waits_for(world, subscription, invoice["id"]):
            return False
    return True


def on_invoice_processing(world: World, invoice_id: str) -> None:
    """A bank debit is under way: it counts as confirmed, so an incomplete subscription becomes active.

    The SDK's `Subscription.create` says of `default_incomplete`: "Subscriptions transition to
    `status=active` when successfully confirming the PaymentIntent on the first invoice".
    https://github.com/laravel/cashier-stripe/issues/1689 has seen it: active while the debit is pending.
    """
    subscription = invoices.subscription_of(world, world.store.get("invoice", invoice_id))
    if subscription is not None and subscription["status"] == "incomplete":
        world.events.change("customer.subscription.updated", subscription, status="active")


def on_invoice_unpaid(world: World, invoice_id: str) -> None:
    """An invoice that could not be collected makes the subscription past due, unless it is for a change."""
    invoice = world.store.get("invoice", invoice_id)
    subscription = invoices.subscription_of(world, invoice)
    if subscription is None or changes.waits_for(world, subscription, invoice_id):
        return
    if subscription["status"] == "active":
        world.events.change("customer.subscription.updated", subscription, status="past_due")
    if dunning.is_given_up(world, invoice):
        _give_up(world, subscription, invoice)


def _give_up(world: World, subscription: Json, invoice: Json) -> None:
    """All retries have failed: do what the conditions say, as the account's settings do at Stripe."""
    renewals.stop_collecting(world, subscription)
    if world.conditions.retries_end_invoice == "uncollectible":
        invoices.mark_uncollectible(world, invoice)
    if world.conditions.retries_end_subscription == "canceled":
        subscription["cancellation_details"]["reason"] = "payment_failed"
        subscriptions.end(world, subscription)
    elif world.conditions.retries_end_subscription == "unpaid":
        world.events.change("customer.subscription.updated", subscription, status="unpaid")


def on_invoice_voided(world: World, invoice_id: str) -> None:
    """A first invoice that is given up ends its subscription; another discards the change it was for."""
    subscription = invoices.subscription_of(world, world.store.get("invoice", invoice_id))
    if subscription is None:
        return
    if subscription["status"] == "incomplete":
        new = {"status": "incomplete_expired", "ended_at": world.now()}
        world.events.change("customer.subscription.updated", subscription, **new)
    changes.on_voided(world, subscription, invoice_id)


def on_setup_finished(world: World, setup_intent_id: str) -> None:
    """The card of a trial was saved."""
    for subscription in list(world.store.newest("subscription", pending_setup_intent=setup_intent_id)):
        method = world.store.get("setup_intent", setup_intent_id)["payment_method"]
        new = {"pending_setup_intent": None, "default_payment_method": method}
        world.events.change("customer.subscription.updated", subscription, **new)
