"""Maps Stripe's price ids to plans, by the lookup keys of the catalogue, and knows our products' ids.

Kept in the table `prices`, so that a server starts without Stripe, and a price whose lookup key was
moved to another price still means its plan. `stripe_setup.py` creates prices; this only reads them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping

import structlog

from paidup.db.models import KnownPrice
from paidup.domain.catalog import Catalogue, PlanPrice, StripePrice
from paidup.errors import ConfigurationError, StripeError
from paidup.stripe_api.account import StripeAccount

log = structlog.get_logger(__name__)

REFRESH_AT_MOST_EVERY_S = 30.0


class PriceCatalog(Mapping[str, StripePrice]):
    """Price id -> StripePrice. Read anywhere; `refresh()` when an id is not in it."""

    def __init__(self, catalogue: Catalogue, account: StripeAccount) -> None:
        self.catalogue = catalogue
        self._account = account
        self._prices: dict[str, StripePrice] = {}
        self._products: set[str] = set()
        self._current: dict[str, str] = {}
        self._refreshing = asyncio.Lock()
        self._refreshed_at = float("-inf")

    def __getitem__(self, price_id: str) -> StripePrice:
        return self._prices[price_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._prices)

    def __len__(self) -> int:
        return len(self._prices)

    def add(self, price: StripePrice) -> None:
        """Add a price without reading it from Stripe."""
        self._prices[price.id] = price
        if price.product is not None:
            self._products.add(price.product)

    def is_ours(self, price: str | None, product: str | None) -> bool:
        """Whether this price, or its product, is known to sell a plan of ours. Reads nothing."""
        return price in self._prices or product in self._products

    @property
    def products(self) -> frozenset[str]:
        """The ids of the products that are known to be ours."""
        return frozenset(self._products)

    async def load(self) -> None:
        """Read the prices from the database, then from Stripe. Goes on if Stripe cannot be reached."""
        async for row in KnownPrice.all():
            self.add(_price_of(row))
        try:
            await self.refresh()
        except StripeError as error:
            log.warning("prices_not_refreshed", error=str(error))
        missing = [key for key in self.catalogue.lookup_keys if key not in self._current]
        if missing:
            log.warning("prices_missing", lookup_keys=missing, hint="paidup stripe-setup creates them")

    async def refresh(self) -> bool:
        """Read from Stripe, at most every 30 s. True where a new price was found. Raises StripeError."""
        async with self._refreshing:
            if time.monotonic() - self._refreshed_at < REFRESH_AT_MOST_EVERY_S:
                return False
            before = len(self._prices)
            for found in await self._account.list_prices(self.catalogue.lookup_keys):
                known = self.catalogue.find_by_lookup_key(found.lookup_key or "")
                if known is None or found.lookup_key is None or found.unit_amount is None:
                    continue
                plan, listed = known
                if found.interval is not listed.interval:
                    # It would grant monthly credits for yearly money, or the reverse: do not use it.
                    log.error("price_interval_differs", price=found.id, lookup_key=found.lookup_key)
                    continue
                await self._save(
                    StripePrice(
                        id=found.id,
                        lookup_key=found.lookup_key,
                        plan=plan.id,
                        unit_amount_minor=found.unit_amount,
                        currency=found.currency,
                        interval=listed.interval,
                        product=found.product,
                        currency_options=found.currency_options,
                    )
                )
            self._refreshed_at = time.monotonic()
            return len(self._prices) > before

    async def id_for(self, price: PlanPrice) -> str:
        """Stripe's id of a catalogue price. Raises ConfigurationError where there is none, StripeError."""
        if price.lookup_key not in self._current:
            await self.refresh()
        if price.lookup_key not in self._current:
            raise ConfigurationError([f"Stripe has no active price with lookup key {price.lookup_key!r}"])
        return self._current[price.lookup_key]

    async def _save(self, price: StripePrice) -> None:
        self._current[price.lookup_key] = price.id
        if self._prices.get(price.id) == price:
            return
        self.add(price)
        values = {name: getattr(price, name) for name in _KEPT}
        await KnownPrice.update_or_create(values, id=price.id)


_KEPT = [name for name in StripePrice.__struct_fields__ if name != "id"]
"""The columns of `prices` beside the id; they have the names of StripePrice's fields."""


def _price_of(row: KnownPrice) -> StripePrice:
    values = {name: getattr(row, name) for name in _KEPT} | {"currency_options": row.currency_options or {}}
    return StripePrice(id=row.id, **values)
