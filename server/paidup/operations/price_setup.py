"""Creates the products and prices of `plans.toml` in Stripe, for `paidup stripe-setup`.

Safe to run again: one product for each plan, which names the plan in its metadata, and one price for
each lookup key. A lookup key that an archived price holds moves to a new price. One that an active
price with other amounts holds stays, unless that is asked for: somebody may mean to keep selling it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from paidup.domain.catalog import Catalogue, Plan, PlanPrice
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.price_differences import difference
from paidup.stripe_api.price_shapes import PriceInfo


class PriceSetup(msgspec.Struct, frozen=True):
    """The result for one lookup key.

    `created`, `exists`, `transferred` (created, with the key of another price), `replayed` (Stripe repeated
    its answer to an earlier call, which had created it), or `differs` (amount, currency or interval):
    `advice` then says from what, and what to do.
    """

    lookup_key: str
    price: str
    state: str
    advice: str | None = None


async def ensure_prices(
    gateway: StripeGateway,
    catalogue: Catalogue,
    transfer: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> list[PriceSetup]:
    """Create what is missing; with `transfer`, also replace what differs. Raises StripeError.

    `on_step` gets the lookup key of each price before it is looked at.
    """
    keys = catalogue.lookup_keys
    active = {found.lookup_key or "": found for found in await gateway.account.list_prices(keys)}
    archived = {
        found.lookup_key or "": found for found in await gateway.account.list_prices(keys, active=False)
    }
    results = []
    for plan in catalogue.plans:
        product = await _named_product(gateway, catalogue, plan, archived | active)
        for price in plan.prices:
            on_step(price.lookup_key)
            found = active.get(price.lookup_key)
            advice = difference(price, found) if found else None
            if found is not None and not (advice and transfer):
                results.append(PriceSetup(price.lookup_key, found.id, _state(advice), advice))
                continue
            product = product or await gateway.price_writer.create_product(plan)
            holder = found or archived.get(price.lookup_key)
            results.append(await _create(gateway, product, price, holder))
    return results


def _state(advice: str | None) -> str:
    return "differs" if advice else "exists"


async def _named_product(
    gateway: StripeGateway, catalogue: Catalogue, plan: Plan, prices: Mapping[str, PriceInfo]
) -> str | None:
    """The product of the plan's prices, which then names the plan; None without one of its own."""
    for price in plan.prices:
        found = prices.get(price.lookup_key)
        if found is None or _is_shared(catalogue, plan, found.product, prices):
            continue
        if found.plan is None:
            await gateway.price_writer.name_plan(found.product, plan.id)
        if found.plan in (None, plan.id):
            return found.product
    return None


def _is_shared(catalogue: Catalogue, plan: Plan, product: str, prices: Mapping[str, PriceInfo]) -> bool:
    """Whether the product sells another plan, too."""
    others = [price.lookup_key for other in catalogue.plans if other.id != plan.id for price in other.prices]
    return any(key in prices and prices[key].product == product for key in others)


async def _create(
    gateway: StripeGateway, product: str, price: PlanPrice, holder: PriceInfo | None
) -> PriceSetup:
    writer, key = gateway.price_writer, price.lookup_key
    made = await writer.create_price(product, price, holder.id if holder else None)
    if made.replayed:
        now = await gateway.account.read_price(made.id)
        if now.active and now.lookup_key == key and now.fits(price):
            return PriceSetup(key, made.id, "replayed")
        made = await writer.create_price(product, price, made.id, again=True)
    return PriceSetup(key, made.id, "transferred" if holder else "created")
