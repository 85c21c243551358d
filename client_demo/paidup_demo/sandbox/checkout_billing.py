"""What a paid Checkout Session creates: a subscription with its first invoice, or an invoice for one payment.

Since 2025-03-31.basil both are made after the customer has paid, so a refused card leaves neither:
https://docs.stripe.com/changelog/basil/2025-03-31/checkout-legacy-subscription-upgrade
"""

from __future__ import annotations

from paidup_demo.sandbox import billing, invoices, objects, subscriptions
from paidup_demo.sandbox.checkout_discounts import coupons_of
from paidup_demo.sandbox.checkout_sessions import lines_of
from paidup_demo.sandbox.checkout_tax import mark, rates_of
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.world import World


def subscribe(world: World, session: Json, customer: Json, method: str | None, intent: Json | None) -> Json:
    """The subscription of a session, and its first invoice with the one-time prices; returns the invoice."""
    lines = lines_of(world, session)
    data = world.store.note(session["id"])["subscription_data"]
    subscription = subscriptions.draft(
        world,
        {
            **data,
            "currency": session["currency"],
            "customer": customer["id"],
            "items": [
                {"price": line["price"]["id"], "quantity": line["quantity"]}
                for line in lines
                if line["price"]["recurring"]
            ],
        },
    )
    world.store.add(subscription)
    customer["currency"] = subscription["currency"]
    subscription["automatic_tax"]["enabled"] = session["automatic_tax"]["enabled"]
    subscription["default_tax_rates"] = rates_of(world, session)
    subscription["default_payment_method"] = method
    subscription["discounts"] = billing.start_discounts(world, subscription, coupons_of(world, session))
    for discount_id, shown in zip(subscription["discounts"], session["discounts"], strict=True):
        world.store.get("discount", discount_id)["promotion_code"] = shown["promotion_code"]
    # It is created incomplete, and active once it is paid: https://github.com/laravel/cashier-stripe/pull/1466
    unpaid = "incomplete" if intent else "active"
    subscription["status"] = "trialing" if subscription["trial_end"] else unpaid
    once = _items(world, customer, session, [line for line in lines if not line["price"]["recurring"]])
    parts = billing.whole_periods(world, subscription)
    composed = billing.compose(world, subscription, "subscription_create", parts, once)
    billing.remember(world, billing.debits_of(composed))
    mark(composed.invoice, session)
    subscription["latest_invoice"] = composed.invoice["id"]
    _pay_with(world, composed.invoice, intent)
    world.events.record("customer.subscription.created", subscription)
    session["subscription"] = subscription["id"]
    return billing.issue(world, subscription, composed)


def bill_once(world: World, session: Json, customer: Json, intent: Json | None) -> Json:
    """The invoice of `invoice_creation`, for a payment that has been made."""
    data = session["invoice_creation"]["invoice_data"]
    invoice = invoices.new_draft(world, customer, session["currency"], "manual", data["metadata"])
    invoice.update(description=data["description"], footer=data["footer"])
    invoice["default_tax_rates"] = rates_of(world, session)
    mark(invoice, session)
    invoices.take_items(world, invoice, _items(world, customer, session, lines_of(world, session)))
    for coupon in coupons_of(world, session):
        discount = objects.discount(world.now(), coupon["id"], customer["id"], None)
        discount["checkout_session"] = session["id"]
        coupon["times_redeemed"] += 1
        invoices.apply_discount(invoice, world.store.add(discount), coupon)
    world.events.record("invoice.created", invoice)
    _pay_with(world, invoice, intent)
    invoices.finalize(world, invoice)
    return invoice


def _items(world: World, customer: Json, session: Json, lines: list[Json]) -> list[Json]:
    """Invoice items for prices that are paid once."""
    made = []
    for line in lines:
        item = objects.invoice_item(
            world.now(),
            customer=customer["id"],
            currency=session["currency"],
            amount=line["amount_subtotal"],
            quantity=line["quantity"],
        )
        item |= {"description": line["description"], "pricing": objects.price_details(line["price"])}
        made.append(invoices.keep_item(world, item))
        world.events.record("invoiceitem.created", item)
    return made


def _pay_with(world: World, invoice: Json, intent: Json | None) -> None:
    """Let this PaymentIntent pay the invoice, instead of a new one."""
    if intent is not None:
        world.store.note(invoice["id"])["intent"] = intent["id"]
        world.store.note(intent["id"])["invoice"] = invoice["id"]
