"""Credits follow the money: from an invoice's lines to a number of credits.

Owns the arithmetic of DESIGN's "Credits follow the money": for each line that belongs to a
plan, the plan's credits times what the line charges, over the full price of one seat. The sum
is exact (fractions) and rounded down once, at the end. Refuses to look at what was paid:
discounts and taxes change nothing, and whether to grant at all is `decisions.py`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

import msgspec

from server.core.facts import LineFacts
from server.core.plans import Catalogue, Plan, Rollover, StripePrice


class Quote(msgspec.Struct, frozen=True):
    """What an invoice gives once it is paid.

    `plan` and `price` are those of the line that gives most; `expires_at` is Unix seconds or
    None for never; `unknown_prices` belong to no plan.
    """

    credits: int
    plan: str | None
    price: str | None
    expires_at: int | None
    unknown_prices: tuple[str, ...] = ()


def quote(lines: Iterable[LineFacts], catalogue: Catalogue, prices: Mapping[str, StripePrice]) -> Quote:
    """Credits for an invoice's lines. Never negative; zero where no line belongs to a plan."""
    total, best, unknown = Fraction(0), None, []
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
        if best is None or credits > best[0]:
            best = (credits, line, plan)
    if best is None:
        return Quote(0, None, None, None, tuple(unknown))
    _, line, plan = best
    expires_at = line.period_end if plan.rollover is Rollover.EXPIRE else None
    return Quote(max(0, int(total // 1)), plan.id, line.price, expires_at, tuple(unknown))


def _line_credits(line: LineFacts, plan: Plan, price: StripePrice) -> Fraction:
    if price.unit_amount_minor == 0:
        return Fraction(0 if line.proration else plan.credits * line.quantity)
    if line.amount_minor == 0 and not line.proration:
        return Fraction(plan.trial_credits * line.quantity)  # a charged plan at nothing: a trial
    return Fraction(plan.credits * line.amount_minor, price.unit_amount_minor)
