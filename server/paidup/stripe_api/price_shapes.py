"""Prices as Stripe shows them, reduced to what a plan needs, and why one cannot be a plan's."""

from __future__ import annotations

from typing import Any

import msgspec

from paidup.domain.catalog import Interval, PlanPrice
from paidup.stripe_api.schemas import ListOf

PLAN_METADATA_KEY = "paidup_plan"
"""Where `paidup stripe-setup` writes the plan's id: in the metadata of its product."""


class PriceInfo(msgspec.Struct, frozen=True):
    """A price of Stripe's. `interval` is None for one that no plan can have.

    `unsupported` says why credits cannot be computed from it. `plan` is what its product's metadata names,
    where the product was expanded; `currency_options` are its other currencies, where these were.
    """

    id: str
    product: str
    lookup_key: str | None
    unit_amount: int | None
    currency: str
    interval: Interval | None
    active: bool = True
    currency_options: dict[str, int] = {}
    plan: str | None = None
    unsupported: str | None = None

    def fits(self, listed: PlanPrice) -> bool:
        """Whether it matches the catalogue."""
        wanted = (listed.amount_minor, listed.currency, listed.interval)
        return (self.unit_amount, self.currency, self.interval) == wanted

    def __str__(self) -> str:
        return f"{self.unit_amount} {self.currency} {self.interval or 'at another interval'}"


class _Recurring(msgspec.Struct, frozen=True):
    interval: str
    interval_count: int
    usage_type: str = "licensed"

    @property
    def plan_interval(self) -> Interval | None:
        known = self.interval_count == 1 and self.interval in (Interval.MONTH, Interval.YEAR)
        return Interval(self.interval) if known else None


class _CurrencyOption(msgspec.Struct, frozen=True):
    unit_amount: int | None = None


class _Product(msgspec.Struct, frozen=True):
    id: str
    metadata: dict[str, str] = {}


class _Price(msgspec.Struct, frozen=True):
    """https://docs.stripe.com/api/prices/object; `currency_options` and the product may be expanded."""

    id: str
    product: str | _Product
    currency: str
    active: bool = True
    billing_scheme: str = "per_unit"
    lookup_key: str | None = None
    unit_amount: int | None = None
    recurring: _Recurring | None = None
    currency_options: dict[str, _CurrencyOption] | None = None
    custom_unit_amount: dict[str, Any] | None = None
    transform_quantity: dict[str, Any] | None = None

    def info(self) -> PriceInfo:
        product = self.product if isinstance(self.product, _Product) else _Product(self.product)
        others = (self.currency_options or {}).items()
        return PriceInfo(
            id=self.id,
            product=product.id,
            lookup_key=self.lookup_key,
            unit_amount=self.unit_amount,
            currency=self.currency,
            interval=self.recurring.plan_interval if self.recurring else Interval.ONCE,
            active=self.active,
            currency_options={
                currency: option.unit_amount
                for currency, option in others
                if option.unit_amount is not None and currency != self.currency
            },
            plan=product.metadata.get(PLAN_METADATA_KEY),
            unsupported=self._why_unsupported(),
        )

    def _why_unsupported(self) -> str | None:
        """Credits follow from one whole amount for each unit and month or year, and from nothing else."""
        if self.billing_scheme != "per_unit":
            return "its amount is tiered"
        if self.recurring and self.recurring.usage_type != "licensed":
            return "it is metered"
        if self.custom_unit_amount is not None:
            return "the customer chooses its amount"
        if self.transform_quantity is not None:
            return "it transforms the quantity"
        if self.unit_amount is None:
            return "its amount is not a whole number of the currency's smallest unit"
        if self.recurring and self.recurring.plan_interval is None:
            return f"it is charged every {self.recurring.interval_count} {self.recurring.interval}"
        return None


_ONE = msgspec.json.Decoder(_Price)
_LIST = msgspec.json.Decoder(ListOf[_Price])


def decode_price(body: str) -> PriceInfo:
    """One price. Raises msgspec.DecodeError."""
    return _ONE.decode(body).info()


def decode_prices(body: str) -> ListOf[PriceInfo]:
    """A page of prices. Raises msgspec.DecodeError."""
    page = _LIST.decode(body)
    return ListOf([price.info() for price in page.data], page.has_more)
