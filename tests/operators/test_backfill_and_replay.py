"""`paidup backfill`, `replay` and `audit`: missing credits are granted once, mismatches are reported."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from paidup.credits.audit import audit_all
from paidup.db.models import Account, CreditGrant, EventSource, Invoice, LedgerEntry, StripeEvent
from paidup.domain.decisions import InvoiceStatus
from paidup.errors import InvalidInput, NotFound, StripeUnavailable
from paidup.operations.backfill import backfill, parse_since, replay
from paidup.runtime.clock import now
from paidup.services import Services
from paidup.stripe_api.schemas import ListOf
from tests.operators.conftest import paid_elsewhere
from tests.support.factories import an_account, an_invoice
from tests.support.ledger_asserts import assert_books_balance
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

YESTERDAY = timedelta(days=1)


async def customers_who_paid(stripe_side: StripeSide, number: int) -> None:
    """Create accounts whose invoices are paid at Stripe, without any event arriving here."""
    for index in range(number):
        customer = await stripe_side.customer()
        await Account.create(external_id=f"c{index}", stripe_customer=customer)
        await paid_elsewhere(stripe_side, customer)


class SmallPages:
    """A gateway that lists two invoices per page."""

    def __init__(self, services: Services, breaks_at: int | None = None) -> None:
        self.pages = 0
        self._list = services.gateway.list_paid_invoices
        self._breaks_at = breaks_at

    async def list_paid_invoices(self, since: int, after: str | None, max_wait_s: float) -> ListOf[Any]:
        self.pages += 1
        if self.pages == self._breaks_at:
            raise StripeUnavailable("down")
        listed = (await self._list(since, None, max_wait_s)).data
        first = next((index + 1 for index, invoice in enumerate(listed) if invoice.id == after), 0)
        return ListOf(listed[first : first + 2], has_more=len(listed) > first + 2)


async def test_a_backfill_credits_every_paid_invoice_once(
    services: Services, stripe_side: StripeSide
) -> None:
    """S20: no event arrived and none can be resent; the list of paid invoices has them, page by page."""
    await customers_who_paid(stripe_side, 4)
    await paid_elsewhere(stripe_side, await stripe_side.customer())
    gateway: Any = SmallPages(services)
    progress: list[int] = []
    counts: Counter[str] = Counter()
    await backfill(
        gateway, services.reconciler, now() - YESTERDAY, counts, lambda done, _: progress.append(done)
    )
    assert counts == {"settled": 4, "unknown_customer": 1}
    assert (gateway.pages, progress) == (3, [1, 2, 3, 4, 5])
    assert {row.settled_via for row in await Invoice.all()} == {"reconciliation"}
    await assert_books_balance(grants=4)
    counts.clear()
    await backfill(services.gateway, services.reconciler, now() - YESTERDAY, counts)
    assert counts == {"already_settled": 4, "unknown_customer": 1}
    await assert_books_balance(grants=4)


async def test_an_interrupted_backfill_continues_when_run_again(
    services: Services, stripe_side: StripeSide
) -> None:
    """S34: Stripe goes down between two pages."""
    await customers_who_paid(stripe_side, 3)
    gateway: Any = SmallPages(services, breaks_at=2)
    counts: Counter[str] = Counter()
    with pytest.raises(StripeUnavailable):
        await backfill(gateway, services.reconciler, now() - YESTERDAY, counts)
    assert counts == {"settled": 2}
    await assert_books_balance(grants=2)
    await backfill(services.gateway, services.reconciler, now() - YESTERDAY, counts)
    assert counts == {"settled": 3, "already_settled": 2}
    await assert_books_balance(grants=3)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_backfill_ignores_invoices_before_since(services: Services, stripe_side: StripeSide) -> None:
    await customers_who_paid(stripe_side, 1)
    counts: Counter[str] = Counter()
    await backfill(services.gateway, services.reconciler, now() + timedelta(seconds=5), counts)
    assert counts == {}


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T09:30:00", datetime(2026, 11, 1, 9, 30, tzinfo=UTC)),
        ("2026-11-01T09:30:00Z", datetime(2026, 11, 1, 9, 30, tzinfo=UTC)),
        ("2026-11-01T09:30:00+02:00", datetime(2026, 11, 1, 7, 30, tzinfo=UTC)),
    ],
)
def test_since_is_utc_unless_it_has_an_offset(text: str, when: datetime) -> None:
    assert parse_since(text) == when


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "01.11.2026"])
def test_an_invalid_date_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_since(text)


async def test_a_replay_fetches_an_event_that_never_arrived(
    services: Services, stripe_side: StripeSide
) -> None:
    """S20: it is stored with the source LIST, so it does not count as a webhook; it grants credits once."""
    await customers_who_paid(stripe_side, 1)
    event = await wait_until(lambda: stripe_side.event("invoice.paid"))
    done = await replay(services.gateway, services.events, event["id"])
    assert (done.type, done.source, done.outcome, done.done) == ("invoice.paid", "stripe", "settled", True)
    row = await StripeEvent.get(id=event["id"])
    assert row.source is EventSource.LIST
    assert row.handled_at is not None
    done = await replay(services.gateway, services.events, event["id"])
    assert (done.source, done.outcome, done.done) == ("here", "already_settled", True)
    await assert_books_balance(grants=1)


async def test_a_replay_fetches_a_payload_that_was_pruned(
    services: Services, stripe_side: StripeSide
) -> None:
    """The event from Stripe is handled, and its payload stored again in case that fails."""
    await customers_who_paid(stripe_side, 1)
    event = await wait_until(lambda: stripe_side.event("invoice.paid"))
    await replay(services.gateway, services.events, event["id"])
    await StripeEvent.filter(id=event["id"]).update(payload="")
    done = await replay(services.gateway, services.events, event["id"])
    assert (done.source, done.outcome, done.done) == ("stripe", "already_settled", True)
    assert event["id"] in (await StripeEvent.get()).payload
    await StripeEvent.create(id="evt_old", type="invoice.paid", payload="", received_at=now())
    with pytest.raises(NotFound, match="The payload of evt_old is neither stored nor at Stripe"):
        await replay(services.gateway, services.events, "evt_old")


async def test_an_abandoned_event_can_be_replayed(services: Services, stripe_side: StripeSide) -> None:
    """S13: a stored event can be replayed in any state; a failure is stored with it and reported."""
    await customers_who_paid(stripe_side, 1)
    event = await wait_until(lambda: stripe_side.event("invoice.paid"))
    body: dict[str, Any] = {"type": "invoice.paid", "received_at": now(), "attempts": 12}
    await StripeEvent.create(
        id=event["id"], payload=msgspec.json.encode(event).decode(), error="down", **body
    )
    done = await replay(services.gateway, services.events, event["id"])
    assert (done.outcome, done.done) == ("settled", True)
    assert (await StripeEvent.get(id=event["id"])).error is None
    broken = '{"id":"evt_b","type":"invoice.paid","livemode":false,"data":{"object":7}}'
    await StripeEvent.create(id="evt_b", payload=broken, **body)
    done = await replay(services.gateway, services.events, "evt_b")
    assert (done.outcome.partition(":")[0], done.done) == ("failed", False)
    assert (await StripeEvent.get(id="evt_b")).attempts == 13


async def test_an_event_that_is_neither_stored_nor_at_stripe_is_not_found(services: Services) -> None:
    with pytest.raises(NotFound, match="evt_nothing"):
        await replay(services.gateway, services.events, "evt_nothing")


async def test_the_audit_finds_a_tampered_balance_and_a_missing_grant(
    services: Services, stripe_side: StripeSide
) -> None:
    """S37: each mismatch is reported by account or invoice; nothing is changed."""
    await customers_who_paid(stripe_side, 3)
    await backfill(services.gateway, services.reconciler, now() - YESTERDAY, Counter())
    assert await audit_all() == []
    await Account.filter(external_id="c0").update(balance=2001)
    emptied = await Account.get(external_id="c1")
    grant = await CreditGrant.get(account_id=emptied.id)
    await LedgerEntry.filter(account_id=emptied.id).delete()
    await CreditGrant.filter(account_id=emptied.id).delete()
    await Account.filter(id=emptied.id).update(balance=0)
    progress: list[int] = []
    found = {(finding.subject, finding.what) for finding in await audit_all(progress.append)}
    assert found == {
        ("account c0", "the balance is 2001, the entries sum to 2000"),
        ("account c0", "the balance is 2001, live grants hold 2000"),
        (f"invoice {grant.invoice_id}", "it is active and has no grant"),
    }
    assert sum(progress) == 3
    assert (await Account.get(external_id="c0")).balance == 2001


async def test_the_audit_ignores_unpaid_invoices(services: Services) -> None:
    """S37: only paid invoices need a grant, whether refunded or not."""
    account = await an_account()
    for status in set(InvoiceStatus) - {InvoiceStatus.ACTIVE, InvoiceStatus.REVERSED}:
        await an_invoice(account, status=status)
    assert await audit_all() == []
