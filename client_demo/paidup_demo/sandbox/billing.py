"""Creates the invoices of subscriptions: lines, discounts and pending items; remembers each item's charges.

The callers decide what is charged: subscriptions.py for whole periods, change_plan.py for prorations. A
subscription's status and items are not changed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from paidup_demo.sandbox import cards, currencies, invoices, objects, payment_methods, payments
from paidup_demo.sandbox.clock import DAY_S, add_interval, day_of_month
from paidup_demo.sandbox.errors import CardError, InvalidRequestError, Json
from paidup_demo.sandbox.prorations import Part, price_of, whole
from paidup_demo.sandbox.state import copied
from paidup_demo.sandbox.world import World


@dataclass
class Composed:
    """An invoice not stored yet. `made`: new items for prorations; `taken`: items that were pending."""

    invoice: Json
    made: list[Json]
    taken: list[Json]
    pairs: list[tuple[Part, Json]]
    used_up: list[str] = field(default_factory=list)


def name_of(world: World, item: Json) -> str:
    """The product's name, as lines show it."""
    return str(world.store.get("product", item["price"]["product"])["name"])


def whole_periods(world: World, subscription: Json) -> list[Part]:
    """The current period of every item."""
    on_trial = subscription["status"] == "trialing"
    return [
        whole(currencies.charged(world, subscription, item), name_of(world, item), on_trial=on_trial)
        for item in subscription["items"]["data"]
    ]


def compose(
    world: World, subscription: Json, reason: str, parts: list[Part], waiting: list[Json]
) -> Composed:
    """Draft an invoice with these parts and the pending items; nothing is stored."""
    customer = world.store.get("customer", subscription["customer"])
    invoice = objects.invoice(world.now(), customer, subscription["currency"], reason)
    invoice["parent"] = objects.subscription_parent(subscription)
    invoice["default_tax_rates"] = copied(subscription["default_tax_rates"])
    settings = subscription["payment_settings"]
    invoice["payment_settings"]["payment_method_types"] = settings["payment_method_types"]
    made, pairs = [], []
    for item in waiting:
        invoices.add_lines(invoice, [invoices.line_of_item(invoice, item)])
    for part in parts:
        if part.proration:
            made.append(proration_item(world, subscription, part))
            line = invoices.line_of_item(invoice, made[-1])
        else:
            line = _ordinary_line(invoice, subscription, part)
        pairs.append((part, line))
        invoices.add_lines(invoice, [line])
    composed = Composed(invoice, made, waiting, pairs)
    _discount(world, composed, subscription)
    return composed


def _ordinary_line(invoice: Json, subscription: Json, part: Part) -> Json:
    line = objects.line_item(
        invoice,
        amount=part.amount,
        description=part.description,
        period=part.period,
        quantity=part.item["quantity"],
        pricing=objects.price_details(part.item["price"]),
        parent=objects.subscription_item_parent(part.item),
    )
    return line | {"metadata": copied(subscription["metadata"])}


def proration_item(world: World, subscription: Json, part: Part) -> Json:
    """An invoice item for a proration, not stored yet; net of discounts unless these are itemised."""
    itemized = subscription["billing_mode"]["flexible"]["proration_discounts"] == "itemized"
    off = sum(amount for _, amount in part.discounts)
    shown = [{"amount": amount if itemized else 0, "discount": who} for who, amount in part.discounts]
    made = objects.invoice_item(
        world.now(),
        customer=subscription["customer"],
        currency=subscription["currency"],
        amount=part.amount if itemized else part.amount - off,
        quantity=part.item["quantity"],
    )
    return made | {
        "description": part.description,
        "discountable": False,
        "discounts": [discount for discount, _ in part.discounts],
        "metadata": copied(subscription["metadata"]),
        "net_amount": part.amount - off,
        "parent": objects.invoice_item_owner(part.item),
        "period": {"start": part.period[0], "end": part.period[1]},
        "pricing": objects.prorated_price_details(part.item["price"], made["amount"], made["quantity"]),
        "proration": True,
        "proration_details": {
            "credited_items": _credited(world, part.credited),
            "discount_amounts": shown,
        },
    }


def _credited(world: World, debit: Json | None) -> Json | None:
    """The line, or pending item, that a proration credits."""
    if debit is None:
        return None
    invoice, line = debit["invoice"], debit["line"]
    if debit["invoice_item"]:
        invoice = world.store.get("invoiceitem", debit["invoice_item"])["invoice"]
        line = world.store.note(debit["invoice_item"]).get("line")
    if line is None:
        return {
            "invoice_item": debit["invoice_item"],
            "invoice_line_item_details": None,
            "type": "invoice_item",
        }
    details = {"invoice": invoice, "invoice_line_items": [line]}
    return {"invoice_item": None, "invoice_line_item_details": details, "type": "invoice_line_items"}


def waiting_items(world: World, subscription: Json, *, others: bool) -> list[Json]:
    """Pending items of this subscription; with `others`, also the customer's items without a subscription."""
    found = []
    for row in world.store.linked(subscription["customer"], "invoiceitem"):
        if row["invoice"] is not None or row["currency"] != subscription["currency"]:
            continue
        owner = row["parent"] and row["parent"]["subscription_details"]["subscription"]
        if owner == subscription["id"] or (owner is None and others):
            found.append(row)
    return found[::-1]


def discounts_at(world: World, subscription: Json, moment: int) -> Iterator[tuple[Json, Json]]:
    """The subscription's discounts still valid at that time, each with its coupon."""
    for discount_id in subscription["discounts"]:
        discount = world.store.get("discount", discount_id)
        if discount["end"] is None or moment < discount["end"]:
            yield discount, world.store.get("coupon", discount["source"]["coupon"])


def coupons_for(
    world: World, subscription: Json, items: list[Json], item: Json, moment: int
) -> list[tuple[str, Json, Fraction]]:
    """The coupons for `prorations.remaining`, with the item's share of a fixed amount off the whole."""
    total = sum(price_of(currencies.charged(world, subscription, each)) for each in items) or 1
    item = currencies.charged(world, subscription, item)
    portion = Fraction(price_of(item), total)
    return [
        (discount["id"], coupon, portion) for discount, coupon in discounts_at(world, subscription, moment)
    ]


def _discount(world: World, composed: Composed, subscription: Json) -> None:
    """Apply the coupons to what is discountable; a charge uses up a one-time coupon."""
    invoice = composed.invoice
    charged = [line for line in invoice["lines"]["data"] if line["discountable"] and line["amount"] > 0]
    if not charged:
        return
    moment = max(line["period"]["start"] for line in charged)
    for discount, coupon in discounts_at(world, subscription, moment):
        invoices.apply_discount(invoice, discount, coupon)
        if coupon["duration"] == "once":
            composed.used_up.append(discount["id"])


def issue(
    world: World, subscription: Json, composed: Composed, announce: Callable[[], object] = lambda: None
) -> Json:
    """Store the draft and finalise it. `announce` records the subscription's event in between."""
    invoice = store(world, subscription, composed)
    announce()
    invoices.finalize(world, invoice)
    return invoice


def store(world: World, subscription: Json, composed: Composed) -> Json:
    """Store the draft, with the items that it takes up."""
    invoice = world.store.add(composed.invoice)
    if subscription["collection_method"] == "send_invoice":
        due = world.now() + (subscription["days_until_due"] or 0) * DAY_S
        invoice.update(collection_method="send_invoice", due_date=due)
    for item in composed.made:
        invoices.keep_item(world, item)
        world.events.record("invoiceitem.created", item)
    invoices.claim_items(world, invoice, [*composed.made, *composed.taken])
    subscription["discounts"] = [d for d in subscription["discounts"] if d not in composed.used_up]
    subscription["latest_invoice"] = invoice["id"]
    world.events.record("invoice.created", invoice)
    return invoice


def debits_of(composed: Composed) -> dict[str, list[Json]]:
    """What was charged for which period, by item: the basis of later credits."""
    debits: dict[str, list[Json]] = {}
    for part, line in composed.pairs:
        if part.amount < 0:
            continue
        parent = line["parent"]["subscription_item_details"]
        discounts = part.discounts or [(d["discount"], d["amount"]) for d in line["discount_amounts"]]
        debit = debit_of(part, discounts=list(discounts), invoice_item=parent["invoice_item"])
        debit |= {} if part.proration else {"invoice": line["invoice"], "line": line["id"]}
        debits.setdefault(part.item["id"], []).append(debit)
    return debits


def debit_of(part: Part, *, discounts: list[tuple[str, int]], invoice_item: str | None) -> Json:
    """One charge as plain JSON."""
    return {
        "amount": part.amount,
        "discounts": [list(pair) for pair in discounts],
        "end": part.period[1],
        "invoice": None,
        "invoice_item": invoice_item,
        "line": None,
        "quantity": part.item["quantity"],
        "start": part.period[0],
    }


def remember(world: World, debits: dict[str, list[Json]]) -> None:
    """Replace the remembered charges of these items."""
    for item_id, charged in debits.items():
        world.store.note(item_id)["debits"] = charged


def debits(world: World, item: Json) -> list[Json]:
    """What was charged for an item in its current period."""
    return list(world.store.note(item["id"]).get("debits", []))


def start_discounts(world: World, subscription: Json, coupons: list[Json]) -> list[str]:
    """New discounts of a subscription; repeating ones get an end."""
    started = []
    for coupon in coupons:
        made = objects.discount(world.now(), coupon["id"], subscription["customer"], subscription["id"])
        if coupon["duration"] == "repeating":
            # It starts with the current period's invoice; in a trial, with the first one above zero.
            begin = max(world.now(), subscription["trial_end"] or 0)
            months = coupon["duration_in_months"] or 1
            made["end"] = add_interval(begin, "month", months, day_of_month(begin))
        started.append(world.store.add(made)["id"])
        coupon["times_redeemed"] += 1
    return started


def named_method(world: World, customer: Json, named: str | None) -> Json | None:
    """The given card, or the customer's default."""
    method_id = named or customer["invoice_settings"]["default_payment_method"]
    return (
        payment_methods.resolve(world.store, world.now(), method_id, "default_payment_method")
        if method_id
        else None
    )


def refuse_unpayable(world: World, method: Json | None, behavior: str, *, off_session: bool = False) -> None:
    """Raise Stripe's error if there is no card or, if requested, one that cannot pay immediately."""
    if method is None:
        raise InvalidRequestError(
            "This customer has no attached payment source or default payment method. Please consider adding a"
            " default payment method. For more information, visit"
            " https://stripe.com/docs/billing/subscriptions/payment-methods-setting#payment-method-priority.",
            code="resource_missing",
        )
    if behavior != "error_if_incomplete":
        return
    decline = world.store.note(method["id"])["decline"]
    if payments.needs_authentication(world, method, off_session=off_session):
        raise CardError(
            "Payment for this subscription requires additional user action before it can be completed"
            " successfully.",
            code="subscription_payment_intent_requires_action",
        )
    if decline is not None:
        raise payments.declined(cards.decline_fields(decline))


def try_to_pay(world: World, invoice: Json, method: Json | None, *, off_session: bool) -> None:
    """Try to pay. A declined card leaves the subscription incomplete or past due."""
    try:
        invoices.pay(world, invoice, method, off_session=off_session)
    except CardError:
        return
