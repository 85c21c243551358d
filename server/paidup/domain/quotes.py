"""From an invoice's lines to what they give: credits follow the money.

Owns the arithmetic of docs/credits.md for one invoice. For each line that belongs to a plan: the
plan's credits times what the line charges, over the full price of one seat; negative proration
lines count negatively. The sum is exact (fractions) and rounded down once. Discounts and taxes
change no credits, but for what no money pays for (a price of 0, a trial, a full discount, what
`upgrade = "full"` adds), which a quote states by itself. What several invoices give together is
`credits.py`'s, and whether to grant at all `decisions.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

import msgspec
from msgspec.structs import replace

from paidup.domain.billing_months import add_months, months_between
from paidup.domain.catalog import Catalogue, Plan, Rollover, StripePrice, Upgrade
from paidup.domain.payment_facts import LineFacts


class CreditPart(msgspec.Struct, frozen=True):
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


class FreeCredits(msgspec.Struct, frozen=True):
    """The credits of a quote that no money pays for.

    Together with those of other invoices, at most `ceiling` of them are given in [start, end): what
    the plan gives for that time, with the largest quantity that a customer may choose.
    """

    credits: int
    ceiling: int
    start: int
    end: int


class Quote(msgspec.Struct, frozen=True):
    """What an invoice gives once it is paid: `credits` in all, below zero where it takes back.

    `plan` and `price` are those of the line that gives most; `unknown_prices` belong to no plan.
    """

    credits: int
    plan: str | None
    price: str | None
    parts: tuple[CreditPart, ...] = ()
    unknown_prices: tuple[str, ...] = ()
    prorated_from: int | None = None
    """When the change of plan was made that some of it is for: now, or before where it was left for later."""
    free: FreeCredits | None = None

    @property
    def at_once(self) -> int:
        """What is granted with the payment itself; the rest comes month by month."""
        return sum(item.credits for item in installments(self.parts) if item.due_at is None)


class _Priced(msgspec.Struct, frozen=True):
    """A line of a plan and its `credits`, among them those that no money pays for.

    `free` where the line costs nothing, `added` where `upgrade = "full"` counts more than its money.
    """

    line: LineFacts
    plan: Plan
    price: StripePrice
    credits: Fraction
    free: Fraction = Fraction(0)
    added: Fraction = Fraction(0)


def quote(lines: Sequence[LineFacts], catalogue: Catalogue, prices: Mapping[str, StripePrice]) -> Quote:
    """What an invoice's lines give. Zero and no plan where no line belongs to one."""
    priced, unknown = [], []
    for line in lines:
        if line.price is None:
            continue
        price = prices.get(line.price)
        plan = catalogue.find(price.plan) if price else None
        if price is None or plan is None:
            unknown.append(line.price)
        else:
            priced.append(_priced(line, plan, price))
    if not priced:
        return Quote(0, None, None, unknown_prices=tuple(unknown))
    net = int(sum(each.credits for each in priced) // 1)
    best = max(priced, key=lambda each: each.credits)
    changed_at = min((each.line.period_start for each in priced if each.line.proration), default=None)
    parts = _parts(priced, lines, max(0, net))
    return Quote(net, best.plan.id, best.price.id, parts, tuple(unknown), changed_at, _free(priced))


def _parts(priced: Sequence[_Priced], lines: Sequence[LineFacts], credits: int) -> tuple[CreditPart, ...]:
    """`credits` shared among what the lines give, by what each gives."""
    whole = [line for line in lines if not line.proration]
    newest = max(whole, key=lambda line: line.period_start, default=None)
    shares: dict[CreditPart, Fraction] = {}
    for each in priced:
        if each.credits > 0:
            part = _part(each.line, each.plan, each.price, newest)
            shares[part] = shares.get(part, Fraction(0)) + each.credits
    given = split(credits, list(shares.values()))
    return tuple(_with(part, share) for part, share in zip(shares, given, strict=True))


def _priced(line: LineFacts, plan: Plan, price: StripePrice) -> _Priced:
    whole = plan.credits * price.interval.months
    if price.unit_amount_minor == 0:
        credits = Fraction(0 if line.proration else whole * line.quantity)
        return _Priced(line, plan, price, credits, free=credits)
    if line.amount_minor == 0 and not line.proration:  # a charged plan at nothing: a trial
        credits = Fraction(plan.trial_credits * line.quantity)
        return _Priced(line, plan, price, credits, free=credits)
    credits = by_money = Fraction(whole * line.amount_minor, price.unit_amount_minor)
    if line.proration and plan.upgrade is Upgrade.FULL:
        sign = (line.amount_minor > 0) - (line.amount_minor < 0)
        credits = Fraction(sign * _whole_months(line, plan, price) * line.quantity)
    if line.amount_minor == line.discount_minor:
        return _Priced(line, plan, price, credits, free=credits)
    return _Priced(line, plan, price, credits, added=credits - by_money)


def _whole_months(line: LineFacts, plan: Plan, price: StripePrice) -> int:
    """What one seat gives for the line's period, each month that has begun counted whole."""
    if not line.proration:
        return plan.credits * price.interval.months
    return plan.credits * len(months_between(line.period_start, line.period_end))


def _free(priced: Sequence[_Priced]) -> FreeCredits | None:
    """What no money pays for, rounded up: what is paid for is rounded down.

    Beside a plan that is given back it is more than the net, and none of it hides what was given back.
    """
    free, added = sum(each.free for each in priced), sum(each.added for each in priced)
    credits = -int(-(max(0, free) + max(0, added)) // 1)
    if credits <= 0:
        return None
    given = [each for each in priced if each.free > 0 or each.added > 0]
    start = min(each.line.period_start for each in given)
    end = max(each.line.period_end for each in given)
    if end == start:  # a top-up is for no period: one that costs nothing counts for a month
        end = add_months(start, 1)
    return FreeCredits(credits, max(map(_ceiling, given)), start, end)


def _ceiling(priced: _Priced) -> int:
    line, plan, price = priced.line, priced.plan, priced.price
    trial = line.amount_minor == 0 < price.unit_amount_minor and not line.proration
    seat = plan.trial_credits if trial else _whole_months(line, plan, price)
    return seat * min(line.quantity, plan.quantity_limit)


def _part(line: LineFacts, plan: Plan, price: StripePrice, newest: LineFacts | None) -> CreditPart:
    """Where this line's credits belong: lines of one plan for one period come together.

    What is paid only when its time is over (prorations left for the renewal) comes at once, and
    lasts as long as the `newest` period that it is paid with.
    """
    late = newest is not None and line.period_end <= newest.period_start and line.proration
    end = newest.period_end if late and newest else line.period_end
    monthly = price.interval.months > 1 and (line.amount_minor != 0 or price.unit_amount_minor == 0)
    starts = months_between(line.period_start, end) if monthly and not late else [line.period_start]
    expires = plan.rollover is not Rollover.KEEP and not plan.top_up
    return CreditPart(plan.id, price.id, 0, tuple(starts), end, expires, plan.rollover_cap if expires else 0)


def installments(parts: Iterable[CreditPart]) -> list[Installment]:
    """The grants of an invoice, in their order: the ones at once first, then by the month."""
    made = [item for part in parts for item in _installments(part)]
    return sorted(made, key=lambda item: item.due_at or 0)


def _installments(part: CreditPart) -> list[Installment]:
    ends = (*part.due_at[1:], part.period_end)
    shares = split(part.credits, [Fraction(1)] * len(part.due_at))
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


def reduced(quoted: Quote, by: int) -> Quote:
    """The quote less `by` credits, taken from its parts in proportion."""
    if not by:
        return quoted
    given = split(max(0, quoted.credits - by), [Fraction(part.credits) for part in quoted.parts])
    parts = tuple(_with(part, credits) for part, credits in zip(quoted.parts, given, strict=True))
    return replace(quoted, credits=quoted.credits - by, parts=parts)


def split(total: int, weights: list[Fraction]) -> list[int]:
    """`total` in whole credits by weight; the sum is exact, and the first get what is left over."""
    weight = sum(weights)
    if not weight:
        return [0] * len(weights)
    shares = [int(total * each // weight) for each in weights]
    for i in range(total - sum(shares)):
        shares[i] += 1
    return shares


def _with(part: CreditPart, credits: int) -> CreditPart:
    return replace(part, credits=credits)
