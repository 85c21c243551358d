"""Computes what an invoice's lines give: credits are proportional to the money.

The arithmetic of docs/credits.md for one invoice. Each line of a plan gives the plan's credits times the
line's amount over the full price of one seat, both in the line's currency; negative proration lines count
negatively. The sum is exact (fractions) and rounded down once. Discounts and taxes do not change credits.
Free credits (a price of 0, a trial, a full discount, what `upgrade = "full"` adds) are stated separately.
A plan may give credits of several units: each is computed as if it were the only one.
`credit_schedule.py` combines several invoices; `decisions.py` decides whether to grant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

import msgspec
from msgspec.structs import replace

from paidup.domain.billing_months import add_months, months_between
from paidup.domain.catalog import Catalogue, Plan, PriceBook, Rollover, StripePrice, Upgrade
from paidup.domain.payment_facts import LineFacts
from paidup.domain.units import DEFAULT_UNIT


class CreditPart(msgspec.Struct, frozen=True):
    """Credits of one invoice with one schedule. Times in Unix seconds.

    They are granted in equal shares at `due_at`, the first at once. If `expires`, each share ends when the
    next one is due (the last: at `period_end`); with a `rollover_cap`, it then stays up to the cap.
    """

    plan: str
    price: str
    credits: int
    due_at: tuple[int, ...]
    period_end: int
    expires: bool = False
    rollover_cap: int = 0


class Installment(msgspec.Struct, frozen=True):
    """One scheduled grant. `due_at` None: at once. `expires_at` None: never."""

    plan: str
    credits: int
    due_at: int | None
    expires_at: int | None
    rollover_cap: int


class FreeCredits(msgspec.Struct, frozen=True):
    """The free credits of a quote.

    With those of other invoices, at most `ceiling` are granted in [start, end): what the plan gives for that
    period with the largest quantity that a customer may choose.
    """

    credits: int
    ceiling: int
    start: int
    end: int


class Quote(msgspec.Struct, frozen=True):
    """What an invoice gives once it is paid: `credits` in all, negative for a downgrade.

    `plan` and `price` are those of the line that gives most. `unknown_prices` belong to no plan that is
    known; those of `unread_prices` may turn out to. `unpriced` names prices in currencies in which their
    amount is not known. With one of these two, the rest of the invoice says too little, or too much, to be
    granted: without its credit lines, a plan change would give too much.
    """

    credits: int
    plan: str | None
    price: str | None
    parts: tuple[CreditPart, ...] = ()
    unknown_prices: tuple[str, ...] = ()
    prorated_from: int | None = None
    """When the plan change was made that it includes. Earlier than the invoice if billed at the renewal."""
    free: FreeCredits | None = None
    unread_prices: tuple[str, ...] = ()
    unpriced: tuple[str, ...] = ()
    units: dict[str, Quote] = {}
    """What the lines give of other units than the default one, where they give anything of it."""

    def in_unit(self, unit: str) -> Quote:
        """What the lines give of this unit."""
        if unit == DEFAULT_UNIT:
            return self
        nothing = Quote(0, self.plan, self.price, prorated_from=self.prorated_from)
        return self.units.get(unit, nothing)

    @property
    def all_parts(self) -> tuple[CreditPart, ...]:
        """The parts of all units."""
        return (*self.parts, *(part for each in self.units.values() for part in each.parts))

    @property
    def complete(self) -> bool:
        """Whether all prices are known that it depends on, in the currency of its lines."""
        return not (self.unread_prices or self.unpriced)

    @property
    def at_once(self) -> int:
        """The credits granted with the payment; the rest is granted month by month."""
        return sum(item.credits for item in installments(self.parts) if item.due_at is None)


class _PricedLine(msgspec.Struct, frozen=True):
    """A plan's line and its `credits`, some of which may be free.

    `free`: of a line that costs nothing. `added`: what `upgrade = "full"` gives above the line's money.
    """

    line: LineFacts
    plan: Plan
    price: StripePrice
    unit_minor: int
    credits: Fraction
    free: Fraction = Fraction(0)
    added: Fraction = Fraction(0)


def quote(lines: Sequence[LineFacts], catalogue: Catalogue, prices: Mapping[str, StripePrice]) -> Quote:
    """Quote an invoice's lines. Zero credits and no plan if no line belongs to a plan."""
    quoted = _quote(lines, catalogue, prices, DEFAULT_UNIT)
    if len(catalogue.units) == 1 or not quoted.complete:
        return quoted
    of_units = {unit: _quote(lines, catalogue, prices, unit) for unit in catalogue.units[1:]}
    given = {unit: each for unit, each in of_units.items() if each.credits or each.parts}
    if given and not (quoted.credits or quoted.parts):  # the plan is the one that gives most, of any unit
        first = next(iter(given.values()))
        quoted = replace(quoted, plan=first.plan, price=first.price)
    return replace(quoted, units=given)


def _quote(
    lines: Sequence[LineFacts], catalogue: Catalogue, prices: Mapping[str, StripePrice], unit: str
) -> Quote:
    """What the lines give of one unit."""
    priced, unknown, unpriced = [], [], []
    for line in lines:
        if line.price is None:
            continue
        price = prices.get(line.price)
        plan = catalogue.find(price.plan) if price else None
        if price is None or plan is None:
            unknown.append(line.price)
        elif (unit_minor := price.unit_amount_in(line.currency)) is None:
            unpriced.append(f"{price.id} in {line.currency}")
        else:
            priced.append(_priced(line, plan.in_unit(unit), price, unit_minor))
    unread = [each for each in unknown if isinstance(prices, PriceBook) and not prices.sells_nothing(each)]
    if unpriced or not priced:
        return Quote(
            *(0, None, None),
            unknown_prices=tuple(unknown),
            unread_prices=tuple(unread),
            unpriced=tuple(unpriced),
        )
    priced = _whole_changes(priced)
    net = int(sum(each.credits for each in priced) // 1)
    best = max(priced, key=lambda each: each.credits)
    changed_at = min((each.line.period_start for each in priced if each.line.proration), default=None)
    return Quote(
        credits=net,
        plan=best.plan.id,
        price=best.price.id,
        parts=_parts(priced, lines, max(0, net)),
        unknown_prices=tuple(unknown),
        prorated_from=changed_at,
        free=_free(priced),
        unread_prices=tuple(unread),
    )


def _parts(priced: Sequence[_PricedLine], lines: Sequence[LineFacts], credits: int) -> tuple[CreditPart, ...]:
    """`credits` divided among the lines' parts, in proportion to what each gives."""
    whole = [line for line in lines if not line.proration]
    newest = max(whole, key=lambda line: line.period_start, default=None)
    shares: dict[CreditPart, Fraction] = {}
    for each in priced:
        if each.credits > 0:
            part = _part(each, newest)
            shares[part] = shares.get(part, Fraction(0)) + each.credits
    given = split(credits, list(shares.values()))
    return tuple(_with_credits(part, share) for part, share in zip(shares, given, strict=True))


def _priced(line: LineFacts, plan: Plan, price: StripePrice, unit_minor: int) -> _PricedLine:
    whole = plan.credits * price.interval.months
    if unit_minor == 0:
        credits = Fraction(0 if line.proration else whole * line.quantity)
        return _PricedLine(line, plan, price, unit_minor, credits, free=credits)
    if line.amount_minor == 0 and not line.proration:  # a plan with a price, charged at 0: a trial
        credits = Fraction(plan.trial_credits * line.quantity)
        return _PricedLine(line, plan, price, unit_minor, credits, free=credits)
    by_money = Fraction(whole * line.amount_minor, unit_minor)
    free = by_money if line.amount_minor == line.discount_minor else Fraction(0)
    return _PricedLine(line, plan, price, unit_minor, by_money, free=free)


def _whole_changes(priced: Sequence[_PricedLine]) -> list[_PricedLine]:
    """The same lines, with the prorations of `upgrade = "full"` counted as whole plans.

    A change has one line for what is charged, and one for each earlier charge that is credited
    (https://docs.stripe.com/billing/subscriptions/billing-mode): all lines of one price from one moment on
    count as one line here, and share what it gives by their amounts.
    """
    changes: dict[tuple[str, int, bool], list[_PricedLine]] = {}
    for each in priced:
        if _counts_whole(each):
            key = (each.price.id, each.line.period_start, each.line.amount_minor > 0)
            changes.setdefault(key, []).append(each)
    whole = {key: _whole_per_minor(lines) for key, lines in changes.items()}
    return [
        _in_full(each, whole[each.price.id, each.line.period_start, each.line.amount_minor > 0])
        if _counts_whole(each)
        else each
        for each in priced
    ]


def _counts_whole(each: _PricedLine) -> bool:
    in_full = each.plan.upgrade is Upgrade.FULL and each.line.proration
    return in_full and each.line.amount_minor != 0 != each.unit_minor


def _whole_per_minor(lines: Sequence[_PricedLine]) -> Fraction:
    """What the whole plan gives for these lines of one change, for each minor unit of their amounts."""
    longest = max(lines, key=lambda each: each.line.period_end)
    credits = _whole_months(longest.line, longest.plan, longest.price) * _seats(lines, longest)
    return Fraction(credits, sum(abs(each.line.amount_minor) for each in lines))


def _seats(lines: Sequence[_PricedLine], longest: _PricedLine) -> int:
    """How many seats these lines are for: one line's quantity; of several, as many as their money pays."""
    quantities = [each.line.quantity for each in lines]
    line, months = longest.line, longest.price.interval.months
    whole_s = line.period_end - add_months(line.period_end, -months)
    length_s = max(1, line.period_end - line.period_start)
    minor = sum(abs(each.line.amount_minor) for each in lines)
    paid = Fraction(minor * whole_s, longest.unit_minor * length_s)
    return min(max(*quantities, round(paid)), sum(quantities))


def _in_full(each: _PricedLine, per_minor: Fraction) -> _PricedLine:
    credits = per_minor * each.line.amount_minor
    if each.free:
        return replace(each, credits=credits, free=credits)
    return replace(each, credits=credits, added=credits - each.credits)


def _whole_months(line: LineFacts, plan: Plan, price: StripePrice) -> int:
    """What one seat gives for the line's period; a partial month counts in full."""
    if not line.proration:
        return plan.credits * price.interval.months
    return plan.credits * len(months_between(line.period_start, line.period_end))


def _free(priced: Sequence[_PricedLine]) -> FreeCredits | None:
    """The free credits, rounded up, since paid credits are rounded down.

    They may exceed the net when the invoice also downgrades another plan.
    """
    if not any(each.free or each.added for each in priced):
        return None
    free, added = sum(each.free for each in priced), sum(each.added for each in priced)
    credits = -int(-(max(0, free) + max(0, added)) // 1)
    if credits <= 0:
        return None
    given = [each for each in priced if each.free > 0 or each.added > 0]
    start = min(each.line.period_start for each in given)
    end = max(each.line.period_end for each in given)
    if end == start:  # a top-up has no period: a free one counts for a month
        end = add_months(start, 1)
    return FreeCredits(credits, max(map(_ceiling, given)), start, end)


def _ceiling(priced: _PricedLine) -> int:
    line, plan, price = priced.line, priced.plan, priced.price
    trial = line.amount_minor == 0 < priced.unit_minor and not line.proration
    seat = plan.trial_credits if trial else _whole_months(line, plan, price)
    return seat * min(line.quantity, plan.quantity_limit)


def _part(each: _PricedLine, newest: LineFacts | None) -> CreditPart:
    """The schedule of this line's credits. Lines of one plan and period share one.

    Prorations billed at the renewal, when their period is over, are granted at once and last as long as the
    `newest` period, which is on the same invoice.
    """
    line, plan, price = each.line, each.plan, each.price
    late = newest is not None and line.period_end <= newest.period_start and line.proration
    end = newest.period_end if late and newest else line.period_end
    monthly = price.interval.months > 1 and (line.amount_minor != 0 or each.unit_minor == 0)
    starts = months_between(line.period_start, end) if monthly and not late else [line.period_start]
    expires = plan.rollover is not Rollover.KEEP and not plan.top_up
    return CreditPart(plan.id, price.id, 0, tuple(starts), end, expires, plan.rollover_cap if expires else 0)


def installments(parts: Iterable[CreditPart]) -> list[Installment]:
    """The grants of an invoice, by due date: those due at once come first."""
    made = [item for part in parts for item in _installments(part)]
    return sorted(made, key=lambda item: item.due_at or 0)


def _installments(part: CreditPart) -> list[Installment]:
    ends = (*part.due_at[1:], part.period_end)
    share, more = divmod(part.credits, max(1, len(part.due_at)))
    shares = [share + (number < more) for number in range(len(part.due_at))]
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


def reduce_quote(quoted: Quote, by: int) -> Quote:
    """The quote less `by` credits, taken from its parts in proportion."""
    if not by:
        return quoted
    given = split(max(0, quoted.credits - by), [Fraction(part.credits) for part in quoted.parts])
    parts = tuple(_with_credits(part, credits) for part, credits in zip(quoted.parts, given, strict=True))
    return replace(quoted, credits=quoted.credits - by, parts=parts)


def split(total: int, weights: list[Fraction]) -> list[int]:
    """Divide `total` into integers by weight. The sum is exact; the remainder goes to the first."""
    if len(weights) == 1:
        return [total if weights[0] else 0]
    weight = sum(weights)
    if not weight:
        return [0] * len(weights)
    shares = [int(total * each // weight) for each in weights]
    for i in range(total - sum(shares)):
        shares[i] += 1
    return shares


def _with_credits(part: CreditPart, credits: int) -> CreditPart:
    return replace(part, credits=credits)
