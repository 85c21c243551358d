"""Computes an account's grants, and when each is due, from the quotes of its invoices (`quotes.py`).

Applies how invoices affect each other, in Stripe's order, so the order in which they arrive does not matter.
Free credits are given once for overlapping periods: see `limit_free_credits`. A downgrade (a negative quote,
whose money went to the customer's Stripe balance) takes back nothing. It lowers the later installments of
a yearly plan, and the rest is carried over and offset against what that money buys: see `grant_schedules`.
All of it is about credits of one unit: what an invoice gives of another is computed as if it were all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

import msgspec
from msgspec.structs import replace

from paidup.domain.quotes import FreeCredits, Installment, Quote, installments, reduce_quote, split


class PaidInvoice(msgspec.Struct, frozen=True):
    """One paid invoice of an account. `at`: when Stripe finalized it."""

    invoice: str
    subscription: str | None
    at: int
    quote: Quote
    money: Money


class CreditCarryover(msgspec.Struct, frozen=True):
    """What downgrades leave over: credits granted before, and the money that was returned for them.

    The money is on the customer's Stripe balance. `until`: the end of the period of the subscription's last
    invoice. Until then, what the money buys may be downgraded once more.
    """

    credits: int = 0
    minor: int = 0
    until: int = 0


class Money(msgspec.Struct, frozen=True):
    """How an invoice is paid, in minor units. `change`: it is for a plan change.

    `total_minor` is after discounts and taxes, negative if money goes to the customer's
    Stripe balance; `from_balance_minor` is what the balance pays of it.
    """

    total_minor: int
    from_balance_minor: int
    change: bool


class Schedule(msgspec.Struct, frozen=True):
    """The grants of one invoice, and how many credits a carryover was offset against (`offset`)."""

    installments: list[Installment]
    offset: int = 0


def affects_other_invoices(quoted: Quote, money: Money) -> bool:
    """Whether its grants, of any unit, depend on other invoices of the account, or theirs on it."""
    return any(_affects_others(each, money) for each in (quoted, *quoted.units.values()))


def _affects_others(quoted: Quote, money: Money) -> bool:
    yearly = any(len(part.due_at) > 1 for part in quoted.parts)
    changes = quoted.credits < 0 or quoted.prorated_from is not None or money.change
    costs_nothing = quoted.free is not None or money.total_minor <= 0
    return changes or yearly or costs_nothing or money.from_balance_minor > 0


def limit_free_credits(paid: Iterable[PaidInvoice]) -> list[PaidInvoice]:
    """The same invoices, in Stripe's order, with free credits given once for overlapping periods.

    At any moment, the periods that contain it have at most the largest `ceiling` of free credits in all, over
    all subscriptions. A downgrade or cancellation does not allow more.
    """
    given: list[FreeCredits] = []
    return [_limit_invoice(invoice, given) for invoice in paid]


def _limit_invoice(invoice: PaidInvoice, given: list[FreeCredits]) -> PaidInvoice:
    free = invoice.quote.free
    if free is None:
        return invoice
    before = sum(each.credits for each in given if each.start < free.end and free.start < each.end)
    allowed = replace(free, credits=min(free.credits, max(0, free.ceiling - before)))
    given.append(allowed)
    quoted = reduce_quote(invoice.quote, free.credits - allowed.credits)
    return replace(invoice, quote=replace(quoted, free=allowed))


def grant_schedules(paid: Iterable[PaidInvoice]) -> dict[str, Schedule]:
    """The grants of each invoice of one account, due now and later. `paid` is in Stripe's order."""
    plans: dict[str, Schedule] = {}
    before: list[PaidInvoice] = []
    carried = CreditCarryover()
    for invoice in limit_free_credits(paid):
        carried = _expire_carryover(carried, invoice)
        quoted, after = apply_carryover(invoice.quote, invoice.money, carried)
        if quoted.credits < 0:
            same = [b.invoice for b in before if b.subscription and b.subscription == invoice.subscription]
            left = _lower(plans, same, invoice, -quoted.credits)
            # The same share of the money, since what lowered the installments is not offset again.
            minor = (after.minor - carried.minor) * left // -quoted.credits
            after = CreditCarryover(carried.credits + left, carried.minor + minor)
        ends = [part.period_end for part in quoted.parts if invoice.subscription]
        carried = replace(after, until=max(ends, default=carried.until))
        offset = invoice.quote.credits - quoted.credits
        plans[invoice.invoice] = Schedule(installments(quoted.parts), offset)
        before.append(invoice)
    return plans


def _expire_carryover(carried: CreditCarryover, invoice: PaidInvoice) -> CreditCarryover:
    """What is still carried over when `invoice` is paid.

    The rest is dropped once the balance has spent the downgrade's money and the period that it paid for is
    over. Not sooner: what it bought at a plan's low rate could be exchanged for a better rate, repeatedly.
    """
    money, minor = invoice.money, carried.minor
    if money.total_minor > money.from_balance_minor:
        minor = min(minor, money.from_balance_minor)  # the invoice was above the balance
    at = invoice.quote.prorated_from or invoice.at
    if minor == 0 and at >= carried.until:
        return CreditCarryover()
    return replace(carried, minor=minor)


def _lower(plans: dict[str, Schedule], invoices: Sequence[str], change: PaidInvoice, credits: int) -> int:
    """Take `credits` from the later installments of `invoices`. Returns how many are left over.

    Evenly if the plan stays yearly; otherwise from the last installments, so that the rest is granted soon.
    """
    later = [
        (item.due_at, invoice, position)
        for invoice in invoices
        for position, item in enumerate(plans[invoice].installments)
        if item.due_at is not None and item.due_at > change.at
    ]
    later.sort(reverse=True)
    holds = [plans[invoice].installments[position].credits for _, invoice, position in later]
    stays_yearly = any(len(part.due_at) > 1 for part in change.quote.parts)
    taken = spread(credits, holds) if stays_yearly else _in_turn(credits, holds)
    for (_, invoice, position), less in zip(later, taken, strict=True):
        items = plans[invoice].installments
        items[position] = replace(items[position], credits=items[position].credits - less)
    return credits - sum(taken)


def apply_carryover(quoted: Quote, money: Money, carried: CreditCarryover) -> tuple[Quote, CreditCarryover]:
    """The quote after the carryover is offset against it, and the new carryover.

    The offset is in full for a plan change, which buys back what was downgraded, and otherwise in the
    share that the balance pays.
    """
    if quoted.credits < 0:
        back = max(0, -money.total_minor)
        return quoted, CreditCarryover(carried.credits - quoted.credits, carried.minor + back)
    against = min(carried.credits, _offsettable(quoted, money))
    minor = max(0, carried.minor + max(0, -money.total_minor) - money.from_balance_minor)
    return reduce_quote(quoted, against), CreditCarryover(carried.credits - against, minor)


def _offsettable(quoted: Quote, money: Money) -> int:
    """How many of its credits the carryover may be offset against."""
    if money.change or quoted.prorated_from is not None or money.total_minor <= 0:
        return quoted.credits
    return -(-quoted.credits * money.from_balance_minor // money.total_minor)


def spread(total: int, capacities: Sequence[int]) -> list[int]:
    """Take `total` from these capacities as evenly as possible, from each at most what it holds."""
    taken = [0] * len(capacities)
    left = min(total, sum(capacities))
    while left:
        able = [i for i, capacity in enumerate(capacities) if taken[i] < capacity]
        shares = split(left, [Fraction(1)] * len(able))
        for i, share in zip(able, shares, strict=True):
            amount = min(share, capacities[i] - taken[i])
            taken[i] += amount
            left -= amount
    return taken


def _in_turn(total: int, capacities: Sequence[int]) -> list[int]:
    """Take `total` from these capacities, each emptied before the next."""
    taken = []
    for capacity in capacities:
        taken.append(min(total, capacity))
        total -= taken[-1]
    return taken
