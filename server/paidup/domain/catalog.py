"""The catalog: the plans on sale, what each gives, and which Stripe price belongs to which plan.

Defines the format of `plans.toml`, which plans_toml.py parses. Calls no API: prices are passed in.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from paidup.domain.delayed_methods import DELAYED_METHODS
from paidup.domain.units import DEFAULT_NAME, DEFAULT_UNIT, MAX_UNIT_NAME, MAX_UNITS
from paidup.errors import InvalidInput, UnknownPlan

Positive = Annotated[int, msgspec.Meta(gt=0)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]
Slug = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
LookupKey = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:-]{1,200}$")]
CurrencyCode = Annotated[str, msgspec.Meta(pattern=r"^[a-z]{3}$")]
RightName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,59}$",
        description="a name of at most 60 lower-case letters, digits, `_`, `.` and `-`",
    ),
]
"""Of a feature or a limit, by which your own code asks for it."""
_UNIT_NAME = f"at most {MAX_UNIT_NAME} lower-case letters, digits, `_` and `-`, the first a letter"
UnitName = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^([a-z][a-z0-9_-]{{0,{MAX_UNIT_NAME - 1}}})?$", description=f"a name of {_UNIT_NAME}"
    ),
]
UnitNames = Annotated[
    tuple[UnitName, ...],
    msgspec.Meta(
        min_length=1, max_length=MAX_UNITS, description=f"1 to {MAX_UNITS} names, each of {_UNIT_NAME}"
    ),
]
Limit = int | Literal["unlimited"]
LimitOfPlan = Annotated[
    Annotated[int, msgspec.Meta(ge=0, le=2**53)] | Literal["unlimited"],
    msgspec.Meta(description='a whole number from 0 on, or "unlimited"'),
]
MAX_QUANTITY = 10_000
"""The largest quantity that a request may name, whatever the plan says."""
MAX_GRACE_HOURS = 28 * 24
"""Less than a month: unused credits do not outlast the period after theirs."""
MAX_RIGHTS = 200
"""How many features, and how many limits, a plan may have."""
MAX_PROVISIONING_S = 60
"""A customer waits for it, in front of a screen."""
DEFAULT_MAX_QUANTITY = 100
"""Enough seats for a team, and low enough that a typing mistake stays payable. `max_quantity` raises it."""


class Rollover(StrEnum):
    """What happens to credits that are unused when their month ends."""

    KEEP = "keep"
    EXPIRE = "expire"
    CAP = "cap"
    """Up to `rollover_cap` of them stay; the rest expires."""


class Upgrade(StrEnum):
    """What a plan change in the middle of a period gives."""

    PRORATE = "prorate"
    FULL = "full"
    """A proration line counts as the whole plan, in both directions."""


class BillingCycle(StrEnum):
    """What a change to this plan does to the billing cycle."""

    KEEP_CYCLE = "keep_cycle"
    RESTART_CYCLE = "restart_cycle"


class OnCancel(StrEnum):
    """What happens to a subscription's credits when it ends."""

    KEEP = "keep"
    EXPIRE = "expire"


class CollectRenewals(StrEnum):
    """When a renewal's invoice is collected."""

    BY_STRIPE = "by_stripe"
    """An hour after the period begins, when Stripe finalises the draft."""
    AT_ONCE = "at_once"
    """As soon as the draft is known here."""


class Interval(StrEnum):
    """How often a price is charged. ONCE is a top-up, whose credits never expire."""

    MONTH = "month"
    YEAR = "year"
    ONCE = "once"

    @property
    def months(self) -> int:
        """How many months of the plan's credits one payment buys."""
        return 12 if self is Interval.YEAR else 1


class PlanPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to pay for a plan. `amount_minor` is in the currency's smallest unit (cents)."""

    lookup_key: LookupKey
    amount_minor: NotNegative
    currency: CurrencyCode = "usd"
    interval: Interval = Interval.MONTH

    @property
    def largest_amount_minor(self) -> int:
        """The largest amount that Stripe charges at once: https://docs.stripe.com/currencies."""
        return 10**12 - 1 if self.currency == "idr" else 10**8 - 1

    @property
    def smallest_step_minor(self) -> int:
        """What the amount has to be a multiple of: https://docs.stripe.com/currencies#special-cases.

        Stripe keeps three decimals, of which the last is 0; and two for these currencies without any.
        """
        if self.currency in ("bhd", "jod", "kwd", "omr", "tnd"):
            return 10
        return 100 if self.currency in ("isk", "ugx") else 1

    def __str__(self) -> str:
        return f"{self.amount_minor} {self.currency} {self.interval}"


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plan on sale. `credits` is per month and seat; `trial_credits` are granted once, for a trial.

    A plan whose prices are paid `once` is a top-up: `credits` is what one unit gives.
    """

    id: Slug
    name: str
    credits: Positive
    prices: Annotated[tuple[PlanPrice, ...], msgspec.Meta(min_length=1)]
    description: str = ""
    trial_credits: NotNegative = 0
    unit: UnitName = DEFAULT_UNIT
    """Of which unit `credits`, `trial_credits`, `rollover_cap` and `low_balance` are."""
    grants: dict[UnitName, Positive] = {}
    """What it gives of other units beside `credits`, per month and seat like these."""
    rollover: Rollover = Rollover.KEEP
    rollover_cap: NotNegative = 0
    upgrade: Upgrade = Upgrade.PRORATE
    change: BillingCycle = BillingCycle.KEEP_CYCLE
    on_cancel: OnCancel = OnCancel.KEEP
    renewal_grace_hours: Annotated[int, msgspec.Meta(ge=0, le=MAX_GRACE_HOURS)] = 72
    """How long unused credits outlast their period while its renewal is awaited."""
    grace_while_retrying: bool = False
    """Whether they last as long as Stripe retries a failed renewal."""
    collect_renewals: CollectRenewals = CollectRenewals.BY_STRIPE
    max_quantity: Annotated[int, msgspec.Meta(gt=0, le=MAX_QUANTITY)] | None = None
    previous_lookup_keys: tuple[LookupKey, ...] = ()
    """Of prices that are no longer sold and still renew, with this plan's credits."""
    features: Annotated[tuple[RightName, ...], msgspec.Meta(max_length=MAX_RIGHTS)] = ()
    limits: dict[RightName, LimitOfPlan] = {}
    """Both are what a customer with this plan may use: `domain/entitlements.py`."""
    low_balance: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None = None
    """A balance at or below it is low. Written to the account with each grant of this plan."""
    provisioning: bool = False
    """Whether customers are told `active` only after the endpoints have answered to `credits.granted`."""
    provisioning_deadline_s: Annotated[float, msgspec.Meta(gt=0, le=MAX_PROVISIONING_S)] = 3.0
    """How long they are waited for."""

    @property
    def top_up(self) -> bool:
        return self.prices[0].interval is Interval.ONCE

    def in_unit(self, unit: str) -> Plan:
        """The plan as it is for one unit: its `credits` are those that it gives of it, which may be 0.

        A trial gives nothing of the units in `grants`, and their `rollover_cap` is in proportion.
        """
        if unit == self.unit:
            return self
        credits = self.grants.get(unit, 0)
        cap = self.rollover_cap * credits // self.credits
        return msgspec.structs.replace(self, credits=credits, trial_credits=0, rollover_cap=cap)

    @property
    def quantity_limit(self) -> int:
        """The largest quantity that a customer may choose: `max_quantity`, or its default.

        1 if it can give free credits: with a price of 0, or `upgrade = "full"`.
        """
        if self.max_quantity is not None:
            return self.max_quantity
        may_be_free = self.upgrade is Upgrade.FULL or any(price.amount_minor == 0 for price in self.prices)
        return 1 if may_be_free else DEFAULT_MAX_QUANTITY

    def check_quantity(self, quantity: int, price: PlanPrice) -> None:
        """Raises InvalidInput if a customer may not choose this quantity, or Stripe could not charge it."""
        if quantity > self.quantity_limit:
            raise InvalidInput(
                f"The quantity of {self.id!r} is at most {self.quantity_limit}, not {quantity}."
            )
        if quantity * price.amount_minor > price.largest_amount_minor:
            most = price.largest_amount_minor // price.amount_minor
            raise InvalidInput(
                f"At this price, the quantity of {self.id!r} is at most {most}, not {quantity}."
            )

    def price(self, interval: Interval | None = None) -> PlanPrice:
        """The first price of this interval, or without one the first price. Raises InvalidInput."""
        for price in self.prices:
            if interval in (None, price.interval):
                return price
        raise InvalidInput(f"The plan {self.id!r} has no price for {interval}.")


class AfterRefund(StrEnum):
    """What happens to credits that were spent before their payment was refunded or disputed."""

    DEBT = "debt"
    """They become a debt, which the next credits pay first."""
    FORGIVE = "forgive"


class WrittenOff(StrEnum):
    """What an invoice gives that a credit note has reduced to nothing before it was paid."""

    NOTHING = "nothing"
    GRANT = "grant"
    """The credits of its lines, as if it had been paid."""


class Trust(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many credits an account may have while a bank debit is processing, by method. 0: none.

    `spent_then_failed`: what becomes of those that were spent when the debit fails.
    """

    sepa_debit: NotNegative = 0
    us_bank_account: NotNegative = 0
    bacs_debit: NotNegative = 0
    acss_debit: NotNegative = 0
    au_becs_debit: NotNegative = 0
    spent_then_failed: AfterRefund = AfterRefund.DEBT

    def cap(self, method: str | None) -> int:
        """The most credits on trust for payments by this method."""
        cap: int = getattr(self, method) if method in DELAYED_METHODS else 0
        return cap


class Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All plans, in display order."""

    plans: Annotated[tuple[Plan, ...], msgspec.Meta(min_length=1)]
    units: UnitNames = (DEFAULT_NAME,)
    """The names of the units. The first is the default one, which plans name by the empty text."""
    spent_then_refunded: AfterRefund = AfterRefund.DEBT
    written_off: WrittenOff = WrittenOff.NOTHING
    trust: Trust = Trust()

    def plan(self, plan_id: str) -> Plan:
        """The plan of this id. Raises UnknownPlan."""
        for plan in self.plans:
            if plan.id == plan_id:
                return plan
        raise UnknownPlan(plan_id, [plan.id for plan in self.plans])

    @property
    def named_units(self) -> tuple[str, ...]:
        """The names of all units where there are several."""
        return self.units if len(self.units) > 1 else ()

    def unit_name(self, unit: str) -> str:
        """What a unit is called."""
        return unit or self.units[0]

    def unit(self, name: str | None) -> str:
        """The unit of this name; without one, the default one. Raises InvalidInput."""
        if name is None or name == self.units[0]:
            return DEFAULT_UNIT
        if name not in self.units:
            raise InvalidInput(f"There is no unit {name!r}. The units are {', '.join(self.units)}.")
        return name

    def find(self, plan_id: str | None) -> Plan | None:
        """The plan of this id, or None."""
        return next((plan for plan in self.plans if plan.id == plan_id), None)

    @property
    def lookup_keys(self) -> list[str]:
        return [price.lookup_key for plan in self.plans for price in plan.prices]

    @property
    def previous_lookup_keys(self) -> list[str]:
        return [key for plan in self.plans for key in plan.previous_lookup_keys]

    def find_by_lookup_key(self, lookup_key: str) -> tuple[Plan, PlanPrice] | None:
        """The plan that has this lookup key, and its price."""
        for plan in self.plans:
            for price in plan.prices:
                if price.lookup_key == lookup_key:
                    return plan, price
        return None

    def find_by_previous_lookup_key(self, lookup_key: str) -> Plan | None:
        """The plan that names this lookup key among its previous ones."""
        return next((plan for plan in self.plans if lookup_key in plan.previous_lookup_keys), None)


class StripePrice(msgspec.Struct, frozen=True):
    """A price in Stripe, linked to a plan by its lookup key.

    `unit_amount_minor` is what one seat costs for one interval; `currency_options` has the same in the other
    currencies in which the price is sold. `product` is the id of the price's product.
    """

    id: str
    lookup_key: str
    plan: str
    unit_amount_minor: int
    currency: str
    interval: Interval = Interval.MONTH
    product: str | None = None
    currency_options: dict[str, int] = {}

    def unit_amount_in(self, currency: str) -> int | None:
        """What one seat costs in this currency, in its smallest unit; None where it is not sold in it."""
        if currency in ("", self.currency):
            return self.unit_amount_minor
        return self.currency_options.get(currency)


class PriceBook(Mapping[str, StripePrice]):
    """Prices by Stripe's id, and which other ids are known to sell no plan."""

    @abstractmethod
    def sells_nothing(self, price: str) -> bool:
        """Whether this price was read from Stripe and belongs to no plan. False where it was not read."""

    @abstractmethod
    def is_ours(self, price: str | None, product: str | None) -> bool:
        """Whether this price, or its product, is known to sell a plan of ours. Reads nothing."""
