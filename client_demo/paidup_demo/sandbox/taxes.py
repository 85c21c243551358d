"""Tax rates, and the taxes that they put on an invoice's lines: https://docs.stripe.com/billing/taxes/tax-rates.

A line's amount includes an inclusive tax, and an exclusive one is added to the total.
"""

from __future__ import annotations

from paidup_demo.sandbox.api import Call, Operation
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.expansion import present
from paidup_demo.sandbox.forms import BOOLEAN, METADATA, NUMBER, TEXT, Shape, require
from paidup_demo.sandbox.objects.base import base, nulls
from paidup_demo.sandbox.prorations import share

TAX_RATE: Shape = {"display_name": TEXT, "inclusive": BOOLEAN, "metadata": METADATA, "percentage": NUMBER}


def create_tax_rate(call: Call) -> Json:
    """POST /v1/tax_rates"""
    params = call.params
    require(params, "display_name", "percentage")
    return present(call.world.store.add(tax_rate(call.world.now(), params)))


def tax_rate(created: int, params: Json) -> Json:
    """A percentage."""
    return base("tax_rate", "txr", created) | {
        **nulls("country description effective_percentage flat_amount jurisdiction jurisdiction_level"),
        **nulls("state tax_type"),
        "active": True,
        "display_name": params["display_name"],
        "inclusive": params.get("inclusive", False),
        "metadata": params.get("metadata", {}),
        "percentage": params["percentage"],
        "rate_type": "percentage",
    }


def put_on(line: Json, rates: list[Json]) -> None:
    """Set the taxes of a line, on its amount after discounts."""
    net = line["amount"] - sum(part["amount"] for part in line["discount_amounts"])
    line["taxes"] = [_tax(rate, net) for rate in rates]


def _tax(rate: Json, net: int) -> Json:
    percent = round(rate["percentage"] * 10_000)
    amount = share(net, percent, 1_000_000 + percent if rate["inclusive"] else 1_000_000)
    return {
        "amount": amount,
        "tax_behavior": "inclusive" if rate["inclusive"] else "exclusive",
        "tax_rate_details": {"tax_rate": rate["id"]},
        "taxability_reason": "standard_rated",
        "taxable_amount": net - amount if rate["inclusive"] else net,
        "type": "tax_rate_details",
    }


def totals(lines: list[Json]) -> list[Json]:
    """The taxes of all lines, one for each rate."""
    sums: dict[str, Json] = {}
    for tax in (tax for line in lines for tax in line["taxes"]):
        rate = tax["tax_rate_details"]["tax_rate"]
        before = sums.get(rate)
        sums[rate] = tax | {
            name: tax[name] + (before[name] if before else 0) for name in ("amount", "taxable_amount")
        }
    return list(sums.values())


OPERATIONS = [Operation("POST", "/v1/tax_rates", create_tax_rate, TAX_RATE)]
