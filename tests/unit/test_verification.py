"""Verification: one call to Stripe for one invoice, however many ask; and again while somebody watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from paidup.clock import at_unix, now
from paidup.db.models import Account, Invoice
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import Stage, StatusMessage
from paidup.errors import StripeRefused, StripeUnavailable
from paidup.payments import verification as module
from paidup.payments import verification_queue as watches
from paidup.payments.outcomes import Outcome, Settled
from paidup.payments.verification import Verification
from paidup.realtime.hub import INVOICES
from paidup.services import Services
from paidup.stripe_api.schemas import Invoice as StripeInvoice
from paidup.stripe_api.schemas import InvoicePayment as Link
from paidup.stripe_api.schemas import ListOf, Payment, PaymentIntent
from tests.support.factories import an_account, an_invoice
from tests.support.waiting import wait_until


class Stripe:
    """Stands where the gateway stands: counts what is asked, and answers what the test says."""

    def __init__(self, row: Invoice) -> None:
        self.row = row
        self.asked = 0
        self.answer = asyncio.Event()
        self.answer.set()
        self.error: Exception | None = None
        self.paid = False
        self.unpaid = "requires_action"
        self.place = asyncio.Event()
        self.place.set()
        self.listed: list[tuple[int, int | None]] = []

    async def place_to_read(self, max_wait_s: float) -> None:
        await self.place.wait()

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
        self.asked += 1
        await self.answer.wait()
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
            created=1,
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


def a_process(services: Services, stripe: Any) -> Verification:
    """The verification of one process; each test may have several."""
    return Verification(stripe, services.settlement, services.prices, services.hub, services.timeline)


@asynccontextmanager
async def watching(verification: Verification, invoice: str) -> AsyncIterator[None]:
    verification.watch(invoice)
    try:
        yield
    finally:
        verification.unwatch(invoice)
        await verification.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same schedule, without its pauses."""
    monkeypatch.setattr(watches, "watched_delay_s", lambda attempt, chance: 0.01)
    monkeypatch.setattr(module, "RESULT_TTL_S", 0.0)


async def balance(row: Invoice) -> int:
    return int((await Account.get(id=row.account_id)).balance)


async def test_two_processes_that_ask_at_once_make_one_call(
    services: Services, stripe: Stripe, row: Invoice
) -> None:
    """S08: a lease in the row, so it holds across processes and without Redis."""
    stripe.paid = True
    processes = [a_process(services, stripe) for _ in range(2)]
    answers = await asyncio.gather(*(process.verify(row.id) for process in processes for _ in range(5)))
    settled = [answer for answer in answers if isinstance(answer, Settled)]
    assert [answer.outcome for answer in settled] == [Outcome.SETTLED]
    assert stripe.asked == 1
    assert await balance(row) == 2000


async def test_an_answer_of_not_yet_counts_as_fresh_for_a_moment(
    services: Services, stripe: Stripe, row: Invoice
) -> None:
    verification = a_process(services, stripe)
    assert await verification.verify(row.id) is not None
    assert await verification.verify(row.id) is None
    assert stripe.asked == 1

    async def asked_again() -> bool:
        return await verification.verify(row.id) is not None

    await wait_until(asked_again, within=3)
    assert stripe.asked == 2


async def test_an_asker_that_died_keeps_nobody_from_asking_for_long(
    services: Services, stripe: Stripe, row: Invoice
) -> None:
    """S13: its lease runs out."""
    verification = a_process(services, stripe)
    await Invoice.filter(id=row.id).update(lease_expires_at=now() + timedelta(seconds=module.LEASE_S))
    assert await verification.verify(row.id) is None
    await Invoice.filter(id=row.id).update(lease_expires_at=now())
    assert await verification.verify(row.id) is not None
    assert stripe.asked == 1


@pytest.mark.parametrize("status", [status for status in InvoiceStatus if status.terminal])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_is_over_is_not_asked_about(
    services: Services, stripe: Stripe, row: Invoice, status: InvoiceStatus
) -> None:
    await Invoice.filter(id=row.id).update(status=status)
    assert await a_process(services, stripe).verify(row.id) is None
    assert stripe.asked == 0


async def test_an_unknown_invoice_is_not_asked_about(services: Services, stripe: Stripe) -> None:
    assert await a_process(services, stripe).verify("in_unknown") is None
    assert stripe.asked == 0


@pytest.mark.usefixtures("quick")
async def test_whoever_watches_makes_it_ask_until_it_is_over(
    services: Services, stripe: Stripe, row: Invoice
) -> None:
    """S01, S23: no webhook ever comes; the payment succeeds between two questions."""
    verification = a_process(services, stripe)
    async with watching(verification, row.id):
        await wait_until(lambda: stripe.asked >= 3)
        assert await balance(row) == 0
        stripe.paid = True
        await wait_until(lambda: balance(row))
        await wait_until(lambda: not verification.asking(row.id))
        asked = stripe.asked
    assert await balance(row) == 2000
    assert stripe.asked == asked


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_ten_watchers_ask_no_more_than_one(services: Services, stripe: Stripe, row: Invoice) -> None:
    """S08: tabs, reloads, reconnects."""
    stripe.answer.clear()
    verification = a_process(services, stripe)
    for _ in range(10):
        verification.watch(row.id)
        verification.prioritize(row.id)
    await wait_until(lambda: stripe.asked)
    assert verification.asking(row.id)
    stripe.paid = True
    stripe.answer.set()
    await wait_until(lambda: balance(row))
    for _ in range(10):
        verification.unwatch(row.id)
    await verification.close()
    assert stripe.asked == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_verification_under_way_is_not_ended_with_the_tab(
    services: Services, stripe: Stripe, row: Invoice
) -> None:
    """S02: the customer closes the tab, not the payment."""
    stripe.paid = True
    stripe.answer.clear()
    verification = a_process(services, stripe)
    verification.watch(row.id)
    await wait_until(lambda: stripe.asked)
    verification.unwatch(row.id)
    stripe.answer.set()
    await wait_until(lambda: balance(row))
    await verification.close()
    assert stripe.asked == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("error", [StripeUnavailable("away"), StripeRefused("no such invoice")])
async def test_stripes_trouble_does_not_end_the_watching(
    services: Services, stripe: Stripe, row: Invoice, error: Exception
) -> None:
    """S34: asked again, and credited once Stripe answers."""
    stripe.error = error
    async with watching(a_process(services, stripe), row.id):
        await wait_until(lambda: stripe.asked >= 3)
        stripe.error, stripe.paid = None, True
        await wait_until(lambda: balance(row))
    assert await balance(row) == 2000


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_outage_of_the_database_does_not_end_the_watching(
    services: Services, stripe: Stripe, row: Invoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S33: neither while asking nor while reading where it stands."""

    async def away(_: str) -> None:
        raise OSError("the database is away")

    async with watching(a_process(services, stripe), row.id):
        with monkeypatch.context() as outage:
            outage.setattr(module, "read_status", away)
            await wait_until(lambda: stripe.asked >= 3)
        stripe.paid = True
        await wait_until(lambda: balance(row))
    assert await balance(row) == 2000


async def test_a_crowd_is_settled_by_list_without_a_place_for_each(
    services: Services, stripe: Stripe, row: Invoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S01, S23: no webhook, no place in the budget: a list answers; whoever is watched twice, once."""
    monkeypatch.setattr(watches, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(watches, "BULK_AFTER_S", 0.1)
    stripe.place.clear()
    rows = [row, *[await an_invoice(await an_account()) for _ in range(watches.BULK_THRESHOLD)]]
    over = await an_invoice(await an_account(), status=InvoiceStatus.VOID)
    processes = [a_process(services, stripe) for _ in range(2)]
    for process in processes:
        for each in (*rows, over):
            process.watch(each.id)

    async def all_active() -> bool:
        return await Invoice.filter(status=InvoiceStatus.ACTIVE).count() == len(rows)

    await wait_until(all_active)
    for process in processes:
        await process.close()
    assert [await balance(each) for each in rows] == [2000] * len(rows)
    assert stripe.asked == 0
    assert len(stripe.listed) < len(rows)


class Screen:
    """A line that notes its stages."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []

    def offer(self, news: StatusMessage, frame: bytes) -> bool:
        self.stages.append(news.stage)
        return True

    def offer_stage(self, stage: Stage) -> None:
        self.stages.append(stage)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("places", [True, False])
async def test_a_long_wait_is_told_as_delayed_and_stays_so(
    services: Services, stripe: Stripe, row: Invoice, monkeypatch: pytest.MonkeyPatch, places: bool
) -> None:
    """S06: whether Stripe says "not yet" again and again, or there is no place to ask."""
    monkeypatch.setattr(watches, "LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(watches, "DELAYED_AFTER_S", 0.3)
    stripe.unpaid = "requires_confirmation"  # nothing to be told
    screen = Screen()
    await services.hub.subscribe(INVOICES, row.id, screen)
    if not places:
        stripe.place.clear()
    async with watching(a_process(services, stripe), row.id):
        await wait_until(lambda: Stage.DELAYED in screen.stages)
        asked = stripe.asked
        await wait_until(lambda: not places or stripe.asked >= asked + 3)
    services.hub.unsubscribe(INVOICES, row.id, screen)
    late = screen.stages[screen.stages.index(Stage.DELAYED) :]
    assert set(late) == {Stage.DELAYED}
