"""Erasing a person: nothing in any column of any table names them afterwards, and the books are the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from paidup.credits import ledger, reservations
from paidup.credits.audit import audit_all
from paidup.db.connection import connection, is_sqlite, write_transaction
from paidup.db.models import (
    Account,
    CheckoutSession,
    Correction,
    CreditGrant,
    EntryKind,
    Invoice,
    LedgerEntry,
    StripeCustomer,
    StripeEvent,
    Subscription,
    TimelineEntry,
)
from paidup.db.outbound_models import OutboundEvent
from paidup.errors import Conflict, InvalidInput, NotFound
from paidup.operations import erasure
from paidup.operations.actions import OperatorActions
from paidup.operations.audit_log import Instruction
from paidup.operations.corrections import Gift
from paidup.payments.timeline import TimelineEventType
from paidup.runtime.clock import now
from tests.conftest import World
from tests.support.factories import an_account, an_invoice, granted, three_sums
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import status_with
from tests.support.subscription_lifecycle import Life, a_life, subscription_of
from tests.support.vouchers import decide, get_boleto, plans_in_reais
from tests.support.waiting import wait_until

PERSON = "jane.doe-4711"
MARKS = (PERSON, "jane@example.com", "Jane Doe")


@pytest.fixture
async def life(world: World) -> Life:
    return await a_life(world, name=PERSON)


def actions_of(life: Life) -> OperatorActions:
    services = life.paidup.services
    return OperatorActions(services.catalogue, services.verification, services.settlement, services.clock)


def why(key: str, reason: str = "a request of 3 March") -> Instruction:
    return Instruction("grace", reason, key)


async def columns_that_name(marks: tuple[str, ...]) -> set[str]:
    """Each column of each table in which a text has one of these marks."""
    query = (
        "SELECT name AS tab FROM sqlite_master WHERE type = 'table'"
        if is_sqlite()
        else "SELECT table_name AS tab FROM information_schema.tables WHERE table_schema = 'public'"
    )
    found = set()
    for table in [row["tab"] for row in await connection().execute_query_dict(query)]:
        for row in await connection().execute_query_dict(f'SELECT * FROM "{table}"'):
            for column, value in dict(row).items():
                if any(mark.casefold() in str(value).casefold() for mark in marks):
                    found.add(f"{table}.{column}")
    return found


async def a_life_with_marks(life: Life, actions: OperatorActions) -> None:
    """Leaves what names the person wherever the product, the SaaS or an operator may put it."""
    customer = await life.stripe.customer(email="jane@example.com", name="Jane Doe")
    await life.balance()
    await actions.link_customer(customer, PERSON, why("T-jane@example.com", "Jane Doe wrote to us"))
    invoice = await life.buy("pro")
    backend: dict[str, Any] = {"credits": 10, "key": "jane@example.com/report", "reason": "Jane Doe's report"}
    for path, body in (
        ("spend", backend),
        ("reserve", {"credits": 5, "key": "Jane Doe's job"}),
    ):
        status, _ = await life.customer.call("POST", f"/api/credits/{path}", body)
        assert status in (200, 201)
    await actions.grant(PERSON, Gift(50), why("T-gift Jane Doe"))
    await actions.adjust(PERSON, -5, why("T-adjust", "jane@example.com complained"))
    account = await Account.get(external_id=PERSON)
    await CheckoutSession.create(
        id="cs_jane", account_id=account.id, mode="payment", status="expired", payment_status="unpaid",
        client_reference=PERSON, return_to="https://shop.example/?u=Jane Doe", expires_at=now(),
        created_at=now(),
    )  # fmt: skip
    life.paidup.services.timeline.note(invoice, TimelineEventType.REFUSED, reason="Jane Doe")
    await wait_until(lambda: TimelineEntry.filter(event_type=TimelineEventType.REFUSED).exists())
    await StripeEvent.create(
        id="evt_jane", type="invoice.paid", payload=f'{{"customer":"{customer}"}}', received_at=now(),
        error="parked: odd",
    )  # fmt: skip
    await actions.dismiss(["evt_jane"], why("T-dismiss", "Jane Doe paid by hand"))
    await life.calm()


async def test_nothing_names_an_erased_person_and_the_books_are_the_same(life: Life) -> None:
    """In any column of any table, of all that the product, the SaaS and operators have written."""
    actions = actions_of(life)
    await a_life_with_marks(life, actions)
    with pytest.raises(Conflict, match="Cancel their subscription"):
        await actions.erase(PERSON, why("T-erase"))
    await life.post("/api/subscriptions/cancel", when="now")
    await life.calm()
    await life.work()
    before = await columns_that_name(MARKS)
    assert {
        "accounts.external_id", "checkout_sessions.client_reference", "checkout_sessions.return_to",
        "ledger_entries.reference", "ledger_entries.reason", "reservations.key", "stripe_events.payload",
        "stripe_events.dismissed_because", "audit_log.reason", "audit_log.key", "timeline.detail",
    } <= before  # fmt: skip
    assert any(event.data for event in await OutboundEvent.all())
    books = await the_books()
    with pytest.raises(InvalidInput, match="must not name"):
        await actions.erase(PERSON, why("T-erase", f"{PERSON} asked for it"))
    done = await actions.erase(PERSON, why("T-erase"), also=MARKS[1:])
    assert await columns_that_name(MARKS) == set()
    assert await the_books() == books
    assert await audit_all() == []
    await assert_books_balance(grants=1)
    assert done.details["events"] > 0
    assert done.account is not None
    assert done.account.startswith("erased-")
    assert await actions.erase(PERSON, why("T-erase")) == done
    with pytest.raises(NotFound):
        await actions.erase(PERSON, why("T-again"))
    again = await actions.erase(done.account, why("T-once more"))
    assert again.details["events"] == 0
    assert not await TimelineEntry.filter(event_type="refused").exists()
    assert not any(event.data for event in await OutboundEvent.all())


async def the_books() -> list[Any]:
    """What has to stay: each account's balance, each grant, and each entry's kind, credits and time."""
    return [
        await Account.all().order_by("id").values_list("balance", "version"),
        await CreditGrant.all()
        .order_by("id")
        .values_list("invoice_id", "correction", "credits", "remaining"),
        await LedgerEntry.all().order_by("id").values_list("kind", "credits", "balance_after", "created_at"),
    ]


async def test_an_event_that_waits_is_not_lost_with_its_payload(life: Life) -> None:
    """Money may depend on it: it is handled or dismissed first."""
    await life.buy("pro")
    await life.post("/api/subscriptions/cancel", when="now")
    await life.calm()
    await life.work()
    assert (await subscription_of(life))["status"] == "canceled"
    account = await Account.get(external_id=PERSON)
    await StripeEvent.create(
        id="evt_waits", type="refund.created", payload=f'{{"customer":"{account.stripe_customer}"}}',
        received_at=now(), error="parked: odd",
    )  # fmt: skip
    with pytest.raises(Conflict, match="evt_waits"):
        await actions_of(life).erase(PERSON, why("T-erase"))
    assert await Account.exists(external_id=PERSON)
    assert not await Correction.exists()


async def _starts(account: Account) -> None:
    await Subscription.create(id="sub_late", account_id=account.id, status="active")


async def _voucher(account: Account) -> None:
    await an_invoice(account, id="in_late", customer="", voucher={"url": "https://stripe.example"})


async def _event(account: Account) -> None:
    await StripeEvent.create(id="evt_late", type="charge.refunded", payload=f'"{PERSON}"', received_at=now())


async def _reopened(account: Account) -> None:
    await StripeEvent.filter(id="evt_done").update(handled_at=None)


@pytest.mark.parametrize(
    ("meanwhile", "why_not"),
    [
        (_starts, "Cancel their subscription first: sub_late"),
        (_voucher, "voucher of theirs can still be paid, for in_late"),
        (_event, "evt_late"),
        (_reopened, "reopened meanwhile|evt_done"),
    ],
)
async def test_what_changes_after_the_checks_is_seen_under_the_lock(
    database: None,
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: Callable[[Account], Awaitable[None]],
    why_not: str,
) -> None:
    """A settlement, a new subscription or an event while the stored payloads are read, which takes long."""
    account = await Account.create(external_id=PERSON)
    long_ago = now() - timedelta(days=1)
    await StripeEvent.create(
        id="evt_done", type="invoice.paid", payload=f'"{PERSON}"', received_at=long_ago, handled_at=long_ago
    )
    read, changes = erasure._events_about, [meanwhile]

    async def read_and_change(*arguments: Any) -> erasure.EventsAbout:
        found = await read(*arguments)
        while changes:
            await changes.pop()(account)
        return found

    monkeypatch.setattr(erasure, "_events_about", read_and_change)
    with pytest.raises(Conflict, match=why_not):
        await erasure.erase(PERSON, why("T-erase"))
    assert await Account.exists(external_id=PERSON)
    assert (await StripeEvent.get(id="evt_done")).payload
    assert not await Correction.exists()


async def test_events_are_read_in_portions_that_miss_none(
    database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten million events take longer to read than a statement may; many have been handled at one moment."""
    monkeypatch.setattr(erasure, "EVENTS_AT_ONCE", 2)
    await Account.create(external_id=PERSON)
    first = now() - timedelta(days=12)
    for number in range(12):
        at = first + timedelta(days=number // 5)
        texts = {"payload": f'"{PERSON}"', "error": f"{PERSON}: parked", "dismissed_because": f"for {PERSON}"}
        about = {name: text for place, (name, text) in enumerate(texts.items()) if number % 3 == place}
        event: dict[str, Any] = {
            "payload": "{}",
            "type": "invoice.paid",
            "received_at": at,
            "handled_at": at,
            **about,
        }
        await StripeEvent.create(id=f"evt_{number}", **event)
    done = await erasure.erase(PERSON, why("T-erase"))
    assert done.details["events"] == 4
    assert await columns_that_name((PERSON,)) == set()
    assert await StripeEvent.filter(error=erasure.ERASED).count() == 4
    assert await StripeEvent.filter(dismissed_because=erasure.ERASED).count() == 4


async def test_a_merge_and_a_purchase_after_the_checks_are_erased_as_well(
    database: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The person has one more user id, and one more customer in Stripe, whose events name them."""
    account, other = [await Account.create(external_id=name) for name in (PERSON, "jane-2")]
    at = now() - timedelta(days=2)
    await StripeEvent.create(
        id="evt_old", type="customer.created", payload='"cus_late"', received_at=at, handled_at=at
    )
    read = erasure._person

    async def read_and_change(*arguments: Any) -> erasure.Person:
        person = await read(*arguments)
        monkeypatch.setattr(erasure, "_person", read)
        await Account.filter(id=other.id).update(merged_into=account.id)
        await StripeCustomer.create(id="cus_late", account_id=account.id)
        return person

    monkeypatch.setattr(erasure, "_person", read_and_change)
    done = await erasure.erase(PERSON, why("T-erase"))
    assert (done.details["accounts"], done.details["events"]) == (2, 1)
    assert await columns_that_name((PERSON, "jane-2")) == set()


async def test_credits_that_are_reserved_return_after_the_erasure(database: None) -> None:
    """Also where the reservation has the number of an entry that was erased."""
    account, at = await an_account(), now()
    await granted(account, 100)

    async def hold(key: str) -> None:
        async with write_transaction():
            own = await ledger.lock_account(account.id)
            await reservations.reserve(own, 10, key, at + timedelta(days=1), at)

    await hold("a")
    async with write_transaction():
        await reservations.release(await ledger.lock_account(account.id), "a", at)
    await hold("b")
    released = await LedgerEntry.get(kind=EntryKind.RELEASE)
    await connection().execute_script(f"UPDATE reservations SET id = {released.id} WHERE key = 'b'")
    await erasure.erase(account.external_id, why("T-erase"))
    async with write_transaction():
        own = await ledger.lock_account(account.id)
        assert await reservations.expire_due(own, at + timedelta(days=1)) == 1
    assert await three_sums(account.id) == (100, 100, 100)


async def test_a_session_that_is_read_again_stays_without_its_reference(life: Life) -> None:
    """Stripe shows `client_reference_id` for good."""
    status, opened = await life.post("/api/checkout", top_up="extra")
    assert status == 201, opened
    session = opened["checkout"]
    assert await CheckoutSession.filter(id=session, client_reference=PERSON).exists()
    await actions_of(life).erase(PERSON, why("T-erase"))
    await life.paidup.services.checkouts.verify(session)
    assert (await CheckoutSession.get(id=session)).client_reference is None


async def test_a_voucher_that_is_open_is_paid_or_expires_first(world: World, tmp_path: Path) -> None:
    """Its address leads to a page of Stripe's that shows the customer's name, and it may still be paid."""
    plans_file = await plans_in_reais(world.stripe_side, tmp_path)
    life = await a_life(world, name=PERSON, plans_file=plans_file)
    purchase = await life.customer.buy("pro")
    await get_boleto(life.stripe, purchase)
    async with life.customer.watch(purchase) as socket:
        await status_with(socket, status="processing")
        await life.calm()
        assert await columns_that_name(("/voucher/",)) >= {"invoices.voucher"}
        with pytest.raises(Conflict, match=rf"voucher .*{purchase['invoice']}"):
            await actions_of(life).erase(PERSON, why("T-erase"))
        assert await Account.exists(external_id=PERSON)
        await decide(life.stripe, purchase, "failed")
        await status_with(socket, status="failed")
    await life.calm()
    await actions_of(life).erase(PERSON, why("T-erase"))
    assert await columns_that_name(("/voucher/", *MARKS)) == set()
    assert not await Invoice.exists(voucher__isnull=False)
