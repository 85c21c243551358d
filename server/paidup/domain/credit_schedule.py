"""Credits of an account: from what each of its invoices gives (quotes.py) to its grants, and when.

Owns what invoices have to do with each other, in Stripe's order, so that it does not matter in
which order we hear of them. What no money pays for is given once for overlapping periods: see
`limit_free_credits`. A sum below zero (a downgrade, whose money went to the customer's Stripe balance) takes
nothing from them; it lowers what is still to come of their yearly plan, and the rest is carried and
set against what they buy with that money: see `grant_schedules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

import msgspec
from msgspec.structs import replace

from paidup.domain.quotes import FreeCredits, Installment, Quote, installments, reduced, split


class PaidInvoice(msgspec.Struct, frozen=True):
    """One paid invoice of an account. `at`: when Stripe finalised it; `subscription` or None."""

    invoice: str
    subscription: str | None
    at: int
    quote: Quote
    money: Money


class CreditCarryover(msgspec.Struct, frozen=True):
    """What downgrades have left: credits already had, and the money that went to the balance for them.

    `until`: when the period ends that the subscription's last invoice was for. Before that, what
    the money bought again may be given back once more.
    """

    credits: int = 0
    minor: int = 0
    until: int = 0


class Money(msgspec.Struct, frozen=True):
    """How an invoice is paid, in minor units. `change`: it is for a change of plan.

    `total_minor` is after discounts and taxes, below zero where money goes back to the customer's
    Stripe balance; `from_balance_minor` is what that balance pays of it.
    """

    total_minor: int
    from_balance_minor: int
    change: bool


def affects_other_invoices(quoted: Quote, money: Money) -> bool:
    """Whether other invoices of the account bear on what this one gives, or it on theirs."""
    yearly = any(len(part.due_at) > 1 for part in quoted.parts)
    changes = quoted.credits < 0 or quoted.prorated_from is not None or money.change
    costs_nothing = quoted.free is not None or money.total_minor <= 0
    return changes or yearly or costs_nothing or money.from_balance_minor > 0


def limit_free_credits(bought: Iterable[PaidInvoice]) -> list[PaidInvoice]:
    """The same, in Stripe's order, with what no money pays for given once.

    The periods that contain a moment hold together at most the largest `ceiling` of such credits, on
    whichever subscriptions. A downgrade or an end makes no room for more.
    """
    given: list[FreeCredits] = []
    return [_limit_invoice(invoice, given) for invoice in bought]


def _limit_invoice(invoice: PaidInvoice, given: list[FreeCredits]) -> PaidInvoice:
    free = invoice.quote.free
    if free is None:
        return invoice
    before = sum(each.credits for each in given if each.start < free.end and free.start < each.end)
    allowed = replace(free, credits=min(free.credits, max(0, free.ceiling - before)))
    given.append(allowed)
    quoted = reduced(invoice.quote, free.credits - allowed.credits)
    return replace(invoice, quote=replace(quoted, free=allowed))


def grant_schedules(bought: Iterable[PaidInvoice]) -> dict[str, list[Installment]]:
    """The grants of each invoice of one account, now and to come. `bought` in Stripe's order."""
    plans: dict[str, list[Installment]] = {}
    before: list[PaidInvoice] = []
    carried = CreditCarryover()
    for invoice in limit_free_credits(bought):
        carried = _expire_carryover(carried, invoice)
        quoted, after = apply_carryover(invoice.quote, invoice.money, carried)
        if quoted.credits < 0:
            same = [b.invoice for b in before if b.subscription and b.subscription == invoice.subscription]
            left = _lower(plans, same, invoice, -quoted.credits)
            # The money goes with the credits: what lowered the plan is not set off again.
            minor = (after.minor - carried.minor) * left // -quoted.credits
            after = CreditCarryover(carried.credits + left, carried.minor + minor)
        ends = [part.period_end for part in quoted.parts if invoice.subscription]
        carried = replace(after, until=max(ends, default=carried.until))
        plans[invoice.invoice] = installments(quoted.parts)
        before.append(invoice)
    return plans


def _expire_carryover(carried: CreditCarryover, invoice: PaidInvoice) -> CreditCarryover:
    """What is still carried when `invoice` comes.

    Once the balance has paid out the money that came with the credits, and the time is over that it
    paid for, the rest is forgiven. Not sooner: what was bought with it at a plan's low rate could be
    given back at once for a better one, time and again.
    """
    money, minor = invoice.money, carried.minor
    if money.total_minor > money.from_balance_minor:
        minor = min(minor, money.from_balance_minor)  # more was asked for than the balance held
    at = invoice.quote.prorated_from or invoice.at
    if minor == 0 and at >= carried.until:
        return CreditCarryover()
    return replace(carried, minor=minor)


def _lower(
    plans: dict[str, list[Installment]], invoices: Sequence[str], change: PaidInvoice, credits: int
) -> int:
    """Take `credits` from what these have yet to give. Returns what is left over.

    Evenly from the months of a year that goes on; from the last ones where no year goes on, so
    that what remains comes soon.
    """
    to_come = [
        (item.due_at, invoice, position)
        for invoice in invoices
        for position, item in enumerate(plans[invoice])
        if item.due_at is not None and item.due_at > change.at
    ]
    to_come.sort(reverse=True)
    holds = [plans[invoice][position].credits for _, invoice, position in to_come]
    goes_on = any(len(part.due_at) > 1 for part in change.quote.parts)
    taken = spread(credits, holds) if goes_on else _in_turn(credits, holds)
    for (_, invoice, position), less in zip(to_come, taken, strict=True):
        item = plans[invoice][position]
        plans[invoice][position] = replace(item, credits=item.credits - less)
    return credits - sum(taken)


def apply_carryover(quoted: Quote, money: Money, carried: CreditCarryover) -> tuple[Quote, CreditCarryover]:
    """What is granted in the end, and what is carried on.

    What was carried is set against a change of plan in full, since it re-buys what was given
    back; and against anything else in the share that the balance pays.
    """
    if quoted.credits < 0:
        back = max(0, -money.total_minor)
        return quoted, CreditCarryover(carried.credits - quoted.credits, carried.minor + back)
    against = min(carried.credits, _exposed(quoted, money))
    minor = max(0, carried.minor + max(0, -money.total_minor) - money.from_balance_minor)
    return reduced(quoted, against), CreditCarryover(carried.credits - against, minor)


def _exposed(quoted: Quote, money: Money) -> int:
    """How much of it what is carried may be set against."""
    if money.change or quoted.prorated_from is not None or money.total_minor <= 0:
        return quoted.credits
    return -(-quoted.credits * money.from_balance_minor // money.total_minor)


def spread(total: int, capacities: Sequence[int]) -> list[int]:
    """`total` taken from what these hold, as evenly as it goes; each gives at most what it holds."""
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
    """`total` taken from what these hold, each emptied before the next."""
    taken = []
    for capacity in capacities:
        taken.append(min(total, capacity))
        total -= taken[-1]
    return taken
