"""Merging two accounts: all of the one is the other's, once, whatever is settled or spent at that moment."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from paidup.credits import ledger, reservations
from paidup.db.accounts import find_account
from paidup.db.connection import repeatable, write_transaction
from paidup.db.customers import account_id_of, owner_of
from paidup.db.models import (
    Account,
    CheckoutSession,
    Correction,
    CreditGrant,
    EntryKind,
    Invoice,
    LedgerEntry,
    Reservation,
    StripeCustomer,
    Subscription,
)
from paidup.db.outbound_models import EventDelivery, EventEndpoint, OutboundEvent
from paidup.domain.catalog import AfterRefund, Catalogue, Plan, PlanPrice, StripePrice
from paidup.domain.payment_facts import InvoiceFacts, LineFacts, PaymentFacts, Source
from paidup.errors import Conflict, NotFound
from paidup.operations.audit_log import Instruction, list_corrections
from paidup.operations.corrections import Corrections, Gift
from paidup.operations.event_deliveries import DeliveryFilter, list_deliveries
from paidup.operations.merging import Merging
from paidup.payments.settlement import Settlement
from paidup.payments.timeline import Timeline
from paidup.realtime.status_queries import read_balances
from paidup.runtime.clock import now
from paidup.runtime.metrics import Metrics
from tests.support.factories import an_account, an_invoice, granted, ignore_balance, three_sums

PLAN = Plan("pro", "Pro", 2000, (PlanPrice("pro", 2900),))
CATALOGUE = Catalogue((PLAN,), spent_then_refunded=AfterRefund.DEBT)
PRICES = {"pro": StripePrice("pro", "pro", "pro", 2900, "usd")}
BEGIN = datetime(2026, 11, 23, tzinfo=UTC)
UNTIL = BEGIN + timedelta(hours=1)
WHY = Instruction("grace", "one person", "T-1")


async def tell_nobody(_: object) -> bool:
    return True


@pytest.fixture
def database_url(module_database_url: str) -> str:
    """One for the module: each test has accounts of its own."""
    return module_database_url


@pytest.fixture
async def pair(database: None) -> tuple[Account, Account]:
    await Correction.filter(account_id__isnull=False).delete()
    return await an_account("ada"), await an_account("bob")


async def merged(pair: tuple[Account, Account], why: Instruction = WHY) -> None:
    await Merging(ignore_balance, lambda: BEGIN).merge(pair[0].external_id, pair[1].external_id, why)


async def act(account: Account, what: str, credits: int, key: str) -> None:
    async with write_transaction():
        locked = await ledger.lock_account(account.id)
        if what == "spend":
            await reservations.spend(locked, credits, key, BEGIN)
        elif what == "reserve":
            await reservations.reserve(locked, credits, key, UNTIL, BEGIN)
        elif what == "commit":
            await reservations.commit(locked, key, credits, BEGIN)
        else:
            await reservations.release(locked, key, BEGIN)


async def sums(account: Account) -> int:
    balance, entries, live = await three_sums(account.id)
    assert balance == entries == live
    last = await LedgerEntry.filter(account_id=account.id).order_by("-id").first()
    assert last is not None
    assert last.balance_after == balance
    return balance


async def test_all_of_one_account_is_the_others(pair: tuple[Account, Account]) -> None:
    ada, bob = pair
    await granted(ada, 100)
    invoice = await granted(bob, 70)
    at, customer = now(), bob.stripe_customer or ""
    await StripeCustomer.create(id=customer, account_id=bob.id)
    await Subscription.create(id=f"sub_{bob.id}", account_id=bob.id, status="active")
    await CheckoutSession.create(
        id=f"cs_{bob.id}", account_id=bob.id, mode="payment", status="open", payment_status="unpaid",
        expires_at=at, created_at=at,
    )  # fmt: skip
    await act(bob, "spend", 10, "a")
    await act(bob, "reserve", 20, "job")
    await merged(pair)
    assert await sums(ada) == 140
    for model in (Invoice, CreditGrant, LedgerEntry, Reservation, Subscription, StripeCustomer):
        assert not await model.filter(account_id=bob.id).exists(), model
    assert (await Invoice.get(id=invoice.id)).account_id == ada.id
    assert await account_id_of(customer) == ada.id
    await act(ada, "commit", 5, "job")  # the reservation's key is the other account's now
    await act(ada, "spend", 10, "a")  # and so is that of the spend: nothing is spent twice
    assert await sums(ada) == 155
    entry = await LedgerEntry.get(account_id=ada.id, kind=EntryKind.ADJUST)
    assert (entry.credits, entry.reason) == (0, "merged with another account")
    row = await Correction.get(key=WHY.key)
    assert (row.before, row.after) == ({"balance": 100, "merged_balance": 40}, {"balance": 140})
    assert row.details["subscriptions"] == {"count": 1, "newest": [f"sub_{bob.id}"]}


async def test_the_other_account_answers_for_a_merged_one(pair: tuple[Account, Account]) -> None:
    """Its user id, metadata that names it, its open pages, and a second merge lead to what stays."""
    ada, bob = pair
    await granted(bob, 70)
    await merged(pair)
    assert (await find_account(bob.external_id)) == ada
    assert await owner_of(bob.external_id, None, None) == ada.id
    ((key, shown),) = await read_balances([bob.id])
    assert (key, shown.balance) == (bob.id, 70)
    assert shown.version > (await Account.get(id=bob.id)).version
    async with write_transaction():
        assert (await ledger.lock_account(bob.id)).id == ada.id
    eve = await an_account("eve")
    await merged((eve, ada), replace(WHY, key="T-2"))
    assert (await find_account(bob.external_id)) == eve
    assert await sums(eve) == 70


async def test_a_merge_happens_once_and_is_refused_where_it_makes_no_sense(
    pair: tuple[Account, Account],
) -> None:
    ada, bob = pair
    await granted(bob, 70)
    await merged(pair)
    await merged(pair)
    assert await sums(ada) == 70
    for other in (bob, ada):
        with pytest.raises(Conflict, match="one account already"):
            await merged((ada, other), replace(WHY, key="T-2"))
    with pytest.raises(NotFound):
        await merged((ada, Account(external_id="nobody")), replace(WHY, key="T-2"))
    assert await Correction.filter(account_id=ada.id).count() == 1


@pytest.mark.parametrize("owes", [0, 1])
async def test_a_debt_of_one_is_paid_from_the_credits_of_the_other(
    pair: tuple[Account, Account], owes: int
) -> None:
    await granted(pair[1 - owes], 100)
    debtor = Corrections(CATALOGUE, clock=lambda: BEGIN)
    await debtor.adjust(pair[owes].external_id, -30, replace(WHY, key=f"T-{owes}-debt"), allow_debt=True)
    await merged(pair)
    assert await sums(pair[0]) == 70


async def test_what_the_balance_becomes_by_a_merge_is_told(pair: tuple[Account, Account]) -> None:
    ada, bob = pair
    await granted(ada, 20)
    await Account.filter(id=bob.id).update(low_balance=50)
    debtor = Corrections(CATALOGUE, clock=lambda: BEGIN)
    await debtor.adjust(bob.external_id, -30, replace(WHY, key="T-debt"), allow_debt=True)
    await merged(pair)
    told = await OutboundEvent.filter(account_id=ada.id).order_by("id")
    types = ["credits.granted", "credits.adjusted", "balance.depleted", "account.in_debt"]
    assert [row.type for row in told] == types
    version = (await Account.get(id=ada.id, low_balance=50)).version
    assert {(row.balance, row.version) for row in told[1:]} == {(-10, version)}


async def test_a_key_that_both_have_used_stays_with_the_first(pair: tuple[Account, Account]) -> None:
    for account in pair:
        await granted(account, 100)
        await act(account, "spend", 10, "a")
        await act(account, "reserve", 20, "job")
    with pytest.raises(Conflict, match="Commit or release it"):
        await merged(pair)
    for account in pair:
        await act(account, "release", 0, "job")
    await merged(pair)
    assert await sums(pair[0]) == 180
    await act(pair[0], "spend", 10, "a")
    assert await sums(pair[0]) == 180


async def test_a_grant_can_be_revoked_after_its_account_was_merged(pair: tuple[Account, Account]) -> None:
    support = Corrections(CATALOGUE, clock=lambda: BEGIN)
    await support.grant(pair[1].external_id, Gift(50), replace(WHY, key="T-gift"))
    await merged(pair)
    await support.revoke("T-gift", replace(WHY, key="T-gift-undone"))
    assert await sums(pair[0]) == 0


def paid(row: Invoice) -> PaymentFacts:
    line = LineFacts("pro", 2900, 1, False, 0, 1)
    return PaymentFacts(
        InvoiceFacts(
            id=row.id, status="paid", customer=row.customer, currency="usd", amount_due_minor=2900,
            amount_paid_minor=2900, amount_remaining_minor=0, total_minor=2900, from_balance_minor=0,
            finalized_at=1, sequence=1, billing_reason="subscription_create", subscription=None, created=1,
            lines=(line,),
        )
    )  # fmt: skip


async def test_what_is_settled_during_a_merge_is_credited_once(pair: tuple[Account, Account]) -> None:
    """Settlements of known and of new invoices, spends and two merges, in whatever order they come."""
    ada, bob = pair
    settlement = Settlement(CATALOGUE, PRICES, tell_nobody, ignore_balance, Timeline(), Metrics())
    known = [await an_invoice(bob) for _ in range(4)]
    new = [Invoice(id=f"in_new_{bob.id}_{number}", customer=bob.stripe_customer) for number in range(4)]
    await StripeCustomer.create(id=bob.stripe_customer or "", account_id=bob.id)
    await granted(bob, 100)

    async def settle(row: Invoice) -> None:
        await settlement.settle(paid(row), Source.WEBHOOK)
        await settlement.settle(paid(row), Source.VERIFICATION)

    async def merge(number: int) -> None:
        await asyncio.sleep(0)
        await merged(pair, replace(WHY, key=f"T-{number}"))

    @repeatable
    async def spend() -> None:
        await act(bob, "spend", 10, "a")

    work = [*map(settle, known[:2]), spend(), merge(1), *map(settle, [*known[2:], *new]), merge(2)]
    found = await asyncio.gather(*work, return_exceptions=True)
    assert [type(each) for each in found if isinstance(each, BaseException)] == [Conflict]
    await act(bob, "spend", 10, "a")  # once in all: its key went along
    assert await sums(ada) == 8 * 2000 + 90
    assert await CreditGrant.filter(account_id=ada.id).count() == 9
    assert not await Invoice.filter(account_id=bob.id).exists()


async def test_what_was_done_to_a_merged_account_is_listed_under_the_other(
    pair: tuple[Account, Account],
) -> None:
    """Also that of one which was merged into the merged one before: corrections, entries and deliveries."""
    ada, bob = pair
    carl = await an_account("carl")
    corrections = Corrections(CATALOGUE, ignore_balance)
    for number, each in enumerate((carl, bob, ada)):
        await corrections.adjust(each.external_id, 10, replace(WHY, key=f"{ada.id}-{number}"))
    await merged((bob, carl), replace(WHY, key=f"{ada.id}-3"))
    await merged(pair, replace(WHY, key=f"{ada.id}-4"))
    found = await list_corrections(await find_account(ada.external_id))
    names = [carl, bob, ada, bob, ada]
    assert {(each.key, each.account) for each in found} == {
        (f"{ada.id}-{number}", each.external_id) for number, each in enumerate(names)
    }
    assert await LedgerEntry.filter(account_id=ada.id, kind=EntryKind.ADJUST).count() == 5

    endpoint = await EventEndpoint.create(name=f"of-{ada.id}", url="https://x.example", types=[], secret="")
    events = await OutboundEvent.filter(account_id__in=[ada.id, bob.id, carl.id])
    await EventDelivery.bulk_create(
        EventDelivery(event=each, endpoint=endpoint, account_id=each.account_id, created_at=now())
        for each in events
    )
    for name in (ada.external_id, bob.external_id):
        page = await list_deliveries(DeliveryFilter(account=name), None, 50)
        assert {each.account for each in page.deliveries} == {a.external_id for a in (ada, bob, carl)}
