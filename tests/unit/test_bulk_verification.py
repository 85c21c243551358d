"""Bulk verification: the time windows it reads from Stripe's list, and one process at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paidup.db.models import Invoice, Watermark
from paidup.db.watermarks import claim_watermark
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import Source
from paidup.errors import StripeUnavailable
from paidup.payments import bulk_verification as module
from paidup.payments.bulk_verification import (
    BulkVerification,
    TimeWindow,
    read_windows,
    split_into_windows,
)
from paidup.payments.invoice_rows import CLOCK_LEEWAY_S
from paidup.payments.outcomes import Outcome, Settled
from paidup.payments.timeline import Timeline
from paidup.runtime.clock import now
from paidup.stripe_api.schemas import ListOf, StripeInvoice
from tests.support.factories import an_account, an_invoice
from tests.support.waiting import wait_until


@given(st.lists(st.integers(1_700_000_000, 1_700_001_000), max_size=2000))
def test_windows_have_no_gaps_and_cover_every_invoice(created: list[int]) -> None:
    windows = sorted(split_into_windows(created))
    assert bool(windows) == bool(created)
    if windows:
        assert windows[0].since <= min(created) - CLOCK_LEEWAY_S
        assert [window.until for window in windows] == [*(window.since for window in windows[1:]), None]
        assert all(window.until is None or window.since < window.until for window in windows)


def test_a_window_holds_at_most_one_page() -> None:
    assert len(split_into_windows(range(10_000))) == 100
    count = module.MAX_CONCURRENT_WINDOWS
    assert len(split_into_windows(range(50 * count))) == count


def test_a_few_invoices_take_few_pages() -> None:
    """Else these would be as many reads as verifying each by itself."""
    assert [len(split_into_windows(range(count))) for count in (1, 20, 40, 60)] == [1, 2, 4, 6]


def test_the_most_crowded_windows_come_first() -> None:
    """A few old invoices make long windows; they are verified one by one meanwhile."""
    windows = split_into_windows([*range(0, 1000, 100), *range(1000, 1100)])
    assert windows[-1].since == -CLOCK_LEEWAY_S
    assert all(window.since >= 800 for window in windows[:-2])


async def test_a_window_that_fails_does_not_stop_the_others() -> None:
    completed: list[TimeWindow] = []

    async def read(window: TimeWindow) -> int:
        if window.since == 2:
            raise StripeUnavailable("rate limited")
        completed.append(window)
        return 10

    assert await read_windows([TimeWindow(number, number + 1) for number in range(5)], read) == 40
    assert sorted(window.since for window in completed) == [0, 1, 3, 4]


class Lists:
    """In place of the gateway and of the verification: which windows were listed, and what was settled."""

    def __init__(self) -> None:
        self.listed: list[TimeWindow] = []
        self.paid: list[StripeInvoice] = []
        self.settled: list[str] = []
        self.has_more = False
        self.always_more = False
        self.fails = False
        self.refused = ""

    async def list_paid_invoices(
        self, since: int, after: str | None = None, until: int | None = None
    ) -> ListOf[StripeInvoice]:
        self.listed.append(TimeWindow(since, until))
        shown = [each for each in self.paid if since <= each.created < (until or 2**40)]
        if self.fails:
            raise StripeUnavailable("rate limited")
        if self.always_more:
            return ListOf([a_paid_invoice("in_other", since)], has_more=True)
        return ListOf([] if after else shown, has_more=self.has_more and len(self.listed) == 1)

    async def settle_paid(self, listed: StripeInvoice, _: Source) -> Settled:
        if listed.id == self.refused:
            raise StripeUnavailable("its lines are not read")
        self.settled.append(listed.id)
        await Invoice.filter(id=listed.id).update(status=InvoiceStatus.ACTIVE)
        return Settled(Outcome.SETTLED, "")

    async def run(self, bulk: BulkVerification, invoices: list[str]) -> int:
        """How often Stripe is asked in one pass."""
        self.listed.clear()
        self.settled.clear()
        await bulk._run_pass(module._Pass(), invoices)
        return len(self.listed)


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_while_nobody_pays_one_page_is_read() -> None:
    """It shows as much as a page of each window, unless there is another one: then the windows follow."""
    account, lists = await an_account(), Lists()
    double: Any = lists
    bulk = BulkVerification(double, double, Timeline())
    begun = [now() - timedelta(seconds=10 * number) for number in range(45)]
    invoices = [(await an_invoice(account, created_at=at)).id for at in begun]
    windows = len(split_into_windows([int(at.timestamp()) for at in begun]))
    assert windows > 2
    assert [await lists.run(bulk, invoices) for _ in range(3)] == [windows, 1, 1]
    oldest = int(begun[-1].timestamp()) - CLOCK_LEEWAY_S  # as Stripe's clock may say
    lists.paid = [a_paid_invoice(invoices[-1], oldest)]
    assert (await lists.run(bulk, invoices), lists.settled) == (1, [invoices[-1]])
    assert [await lists.run(bulk, invoices) for _ in range(2)] == [windows, 1], "somebody pays: as ever"
    lists.has_more, lists.paid = True, [a_paid_invoice(invoices[3], int(begun[3].timestamp()))]
    assert (await lists.run(bulk, invoices), lists.settled) == (1 + windows, [invoices[3]])


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_pass_that_read_all_and_found_nobody_covers_what_it_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not what no list of recent invoices shows, and not where the pass has not read all of it."""
    monkeypatch.setattr(module, "PAUSE", timedelta(0))
    monkeypatch.setattr(module, "LONG_PAUSE", timedelta(0))
    account, lists = await an_account(), Lists()
    double: Any = lists
    bulk = BulkVerification(double, double, Timeline())
    waiting = [(await an_invoice(account)).id for _ in range(2)]
    old = (await an_invoice(account, created_at=now() - module.RECENT)).id
    session = (await an_invoice(account, id="cs_1")).id
    void = (await an_invoice(account, status=InvoiceStatus.VOID)).id

    async def covered() -> list[str]:
        lists.listed.clear()
        return sorted(await bulk.check([*waiting, old, session, void]))

    for newest_page in (False, True):
        assert await covered() == sorted(waiting), "by windows, then by the newest page"
        assert (bulk._nobody_pays, len(lists.listed)) == (True, 1)
        lists.fails = True
        assert await covered() == []
        lists.fails, bulk._nobody_pays = False, newest_page
    lists.always_more = True
    assert await covered() == [], "more pages than are read"
    lists.always_more, lists.refused = False, waiting[0]
    lists.paid = [a_paid_invoice(waiting[0], int(now().timestamp()))]
    assert await covered() == [waiting[1]], "paid, and not settled"
    lists.refused = ""
    assert await covered() == [], "somebody pays"
    lists.paid = []
    assert await covered() == [waiting[1]]
    monkeypatch.setattr(module, "claim_watermark", no_claim)
    assert await covered() == [], "another process makes the pass"


async def no_claim(*_: Any, **__: Any) -> bool:
    return False


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_while_nobody_pays_rows_are_read_once_and_nothing_between_two_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    account, lists = await an_account(), Lists()
    double: Any = lists
    bulk = BulkVerification(double, double, Timeline())
    read: list[int] = []
    claims: list[str] = []
    pending = module.pending_invoices

    async def claiming(name: str, *, moved_before: datetime, moved_at: datetime) -> bool:
        claims.append(name)
        return await claim_watermark(name, moved_before, moved_at)

    async def counting(invoices: Sequence[str]) -> dict[str, int]:
        read.append(len(invoices))
        return await pending(invoices)

    monkeypatch.setattr(module, "claim_watermark", claiming)
    monkeypatch.setattr(module, "pending_invoices", counting)
    first = now() - timedelta(minutes=10)
    invoices = [(await an_invoice(account, created_at=at)).id for at in (first, now(), now())]
    monkeypatch.setattr(module, "PAUSE", timedelta(0))
    paid = (await an_invoice(account)).id
    lists.paid = [a_paid_invoice(paid, int(now().timestamp()))]
    await bulk.check([*invoices, paid])
    assert lists.settled == [paid]
    lists.paid = []
    for _ in range(3):
        await bulk.check(invoices)
    assert not bulk.is_due()
    assert len(claims) == 2, "the pause is known without asking the database, and begins where nobody pays"
    read.clear()
    await lists.run(bulk, invoices)
    invoices.append((await an_invoice(account)).id)
    await lists.run(bulk, invoices[1:])
    assert [count for count in read if count] == [3, 1]
    assert lists.listed[0].since > first.timestamp(), "of those that wait no more nothing is kept"


def a_paid_invoice(invoice: str, created: int) -> StripeInvoice:
    return StripeInvoice(
        id=invoice,
        currency="usd",
        amount_due=2900,
        amount_paid=2900,
        amount_remaining=0,
        created=created,
        lines=ListOf([]),
        total=2900,
        status="paid",
    )


async def runs_now(settled: int = 0) -> bool:
    """Whether a pass runs now."""
    runs = []

    async def run_pass() -> int:
        runs.append(now())
        return settled

    await module.run_exclusively(run_pass)
    return bool(runs)


@pytest.mark.usefixtures("database")
async def test_one_process_at_a_time_runs_a_pass() -> None:
    async def run_pass() -> int:
        assert not await runs_now()
        return 1

    await module.run_exclusively(run_pass)
    assert not await runs_now(), "the pause comes first"
    await wait_until(runs_now, within=30)


@pytest.mark.usefixtures("database")
async def test_the_pause_is_longer_after_a_pass_that_settled_nothing() -> None:
    """The waiting customers have not paid, so a list of paid invoices does not help."""
    assert await runs_now(settled=0)
    claim = await Watermark.get(name=module.CLAIM_NAME)
    assert claim.moved_at > now() + module.LONG_PAUSE / 2


@pytest.mark.usefixtures("database")
async def test_a_pass_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its claim expires, so that there are never two."""
    monkeypatch.setattr(module, "MAX_PASS_S", 0.05)

    async def run_pass() -> int:
        await asyncio.Event().wait()
        return 0

    await module.run_exclusively(run_pass)
    await wait_until(runs_now, within=30)


@pytest.mark.usefixtures("database")
async def test_the_claim_of_a_process_that_died_expires() -> None:
    """S13: until then no other process runs a pass."""
    claim = await Watermark.create(name=module.CLAIM_NAME, value="", moved_at=now() + timedelta(seconds=5))
    assert not await runs_now()
    claim.moved_at = now()
    await claim.save()
    assert await runs_now()
