"""Credits follow the money: from an invoice's lines to the grants that it gives, and when.

Owns the arithmetic of docs/credits.md. For each line that belongs to a plan: the plan's
credits times what the line charges, over the full price of one seat; negative proration lines
count negatively. The sum is exact (fractions) and rounded down once. Refuses to look at
discounts and taxes, and whether to grant at all is `decisions.py`'s business.

A sum below zero (a downgrade, whose money went to the customer's Stripe balance) takes nothing
from him; it lowers what is still to come of his yearly plan, and the rest is carried and set
against what he buys with that money. `schedules` works that out for all invoices of an account
at once, in Stripe's order, so that it does not matter in which order we hear of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

import msgspec

from server.core.facts import LineFacts
from server.core.months import months_between
from server.core.plans import Catalogue, Plan, Rollover, StripePrice, Upgrade


class Part(msgspec.Struct, frozen=True):
    """Credits of one invoice that come and go together. Times in Unix seconds.

    They come in equal shares at `due_at`, the first at once. `expires` says whether each share
    ends when the next one is due (the last: at `period_end`), or, with a `rollover_cap`,
    whether it then stays up to the cap.
    """

    plan: str
    price: str
    credits: int
    due_at: tuple[int, ...]
    period_end: int
    expires: bool = False
    rollover_cap: int = 0


class Installment(msgspec.Struct, frozen=True):
    """One grant to come. `due_at` None: at once. `expires_at` None: never."""

    plan: str
    credits: int
    due_at: int | None
    expires_at: int | None
    rollover_cap: int


class Quote(msgspec.Struct, frozen=True):
    """What an invoice gives once it is paid: `credits` in all, below zero where it takes back.

    `plan` and `price` are those of the line that gives most; `unknown_prices` belong to no plan.
    """

    credits: int
    plan: str | None
    price: str | None
    parts: tuple[Part, ...] = ()
    unknown_prices: tuple[str, ...] = ()
    prorated_from: int | None = None
    """When the change of plan was made that some of it is for: now, or before where it was left for later."""

    @property
    def at_once(self) -> int:
        """What is granted with the payment itself; the rest comes month by month."""
        return sum(item.credits for item in installments(self.parts) if item.due_at is None)


class Bought(msgspec.Struct, frozen=True):
    """One paid invoice of an account. `at`: when Stripe finalised it; `subscription` or None."""

    invoice: str
    subscription: str | None
    at: int
    quote: Quote
    money: Money


class Carried(msgspec.Struct, frozen=True):
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


def quote(lines: Sequence[LineFacts], catalogue: Catalogue, prices: Mapping[str, StripePrice]) -> Quote:
    """What an invoice's lines give. Zero and no plan where no line belongs to one."""
    total, best, unknown = Fraction(0), None, []
    changed_at: list[int] = []
    newest = max(
        (line for line in lines if not line.proration), key=lambda line: line.period_start, default=None
    )
    shares: dict[Part, Fraction] = {}
    for line in lines:
        if line.price is None:
            continue
        price = prices.get(line.price)
        plan = catalogue.find(price.plan) if price else None
        if price is None or plan is None:
            unknown.append(line.price)
            continue
        credits = _line_credits(line, plan, price)
        total += credits
        if line.proration:
            changed_at.append(line.period_start)
        if credits > 0:
            part = _part(line, plan, price, newest)
            shares[part] = shares.get(part, Fraction(0)) + credits
        if best is None or credits > best[0]:
            best = (credits, line, plan)
    if best is None:
        return Quote(0, None, None, unknown_prices=tuple(unknown))
    net = int(total // 1)
    given = _split(max(0, net), list(shares.values()))
    parts = [_with(part, credits) for part, credits in zip(shares, given, strict=True)]
    return Quote(net, best[2].id, best[1].price, tuple(parts), tuple(unknown), min(changed_at, default=None))


def _line_credits(line: LineFacts, plan: Plan, price: StripePrice) -> Fraction:
    whole = plan.credits * price.interval.months
    if price.unit_amount_minor == 0:
        return Fraction(0 if line.proration else whole * line.quantity)
    if line.proration and plan.upgrade is Upgrade.FULL:
        sign = (line.amount_minor > 0) - (line.amount_minor < 0)
        return Fraction(sign * whole * line.quantity)
    if line.amount_minor == 0 and not line.proration:
        return Fraction(plan.trial_credits * line.quantity)  # a charged plan at nothing: a trial
    return Fraction(whole * line.amount_minor, price.unit_amount_minor)


def _part(line: LineFacts, plan: Plan, price: StripePrice, newest: LineFacts | None) -> Part:
    """Where this line's credits belong: lines of one plan for one period come together.

    What is paid only when its time is over (prorations left for the renewal) comes at once, and
    lasts as long as the `newest` period that it is paid with.
    """
    late = newest is not None and line.period_end <= newest.period_start and line.proration
    end = newest.period_end if late and newest else line.period_end
    monthly = price.interval.months > 1 and (line.amount_minor != 0 or price.unit_amount_minor == 0)
    starts = months_between(line.period_start, end) if monthly and not late else [line.period_start]
    expires = plan.rollover is not Rollover.KEEP and not plan.top_up
    return Part(plan.id, price.id, 0, tuple(starts), end, expires, plan.rollover_cap if expires else 0)


def installments(parts: Iterable[Part]) -> list[Installment]:
    """The grants of an invoice, in their order: the ones at once first, then by the month."""
    made = [item for part in parts for item in _installments(part)]
    return sorted(made, key=lambda item: item.due_at or 0)


def _installments(part: Part) -> list[Installment]:
    ends = (*part.due_at[1:], part.period_end)
    shares = _split(part.credits, [Fraction(1)] * len(part.due_at))
    return [
        Installment(
            plan=part.plan,
            credits=credits,
            due_at=due_at if position else None,
            expires_at=end if part.expires else None,
            rollover_cap=part.rollover_cap,
        )
        for position, (due_at, end, credits) in enumerate(zip(part.due_at, ends, shares, strict=True))
    ]


def nets(quoted: Quote, money: Money) -> bool:
    """Whether other invoices of the account bear on what this one gives, or it on theirs."""
    yearly = any(len(part.due_at) > 1 for part in quoted.parts)
    changes = quoted.credits < 0 or quoted.prorated_from is not None or money.change
    return changes or yearly or money.from_balance_minor > 0 or money.total_minor <= 0


def schedules(bought: Iterable[Bought]) -> dict[str, list[Installment]]:
    """The grants of each invoice of one account, now and to come. `bought` in Stripe's order."""
    plans: dict[str, list[Installment]] = {}
    before: list[Bought] = []
    carried = Carried()
    for invoice in bought:
        carried = _unforgiven(carried, invoice)
        quoted, after = set_off(invoice.quote, invoice.money, carried)
        if quoted.credits < 0:
            same = [b.invoice for b in before if b.subscription and b.subscription == invoice.subscription]
            left = _lower(plans, same, invoice, -quoted.credits)
            # The money goes with the credits: what lowered the plan is not set off again.
            minor = (after.minor - carried.minor) * left // -quoted.credits
            after = Carried(carried.credits + left, carried.minor + minor)
        ends = [part.period_end for part in quoted.parts if invoice.subscription]
        carried = msgspec.structs.replace(after, until=max(ends, default=carried.until))
        plans[invoice.invoice] = installments(quoted.parts)
        before.append(invoice)
    return plans


def _unforgiven(carried: Carried, invoice: Bought) -> Carried:
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
        return Carried()
    return msgspec.structs.replace(carried, minor=minor)


def _lower(plans: dict[str, list[Installment]], invoices: Sequence[str], change: Bought, credits: int) -> int:
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
        plans[invoice][position] = msgspec.structs.replace(item, credits=item.credits - less)
    return credits - sum(taken)


def set_off(quoted: Quote, money: Money, carried: Carried) -> tuple[Quote, Carried]:
    """What is granted in the end, and what is carried on.

    What was carried is set against a change of plan in full, since it re-buys what was given
    back; and against anything else in the share that the balance pays.
    """
    if quoted.credits < 0:
        back = max(0, -money.total_minor)
        return quoted, Carried(carried.credits - quoted.credits, carried.minor + back)
    against = min(carried.credits, _exposed(quoted, money))
    minor = max(0, carried.minor + max(0, -money.total_minor) - money.from_balance_minor)
    return reduced(quoted, against), Carried(carried.credits - against, minor)


def _exposed(quoted: Quote, money: Money) -> int:
    """How much of it what is carried may be set against."""
    if money.change or quoted.prorated_from is not None or money.total_minor <= 0:
        return quoted.credits
    return -(-quoted.credits * money.from_balance_minor // money.total_minor)


def reduced(quoted: Quote, by: int) -> Quote:
    """The quote less `by` credits, taken from its parts in proportion."""
    if not by:
        return quoted
    given = _split(quoted.credits - by, [Fraction(part.credits) for part in quoted.parts])
    parts = tuple(_with(part, credits) for part, credits in zip(quoted.parts, given, strict=True))
    return msgspec.structs.replace(quoted, credits=quoted.credits - by, parts=parts)


def spread(total: int, capacities: Sequence[int]) -> list[int]:
    """`total` taken from what these hold, as evenly as it goes; each gives at most what it holds."""
    taken = [0] * len(capacities)
    left = min(total, sum(capacities))
    while left:
        able = [i for i, capacity in enumerate(capacities) if taken[i] < capacity]
        shares = _split(left, [Fraction(1)] * len(able))
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


def _split(total: int, weights: list[Fraction]) -> list[int]:
    """`total` in whole credits by weight; the sum is exact, and the first get what is left over."""
    weight = sum(weights)
    if not weight:
        return [0] * len(weights)
    shares = [int(total * each // weight) for each in weights]
    for i in range(total - sum(shares)):
        shares[i] += 1
    return shares


def _with(part: Part, credits: int) -> Part:
    return msgspec.structs.replace(part, credits=credits)
