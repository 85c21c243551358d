"""Creates the products and prices that the settings name; they exist from the start, so without events."""

from __future__ import annotations

from collections.abc import Iterable

from paidup_demo.sandbox import objects
from paidup_demo.sandbox.settings import InitialPrice, InitialProduct
from paidup_demo.sandbox.state import Store


def register_products(store: Store, now: int, products: Iterable[InitialProduct]) -> None:
    """Create what is missing. A price is known by its lookup key and stays as it is."""
    for wanted in products:
        if store.find("product", wanted.id) is None:
            about = {"id": wanted.id, "metadata": dict(wanted.metadata)}
            store.add(objects.product(now, wanted.name) | about)
        for price in wanted.prices:
            if next(store.newest("price", lookup_key=price.lookup_key), None) is None:
                _add_price(store, now, wanted.id, price)


def _add_price(store: Store, now: int, product: str, wanted: InitialPrice) -> None:
    made = objects.price(
        now,
        product=product,
        currency=wanted.currency,
        unit_amount=wanted.unit_amount,
        recurring={"interval": wanted.interval} if wanted.interval else None,
    )
    store.add(made | {"lookup_key": wanted.lookup_key})
