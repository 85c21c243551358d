"""Settlements that arrive together: each has an answer of its own, and each invoice is credited once."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from contextvars import Context
from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from paidup.db.connection import write_transaction
from paidup.db.instances import new_row
from paidup.db.models import Account, CreditGrant, Invoice, LedgerEntry, StripeEvent
from paidup.db.shared_writes import write_unchanged
from paidup.domain.billing_months import add_months
from paidup.domain.catalog import Catalogue, Interval, Plan, PlanPrice, Rollover, StripePrice
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import InvoiceFacts, LineFacts, PaymentFacts, Source
from paidup.payments import settlement_batches
from paidup.payments.outcomes import Outcome, Settled
from paidup.payments.settlement import Settlement
from paidup.payments.settlement_rules import SettlementRules
from paidup.payments.timeline import Timeline
from paidup.reconciliation import received_events
from paidup.runtime.clock import at_unix, now
from paidup.runtime.metrics import Metrics
from tests.support.billing_simulator import BEGIN
from tests.support.factories import an_account, an_invoice, ignore_balance, three_sums
from tests.support.provisioning import paid
from tests.support.waiting import wait_until

ON_POSTGRES = pytest.mark.parametrize("module_database_url", ["postgres"], indirect=True)
"""SQLite has no locks of rows."""


@pytest.fixture
def database_url(module_database_url: str) -> str:
    """One for the module: each test has accounts of its own."""
    return module_database_url


async def published(_: object) -> bool:
    return True


@pytest.fixture
def settlement(database: None, monkeypatch: pytest.MonkeyPatch) -> Settlement:
    # However slow the machine, what a test holds is waited for.
    monkeypatch.setattr(settlement_batches, "BESIDE_AFTER_S", 60.0)
    catalogue = Catalogue((Plan("pro", "Pro", 2000, (PlanPrice("pro", 2900),)),))
    return Settlement(catalogue, {}, published, ignore_balance, Timeline(), Metrics())


class Gate:
    """Holds each batch while it is closed, and remembers how many settlements each had."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.sizes = asyncio.Event(), list[int]()
        read = settlement_batches._read

        async def held(facts: Sequence[PaymentFacts]) -> Any:
            self.sizes.append(len(facts))
            await self.open.wait()
            return await read(facts)

        monkeypatch.setattr(settlement_batches, "_read", held)

    async def answers(self, *settlements: Any) -> list[Any]:
        """The first of them is under way, the others wait for the next batch."""
        tasks = []
        for each in settlements:
            tasks.append(asyncio.create_task(each))
            await wait_until(lambda: self.sizes)
        await asyncio.sleep(0)
        self.open.set()
        return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def an_event(id: str) -> StripeEvent:
    """One that was delivered, and is not stored."""
    return new_row(StripeEvent, id=id, type="invoice.paid", payload="{}", received_at=now(), attempts=1)


async def an_open_invoice(account: Account | None = None) -> Invoice:
    return await an_invoice(account or await an_account())


def outcomes(answers: Sequence[Any]) -> list[Any]:
    """The outcome of each, or its exception's type."""
    return [
        each.outcome if isinstance(each, Settled) else None if each is None else type(each)
        for each in answers
    ]


async def assert_credited_once(*invoices: Invoice) -> None:
    for invoice in invoices:
        grant = await CreditGrant.get(invoice_id=invoice.id)
        entry = await LedgerEntry.get(reference=f"{invoice.id}:1")
        assert (entry.grant_id, entry.account_id) == (grant.id, invoice.account_id)  # type: ignore[attr-defined]
        row = await Invoice.get(id=invoice.id)
        assert (row.status, row.version) == ("active", 2)
    for account_id in {invoice.account_id for invoice in invoices}:
        entries = await LedgerEntry.filter(account_id=account_id).order_by("id")
        assert len(set(await three_sums(account_id))) == 1
        assert [entry.balance_after for entry in entries] == [2000 * n for n in range(1, len(entries) + 1)]


async def test_those_that_come_together_are_written_together(settlement: Settlement, gate: Gate) -> None:
    invoices = [await an_open_invoice() for _ in range(6)]
    events = [an_event(f"evt_together_{number}") for number in range(6)]
    answers = await gate.answers(
        *(
            settlement.settle_received(paid(invoice), Source.WEBHOOK, event)
            for invoice, event in zip(invoices, events, strict=True)
        )
    )
    assert (outcomes(answers), gate.sizes) == ([Outcome.SETTLED] * 6, [1, 5])
    assert [each.status.balance for each in answers] == [2000] * 6
    await assert_credited_once(*invoices)
    stored = await StripeEvent.filter(id__startswith="evt_together")
    assert {(row.outcome, row.attempts, row.handled_at is None) for row in stored} == {("settled", 1, False)}
    assert len(stored) == 6


async def test_two_events_of_one_invoice_credit_it_once(settlement: Settlement, gate: Gate) -> None:
    """The second is answered by what the first has written."""
    first, invoice = await an_open_invoice(), await an_open_invoice()
    answers = await gate.answers(
        settlement.settle(paid(first), Source.WEBHOOK),
        settlement.settle_received(paid(invoice), Source.WEBHOOK, an_event("evt_twin_1")),
        settlement.settle_received(paid(invoice), Source.WEBHOOK, an_event("evt_twin_2")),
    )
    assert outcomes(answers) == [Outcome.SETTLED, Outcome.SETTLED, Outcome.ALREADY_SETTLED]
    assert (gate.sizes, [each.event_marked for each in answers[1:]]) == ([1, 2], [True, False])
    await assert_credited_once(first, invoice)
    assert [row.id for row in await StripeEvent.filter(id__startswith="evt_twin")] == ["evt_twin_1"]


async def test_two_events_of_an_invoice_that_is_left_out_are_both_left_out(
    settlement: Settlement, gate: Gate
) -> None:
    """The second is not answered by what was decided for the first, of which nothing was written."""
    first = await an_open_invoice()
    # Its subscription is not known yet, so more has to be read.
    invoice = await an_invoice(await an_account(), subscription="sub_new")
    answers = await gate.answers(
        settlement.settle(paid(first), Source.WEBHOOK),
        settlement.settle_received(paid(invoice), Source.WEBHOOK, an_event("evt_left_1")),
        settlement.settle_received(paid(invoice), Source.WEBHOOK, an_event("evt_left_2")),
    )
    assert (outcomes(answers), gate.sizes) == ([Outcome.SETTLED, None, None], [1, 2])
    assert not await CreditGrant.exists(invoice_id=invoice.id)
    assert not await StripeEvent.exists(id__startswith="evt_left")


async def test_many_invoices_of_one_account_are_each_credited(settlement: Settlement) -> None:
    account = await an_account()
    invoices = [await an_open_invoice(account) for _ in range(8)]
    answers = await asyncio.gather(
        *(settlement.settle(paid(invoice), Source.WEBHOOK) for invoice in invoices * 2)
    )
    assert sorted(outcomes(answers)) == [Outcome.ALREADY_SETTLED] * 8 + [Outcome.SETTLED] * 8
    await assert_credited_once(*invoices)


async def test_another_invoice_of_an_account_that_changes_waits_for_that(
    settlement: Settlement, gate: Gate
) -> None:
    """Its balance is not the one that was read."""
    first, account = await an_open_invoice(), await an_account()
    invoices = [await an_open_invoice(account) for _ in range(2)]
    answers = await gate.answers(
        settlement.settle(paid(first), Source.WEBHOOK),
        settlement.settle_received(paid(invoices[0]), Source.WEBHOOK, an_event("evt_account_1")),
        settlement.settle_received(paid(invoices[1]), Source.WEBHOOK, an_event("evt_account_2")),
    )
    assert outcomes(answers) == [Outcome.SETTLED, Outcome.SETTLED, None]
    await assert_credited_once(first, invoices[0])
    assert not await StripeEvent.exists(id="evt_account_2")
    assert (await settlement.settle(paid(invoices[1]), Source.WEBHOOK)).outcome is Outcome.SETTLED
    await assert_credited_once(first, *invoices)


async def test_one_that_fails_harms_no_other(settlement: Settlement, monkeypatch: pytest.MonkeyPatch) -> None:
    invoices = [await an_open_invoice() for _ in range(5)]
    decide = SettlementRules.decide

    def broken(self: SettlementRules, row: Invoice, facts: PaymentFacts, source: Source) -> Any:
        if row.id == invoices[2].id:
            raise ValueError("a bug")
        return decide(self, row, facts, source)

    monkeypatch.setattr(SettlementRules, "decide", broken)
    answers = await asyncio.gather(
        *(settlement.settle(paid(invoice), Source.WEBHOOK) for invoice in invoices), return_exceptions=True
    )
    expected: list[Any] = [Outcome.SETTLED] * 5
    expected[2] = ValueError
    assert outcomes(answers) == expected
    await assert_credited_once(*(invoice for invoice in invoices if invoice is not invoices[2]))
    assert await three_sums(invoices[2].account_id) == (0, 0, 0)


async def test_one_that_breaks_a_key_harms_no_other(settlement: Settlement, gate: Gate) -> None:
    """A grant that no settlement has made: the database refuses a second one."""
    invoices = [await an_open_invoice() for _ in range(4)]
    odd = invoices[2]
    await CreditGrant.create(account_id=odd.account_id, invoice_id=odd.id, credits=0, remaining=0)
    answers = await gate.answers(*(settlement.settle(paid(each), Source.WEBHOOK) for each in invoices))
    expected: list[Any] = [Outcome.SETTLED] * 4
    expected[2] = AssertionError
    assert outcomes(answers) == expected
    await assert_credited_once(*(each for each in invoices if each is not odd))
    assert await three_sums(odd.account_id) == (0, 0, 0)
    assert (await Invoice.get(id=odd.id)).status == "open"


@ON_POSTGRES
@pytest.mark.parametrize("model", [Account, Invoice])
async def test_one_that_another_process_holds_delays_no_other(
    settlement: Settlement, model: type[Account | Invoice]
) -> None:
    invoices = [await an_open_invoice() for _ in range(4)]
    held = invoices[1]
    async with write_transaction():
        await model.filter(id=held.account_id if model is Account else held.id).update(created_at=now())
        # In a context of their own, so on connections of their own.
        tasks = [
            Context().run(asyncio.create_task, settlement.settle(paid(each), Source.WEBHOOK))
            for each in invoices
        ]
        others = [task for task, each in zip(tasks, invoices, strict=True) if each is not held]
        assert outcomes(await asyncio.gather(*others)) == [Outcome.SETTLED] * 3
        assert not tasks[1].done()
    assert (await tasks[1]).outcome is Outcome.SETTLED
    await assert_credited_once(*invoices)


async def test_what_has_changed_since_it_was_read_is_decided_again(
    settlement: Settlement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process settles one of them between the two statements."""
    first, invoice = await an_open_invoice(), await an_open_invoice()
    other = Settlement(Catalogue(()), {}, published, ignore_balance, Timeline(), Metrics())
    write, done = write_unchanged, False

    async def late(units: Any) -> list[bool]:
        nonlocal done
        if not done:
            done = True
            await other.settle(paid(invoice), Source.RECONCILIATION)
        return await write(units)

    monkeypatch.setattr(settlement_batches, "write_unchanged", late)
    answers = await asyncio.gather(
        *(settlement.settle(paid(each), Source.WEBHOOK) for each in (invoice, first, invoice))
    )
    assert outcomes(answers) == [Outcome.ALREADY_SETTLED, Outcome.SETTLED, Outcome.ALREADY_SETTLED]
    await assert_credited_once(first, invoice)


@pytest.mark.parametrize("handled", [False, True])
async def test_an_event_that_is_stored_already_settles_nothing_here(
    settlement: Settlement, handled: bool
) -> None:
    """It may have been dismissed; and where it was not handled, it is now, as any stored one."""
    invoice, event = await an_open_invoice(), an_event(f"evt_known_{handled}")
    known: dict[str, Any] = {"outcome": "dismissed", "handled_at": now()} if handled else {}
    await StripeEvent.create(id=event.id, type="invoice.paid", payload="{}", received_at=now(), **known)
    assert await settlement.settle_received(paid(invoice), Source.WEBHOOK, event) is None
    assert await three_sums(invoice.account_id) == (0, 0, 0)


@pytest.mark.parametrize("known", [False, True])
async def test_an_event_that_is_refused_is_stored_before_it_is_reported(
    settlement: Settlement, known: bool
) -> None:
    """Else each delivery of the same event would be counted, logged and shown in the timeline again."""
    invoice, event = await an_open_invoice(), an_event(f"evt_refused_{known}")
    payment = replace(paid(invoice).payments[0], customer="cus_another")
    if known:
        await StripeEvent.create(id=event.id, type="invoice.paid", payload="{}", received_at=now())
    with capture_logs() as logs:
        assert (
            await settlement.settle_received(PaymentFacts(payments=(payment,)), Source.WEBHOOK, event) is None
        )
    assert logs == []


async def test_an_event_upon_which_stripe_is_asked_is_stored_before(settlement: Settlement) -> None:
    """It may be of an earlier attempt. Were it stored as handled, nobody would ask."""
    pending = {"status": InvoiceStatus.PROCESSING, "payment_method": "sepa_debit"}
    invoice = await an_invoice(await an_account(), **pending)
    canceled = replace(paid(invoice).payments[0], status="canceled", amount_received_minor=0)
    earlier = PaymentFacts(payments=(canceled,), dated=True)
    assert (await settlement.settle(earlier, Source.WEBHOOK)).outcome is Outcome.NEEDS_REFETCH
    assert await settlement.settle_received(earlier, Source.WEBHOOK, an_event("evt_earlier")) is None
    assert not await StripeEvent.exists(id="evt_earlier")


async def test_one_event_delivered_twice_at_once_is_stored_once(settlement: Settlement, gate: Gate) -> None:
    """S11: also where it names two invoices, which no event of Stripe's does."""
    first, same, other = [await an_open_invoice() for _ in range(3)]
    answers = await gate.answers(
        settlement.settle(paid(first), Source.WEBHOOK),
        settlement.settle_received(paid(same), Source.WEBHOOK, an_event("evt_twice")),
        settlement.settle_received(paid(same), Source.WEBHOOK, an_event("evt_twice")),
        settlement.settle_received(paid(other), Source.WEBHOOK, an_event("evt_twice")),
    )
    assert sorted(map(str, outcomes(answers))) == ["None", "None", "settled", "settled"] or outcomes(
        answers
    ) == [Outcome.SETTLED, Outcome.SETTLED, Outcome.ALREADY_SETTLED, None]
    assert await StripeEvent.filter(id="evt_twice").count() == 1
    settled = [each for each in (same, other) if await CreditGrant.exists(invoice_id=each.id)]
    assert len(settled) == 1
    await assert_credited_once(first, *settled)


async def test_of_one_event_twice_in_a_batch_the_second_is_a_repetition(database: None) -> None:
    """S11: of one that changes nothing, which is stored with others of its moment."""
    rows = [an_event(id) for id in ("evt_nothing_2", "evt_nothing_1", "evt_nothing_2")]
    for row in rows:
        row.handled_at, row.outcome = now(), "skipped"
    assert await received_events._store(rows) == [True, True, False]
    assert await received_events._store(rows[:1]) == [False]
    assert await StripeEvent.filter(id__startswith="evt_nothing").count() == 2


async def test_many_that_come_at_random_leave_the_books_in_order(settlement: Settlement) -> None:
    """Several accounts with several invoices, each named several times, some in two processes at once."""
    other = Settlement(Catalogue(()), {}, published, ignore_balance, Timeline(), Metrics())
    accounts = [await an_account() for _ in range(5)]
    invoices = [await an_open_invoice(account) for account in accounts for _ in range(4)]
    asked = [(each, here) for each in invoices for here in (settlement, settlement, other)]
    random.Random(18).shuffle(asked)
    answers = await asyncio.gather(*(here.settle(paid(each), Source.WEBHOOK) for each, here in asked))
    assert outcomes(answers).count(Outcome.SETTLED) == len(invoices)
    assert set(outcomes(answers)) == {Outcome.SETTLED, Outcome.ALREADY_SETTLED}
    await assert_credited_once(*invoices)


BASIC = Plan("basic", "Basic", 500, (PlanPrice("basic", 900),), rollover=Rollover.EXPIRE)
SOLD = Catalogue(
    (
        BASIC,
        replace(BASIC, id="pro", name="Pro", credits=2000, prices=(PlanPrice("pro", 2900),)),
        Plan("extra", "Extra", 300, (PlanPrice("extra", 700, Interval.ONCE),)),
    )
)
PRICES = {
    price.lookup_key: StripePrice(
        price.lookup_key, price.lookup_key, plan.id, price.amount_minor, "usd", price.interval
    )
    for plan in SOLD.plans
    for price in plan.prices
}
RENEWED, ENDS = add_months(BEGIN, 1), add_months(BEGIN, 2)
HALFWAY = (RENEWED + ENDS) // 2
FIRST = ("subscription_create", BEGIN, [LineFacts("basic", 900, 1, False, BEGIN, RENEWED)])
LATER = {
    "renewal": ("subscription_cycle", RENEWED, [LineFacts("basic", 900, 1, False, RENEWED, ENDS)]),
    "upgrade": (
        "subscription_update",
        HALFWAY,
        [LineFacts("basic", -450, 1, True, HALFWAY, ENDS), LineFacts("pro", 1450, 1, True, HALFWAY, ENDS)],
    ),
    "top-up": ("manual", HALFWAY, [LineFacts("extra", 700, 1, False, HALFWAY, HALFWAY)]),
}


class Customer:
    """One whose first month is paid, and who has an open invoice of each kind."""

    def __init__(self, settlement: Settlement, account: Account) -> None:
        self.settlement, self.account = settlement, account

    async def begin(self) -> None:
        await self.settlement.settle(self.facts("first", *FIRST), Source.WEBHOOK, self.account.id)
        for name, invoice in LATER.items():
            await self.settlement.settle(
                self.facts(name, *invoice, status="open"), Source.WEBHOOK, self.account.id
            )

    async def pays(self, name: str) -> Settled:
        """What an event of a payment does: at once, else by itself."""
        facts = self.facts(name, *LATER[name])
        event = an_event(f"evt_{name}_{self.account.id}")
        return await self.settlement.settle_received(
            facts, Source.WEBHOOK, event
        ) or await self.settlement.settle(facts, Source.WEBHOOK)

    def facts(
        self, name: str, reason: str, at: int, lines: list[LineFacts], status: str = "paid"
    ) -> PaymentFacts:
        total = sum(line.amount_minor for line in lines)
        invoice = InvoiceFacts(
            id=f"in_{name}_{self.account.id}",
            status=status,
            customer=self.account.stripe_customer,
            currency="usd",
            amount_due_minor=total,
            amount_paid_minor=total if status == "paid" else 0,
            amount_remaining_minor=0 if status == "paid" else total,
            total_minor=total,
            from_balance_minor=0,
            finalized_at=at,
            sequence=1 + [RENEWED, HALFWAY].index(at) if at != BEGIN else 0,
            billing_reason=reason,
            subscription=None if reason == "manual" else f"sub_{self.account.id}",
            created=at,
            lines=tuple(lines),
        )
        return PaymentFacts(invoice)

    async def books(self) -> Any:
        """Its grants, its balance, and which of its events were stored with what they changed."""
        grants = await CreditGrant.filter(account_id=self.account.id)
        sums = await three_sums(self.account.id)
        assert len(set(sums)) == 1
        return sums[0], sorted(
            (str(grant.invoice_id), grant.credits, grant.remaining, grant.state, str(grant.usable_until))
            for grant in grants
        )

    async def comparable_books(self) -> Any:
        return str(await self.books()).replace(f"_{self.account.id}", "")


async def test_a_renewal_an_upgrade_and_a_top_up_of_one_account_that_arrive_together(
    database: None, gate: Gate
) -> None:
    """S26: in each order they give what they give one after the other."""
    settlement = Settlement(
        SOLD, PRICES, published, ignore_balance, Timeline(), Metrics(), lambda: at_unix(HALFWAY + 3600)
    )
    gate.open.set()
    alone = Customer(settlement, await an_account())
    await alone.begin()
    for name in LATER:
        assert (await alone.pays(name)).outcome is Outcome.SETTLED
    assert (await three_sums(alone.account.id))[0] == 500 + 750 + 300
    for order in itertools.permutations(LATER):
        together = Customer(settlement, await an_account())
        await together.begin()
        gate.sizes.clear()
        answers = await asyncio.gather(*(together.pays(name) for name in order * 2))
        assert sorted(outcomes(answers)) == [Outcome.ALREADY_SETTLED] * 3 + [Outcome.SETTLED] * 3
        assert gate.sizes[0] == len(answers)
        assert await together.comparable_books() == await alone.comparable_books(), order
