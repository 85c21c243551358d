"""What a customer may use: the type of the response of GET /api/entitlements."""

from __future__ import annotations

from datetime import datetime

import msgspec


class EntitledUnit(msgspec.Struct, frozen=True):
    """`available` can be spent, `held` is reserved and not spent, `debt` is owed."""

    available: int
    held: int
    debt: int
    low_balance: int | None


class EntitledBalance(EntitledUnit, frozen=True):
    """The balance of the default unit; `units` has the others', where the plans file names several."""

    units: dict[str, EntitledUnit] = {}

    def available_in(self, unit: str | None) -> int:
        """How many credits of this unit can be spent; of the default one for None, or any other name."""
        return self.units[unit].available if unit in self.units else self.available


class Entitlements(msgspec.Struct, frozen=True):
    """What a customer may use now. `plan` is None where they have none; `status` is Stripe's.

    `features` and `limits` are those of all `plans`; a limit is a number or "unlimited".
    """

    plan: str | None
    plans: list[str]
    status: str | None
    quantity: int
    features: list[str]
    limits: dict[str, int | str]
    balance: EntitledBalance
    renews_at: datetime | None
    cancel_at: datetime | None
    version: int
    etag: str = ""

    def has(self, feature: str) -> bool:
        """Whether one of the customer's plans has this feature."""
        return feature in self.features

    def allows(self, name: str, number: int) -> bool:
        """Whether `number` is within the limit `name`. False where no plan of theirs names it."""
        limit = self.limits.get(name, -1)
        return isinstance(limit, str) or number <= limit
