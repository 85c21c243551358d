"""Verification: one call to Stripe for one invoice, however many callers; repeated while a browser waits."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from typing import Any

import pytest

from paidup.db.leases import take_lease
from paidup.db.models import Account, CreditGrant, Invoice, StripeEvent
from paidup.db.shared_writes import VersionedRows, write_unchanged
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import StatusMessage
from paidup.domain.payment_facts import Source
from paidup.domain.quotes import Quote
from paidup.domain.stages import DELAYED_AFTER, Stage
from paidup.errors import StripeRefused, StripeUnavailable, TransactionAborted
from paidup.payments import settlement_batches, settlement_rules, verification_queue, verification_worker
from paidup.payments import verification as module
from paidup.payments.bulk_verification import BulkVerification
from paidup.payments.invoice_rows import CLOCK_LEEWAY_S
from paidup.payments.outcomes import Outcome, Settled
from paidup.payments.settlement import Settlement
from paidup.payments.verification import Verification
from paidup.payments.verification_queue import VerificationQueue
from paidup.payments.verification_worker import Checks, VerificationWorker
from paidup.realtime.hub import INVOICES
from paidup.realtime.status_queries import read_status
from paidup.runtime.clock import at_unix, now
from paidup.services import Services
from paidup.stripe_api.schemas import InvoicePayment as Link
from paidup.stripe_api.schemas import ListOf, Payment, PaymentIntent, StripeInvoice
from paidup.subscriptions.pending import newest_awaited
from tests.support.factories import an_account, an_invoice
from tests.support.waiting import wait_until


class Stripe:
    """In place of the gateway: counts requests, and answers what the test says."""

    def __init__(self, row: Invoice) -> None:
        self.row = row
        self.requests = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: Exception | None = None
        self.paid = False
        self.created = int(row.created_at.timestamp())
        self.unpaid = "requires_action"
        self.slot = asyncio.Event()
        self.slot.set()
        self.listed: list[tuple[int, int | None]] = []

    async def acquire_read_slots(self, max_wait_s: float, at_most: int) -> int:
        await self.slot.wait()
        return 1

    async def list_paid_invoices(
        self, since: int, after: str | None = None, max_wait_s: float | None = None, until: int | None = None
    ) -> ListOf[StripeInvoice]:
        """Half of the invoices a page, as a list shows them: paid, and without their payments."""
        self.listed.append((since, until))
        made = Invoice.filter(created_at__gte=at_unix(since), id__gt=after or "").order_by("id")
        rows = await (made.filter(created_at__lt=at_unix(until)) if until else made)
        half = (len(rows) + 1) // 2
        return ListOf([self.paid_invoice(row) for row in rows[:half]], has_more=len(rows) > half)

    def paid_invoice(self, row: Invoice) -> StripeInvoice:
        return StripeInvoice(
            id=row.id,
            currency="usd",
            amount_due=2900,
            amount_paid=2900,
            amount_remaining=0,
            created=1,
            lines=ListOf([]),
            total=2900,
            status="paid",
            customer=row.customer,
        )

    async def read_invoice(
        self, invoice: str, max_wait_s: float | None = None, slot_acquired: bool = False
    ) -> StripeInvoice:
        self.requests += 1
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        status = "succeeded" if self.paid else self.unpaid
        intent = PaymentIntent(
            self.row.payment_intent or "", status, "usd", 2900, 2900 if self.paid else 0, self.row.customer
        )
        return StripeInvoice(
            id=invoice,
            currency="usd",
            amount_due=2900,
            amount_paid=0,
            amount_remaining=2900,
            created=self.created,
            lines=ListOf([]),
            total=2900,
            status="open",
            customer=self.row.customer,
            payments=ListOf([Link("inpay_1", invoice, "open", Payment("payment_intent", intent))]),
        )


@pytest.fixture
async def row(services: Services) -> Invoice:
    return await an_invoice(await an_account())


@pytest.fixture
async def stripe(row: Invoice) -> Stripe:
    return Stripe(row)


class Process:
    """The verification of one server process; each test may have several."""

    def __init__(self, services: Services, stripe: Any) -> None:
        self.queue = VerificationQueue()
        self.verification = Verification(
            *(stripe, services.settlement, services.prices, services.hub, services.timeline, self.queue)
        )
        self.verify = self.verification.verify
        bulk = BulkVerification(stripe, self.verification, services.timeline)
        self.worker = VerificationWorker(
            self.queue,
            Checks(stripe.acquire_read_slots, self.verification.check, bulk.check),
        )


@asynccontextmanager
async def working(*processes: Process) -> AsyncIterator[None]:
    for process in processes:
        process.worker.start()
    try:
        yield
    finally:
        for process in processes:
            await process.worker.close()


@asynccontextmanager
async def watching(process: Process, invoice: str) -> AsyncIterator[None]:
    async with working(process):
        process.queue.add(invoice)
        try:
            yield
        finally:
            process.queue.remove(invoice)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same schedule, without its pauses."""
    monkeypatch.setattr(verification_queue, "watched_delay_s", lambda attempt, chance: 0.01)
    monkeypatch.setattr(module, "RESULT_TTL_S", 0.0)


async def balance(row: Invoice) -> int:
    return int((await Account.get(id=row.account_id)).balance)


async def test_two_processes_that_verify_at_once_make_one_call(
    services: Services, stripe: Stripe, row: Invoice
) -> None:
    """S08: a lease in the row, so it holds across processes and without Redis."""
    stripe.paid = True
    processes = [Process(services, stripe) for _ in range(2)]
    answers = await asyncio.gather(*(process.verify(row.id) for process in processes for _ in range(5)))
    settled = [answer for answer in answers if isinstance(answer, Settled)]
    assert [answer.outcome for answer in settled] == [Outcome.SETTLED]
    assert stripe.requests == 1
    assert await balance(row) == 2000


async def test_the_answer_not_yet_counts_as_fresh_for_a_moment(
    services: Services, stripe: Stripe, row: Invoice
) -> None:
    process = Process(services, stripe)
    assert await process.verify(row.id) is not None
    assert await process.verify(row.id) is None
    assert stripe.requests == 1
    await process.verification.close()  # as at the end of a server: the others need not wait for its lease
    await row.refresh_from_db()
    assert row.lease_expires_at is not None
    assert row.lease_expires_at <= now() + timedelta(seconds=module.RESULT_TTL_S)

    async def verified_again() -> bool:
        return await process.verify(row.id) is not None

    await wait_until(verified_again, within=30)
    assert stripe.requests == 2


async def test_the_lease_of_a_process_that_died_expires(
    services: Services, stripe: Stripe, row: Invoice
) -> None:
    """S13: then another process may verify."""
    process = Process(services, stripe)
    await Invoice.filter(id=row.id).update(lease_expires_at=now() + timedelta(seconds=module.LEASE_S))
    assert await process.verify(row.id) is None
    await Invoice.filter(id=row.id).update(lease_expires_at=now())
    assert await process.verify(row.id) is not None
    assert stripe.requests == 1


@pytest.mark.parametrize("status", [status for status in InvoiceStatus if status.terminal])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_final_invoice_is_not_verified(
    services: Services, stripe: Stripe, row: Invoice, status: InvoiceStatus
) -> None:
    await Invoice.filter(id=row.id).update(status=status)
    assert await Process(services, stripe).verify(row.id) is None
    assert stripe.requests == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("intent", "awaits_payment"),
    [
        ("requires_payment_method", True),
        ("requires_action", False),
        ("processing", False),
        ("canceled", False),
    ],
)
async def test_only_an_invoice_without_any_payment_awaits_it(
    services: Services, stripe: Stripe, row: Invoice, intent: str, awaits_payment: bool
) -> None:
    """Others are read one by one, however many wait: a list of paid invoices does not show their outcome."""
    stripe.unpaid = intent
    process = Process(services, stripe)
    assert (await process.verification.check(row.id)).awaits_payment is awaits_payment
    await process.verification.close()


@pytest.mark.parametrize(("earlier_s", "awaits_payment"), [(CLOCK_LEEWAY_S - 1, True), (3600, False)])
async def test_an_invoice_that_stripe_made_long_before_its_row_is_not_left_to_the_list(
    services: Services, stripe: Stripe, row: Invoice, earlier_s: int, awaits_payment: bool
) -> None:
    """The list is read from the time of the oldest row on, so it does not show that such a one is paid."""
    stripe.unpaid = "requires_payment_method"
    stripe.created -= earlier_s
    process = Process(services, stripe)
    assert (await process.verification.check(row.id)).awaits_payment is awaits_payment
    await process.verification.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_where_stripe_does_not_answer_nothing_is_known_of_a_payment(
    services: Services, stripe: Stripe, row: Invoice
) -> None:
    stripe.error = StripeUnavailable("down")
    assert not (await Process(services, stripe).verification.check(row.id)).awaits_payment


async def test_an_unknown_invoice_is_not_verified(services: Services, stripe: Stripe) -> None:
    assert await Process(services, stripe).verify("in_unknown") is None
    assert stripe.requests == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_answer_that_changes_nothing_waits_for_no_lock(
    services: Services, stripe: Stripe, row: Invoice, database_url: str
) -> None:
    """SQLite has one lock for all that is written. Most answers say what the row says already."""
    facts = (await stripe.read_invoice(row.id)).facts()
    await services.settlement.settle(facts, Source.VERIFICATION)
    with closing(sqlite3.connect(database_url.removeprefix("sqlite://"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        settled = await services.settlement.settle(facts, Source.VERIFICATION)
        other.execute("ROLLBACK")
    assert settled.outcome is Outcome.NOT_YET


async def test_the_rows_that_came_with_the_lease_are_not_read_again(
    services: Services, stripe: Stripe, row: Invoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for an answer that says what they say, which writes nothing, nor for one that settles."""
    stripe.unpaid = "requires_payment_method"
    monkeypatch.setattr(Settlement, "_settle_once", None)
    monkeypatch.setattr(settlement_batches, "_read", None)
    monkeypatch.setattr(module, "RESULT_TTL_S", 0.0)
    process = Process(services, stripe)
    unchanged = await process.verify(row.id)
    assert unchanged is not None
    assert (unchanged.outcome, unchanged.status) == (Outcome.NOT_YET, await read_status(row.id))
    await process.verification.close()
    stripe.paid = True
    settled = await process.verify(row.id)
    assert settled is not None
    assert (settled.outcome, await balance(row)) == (Outcome.SETTLED, 2000)


@pytest.mark.parametrize("changed", ["by a webhook", Invoice, Account])
async def test_what_changed_while_stripe_was_asked_is_read_again(
    services: Services, stripe: Stripe, row: Invoice, changed: Any
) -> None:
    """S10: what others have written meanwhile stays, also where no key in the database is broken."""
    stripe.paid = True
    paid = (await stripe.read_invoice(row.id)).facts()
    stripe.may_answer.clear()
    verifying = asyncio.create_task(Process(services, stripe).verify(row.id))
    await wait_until(lambda: stripe.requests == 2)
    if changed is Account:
        await Account.filter(id=row.account_id).update(balance=7)
    elif changed is Invoice:
        await Invoice.filter(id=row.id).update(version=7)
    else:
        await services.settlement.settle(paid, Source.WEBHOOK)
    stripe.may_answer.set()
    settled = await verifying
    assert settled is not None
    expected = Outcome.ALREADY_SETTLED if changed == "by a webhook" else Outcome.SETTLED
    assert settled.outcome is expected
    assert await balance(row) == (2007 if changed is Account else 2000)
    assert (await Invoice.get(id=row.id)).version == (8 if changed is Invoice else 2)
    assert await CreditGrant.filter(invoice_id=row.id).count() == 1


async def test_no_lease_is_taken_while_an_event_settles_the_invoice(
    services: Services, stripe: Stripe, row: Invoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would change the row under the settlement; and Stripe is not asked for what is known then."""
    steps = []

    async def write(units: Sequence[VersionedRows]) -> list[bool]:
        for _ in range(20):
            await asyncio.sleep(0)  # the verification has its turns
        steps.append("write")
        return await write_unchanged(units)

    async def take(*arguments: Any) -> Any:
        steps.append("lease")
        return await take_lease(*arguments)

    monkeypatch.setattr(settlement_batches, "write_unchanged", write)
    monkeypatch.setattr(module, "take_lease", take)
    verification = Process(services, stripe).verification
    event = StripeEvent(id="evt_paid", type="invoice.paid", payload="{}", received_at=now())
    settled, verified = await asyncio.gather(
        verification.settle_received(stripe.paid_invoice(row).facts(), Source.WEBHOOK, event),
        verification.verify(row.id),
    )
    assert settled is not None
    assert (settled.outcome, verified, stripe.requests) == (Outcome.SETTLED, None, 0)
    assert steps == ["write", "lease"]


async def test_a_settlement_that_the_database_aborts_is_made_on_the_rows_as_they_were_read(
    services: Services, stripe: Stripe, row: Invoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They say no longer what was to be written before."""
    aborted = 0

    async def write(units: Sequence[VersionedRows]) -> list[bool]:
        nonlocal aborted
        aborted += 1
        if aborted == 1:
            raise TransactionAborted("a deadlock")
        return await write_unchanged(units)

    monkeypatch.setattr(settlement_batches, "write_unchanged", write)
    stripe.paid = True
    settled = await Process(services, stripe).verify(row.id)
    assert settled is not None
    assert (aborted, settled.outcome, await balance(row)) == (2, Outcome.SETTLED, 2000)


async def test_the_lease_is_taken_while_the_slot_is_awaited(
    services: Services, stripe: Stripe, row: Invoice
) -> None:
    """No request is made before the slot is there."""
    stripe.paid = True
    stripe.slot.clear()
    async with watching(Process(services, stripe), row.id):
        await wait_until(lambda: Invoice.filter(id=row.id, lease_expires_at__isnull=False).exists())
        assert await Process(services, stripe).verify(row.id) is None
        assert stripe.requests == 0
        stripe.slot.set()
        await wait_until(lambda: balance(row))
    assert stripe.requests == 1


async def test_a_check_that_is_not_needed_once_it_has_its_slot_makes_no_request(
    services: Services, stripe: Stripe, row: Invoice
) -> None:
    """The slot is passed on, and the lease is given back."""

    async def slot() -> bool:
        return False

    verification = Process(services, stripe).verification
    assert not (await verification.check(row.id, slot)).used_slot
    assert stripe.requests == 0
    await verification.close()
    await row.refresh_from_db()
    assert row.lease_expires_at is not None
    assert row.lease_expires_at < now() + timedelta(seconds=module.LEASE_S / 2)


@pytest.mark.usefixtures("quick")
async def test_a_watched_invoice_is_verified_until_it_is_settled(
    services: Services, stripe: Stripe, row: Invoice
) -> None:
    """S01, S23: no webhook arrives; the payment succeeds between two checks."""
    process = Process(services, stripe)
    async with watching(process, row.id):
        await wait_until(lambda: stripe.requests >= 3)
        assert await balance(row) == 0
        stripe.paid = True
        await wait_until(lambda: balance(row))
        await wait_until(lambda: not process.queue.is_checking(row.id))
        requests = stripe.requests
    assert await balance(row) == 2000
    assert stripe.requests == requests


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_ten_watchers_cost_no_more_requests_than_one(
    services: Services, stripe: Stripe, row: Invoice
) -> None:
    """S08: tabs, reloads, reconnects."""
    stripe.may_answer.clear()
    process = Process(services, stripe)
    async with working(process):
        for _ in range(10):
            process.queue.add(row.id)
            process.queue.prioritize(row.id)
        await wait_until(lambda: stripe.requests)
        assert process.queue.is_checking(row.id)
        stripe.paid = True
        stripe.may_answer.set()
        await wait_until(lambda: balance(row))
        for _ in range(10):
            process.queue.remove(row.id)
    assert stripe.requests == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_closing_the_tab_does_not_end_a_verification_under_way(
    services: Services, stripe: Stripe, row: Invoice
) -> None:
    """S02: the customer closes the tab, not the payment."""
    stripe.paid = True
    stripe.may_answer.clear()
    process = Process(services, stripe)
    async with working(process):
        process.queue.add(row.id)
        await wait_until(lambda: stripe.requests)
        process.queue.remove(row.id)
        stripe.may_answer.set()
        await wait_until(lambda: balance(row))
    assert stripe.requests == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("error", [StripeUnavailable("away"), StripeRefused("no such invoice")])
async def test_an_outage_of_stripe_does_not_end_verification(
    services: Services, stripe: Stripe, row: Invoice, error: Exception
) -> None:
    """S34: checked again, and credited once Stripe answers."""
    stripe.error = error
    async with watching(Process(services, stripe), row.id):
        await wait_until(lambda: stripe.requests >= 3)
        stripe.error, stripe.paid = None, True
        await wait_until(lambda: balance(row))
    assert await balance(row) == 2000


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_outage_of_the_database_does_not_end_verification(
    services: Services, stripe: Stripe, row: Invoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S33: neither during the verification nor while the status is read."""

    async def away(_: str) -> None:
        raise OSError("the database is away")

    async with watching(Process(services, stripe), row.id):
        with monkeypatch.context() as outage:
            outage.setattr(module, "read_status", away)
            await wait_until(lambda: stripe.requests >= 3)
        stripe.paid = True
        await wait_until(lambda: balance(row))
    assert await balance(row) == 2000


async def test_many_waiting_invoices_are_settled_from_a_list_without_slots(
    services: Services, stripe: Stripe, row: Invoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S01, S23: no webhook and no slot. An invoice watched in two processes is credited once."""
    monkeypatch.setattr(verification_worker, "INSPECT_EVERY_S", 0.05)
    monkeypatch.setattr(verification_queue, "BULK_AFTER_S", 0.1)
    stripe.slot.clear()
    rows = [row, *[await an_invoice(await an_account()) for _ in range(verification_queue.BULK_THRESHOLD)]]
    void = await an_invoice(await an_account(), status=InvoiceStatus.VOID)
    processes = [Process(services, stripe) for _ in range(2)]
    for process in processes:
        for each in (*rows, void):
            process.queue.add(each.id)

    async def all_active() -> bool:
        return await Invoice.filter(status=InvoiceStatus.ACTIVE).count() == len(rows)

    async with working(*processes):
        await wait_until(all_active)
    assert [await balance(each) for each in rows] == [2000] * len(rows)
    assert stripe.requests == 0
    assert len(stripe.listed) < len(rows)


class Screen:
    """A subscriber that records its stages."""

    def __init__(self) -> None:
        self.known_version = -1
        self.stages: list[Stage] = []

    def offer(self, news: StatusMessage, frame: bytes) -> bool:
        if news.version <= self.known_version:
            return False
        self.known_version = news.version
        self.stages.append(news.stage)
        return True

    def offer_stage(self, stage: Stage) -> None:
        self.stages.append(stage)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_messages_have_a_turn_between_the_steps_of_a_verification(
    services: Services, stripe: Stripe, row: Invoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step takes a third of a millisecond; a message that comes meanwhile waits for one of them."""
    loop, turns, steps = asyncio.get_running_loop(), 0, list[int]()
    waiting = loop.call_soon(lambda: None)

    def turn() -> None:
        nonlocal turns, waiting
        turns += 1
        waiting = loop.call_soon(turn)

    def noted(step: Any, begins: bool) -> Any:
        async def take(*arguments: Any, **named: Any) -> Any:
            if begins:
                steps.append(turns)
            done = await step(*arguments, **named)
            if not begins:
                steps.append(turns)
            return done

        return take

    monkeypatch.setattr(module, "take_lease", noted(take_lease, begins=False))
    for step in (True, False):
        monkeypatch.setattr(stripe, "read_invoice", noted(stripe.read_invoice, begins=step))
    monkeypatch.setattr(services.settlement, "settle", noted(services.settlement.settle, begins=True))
    process = Process(services, stripe)
    waiting = loop.call_soon(turn)
    await process.verify(row.id)
    waiting.cancel()
    leased, asked, answered, settled = steps
    assert leased < asked <= answered < settled


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_changed_while_stripe_was_asked_is_not_shown_as_before(
    services: Services, stripe: Stripe, row: Invoice
) -> None:
    """The lease's row says that a payment is awaited; a webhook has told of one that is processing."""
    stripe.unpaid = "processing"
    processing = (await stripe.read_invoice(row.id)).facts()
    stripe.unpaid = "requires_payment_method"
    stripe.may_answer.clear()
    screen = Screen()
    await services.hub.subscribe(INVOICES, row.id, screen)
    check = asyncio.create_task(Process(services, stripe).verification.check(row.id))
    await wait_until(lambda: stripe.requests == 2)
    await services.settlement.settle(processing, Source.WEBHOOK)
    second = Screen()  # a tab that has not read the row yet
    await services.hub.subscribe(INVOICES, row.id, second)
    stripe.may_answer.set()
    await check
    for each in (screen, second):
        services.hub.unsubscribe(INVOICES, row.id, each)
    assert screen.stages == [Stage.PROCESSING]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_only_an_answer_of_stripe_says_that_a_payment_is_awaited(
    services: Services, stripe: Stripe, row: Invoice
) -> None:
    """A check that failed says nothing: the row may be older than the payment. Answers repeat one stage."""
    stripe.unpaid, stripe.error = "requires_payment_method", StripeUnavailable("down")
    screen = Screen()
    await services.hub.subscribe(INVOICES, row.id, screen)
    async with watching(Process(services, stripe), row.id):
        await wait_until(lambda: stripe.requests >= 3)
        assert screen.stages == []
        stripe.error = None
        requests = stripe.requests
        await wait_until(lambda: stripe.requests >= requests + 3)
    services.hub.unsubscribe(INVOICES, row.id, screen)
    assert set(screen.stages) == {Stage.AWAITING_PAYMENT}


async def test_a_payment_that_cannot_be_credited_yet_is_seen(
    services: Services, stripe: Stripe, row: Invoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is paid, and one of its prices is unknown: `verifying`, then `delayed`, never "not paid"."""
    unpriced = Quote(0, None, None, unpriced=("pro in inr",))
    monkeypatch.setattr(settlement_rules, "quote", lambda *_: unpriced)
    facts = stripe.paid_invoice(row).facts()
    first = await services.verification.settle(facts, Source.WEBHOOK)
    again = await services.verification.settle(facts, Source.WEBHOOK)
    assert first.status
    assert again.status
    assert [first.status.stage, again.status.stage] == [Stage.VERIFYING] * 2
    assert [first.status.version, again.status.version] == [2, 2]
    await Invoice.filter(id=row.id).update(payment_seen_at=now() - DELAYED_AFTER)
    delayed = await read_status(row.id)
    assert delayed
    assert (delayed.stage, delayed.status) == (Stage.DELAYED, InvoiceStatus.OPEN)
    awaited = await newest_awaited(await Account.get(), now() + timedelta(days=2))
    assert awaited
    assert awaited.id == row.id
    monkeypatch.undo()
    granted = await services.verification.settle(facts, Source.WEBHOOK)
    assert granted.status
    assert granted.status.stage is Stage.ACTIVE


@pytest.mark.parametrize("granted", [True, False])
async def test_a_checkout_session_is_read_with_a_slot_only(
    services: Services, monkeypatch: pytest.MonkeyPatch, granted: bool
) -> None:
    read: list[str] = []

    async def slot() -> bool:
        assert not read
        return granted

    async def verify(session: str, slot_acquired: bool) -> None:
        read.append(session)

    monkeypatch.setattr(services.checkouts, "verify", verify)
    assert not (await services.checkouts.check("cs_1", slot)).used_slot
    assert read == (["cs_1"] if granted else [])
