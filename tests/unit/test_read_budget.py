"""The reads of a month: counted in one row by all processes, with an alarm before they are used up."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from paidup.db.models import Invoice, StripeReads
from paidup.domain.payment_facts import Source
from paidup.errors import StorageUnavailable
from paidup.reconciliation.alarms import take_snapshot
from paidup.reconciliation.read_budget import READS_A_PAYMENT, read_use
from paidup.runtime.clock import now
from paidup.stripe_api import read_count
from paidup.stripe_api.read_count import ReadCounter, month_of
from tests.support.factories import an_account, an_invoice

pytestmark = pytest.mark.usefixtures("database")


async def test_reads_are_counted_and_writes_are_not() -> None:
    counter = ReadCounter()
    for endpoint in ("invoices.retrieve", "events.list", "invoices.lines", "invoices.void", "prices.create"):
        counter.note(endpoint)
    await counter.flush()
    await counter.flush()
    assert (await StripeReads.get(month=month_of(now()))).reads == 3


async def test_several_processes_add_to_one_count() -> None:
    counters = [ReadCounter() for _ in range(8)]
    for counter in counters:
        counter.note("invoices.retrieve")
    await asyncio.gather(*(counter.flush() for counter in counters))
    assert (await StripeReads.get()).reads == 8


async def test_what_could_not_be_written_is_counted_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """S33: the database is gone for ten seconds."""
    counter = ReadCounter()
    counter.note("invoices.retrieve")

    async def away(*_: object, **__: object) -> int:
        raise StorageUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(read_count, "execute", away)
        await counter.flush()
    counter.note("invoices.retrieve")
    await counter.flush()
    assert (await StripeReads.get()).reads == 2


async def test_an_alarm_is_on_before_the_reads_are_used_up() -> None:
    row = await StripeReads.create(month=month_of(now()), reads=79)
    assert (await take_snapshot(100)).alarms == []
    row.reads = 80
    await row.save()
    snapshot = await take_snapshot(100)
    (alarm,) = snapshot.alarms
    assert (alarm.name, snapshot.reads) == ("stripe_reads_high", 80)
    assert "80 of 100 reads" in alarm.text
    assert not (await read_use(100, now())).used_up
    row.reads = 100
    await row.save()
    assert (await read_use(100, now())).used_up
    later = now() + timedelta(days=32)
    assert not (await read_use(100, later)).alarming, "another month"


async def test_payments_allow_more_reads() -> None:
    """Stripe allows 500 reads for each transaction."""
    await StripeReads.create(month=month_of(now()), reads=100)
    invoice = await an_invoice(await an_account(), settled_at=now(), settled_via=Source.WEBHOOK)
    use = await read_use(100, now())
    assert (use.allowed, use.alarming) == (READS_A_PAYMENT, False)
    await Invoice.filter(id=invoice.id).update(settled_at=now() - timedelta(days=32))
    assert (await read_use(100, now())).used_up, "a payment of an earlier month"
