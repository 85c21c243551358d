"""Maps Stripe's price ids to plans, and knows the ids of our products.

Kept in the table `prices`, so that a server starts without Stripe, and a price that is no longer
sold still means its plan. An id that is not in it is read from Stripe once, with its product and
its other currencies; `price_ties.py` decides which plan it belongs to. `stripe_setup.py` creates
prices; this only reads them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator

import structlog
from msgspec.structs import asdict, replace

from paidup.db.connection import storage_errors
from paidup.db.models import KnownPrice
from paidup.domain.catalog import Catalogue, Plan, PlanPrice, PriceBook, StripePrice
from paidup.domain.payment_facts import LineFacts
from paidup.errors import ConfigurationError, StripeError, StripeRefused
from paidup.stripe_api.account import StripeAccount
from paidup.stripe_api.price_differences import differences
from paidup.stripe_api.price_shapes import PriceInfo
from paidup.stripe_api.price_ties import Refusal, Refused, tie

log = structlog.get_logger(__name__)

REFRESH_AT_MOST_EVERY_S = 30.0
FOREIGN_FOR_S = 3600.0
"""How long a price of another product is not read again."""
READ_AGAIN_AFTER_S = 5.0
"""How long a price is not read again that could not be read, or that lacks a currency."""
MAX_READS = 10
"""The most prices that one invoice causes to be read; the next delivery of its event reads more."""
MAX_REFUSED = 10_000


class PriceCatalog(PriceBook):
    """Price id -> StripePrice. Read anywhere; `learn()` where an id, or a currency, is not in it.

    With `as_in_stripe`, plans are sold at Stripe's amounts where the plans file has others; without it,
    such a price is not sold.
    """

    def __init__(self, catalogue: Catalogue, account: StripeAccount, as_in_stripe: bool = False) -> None:
        self.catalogue = catalogue
        self._account = account
        self._as_in_stripe = as_in_stripe
        self._differences: dict[str, str] = {}
        self._prices: dict[str, StripePrice] = {}
        self._unsaved: dict[str, StripePrice] = {}
        self._product_plans: dict[str, set[str]] = {}
        self._current: dict[str, str] = {}
        self._refused: dict[str, Refused] = {}
        self._read_again_at: dict[str, float] = {}
        self._reading: str | None = None
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
        self._refused.pop(price.id, None)
        if price.product is not None:
            self._product_plans.setdefault(price.product, set()).add(price.plan)

    def is_ours(self, price: str | None, product: str | None) -> bool:
        """Whether this price, or its product, is known to sell a plan of ours. Reads nothing."""
        refused = self._refused.get(price or "")
        named = refused is not None and refused.refusal is not Refusal.FOREIGN
        return named or price in self._prices or product in self._product_plans

    @property
    def products(self) -> frozenset[str]:
        """The ids of the products that are known to be ours."""
        return frozenset(self._product_plans)

    def sells_nothing(self, price: str) -> bool:
        """Whether this price was read from Stripe and belongs to no plan."""
        return price in self._refused

    @property
    def refused(self) -> dict[str, str]:
        """The prices that are ours and give no credits, and why."""
        ours = {id: each for id, each in self._refused.items() if each.refusal is not Refusal.FOREIGN}
        return {id: each.text for id, each in ours.items()}

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
            keys = [*self.catalogue.lookup_keys, *self.catalogue.previous_lookup_keys]
            for active in (True, False):
                listed = await self._account.list_prices(keys, active)
                if active and not self._as_in_stripe:
                    self._differences = differences(self.catalogue, listed)
                for found in listed:
                    self._take(found)
                await self._save()
            self._refreshed_at = time.monotonic()
            return len(self._prices) > before

    def are_known(self, lines: Iterable[LineFacts]) -> bool:
        """Whether `learn` would read and write nothing."""
        return not self._unsaved and not any(line.price and self._is_unread(line) for line in lines)

    async def learn(self, lines: Iterable[LineFacts]) -> None:
        """Read the prices of these lines that are not known, or not in the line's currency.

        Does nothing where all are known. Where Stripe does not answer, they stay unknown. Raises
        StorageUnavailable: no payment is settled by a price that a later process may not know.
        """
        if self._unsaved:
            async with self._refreshing:
                await self._save()
        unread = {line.price: line for line in lines if line.price and self._is_unread(line)}
        for price_id in list(unread)[:MAX_READS]:
            async with self._refreshing:
                if not self._is_unread(unread[price_id]):
                    continue  # another payment's lines had it read meanwhile
                await self._read(price_id)

    async def id_for(self, price: PlanPrice) -> str:
        """Stripe's id of a catalogue price. Raises ConfigurationError where there is none, StripeError."""
        if price.lookup_key not in self._current:
            await self.refresh()
        if price.lookup_key not in self._current:
            self.require_same([price.lookup_key])
            raise ConfigurationError([f"Stripe has no active price with lookup key {price.lookup_key!r}"])
        return self._current[price.lookup_key]

    def require_same(self, lookup_keys: Iterable[str] | None = None) -> None:
        """Raises ConfigurationError where the plans file and Stripe, as it was read last, differ."""
        keys = self.catalogue.lookup_keys if lookup_keys is None else lookup_keys
        if found := [self._differences[key] for key in keys if key in self._differences]:
            raise ConfigurationError(found)

    async def on_sale(self, plan: Plan) -> list[PlanPrice]:
        """The plan's prices to be shown: what is charged is one of these.

        The plans file's, or Stripe's with `as_in_stripe`; then without those that Stripe does not have.
        Raises StripeError where Stripe's prices are wanted, and none was ever read.
        """
        if not self._as_in_stripe:
            return list(plan.prices)
        if any(price.lookup_key not in self._current for price in plan.prices):
            try:
                await self.refresh()
            except StripeError:
                if not self._current:
                    raise
        return [
            replace(price, amount_minor=sold.unit_amount_minor, currency=sold.currency)
            for price in plan.prices
            if (sold := self._prices.get(self._current.get(price.lookup_key, "")))
        ]

    def _is_unread(self, line: LineFacts) -> bool:
        assert line.price is not None
        if line.price == self._reading:
            return True  # for another payment: wait for the answer
        known = self._prices.get(line.price)
        if known is not None and known.unit_amount_in(line.currency) is not None:
            return False
        return time.monotonic() >= self._read_again_at.get(line.price, float("-inf"))

    async def _read(self, price_id: str) -> None:
        self._read_again_at[price_id] = time.monotonic() + READ_AGAIN_AFTER_S
        self._reading = price_id
        try:
            self._take(await self._account.read_price(price_id))
            await self._save()
        except StripeRefused as error:
            if not error.is_missing:
                log.warning("price_not_read", price=price_id, error=str(error))
                return
            self._refuse(price_id, Refused(Refusal.FOREIGN, "Stripe has no such price"))
        except StripeError as error:
            log.warning("price_not_read", price=price_id, error=str(error))
        finally:
            self._reading = None

    def _take(self, found: PriceInfo) -> None:
        """Add a price of a plan, or remember why it is none."""
        tied = tie(found, self.catalogue, self._product_plans.get(found.product, ()))
        if isinstance(tied, Refused) and (known := self._prices.get(found.id)):
            # It was this plan's: what its lookup key or product says now does not change that.
            tied = replace(known, product=found.product, currency_options=found.currency_options)
        if isinstance(tied, StripePrice):
            on_sale = found.active and found.lookup_key in self.catalogue.lookup_keys
            if on_sale and tied.lookup_key not in self._differences:
                self._current[tied.lookup_key] = tied.id
            if self._prices.get(tied.id) != tied:
                self.add(tied)
                self._unsaved[tied.id] = tied
            return
        if found.plan is not None:
            self._product_plans.setdefault(found.product, set()).add(found.plan)
        if tied.refusal is not Refusal.FOREIGN:
            log.error("price_gives_no_credits", price=found.id, lookup_key=found.lookup_key, why=tied.text)
        self._refuse(found.id, tied)

    def _refuse(self, price_id: str, refused: Refused) -> None:
        if refused.refusal is Refusal.FOREIGN:
            self._read_again_at[price_id] = time.monotonic() + FOREIGN_FOR_S
        self._refused[price_id] = refused
        while len(self._refused) > MAX_REFUSED:
            oldest = next(iter(self._refused))
            del self._refused[oldest]
            self._read_again_at.pop(oldest, None)

    async def _save(self) -> None:
        """Write what was added to the database; what cannot be written is, before a payment is settled."""
        # In the order of their ids: two processes that write the same would else wait for each other.
        rows = [KnownPrice(**asdict(price)) for _, price in sorted(self._unsaved.items())]
        if rows:
            with storage_errors():
                await KnownPrice.bulk_create(rows, update_fields=_KEPT, on_conflict=["id"])
            self._unsaved.clear()


_KEPT = [name for name in StripePrice.__struct_fields__ if name != "id"]
"""The columns of `prices` beside the id; they have the names of StripePrice's fields."""


def _price_of(row: KnownPrice) -> StripePrice:
    values = {name: getattr(row, name) for name in _KEPT} | {"currency_options": row.currency_options or {}}
    return StripePrice(id=row.id, **values)
