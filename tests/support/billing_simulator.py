"""What a subscription's life makes of invoices, as Stripe prorates: pure, for the arithmetic of credits.

A `Bills` is one customer with one subscription at a time. It charges, gives back and keeps the customer's
Stripe balance; `cash` is what they have paid.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec.structs import replace

from paidup.domain.billing_months import add_months
from paidup.domain.catalog import Catalogue, StripePrice
from paidup.domain.credit_schedule import Money, PaidInvoice
from paidup.domain.payment_facts import LineFacts
from paidup.domain.quotes import Quote, quote

BEGIN = 1_792_000_000
DAY_S = 24 * 3600


@dataclass(frozen=True)
class Item:
    """What the subscription is on: a price, and how many seats of it."""

    price: StripePrice
    quantity: int = 1

    @property
    def amount(self) -> int:
        return self.price.unit_amount_minor * self.quantity


@dataclass(frozen=True)
class Debit:
    """What was charged for which time of the current period, before a discount of `percent_off`."""

    item: Item
    amount: int
    start: int
    end: int
    percent_off: int


@dataclass
class Bills:
    """`paid`: the invoices in Stripe's order. `cash` and `balance` (the customer's) in minor units."""

    catalogue: Catalogue
    prices: dict[str, StripePrice]
    paid: list[PaidInvoice] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)
    """First purchases and renewals that were wholly paid in cash, and are for nothing but their period."""
    cash: int = 0
    balance: int = 0
    at: int = BEGIN
    start: int = BEGIN
    end: int = BEGIN
    item: Item | None = None
    debits: list[Debit] = field(default_factory=list)
    waiting: list[LineFacts] = field(default_factory=list)
    percent_off: int = 0
    """A coupon of the customer's, for all that is billed from now on."""
    subscriptions: int = 0
    lines: list[tuple[LineFacts, ...]] = field(default_factory=list)
    """Of each invoice."""

    def subscribe(self, item: Item, trial_days: int = 0) -> None:
        self.item = item
        self.subscriptions += 1
        if trial_days:
            self.start, self.end = self.at, self.at + trial_days * DAY_S
            self._bill([self._line(item, 0, self.start, self.end)], change=False)
            return
        self._begin(self.at)
        self._whole(change=False)

    def cancel(self) -> None:
        """At once; Stripe gives nothing back, and what waited for the renewal is not billed."""
        self.item, self.debits, self.waiting = None, [], []

    def renew(self) -> None:
        """To the end of the period, and into the next one."""
        self.at = self.end
        self._begin(self.end)
        self._whole(change=False)

    def wait(self, percent: int) -> None:
        """So much of what is left of the period passes; never all of it."""
        self.at += (self.end - self.at) * percent // 100

    def change(self, item: Item, later: bool = False, restart: bool = False) -> None:
        """To another price or quantity. `later`: the lines wait for the next invoice of the subscription."""
        assert self.item is not None
        back, former, self.item = self._unused(), self.item, item
        if restart or item.price.interval is not former.price.interval:
            self._begin(self.at)
            self._whole(change=True, first=back)
            return
        amount = _share(item.amount, self.end - self.at, self.end - self.start)
        self.debits = [Debit(item, amount, self.at, self.end, self.percent_off)]
        lines = [*back, self._line(item, amount, self.at, self.end, proration=True)]
        if later:
            self.waiting += lines
        else:
            self._bill([*self.waiting, *lines], change=True)

    def top_up(self, price: StripePrice, quantity: int) -> None:
        line = self._line(Item(price, quantity), price.unit_amount_minor * quantity, self.at, self.at)
        self._bill([line], change=False, in_subscription=False)

    @property
    def last(self) -> PaidInvoice:
        return self.paid[-1]

    def _begin(self, start: int) -> None:
        assert self.item is not None
        self.start, self.end = start, add_months(start, self.item.price.interval.months)

    def _whole(self, change: bool, first: list[LineFacts] | None = None) -> None:
        assert self.item is not None
        waited = [*self.waiting, *(first or [])]
        line = self._line(self.item, self.item.amount, self.start, self.end)
        self.debits = [Debit(self.item, self.item.amount, self.start, self.end, self.percent_off)]
        self._bill([*waited, line], change)
        if not change and not waited and self.last.money.from_balance_minor == 0:
            self.plain.append(self.last.invoice)

    def _unused(self) -> list[LineFacts]:
        """What was charged for the time to come, given back."""
        lines = []
        for debit in self.debits:
            amount = _share(debit.amount, debit.end - self.at, debit.end - debit.start)
            if amount:
                line = self._line(debit.item, -amount, self.at, debit.end, proration=True)
                # Given back at the discount with which it was charged.
                lines.append(replace(line, discount_minor=-amount * debit.percent_off // 100))
        return lines

    def _line(self, item: Item, amount: int, start: int, end: int, proration: bool = False) -> LineFacts:
        off = amount * self.percent_off // 100
        return LineFacts(item.price.id, amount, item.quantity, proration, start, end, off)

    def _bill(self, lines: list[LineFacts], change: bool, in_subscription: bool = True) -> None:
        if in_subscription:
            self.waiting = []
        total = sum(line.amount_minor - line.discount_minor for line in lines)
        paid_by_balance = max(0, min(self.balance, total))
        self.balance -= min(total, paid_by_balance)
        self.cash += max(0, total) - paid_by_balance
        money = Money(total, paid_by_balance, change)
        subscription = f"sub_{self.subscriptions}" if in_subscription else None
        self.paid.append(PaidInvoice(f"in_{len(self.paid)}", subscription, self.at, self.quote(lines), money))
        self.lines.append(tuple(lines))

    def quote(self, lines: list[LineFacts]) -> Quote:
        return quote(lines, self.catalogue, self.prices)


def _share(amount: int, seconds: int, of: int) -> int:
    """A part of an amount, rounded half away from zero, as Stripe does."""
    return (2 * amount * seconds + of) // (2 * of)
