"""Makes in Stripe what `plans.toml` names: products and prices. Safe to run again.

Refuses to change a price that exists: Stripe's prices are immutable, and a customer may be
paying it. A price whose amount differs from the file is reported.
"""

from __future__ import annotations

import msgspec

from server.core.plans import Catalogue
from server.stripe_gateway import StripeGateway


class PriceSetup(msgspec.Struct, frozen=True):
    """What became of one lookup key: `made`, `there`, or `differs` (amount or currency)."""

    lookup_key: str
    price: str
    state: str


async def ensure_prices(gateway: StripeGateway, catalogue: Catalogue) -> list[PriceSetup]:
    """Make the prices that are missing. Raises StripeError."""
    there = {found.lookup_key: found for found in await gateway.list_prices(catalogue.lookup_keys)}
    done = []
    for plan in catalogue.plans:
        for price in plan.prices:
            found = there.get(price.lookup_key)
            if found is None:
                made = await gateway.create_price(plan.id, plan.name, price)
                done.append(PriceSetup(price.lookup_key, made, "made"))
                continue
            same = (found.unit_amount, found.currency) == (price.amount_minor, price.currency)
            done.append(PriceSetup(price.lookup_key, found.id, "there" if same else "differs"))
    return done
