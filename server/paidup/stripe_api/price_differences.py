"""How Stripe's prices differ from the plans file's, and what to do about each difference."""

from __future__ import annotations

from collections.abc import Iterable

from paidup.domain.catalog import Catalogue, PlanPrice
from paidup.stripe_api.price_shapes import PriceInfo


def difference(listed: PlanPrice, found: PriceInfo) -> str | None:
    """Where Stripe's price is not the file's: both of them, and the remedies in one line. Else None."""
    if found.fits(listed) and found.unsupported is None:
        return None
    theirs = f"{found.id} is {found}" if found.unsupported is None else f"{found.id}: {found.unsupported}"
    return (
        f"{listed.lookup_key} is {listed} in the plans file, and in Stripe {theirs}: {_remedy(listed, found)}"
    )


def _remedy(listed: PlanPrice, found: PriceInfo) -> str:
    replace = "to sell at the file's, run `paidup stripe-setup --transfer-lookup-keys`"
    if found.unsupported is not None or found.interval is not listed.interval:
        return f"correct the file, or {replace}"
    return f"to sell at Stripe's, correct the file, or set PRICE_SOURCE=stripe; {replace}"


def differences(catalogue: Catalogue, active: Iterable[PriceInfo]) -> dict[str, str]:
    """The differences of active prices, by lookup key, in the order of the plans file."""
    found = {price.lookup_key: price for price in active}
    texts = {
        price.lookup_key: difference(price, found[price.lookup_key])
        for plan in catalogue.plans
        for price in plan.prices
        if price.lookup_key in found
    }
    return {key: text for key, text in texts.items() if text}
