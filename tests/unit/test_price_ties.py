"""Which plan a price belongs to: by its lookup key, an earlier one, or its product."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paidup.domain.catalog import Catalogue, Interval, Plan, PlanPrice, StripePrice
from paidup.stripe_api.price_shapes import decode_price
from paidup.stripe_api.price_ties import Refusal, Refused, tie

CATALOGUE = Catalogue(
    (
        Plan(
            *("pro", "Pro", 2000),
            (PlanPrice("pro_month", 2900), PlanPrice("pro_year", 29000, interval=Interval.YEAR)),
            previous_lookup_keys=("pro_2019",),
        ),
        Plan("extra", "Extra", 1000, (PlanPrice("extra", 1500, interval=Interval.ONCE),)),
    )
)
MONTH: dict[str, Any] = {"interval": "month", "interval_count": 1, "usage_type": "licensed"}
YEAR = MONTH | {"interval": "year"}


def tied(product_plans: tuple[str, ...] = ("pro",), **price: Any) -> StripePrice | Refused:
    """As GET /v1/prices/{id} shows it: https://docs.stripe.com/api/prices/object."""
    shown = {"id": "price_1", "product": {"id": "prod_1", "metadata": {}}, "currency": "usd", "active": False}
    shown |= {"billing_scheme": "per_unit", "lookup_key": None, "unit_amount": 2900, "recurring": MONTH}
    shown |= {"custom_unit_amount": None, "transform_quantity": None, "currency_options": None}
    return tie(decode_price(json.dumps(shown | price)), CATALOGUE, product_plans)


@pytest.mark.parametrize(
    ("price", "interval"),
    [
        ({"lookup_key": "pro_month", "unit_amount": 1}, Interval.MONTH),
        ({"lookup_key": "pro_2019", "unit_amount": 1}, Interval.MONTH),
        ({"lookup_key": "pro_2019", "recurring": YEAR}, Interval.YEAR),
        ({"unit_amount": 2900 * 6}, Interval.MONTH),
        ({"unit_amount": 484}, Interval.MONTH),
        ({"unit_amount": 24000, "recurring": YEAR}, Interval.YEAR),
        ({"currency": "eur", "unit_amount": 2500}, Interval.MONTH),
    ],
)
def test_a_price_that_was_sold_is_its_plans(price: dict[str, Any], interval: Interval) -> None:
    found = tied(**price)
    assert isinstance(found, StripePrice)
    assert (found.plan, found.interval, found.product) == ("pro", interval, "prod_1")


@pytest.mark.parametrize(
    ("price", "refusal"),
    [
        ({"lookup_key": "pro_month", "recurring": YEAR}, Refusal.INTERVAL),
        ({"lookup_key": "pro_2019", "recurring": None}, Refusal.INTERVAL),
        ({"recurring": None}, Refusal.INTERVAL),
        ({"unit_amount": 29000}, Refusal.AMOUNT),
        ({"unit_amount": 2900, "recurring": YEAR}, Refusal.AMOUNT),
        ({"unit_amount": 0}, Refusal.AMOUNT),
        ({"unit_amount": 0, "currency": "eur"}, Refusal.AMOUNT),
        ({"product": {"id": "prod_1", "metadata": {"paidup_plan": "gone"}}}, Refusal.AMBIGUOUS),
        ({"product_plans": ("pro", "extra")}, Refusal.AMBIGUOUS),
        ({"product_plans": ()}, Refusal.FOREIGN),
        ({"billing_scheme": "tiered", "unit_amount": None}, Refusal.UNSUPPORTED),
        ({"lookup_key": "pro_month", "recurring": MONTH | {"usage_type": "metered"}}, Refusal.UNSUPPORTED),
        ({"custom_unit_amount": {"minimum": 1}, "unit_amount": None}, Refusal.UNSUPPORTED),
        ({"transform_quantity": {"divide_by": 10, "round": "up"}}, Refusal.UNSUPPORTED),
        ({"unit_amount": None}, Refusal.UNSUPPORTED),
        ({"recurring": MONTH | {"interval_count": 3}}, Refusal.UNSUPPORTED),
    ],
)
def test_any_other_price_gives_no_credits(price: dict[str, Any], refusal: Refusal) -> None:
    found = tied(**price)
    assert isinstance(found, Refused)
    assert found.refusal is refusal, found.text


def test_the_plan_that_the_product_names_counts_before_what_it_sells() -> None:
    named = {"id": "prod_1", "metadata": {"paidup_plan": "extra"}}
    found = tied(product=named, recurring=None, unit_amount=1000)
    assert isinstance(found, StripePrice)
    assert (found.plan, found.interval) == ("extra", Interval.ONCE)
