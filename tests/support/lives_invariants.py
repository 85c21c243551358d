"""What must hold of random lives (`random_lives.py`), computed from what Stripe's side says.

Independent of the product's arithmetic: it knows plans, prices and periods, and reads the ledger only to
compare. Changes of plan are bounded by their money alone; all else is exact.
"""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from typing import Any

import msgspec

from paidup.db.models import Account, CreditGrant, GrantState, Invoice, StripeEvent, Subscription
from paidup.domain.billing_months import months_between
from paidup.domain.catalog import Interval, Rollover
from paidup.domain.plans_toml import parse_catalogue
from paidup.reconciliation.alarms import take_snapshot
from paidup.settings import PACKAGED_PLANS
from tests.support.ledger_asserts import assert_books_balance
from tests.support.random_lives import HOUR_S, RATES, Person, Town, account_of, amount_in

CATALOGUE = parse_catalogue(PACKAGED_PLANS.read_bytes())
MONTHS = {Interval.ONCE: 0, Interval.MONTH: 1, Interval.YEAR: 12}
GOOD_STANDING = ("active", "past_due", "trialing")
TAKEN = ("lost", "appeal_under_review", "appeal_needs_response")
DISPUTED = ("needs_response", "under_review")


class Sold(msgspec.Struct, frozen=True):
    """What a price of the plans file gives; `months`: 0 for a top-up."""

    plan: str
    credits: int
    months: int
    expires: bool
    grace_s: int


class Payment(msgspec.Struct, frozen=True):
    """A paid invoice of a person's. `exact`: one whole period, or top-ups, wholly paid in cash.

    `returned_minor` went back, for good or for now; `disputed_minor` may.
    """

    id: str
    account: str
    subscription: str | None
    currency: str
    cash_minor: int
    returned_minor: int
    disputed_minor: int
    exact: bool
    sold: Sold
    quantity: int
    start: int
    end: int

    @property
    def credits(self) -> int:
        return self.sold.credits * max(1, self.sold.months) * self.quantity


class Truth(msgspec.Struct):
    """All that Stripe's side has."""

    payments: list[Payment]
    invoices: list[Any]
    subscriptions: dict[str, Any]

    def of(self, person: Person) -> list[Payment]:
        return [each for each in self.payments if each.account == person.name]


async def prices_of(town: Town) -> dict[str, Sold]:
    """The prices of the plans file, by Stripe's ids."""
    by_key = {
        price.lookup_key: Sold(
            plan.id,
            plan.credits,
            MONTHS[price.interval],
            plan.rollover is not Rollover.KEEP and price.interval is not Interval.ONCE,
            plan.renewal_grace_hours * HOUR_S,
        )
        for plan in CATALOGUE.plans
        for price in plan.prices
    }
    listed = await town.listed("prices")
    return {each["id"]: by_key[each["lookup_key"]] for each in listed if each["lookup_key"] in by_key}


def best_rates() -> dict[str, Fraction]:
    """By currency, the most credits that any price gives for the smallest unit of money."""
    return {
        currency: max(
            Fraction(plan.credits * max(1, MONTHS[price.interval]), amount_in(currency, price.amount_minor))
            for plan in CATALOGUE.plans
            for price in plan.prices
        )
        for currency in RATES
    }


async def read_truth(town: Town, prices: dict[str, Sold]) -> Truth:
    invoices = await town.listed("invoices")
    links = await town.listed("invoice_payments")
    invoice_of = {link["payment"]["payment_intent"]: link["invoice"] for link in links}
    charged = {each["id"]: invoice_of.get(each["payment_intent"]) for each in await town.listed("charges")}
    returned: dict[str | None, int] = defaultdict(int)
    disputed: dict[str | None, int] = defaultdict(int)
    for refund in await town.listed("refunds"):
        if refund["status"] in ("pending", "succeeded"):
            returned[charged[refund["charge"]]] += refund["amount"]
    for dispute in await town.listed("disputes"):
        if dispute["status"] in TAKEN:
            returned[charged[dispute["charge"]]] += dispute["amount"]
        elif dispute["status"] in DISPUTED:
            disputed[charged[dispute["charge"]]] += dispute["amount"]
    payments = [
        _payment(each, returned[each["id"]], disputed[each["id"]], prices)
        for each in invoices
        if each["status"] == "paid" and account_of(each)
    ]
    subscriptions = {each["id"]: each for each in await town.listed("subscriptions?status=all")}
    return Truth(payments, invoices, subscriptions)


def _payment(invoice: Any, returned: int, disputed: int, prices: dict[str, Sold]) -> Payment:
    lines = invoice["lines"]["data"]
    last = lines[-1]
    details = (invoice.get("parent") or {}).get("subscription_details") or {}
    whole = not any(_is_proration(line) for line in lines) and len(lines) == 1
    return Payment(
        id=invoice["id"],
        account=str(account_of(invoice)),
        subscription=details.get("subscription"),
        currency=invoice["currency"],
        cash_minor=invoice["amount_paid"],
        returned_minor=returned,
        disputed_minor=disputed,
        exact=whole and invoice["amount_paid"] == invoice["total"] > 0,
        sold=prices[last["pricing"]["price_details"]["price"]],
        quantity=last["quantity"],
        start=last["period"]["start"],
        end=last["period"]["end"],
    )


def _is_proration(line: Any) -> bool:
    parent = line["parent"]
    return bool(parent[parent["type"]]["proration"])


# What must hold


async def check_all(town: Town, prices: dict[str, Sold]) -> Truth:
    """Everything, once what was late or lost has been recovered."""
    truth = await read_truth(town, prices)
    await assert_books_balance()
    await check_nothing_parks_or_alarms()
    await check_credits(truth)
    await check_bound(town, truth)
    await check_other_products(town, truth)
    await check_access(town, truth, {each.id for each in truth.payments})
    return truth


async def check_credits(truth: Truth) -> None:
    """All that is paid is credited to whom it belongs, nothing else is, and returned money is taken back."""
    grants: dict[str, int] = defaultdict(int)
    for grant in await CreditGrant.all():
        grants[str(grant.invoice_id)] += grant.credits
    paid = {each.id: each for each in truth.payments}
    assert set(grants) == set(paid), "exactly the paid invoices are credited"
    changed = {each.subscription for each in truth.payments if not each.exact}
    for row in await Invoice.filter(id__in=list(paid)).prefetch_related("account"):
        payment = paid[row.id]
        assert row.account.external_id == payment.account
        if payment.exact and (payment.sold.months <= 1 or payment.subscription not in changed):
            assert grants[row.id] == payment.credits, (payment, grants[row.id])
        if payment.cash_minor and payment.exact:
            whole = payment.returned_minor >= payment.cash_minor
            assert (row.status == "reversed") == whole, (payment, row.status)


async def check_bound(town: Town, truth: Truth) -> None:
    """Credits given and to come never exceed what the cash buys at the best rate."""
    rates = best_rates()
    for person in town.people:
        own = CreditGrant.filter(account__external_id=person.name)
        given = sum(each.credits for each in await own.exclude(state=GrantState.CANCELED))
        most = sum((each.cash_minor * rates[each.currency] for each in truth.of(person)), Fraction())
        assert given <= most, (person.name, given, float(most))


async def check_nothing_parks_or_alarms() -> None:
    waiting = [(row.type, row.error) for row in await StripeEvent.filter(handled_at=None)]
    assert waiting == []
    assert [alarm.name for alarm in (await take_snapshot()).alarms] == []


async def check_other_products(town: Town, truth: Truth) -> None:
    """Each subscription to another product is as it was, and unknown here, with its invoices."""
    for person in town.people:
        for subscription, kept in person.foreign.items():
            assert await town.as_it_is(subscription) == kept
            assert not await Subscription.exists(id=subscription)
    foreign = [each["id"] for each in truth.invoices if account_of(each) is None]
    assert not await Invoice.exists(id__in=foreign)


async def check_access(town: Town, truth: Truth, known: set[str]) -> None:
    """Nobody who is paid up is locked out: what their payments gave, less what they spent, is there.

    `known`: the payments of which Paidup can know by now.
    """
    for person in town.people:
        least = floor_of(person, truth, town.at, known)
        if least > 0:
            account = await Account.get(external_id=person.name)
            balance = await person.customer.balance()
            assert balance >= least, (person.name, balance, least, account.version)


def floor_of(person: Person, truth: Truth, at: int, known: set[str]) -> int:
    """The least that the person has at `at`: see `check_access`. Spends count against all of it."""
    total, since, owed = 0, at, 0
    for payment in truth.of(person):
        if payment.returned_minor or payment.disputed_minor:
            owed += payment.credits * 2
        elif payment.exact and payment.id in known and (current := _current(payment, truth, at, known)):
            total += payment.sold.credits * payment.quantity
            since = min(since, current)
    spent = sum(credits for when, credits in person.spends if when >= since)
    return total - spent - owed


def _current(payment: Payment, truth: Truth, at: int, known: set[str]) -> int | None:
    """Since when the credits of the payment that can be used now were given; None: they have expired."""
    sold = payment.sold
    if sold.months == 0 or (not sold.expires and sold.months == 1):
        return payment.start
    starts = months_between(payment.start, payment.end) if sold.months > 1 else (payment.start,)
    if sold.months > 1 and any(
        each.subscription == payment.subscription and not each.exact for each in truth.payments
    ):
        return None  # a downgrade may have lowered its months
    begun = [start for start in starts if start <= at]
    if at < payment.end:
        return begun[-1]
    return begun[-1] if _in_grace(payment, truth, at, known) else None


def _in_grace(payment: Payment, truth: Truth, at: int, known: set[str]) -> bool:
    """Whether its renewal is awaited: docs/credits.md, "Renewals and their grace"."""
    if not payment.sold.expires or at >= payment.end + payment.sold.grace_s:
        return False
    subscription = truth.subscriptions[str(payment.subscription)]
    if subscription["status"] not in GOOD_STANDING:
        return False
    ends = [subscription["cancel_at"], payment.end if subscription["cancel_at_period_end"] else None]
    if any(end is not None and end <= payment.end for end in ends):
        return False
    later = [each for each in truth.payments if each.subscription == payment.subscription]
    if any(each.end > payment.end for each in later if each.id in known):
        return False
    return not any(
        each["status"] in ("void", "uncollectible")
        for each in truth.invoices
        if account_of(each) and each["lines"]["data"][-1]["period"]["end"] > payment.end
    )
