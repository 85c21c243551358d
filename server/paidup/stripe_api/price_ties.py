"""Decides which plan a price of Stripe's belongs to, or why it belongs to none. Reads nothing.

By its lookup key, else by an earlier lookup key of the plan, else by its product: the one whose
metadata names the plan, or that sells the plan already. What was sold once renews, whether or not
it is still for sale, so an archived price counts like an active one.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

import msgspec

from paidup.domain.catalog import Catalogue, Interval, Plan, PlanPrice, StripePrice
from paidup.stripe_api.price_shapes import PriceInfo

LARGEST_FACTOR = 6
"""A product's other price may cost so many times more, or less, a month than one of the plans file. Twelve,
or ten with a rebate, is the mark of a year's amount charged each month."""


class Refusal(StrEnum):
    """Why a price gives no credits. FOREIGN: nothing ties it to a plan; the others are prices of ours."""

    FOREIGN = "foreign"
    UNSUPPORTED = "unsupported"
    INTERVAL = "interval"
    AMOUNT = "amount"
    AMBIGUOUS = "ambiguous"


class Refused(msgspec.Struct, frozen=True):
    """`text` says why, for the log and the doctor."""

    refusal: Refusal
    text: str


def tie(found: PriceInfo, catalogue: Catalogue, product_plans: Collection[str]) -> StripePrice | Refused:
    """The plan's price, or why it is none. `product_plans`: the plans that its product is known to sell."""
    by_key = catalogue.find_by_lookup_key(found.lookup_key or "")
    plan = by_key[0] if by_key else catalogue.find_by_previous_lookup_key(found.lookup_key or "")
    explicit = plan is not None
    if plan is None:
        named = {found.plan} if found.plan is not None else set(product_plans)
        if not named:
            return Refused(Refusal.FOREIGN, "no plan has its lookup key or its product")
        if len(named) > 1:
            return Refused(Refusal.AMBIGUOUS, f"its product sells several plans: {', '.join(sorted(named))}")
        plan = catalogue.find(named.pop())
        if plan is None:
            return Refused(Refusal.AMBIGUOUS, f"its product names the plan {found.plan}, which is unknown")
    if refused := _refused(found, plan, by_key[1] if by_key else None, explicit):
        return refused
    assert found.unit_amount is not None
    assert found.interval is not None
    return StripePrice(
        id=found.id,
        lookup_key=found.lookup_key or "",
        plan=plan.id,
        unit_amount_minor=found.unit_amount,
        currency=found.currency,
        interval=found.interval,
        product=found.product,
        currency_options=found.currency_options,
    )


def _refused(found: PriceInfo, plan: Plan, listed: PlanPrice | None, explicit: bool) -> Refused | None:
    if found.unsupported is not None:
        return Refused(Refusal.UNSUPPORTED, found.unsupported)
    # Another interval would grant monthly credits for yearly money, or the reverse.
    once = found.interval is Interval.ONCE
    if (listed and found.interval is not listed.interval) or once is not plan.top_up:
        return Refused(Refusal.INTERVAL, f"the plan {plan.id} is not sold as {found}")
    if not explicit and not _makes_sense(found, plan):
        text = f"{found} is too far from the amounts of {plan.id} in the plans file"
        return Refused(Refusal.AMOUNT, f"{text}; previous_lookup_keys accepts it")
    return None


def _makes_sense(found: PriceInfo, plan: Plan) -> bool:
    """Whether it costs about what the plan does, as far as the plans file lists the currency."""
    assert found.interval is not None
    amounts = {found.currency: found.unit_amount or 0} | found.currency_options
    shared = [price for price in plan.prices if price.currency in amounts]
    if not shared:
        return all(amounts.values())
    ratios = [
        (amounts[price.currency] * price.interval.months, price.amount_minor * found.interval.months)
        for price in shared
    ]
    return any(
        ours == theirs or (0 < ours <= theirs * LARGEST_FACTOR and theirs <= ours * LARGEST_FACTOR)
        for ours, theirs in ratios
    )
