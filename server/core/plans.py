"""The catalogue: which plans are sold, what each gives, and which Stripe price means which plan.

Owns the shape of `plans.toml` and the mapping from a Stripe price id to a plan. Refuses to
read files and to ask Stripe: both are handed in.
"""

from __future__ import annotations

import tomllib
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from server.errors import ConfigurationError, UnknownPlan

Positive = Annotated[int, msgspec.Meta(gt=0)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
Slug = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
LookupKey = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:-]{1,200}$")]
CurrencyCode = Annotated[str, msgspec.Meta(pattern=r"^[a-z]{3}$")]


class Rollover(StrEnum):
    """What becomes of credits that are unused when their period ends."""

    KEEP = "keep"
    EXPIRE = "expire"


class PlanPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to pay for a plan. `amount_minor` is in the currency's smallest unit (cents).

    `interval` takes "month" alone until yearly installments are built: a yearly price would
    charge for twelve months and credit one.
    """

    lookup_key: LookupKey
    amount_minor: NotNegative
    currency: CurrencyCode = "usd"
    interval: Literal["month"] = "month"


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is sold. `credits` is per month and per seat; `trial_credits` once, for a trial."""

    id: Slug
    name: str
    credits: Positive
    prices: Annotated[tuple[PlanPrice, ...], msgspec.Meta(min_length=1)]
    description: str = ""
    trial_credits: NotNegative = 0
    rollover: Rollover = Rollover.KEEP


class Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All plans, in the order in which they are shown."""

    plans: Annotated[tuple[Plan, ...], msgspec.Meta(min_length=1)]

    def plan(self, plan_id: str) -> Plan:
        """The plan of this id. Raises UnknownPlan."""
        for plan in self.plans:
            if plan.id == plan_id:
                return plan
        raise UnknownPlan(plan_id, [plan.id for plan in self.plans])

    def find(self, plan_id: str | None) -> Plan | None:
        return next((plan for plan in self.plans if plan.id == plan_id), None)

    @property
    def lookup_keys(self) -> list[str]:
        return [price.lookup_key for plan in self.plans for price in plan.prices]

    def plan_of_lookup_key(self, lookup_key: str) -> Plan | None:
        for plan in self.plans:
            if any(price.lookup_key == lookup_key for price in plan.prices):
                return plan
        return None


class StripePrice(msgspec.Struct, frozen=True):
    """A price as Stripe has it, tied to a plan by its lookup key.

    `unit_amount_minor` is what one seat costs for one month.
    """

    id: str
    lookup_key: str
    plan: str
    unit_amount_minor: int
    currency: str


def parse_catalogue(text: bytes, source: str = "plans.toml") -> Catalogue:
    """Read a `plans.toml`. Raises ConfigurationError that names what is wrong and where."""
    try:
        catalogue = msgspec.convert(tomllib.loads(text.decode()), Catalogue)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError([f"{source}: {error}"]) from error
    for what, values in (
        ("plan id", [plan.id for plan in catalogue.plans]),
        ("lookup key", catalogue.lookup_keys),
    ):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ConfigurationError([f"{source}: {what} used twice: {', '.join(twice)}"])
    return catalogue
