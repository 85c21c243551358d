"""Automatic tax of Checkout Sessions: known once the customer has said where they live.

The rate is a condition of the sandbox. Taxes are added to the prices, as for prices with an exclusive
`tax_behavior`: https://docs.stripe.com/tax/checkout
"""

from __future__ import annotations

from paidup_demo.sandbox import taxes
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.objects import checkout as objects
from paidup_demo.sandbox.prorations import percentage
from paidup_demo.sandbox.world import World

NAME = "Automatic tax"


def add_tax(world: World, session: Json) -> None:
    """Set the taxes of a session whose customer is about to pay, and its totals."""
    if not session["automatic_tax"]["enabled"]:
        return
    session["automatic_tax"]["status"] = "complete"
    lines = world.store.note(session["id"])["lines"]
    for line in lines:
        net = line["amount_subtotal"] - line["amount_discount"]
        tax = percentage(net, world.conditions.automatic_tax_percent)
        line.update(amount_tax=tax, amount_total=net + tax)
    session["amount_total"] = sum(line["amount_total"] for line in lines)
    session["total_details"]["amount_tax"] = sum(line["amount_tax"] for line in lines)


def rates_of(world: World, session: Json) -> list[Json]:
    """The tax rates for the invoices of this session."""
    percent = world.conditions.automatic_tax_percent
    if not session["automatic_tax"]["enabled"] or percent == 0:
        return []
    known = (row for row in world.store.newest("tax_rate", display_name=NAME, percentage=percent))
    made = next(known, None) or world.store.add(
        taxes.tax_rate(world.now(), {"display_name": NAME, "percentage": percent})
    )
    return [made]


def mark(invoice: Json, session: Json) -> None:
    """Show on the invoice that its taxes were computed."""
    if session["automatic_tax"]["enabled"]:
        invoice["automatic_tax"].update(objects.automatic_tax() | {"status": "complete"})
