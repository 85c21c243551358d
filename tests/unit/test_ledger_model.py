"""The ledger gives the same results as its reference model, after any history, on both databases.

`LEDGER_MODEL_EXAMPLES` sets the number of histories, `LEDGER_MODEL_STEPS` their length:
`LEDGER_MODEL_EXAMPLES=2000 pytest tests/unit/test_ledger_model.py`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from paidup.credits import corrections, ledger, reservations
from paidup.credits.move_batches import CreditMoves
from paidup.credits.requested_moves import Commit, Move, Release, Reserve, Spend
from paidup.credits.reversals import ReversalNews
from paidup.db.connection import open_database, write_transaction
from paidup.db.models import (
    Account,
    CreditGrant,
    EntryKind,
    GrantState,
    Invoice,
    LedgerEntry,
    Reservation,
    ReversalKind,
)
from paidup.db.unit_accounts import AnyAccount, in_all_units, in_unit
from paidup.domain.billing_months import months_between
from paidup.domain.catalog import AfterRefund, Interval, StripePrice
from paidup.domain.messages import StatusMessage
from paidup.domain.payment_facts import InvoiceFacts, LineFacts, PaymentFacts, Source
from paidup.domain.plans_toml import parse_catalogue
from paidup.errors import Conflict, InsufficientCredits, InvalidInput, NotFound
from paidup.payments.outcomes import Outcome
from paidup.payments.settlement import Settlement
from paidup.payments.timeline import Timeline
from paidup.runtime.clock import at_unix, now
from paidup.runtime.metrics import Metrics
from tests.support.billing_simulator import BEGIN, Bills, Item
from tests.support.factories import an_account, ignore_balance
from tests.support.ledger_model import Bill, Line, Model, PlanRules, Refused

T = TypeVar("T")

EXAMPLES = int(os.environ.get("LEDGER_MODEL_EXAMPLES", "10"))
STEPS = int(os.environ.get("LEDGER_MODEL_STEPS", "20"))
HOUR_S = 3600
GRACE_H = 72
CAP = 40

ROLLOVERS = {"keep": None, "expire": 0, "cap": CAP}
MONTHLY = {"basic": (100, 1000), "pro": (300, 2500)}
"""What each plan gives and costs a month."""
YEAR_PRICE = 20_000
TOP_UP = (50, 400)
TRIAL = 30
IMAGES = {"basic": 11, "pro": 60}
"""What each plan gives a month of another unit."""
PICTURES = (20, 300)
UNITS = ("", "images")

CATALOGUE = """
units = ["credits", "images"]
spent_then_refunded = "{after}"
[[plans]]
id = "basic"
name = "Basic"
credits = 100
trial_credits = {trial}
grants = {{images = 11}}
{terms}
prices = [{{lookup_key = "basic_m", amount_minor = 1000}}]
[[plans]]
id = "pro"
name = "Pro"
credits = 300
grants = {{images = 60}}
{terms}
prices = [
  {{lookup_key = "pro_m", amount_minor = 2500}},
  {{lookup_key = "pro_y", amount_minor = {year}, interval = "year"}},
]
[[plans]]
id = "extra"
name = "Extra"
credits = 50
prices = [{{lookup_key = "extra", amount_minor = 400, interval = "once"}}]
[[plans]]
id = "pictures"
name = "Pictures"
unit = "images"
credits = 20
prices = [{{lookup_key = "pictures", amount_minor = 300, interval = "once"}}]
"""
PRICES = {
    "basic_m": StripePrice("basic_m", "basic_m", "basic", 1000, "usd"),
    "pro_m": StripePrice("pro_m", "pro_m", "pro", 2500, "usd"),
    "pro_y": StripePrice("pro_y", "pro_y", "pro", YEAR_PRICE, "usd", Interval.YEAR),
    "extra": StripePrice("extra", "extra", "extra", 400, "usd", Interval.ONCE),
    "pictures": StripePrice("pictures", "pictures", "pictures", 300, "usd", Interval.ONCE),
}


async def untold(_: StatusMessage) -> bool:
    return False


class Customer:
    """One customer in the ledger, and in a model for each unit."""

    def __init__(self, account: Account, models: dict[str, Model], bills: Bills) -> None:
        self.account = account
        self.models = models
        self.bills = bills
        self.reserved: list[str] = []
        """The keys of its reservations, of any unit."""
        self.invoices: list[str] = []
        self.given: list[tuple[str, str]] = []
        self.totals: dict[str, int] = {}
        self.subscribed = False
        self.had_trial = False

    def unit_of(self, key: str) -> str:
        """The unit of the reservation of this key; the default one where there is none."""
        return next((unit for unit in UNITS if key in self.models[unit].reservations), "")


class Histories(RuleBasedStateMachine):
    """Applies every step of two customers to the ledger and to the model."""

    runner: asyncio.Runner

    @initialize(
        rollover=st.sampled_from(sorted(ROLLOVERS)),
        upgrade=st.sampled_from(["prorate", "full"]),
        after=st.sampled_from(["debt", "forgive"]),
        on_cancel=st.sampled_from(["keep", "expire"]),
        first=st.sampled_from(["basic_m", "pro_m", "pro_y"]),
        trial=st.booleans(),
    )
    def begin(self, rollover: str, upgrade: str, after: str, on_cancel: str, first: str, trial: bool) -> None:
        terms = [f'rollover = "{rollover}"', f'upgrade = "{upgrade}"', f'on_cancel = "{on_cancel}"']
        terms += [f"rollover_cap = {CAP}"] if rollover == "cap" else []
        text = CATALOGUE.format(after=after, trial=TRIAL, year=YEAR_PRICE, terms="\n".join(terms))
        catalogue = parse_catalogue(text.encode())
        self.at, self.keys_made = BEGIN, 0
        self.moves = CreditMoves(ignore_balance)
        self.looked = True
        self.settlement = Settlement(
            catalogue, PRICES, untold, ignore_balance, Timeline(), Metrics(), lambda: at_unix(self.at)
        )
        rules = {
            plan: PlanRules(
                *MONTHLY[plan],
                year_price=YEAR_PRICE,
                cap=ROLLOVERS[rollover],
                trial_credits=TRIAL if plan == "basic" else 0,
                max_quantity=1 if upgrade == "full" else 100,
                full_upgrades=upgrade == "full",
                ends_with_subscription=on_cancel == "expire",
                grace_s=GRACE_H * HOUR_S,
            )
            for plan in MONTHLY
        }
        of_images = {plan: in_images(plan, terms) for plan, terms in rules.items()}
        of_images |= {"extra": replace(PlanRules(*TOP_UP), credits=0), "pictures": PlanRules(*PICTURES)}
        rules |= {"extra": PlanRules(*TOP_UP), "pictures": replace(PlanRules(*PICTURES), credits=0)}
        self.customers: list[Customer] = []
        for _ in range(2):
            account = self.run(an_account())
            models = {"": Model(rules, after == "forgive"), "images": Model(of_images, after == "forgive")}
            self.customers.append(Customer(account, models, Bills(catalogue, PRICES)))
            self.subscribe(len(self.customers) - 1, first, 1, trial)

    def run(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return self.runner.run(awaited())

    # What the customer does: two of them, under the same keys

    who = st.integers(0, 1)
    keys = st.sampled_from(["a", "new", "new", "new"])
    units = st.sampled_from(["", "", "images"])
    some = st.integers(1, 200) | st.sampled_from([50, 100, 300])

    def key(self, key: str) -> str:
        """The key, or a new one."""
        self.keys_made += 1
        return f"new-{self.keys_made}" if key == "new" else key

    def reserved(self, who: int, nth: int) -> tuple[str, str]:
        """The key and unit of one of the newest reservations in any state; the key "a" if there are fewer."""
        key = (["a"] * 3 + self.customers[who].reserved)[-1 - nth]
        return key, self.customers[who].unit_of(key)

    @rule(who=who, key=keys, credits=some, unit=units, batched=st.booleans())
    def spend(self, who: int, key: str, credits: int, unit: str, batched: bool = True) -> None:
        key = self.key(key)

        async def move(account: AnyAccount) -> Any:
            if batched:
                done = await self.asked(Spend(account.id, unit, credits, key, at_unix(self.at)))
            else:
                done = await reservations.spend(account, credits, key, at_unix(self.at))
            return done.balance, done.credits

        other = self.customers[who].models["" if unit else "images"]
        used = key in other.spends
        self.both(who, unit, move, lambda model: model.spend(key, credits, self.at), used, batched=batched)

    @rule(
        who=who,
        key=keys,
        credits=some,
        hours=st.sampled_from([1, 24, 24 * 40]),
        share=st.booleans(),
        unit=units,
        batched=st.booleans(),
    )
    def reserve(
        self, who: int, key: str, credits: int, hours: int, share: bool, unit: str, batched: bool = True
    ) -> None:
        balance = self.customers[who].models[unit].balance
        self._reserve(who, self.key(key), balance if share and balance > 0 else credits, hours, unit, batched)

    def _reserve(self, who: int, key: str, credits: int, hours: int, unit: str, batched: bool = True) -> None:
        ends = at_unix(self.at) + timedelta(hours=hours)

        async def move(account: AnyAccount) -> Any:
            if batched:
                made = await self.asked(Reserve(account.id, unit, credits, key, ends, at_unix(self.at)))
            else:
                made = await reservations.reserve(account, credits, key, ends, at_unix(self.at))
            return made.balance, int(made.expires_at.timestamp())

        customer = self.customers[who]
        used = key in customer.models["" if unit else "images"].reservations
        expected = lambda model: model.reserve(key, credits, hours * HOUR_S, self.at)  # noqa: E731
        self.both(who, unit, move, expected, used, batched=batched)
        if key not in customer.reserved and key in customer.models[unit].reservations:
            customer.reserved.append(key)

    @rule(who=who, nth=st.integers(0, 2), percent=st.integers(0, 110), batched=st.booleans())
    def commit(self, who: int, nth: int, percent: int, batched: bool = True) -> None:
        key, unit = self.reserved(who, nth)
        known = self.customers[who].models[unit].reservations.get(key)
        credits = (known.credits if known else 10) * percent // 100

        async def move(account: AnyAccount) -> Any:
            if batched:
                return (await self.asked(Commit(account.id, key, credits, at_unix(self.at)))).balance
            return (await reservations.commit(account, key, credits, at_unix(self.at))).balance

        self.both(who, "", move, lambda model: model.commit(key, credits, self.at), of=unit, batched=batched)

    @rule(who=who, nth=st.integers(0, 2), batched=st.booleans())
    def release(self, who: int, nth: int, batched: bool) -> None:
        key, unit = self.reserved(who, nth)

        async def move(account: AnyAccount) -> Any:
            if batched:
                return (await self.asked(Release(account.id, key, at_unix(self.at)))).balance
            return (await reservations.release(account, key, at_unix(self.at))).balance

        self.both(who, "", move, lambda model: model.release(key, self.at), of=unit, batched=batched)

    @rule(who=who, nth=st.integers(0, 2), percent=st.sampled_from([100, 100, 99]))
    def reserve_again(self, who: int, nth: int, percent: int) -> None:
        """Spend with a key that belongs to a reservation in any state."""
        key, unit = self.reserved(who, nth)
        known = self.customers[who].models[unit].reservations.get(key)
        self._reserve(who, key, (known.credits if known else 10) * percent // 100 or 1, 1, unit)

    @rule(
        who=who,
        credits=some,
        hours=st.sampled_from([1, 30]),
        swept=st.booleans(),
        nth=st.integers(0, 1),
        unit=units,
    )
    def outlast(self, who: int, credits: int, hours: int, swept: bool, nth: int, unit: str) -> None:
        """A reservation expires before the work is done."""
        self._reserve(who, self.key("new"), credits, 1, unit)
        self.wait(hours, looked=False)
        if swept:
            self.sweep(who)
        self.commit(who, nth, 50)
        self.reserve_again(who, nth, 100)

    @rule(who=who)
    def sweep(self, who: int) -> None:
        for unit in UNITS:
            self._sweep(who, unit)

    def _sweep(self, who: int, unit: str) -> None:
        self.both(
            who,
            unit,
            lambda account: reservations.expire_due(account, at_unix(self.at)),
            lambda model: model.sweep(self.at),
        )

    # What an operator does

    @rule(who=who, credits=some, hours=st.sampled_from([None, 30, 24 * 40]), unit=units)
    def give(self, who: int, credits: int, hours: int | None, unit: str) -> None:
        name, ends = self.key("new"), self.at + hours * HOUR_S if hours else None
        terms = ledger.GrantTerms(credits, at_unix(ends) if ends else None)

        async def move(account: AnyAccount) -> Any:
            at = at_unix(self.at)
            await corrections.give(account, f"cor-{account.id}-{name}", EntryKind.GRANT, terms, "", at)
            return account.balance

        self.both(who, unit, move, lambda model: model.give(name, credits, ends, self.at))
        self.customers[who].given.append((name, unit))

    @rule(who=who, credits=some, allow_debt=st.booleans(), unit=units)
    def take(self, who: int, credits: int, allow_debt: bool, unit: str) -> None:
        name = self.key("new")

        async def move(account: AnyAccount) -> Any:
            correction, at = f"cor-{account.id}-{name}", at_unix(self.at)
            await corrections.take(account, correction, credits, allow_debt, "", at)
            return account.balance

        self.both(who, unit, move, lambda model: model.take(credits, allow_debt, self.at))

    @rule(who=who, nth=st.integers(0, 1), after=st.sampled_from(AfterRefund))
    def revoke(self, who: int, nth: int, after: AfterRefund) -> None:
        """One of the newest gifts, that is spent, reserved, expired or revoked by now."""
        given = list(self.customers[who].given)
        if not given:
            return
        name, unit = given[-1 - nth % len(given)]

        async def move(account: AnyAccount) -> Any:
            row = await CreditGrant.get(correction=f"cor-{account.id}-{name}")
            await corrections.revoke(account, row, after, "", at_unix(self.at))
            return account.balance

        forgives = after is AfterRefund.FORGIVE
        self.both(who, unit, move, lambda model: model.revoke(name, forgives, self.at))

    def both(
        self,
        who: int,
        unit: str,
        move: Callable[[AnyAccount], Awaitable[Any]],
        expect: Callable[[Model], Any],
        used: bool = False,
        of: str | None = None,
        batched: bool = False,
    ) -> None:
        """Move credits in both. `unit`: in which the account is passed. `used`: its key was used for another.

        `of`: the unit of the reservation. `batched`: `move` locks the account itself.
        """
        customer = self.customers[who]
        try:
            expected = "KeyReused" if used else expect(customer.models[unit if of is None else of])
        except Refused as refused:
            expected = str(refused)
        assert self.run(self.moved(customer.account, unit, move, batched)) == expected
        self.looked = True

    async def asked(self, move: Move) -> Any:
        """As the API makes it."""
        return (await self.moves(move)).result

    async def moved(
        self, account: Account, unit: str, move: Callable[[AnyAccount], Awaitable[Any]], batched: bool
    ) -> Any:
        try:
            if batched:
                return await move(account)
            async with write_transaction():
                return await move(in_unit(await ledger.lock_account(account.id), unit))
        except (Conflict, InsufficientCredits, InvalidInput, NotFound) as error:
            return type(error).__name__

    # What is bought

    @rule(
        who=who,
        price=st.sampled_from(["basic_m", "pro_m", "pro_y"]),
        seats=st.integers(1, 2),
        trial=st.booleans(),
    )
    def subscribe(self, who: int, price: str, seats: int, trial: bool) -> None:
        customer = self.customers[who]
        if customer.subscribed:
            return
        customer.subscribed, customer.bills.at = True, self.at
        if trial and price == "basic_m" and not customer.had_trial:
            customer.had_trial = True
            customer.bills.subscribe(Item(PRICES[price], seats), trial_days=7)
        else:
            customer.bills.subscribe(Item(PRICES[price], seats))
        self.settle(customer)

    @rule(who=who, price=st.sampled_from(["basic_m", "pro_m"]), seats=st.integers(1, 3))
    def change(self, who: int, price: str, seats: int) -> None:
        """Change to another plan or quantity within a paid month."""
        customer = self.customers[who]
        bills, item = customer.bills, Item(PRICES[price], seats)
        if not customer.subscribed or not bills.debits or bills.item == item:
            return
        if bills.item is None or bills.item.price.interval is not Interval.MONTH or bills.end <= self.at:
            return
        bills.at = self.at
        bills.change(item)
        self.settle(customer)

    @rule(who=who, pieces=st.integers(1, 3), price=st.sampled_from(["extra", "pictures"]))
    def top_up(self, who: int, pieces: int, price: str) -> None:
        customer = self.customers[who]
        customer.bills.at = self.at
        customer.bills.top_up(PRICES[price], pieces)
        self.settle(customer)

    @rule(who=who)
    def cancel(self, who: int) -> None:
        customer = self.customers[who]
        if not customer.subscribed:
            return
        customer.subscribed = False
        customer.bills.cancel()
        subscription = f"sub_{customer.account.id}_{customer.bills.subscriptions}"
        self.run(self.settlement.end_subscription(subscription))
        for model in customer.models.values():
            model.cancel(subscription, self.at)

    def settle(self, customer: Customer) -> None:
        """Stripe's invoice is paid, and its event handled."""
        lines, last = customer.bills.lines[-1], customer.bills.last
        total, from_balance, change = last.money.total_minor, last.money.from_balance_minor, last.money.change
        name = f"{last.invoice}_{customer.account.id}"
        subscription = (
            f"sub_{customer.account.id}_{customer.bills.subscriptions}" if last.subscription else None
        )
        invoice = InvoiceFacts(
            id=name,
            status="paid",
            customer=customer.account.stripe_customer,
            currency="usd",
            amount_due_minor=max(0, total - from_balance),
            amount_paid_minor=max(0, total - from_balance),
            amount_remaining_minor=0,
            total_minor=total,
            from_balance_minor=from_balance,
            finalized_at=self.at,
            sequence=len(customer.bills.paid),
            billing_reason="subscription_update" if change else "subscription_cycle",
            subscription=subscription,
            created=self.at,
            lines=lines,
        )
        settled = self.run(self.settlement.settle(PaymentFacts(invoice), Source.WEBHOOK))
        assert settled.outcome is Outcome.SETTLED
        bill = Bill(name, subscription, tuple(map(seen, lines)), total, from_balance, change, self.at)
        for model in customer.models.values():
            model.pay(bill)
        customer.invoices.append(name)
        customer.totals[name] = total

    # Time

    @rule(
        hours=st.sampled_from([1, 30, 24 * 5, 24 * 16, 24 * 45]),
        looked=st.booleans(),
        collected_h=st.sampled_from([0, 1, 30, 24 * 5]),
    )
    def wait(self, hours: int, looked: bool, collected_h: int = 0) -> None:
        """Advance the time, with renewals and installments. When balances are read must not matter.

        Renewals are paid some hours after their period began: they were drafts, or were retried.
        """
        until, later = self.at + hours * HOUR_S, collected_h * HOUR_S
        while renewing := [c for c in self.customers if c.subscribed and c.bills.end + later <= until]:
            customer = min(renewing, key=lambda c: c.bills.end)
            self.pass_to(max(self.at, customer.bills.end + later))
            customer.bills.renew()
            self.settle(customer)
        self.pass_to(until)
        self.looked = looked

    def pass_to(self, at: int) -> None:
        self.at = at
        for customer in self.customers:
            models = customer.models.values()
            for model in models:
                model.expire(at)
            made = self.run(self.due_installments(customer))
            assert sum(model.installments(at) for model in models) == made

    async def due_installments(self, customer: Customer) -> int:
        due = CreditGrant.filter(account_id=customer.account.id, state=GrantState.PLANNED)
        rows = await due.filter(due_at__lte=at_unix(self.at)).order_by("due_at", "id")
        return sum([await self.settlement.make_installment(row.id) for row in rows])

    # Reversals

    @precondition(lambda self: any(c.invoices for c in self.customers))
    @rule(
        who=who,
        newest=st.integers(0, 3),
        known=st.sampled_from(
            [("refund", s) for s in ("pending", "succeeded", "failed")]
            + [
                ("dispute", s)
                for s in ("needs_response", "under_review", "won", "lost", "appeal_under_review")
            ]
        ),
        n=st.integers(0, 1),
    )
    def reverse(self, who: int, newest: int, known: tuple[str, str], n: int) -> None:
        """A full or partial refund or dispute of one of the newest invoices, with its events in any order."""
        self.hear(who, self.paid(who, newest), known, n)

    def paid(self, who: int, newest: int) -> str | None:
        """One of the newest invoices that were paid with money, if there is one."""
        customer = self.customers[who]
        paid = [name for name in customer.invoices if customer.totals[name] > 0][-4:]
        return paid[newest % len(paid)] if paid else None

    def hear(self, who: int, name: str | None, known: tuple[str, str], n: int) -> None:
        if name is None:
            return
        customer, (kind, status) = self.customers[who], known
        amount = customer.totals[name] * 37 // 100 + 1 if n else customer.totals[name]
        id = f"{kind}-{n}-{name}"
        news = ReversalNews(id, ReversalKind(kind), name, amount, status, now())
        heard = self.run(self.settlement.reverse(news)) is Outcome.SETTLED
        for model in customer.models.values():
            assert heard == model.reversal(name, id, kind, status, amount, self.at)

    taking = st.sampled_from([("refund", "pending"), ("dispute", "needs_response"), ("dispute", "lost")])

    @rule(
        who=who,
        percent=st.sampled_from([10, 50, 90, 100]),
        reversal=st.tuples(st.integers(0, 3), taking, st.integers(0, 1)),
        pieces=st.sampled_from([0, 0, 3]),
        hours=st.sampled_from([0, 0, 24 * 40]),
        used=st.sampled_from([0, 30, 100]),
        unit=units,
    )
    def hold_over_a_reversal(
        self,
        who: int,
        percent: int,
        reversal: tuple[int, Any, int],
        pieces: int,
        hours: int,
        used: int,
        unit: str,
    ) -> None:
        """Reserve credits while their payment is reversed; other credits may cover the debt."""
        credits = max(1, self.customers[who].models[unit].balance * percent // 100)
        self.reserve(who, "new", credits, 24 * 90, False, unit)
        self.alike()
        self.reverse(who, *reversal)
        self.alike()
        if pieces:
            self.top_up(who, pieces, "pictures" if unit else "extra")
        if hours:
            self.wait(hours, looked=False)
        self.commit(who, 0, used)

    @rule(
        who=who,
        percent=st.sampled_from([50, 100, 100]),
        newest=st.integers(0, 3),
        known=taking,
        n=st.integers(0, 1),
        undone=st.booleans(),
        unit=units,
    )
    def spend_before_a_reversal(
        self, who: int, percent: int, newest: int, known: Any, n: int, undone: bool, unit: str
    ) -> None:
        """Spend, then reverse the payment; a month later reserve credits and commit none of them."""
        self.spend(who, "new", max(1, self.customers[who].models[unit].balance * percent // 100), unit)
        name = self.paid(who, newest)
        self.hear(who, name, known, n)
        self.alike()
        self.wait(24 * 32, looked=True)
        self.reserve(who, "new", 1, 24, True, unit)
        self.alike()
        self.commit(who, 0, 0)
        if undone:
            self.hear(who, name, ("refund", "failed") if known[0] == "refund" else ("dispute", "won"), n)

    # What must be equal after each step

    @invariant()
    def alike(self) -> None:
        if not getattr(self, "customers", None) or not self.looked:
            self.looked = True
            return
        for customer in self.customers:
            assert self.run(self.books(customer)) == {
                "reversed": [name for name in customer.invoices if customer.models[""].reversed_whole(name)],
                **{
                    unit: {
                        "balance": model.balance,
                        "frozen": model.frozen,
                        "held": model.held,
                        "planned": sum(not (b.given or b.cancelled) for b in model.batches),
                    }
                    for unit, model in customer.models.items()
                },
            }

    async def books(self, customer: Customer) -> dict[str, Any]:
        """The product's state; its own invariants are checked as well."""
        mine = {"account_id": customer.account.id}
        async with write_transaction():
            account = await ledger.lock_account(customer.account.id)
            for own in in_all_units(account):
                await ledger.expire_due(own, at_unix(self.at))
        grants, entries = await CreditGrant.filter(**mine), await LedgerEntry.filter(**mine)
        held = await Reservation.filter(**mine, state="held")
        reversed_ = {row.id for row in await Invoice.filter(**mine, status="reversed")}
        for grant in grants:
            assert min(grant.remaining, grant.frozen, grant.expired) >= 0
            assert grant.remaining + grant.frozen + grant.expired <= grant.credits
        books: dict[str, Any] = {"reversed": [name for name in customer.invoices if name in reversed_]}
        for unit in UNITS:
            own = in_unit(account, unit)
            of_unit = [grant for grant in grants if grant.unit == unit]
            live = sum(grant.remaining for grant in of_unit if grant.state is GrantState.LIVE)
            assert sum(entry.credits for entry in entries if entry.unit == unit) == own.balance
            assert live == max(0, own.balance)
            assert own.held == sum(row.credits for row in held if row.unit == unit)
            books[unit] = {
                "balance": own.balance,
                "frozen": sum(grant.frozen for grant in of_unit),
                "held": own.held,
                "planned": sum(grant.state is GrantState.PLANNED for grant in of_unit),
            }
        return books


def in_images(plan: str, rules: PlanRules) -> PlanRules:
    """What a plan gives of images: nothing for a trial, and a cap in proportion."""
    cap = None if rules.cap is None else rules.cap * IMAGES[plan] // rules.credits
    return replace(rules, credits=IMAGES[plan], cap=cap, trial_credits=0)


def seen(line: LineFacts) -> Line:
    """A line as the model reads it."""
    price = PRICES[line.price or ""]
    yearly = price.interval is Interval.YEAR
    months = tuple(months_between(line.period_start, line.period_end)) if yearly else (line.period_start,)
    return Line(
        price.plan,
        yearly,
        line.amount_minor,
        line.quantity,
        line.proration,
        line.period_start,
        line.period_end,
        months,
    )


@pytest.fixture
def database_url(module_database_url: str) -> str:
    return module_database_url


def test_the_ledger_answers_as_its_model_after_any_history(database_url: str) -> None:
    """S25, S37: spends, reservations, refunds, disputes, plan changes and time, under each policy."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        runner.run(stack.enter_async_context(open_database(database_url)))
        try:
            machine = type("HistoriesHere", (Histories,), {"runner": runner})
            run_state_machine_as_test(
                machine,
                settings=hypothesis_settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=STEPS,
                    deadline=None,
                    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(stack.aclose())
