"""Credited exactly once (SCENARIOS, S10 to S18), by every source: concurrent, repeated, late or killed."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Container, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
import pytest

from paidup.db.bulk import insert_missing
from paidup.db.models import Account, Invoice, StripeEvent
from paidup.db.shared_writes import VersionedRows, write_unchanged
from paidup.domain.payment_facts import PaymentFacts, Source
from paidup.errors import StorageUnavailable, TransactionAborted
from paidup.payments import settlement_batches, settlements_under_way
from paidup.payments.settlements_under_way import SettlementsUnderWay
from paidup.reconciliation import received_events
from paidup.reconciliation.received_events import ReceivedEvents
from paidup.reconciliation.stripe_events import Events, store
from paidup.runtime.clock import now
from paidup.stripe_api.events import Event
from paidup.stripe_api.schemas import StripeInvoice, decode
from tests.conftest import World
from tests.support.driver import Finish, race
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import WEBHOOK_SECRET, Customer, Paidup, environment, next_status, status_with
from tests.support.processes import Child
from tests.support.stripe_sandbox import StripeSide, sign
from tests.support.waiting import wait_until

RACES = 200
ACCOUNTS = 10
KINDS = ("invoice.paid", "invoice.payment_succeeded", "invoice_payment.paid", "payment_intent.succeeded")


@pytest.mark.timeout(300)
async def test_verification_and_webhook_settle_at_the_same_instant_in_two_processes_and_credit_once(
    world: World, stripe_side: StripeSide
) -> None:
    """S10: 200 concurrent settlements in two processes: one grant each time."""
    paidup = await world.server(webhooks=False)
    shown_by_webhook, shown_by_verification = await _paid_invoices(stripe_side, paidup, RACES)
    # Half of the invoices have their row already, the other half is new to both processes.
    for facts in shown_by_webhook[::2]:
        await paidup.services.settlement.settle(_before_payment(facts), Source.VERIFICATION)
    file, place = world.folder / "facts.json", f"race:{uuid4().hex}"
    file.write_bytes(msgspec.json.encode(shown_by_verification))
    child = _driver(world, "race", str(file), place)
    try:
        here = await race(paidup.services, shown_by_webhook, Source.WEBHOOK, place)
    except TimeoutError:
        raise AssertionError(child.output) from None
    assert await asyncio.to_thread(child.process.wait, 30) == 0, child.output
    there = msgspec.json.decode(file.with_suffix(".out").read_bytes(), type=list[Finish])

    pairs = list(zip(here, there, strict=True))
    assert all({a.outcome, b.outcome} == {"settled", "already_settled"} for a, b in pairs)
    assert sum(a.overlaps(b) for a, b in pairs) > RACES / 4, "they did not meet"
    await assert_books_balance(grants=RACES)
    assert [account.balance for account in await Account.all()] == [RACES // ACCOUNTS * 500] * ACCOUNTS


async def test_the_same_event_ten_times_at_once_credits_once(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S11: the same event ten times, concurrently: each gets 200, and there is one grant."""
    ada, purchase = await _paid_without_webhooks(paidup, stripe_side)
    body = await _body_of(stripe_side, "invoice.paid", purchase["invoice"])
    answers = await asyncio.gather(*(paidup.webhook(body) for _ in range(10)))
    assert [status for status, _ in answers] == [200] * 10
    assert await ada.balance() == 2000
    assert await StripeEvent.filter(handled_at__not_isnull=True).count() == 1
    await assert_books_balance(grants=1)


async def test_two_events_for_one_change_credit_once(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S11: Stripe may make two events with different ids for one change: one grant."""
    ada, purchase = await _paid_without_webhooks(paidup, stripe_side)
    event = await stripe_side.event("invoice.paid", purchase["invoice"])
    bodies = [json.dumps({**event, "id": f"evt_twin_{number}"}).encode() for number in range(2)]
    answers = await asyncio.gather(*map(paidup.webhook, bodies))
    assert sorted(answer["outcome"] for _, answer in answers) == ["already_settled", "settled"]
    assert await ada.balance() == 2000
    await assert_books_balance(grants=1)


@pytest.mark.parametrize("first", KINDS)
async def test_every_kind_of_event_for_one_payment_credits_once(
    world: World, stripe_side: StripeSide, first: str
) -> None:
    """S11: each kind of event for one payment is enough, and the three others grant nothing more."""
    paidup = await world.server(webhooks=False)
    ada, _ = await _paid_without_webhooks(paidup, stripe_side)
    bodies = {kind: await _body_of(stripe_side, kind) for kind in KINDS}
    status, answer = await paidup.webhook(bodies.pop(first))
    assert (status, answer["outcome"]) == (200, "settled")
    assert await ada.balance() == 2000
    answers = await asyncio.gather(*map(paidup.webhook, bodies.values()))
    assert [status for status, _ in answers] == [200] * 3
    assert await ada.balance() == 2000
    await assert_books_balance(grants=1)


async def test_events_that_change_nothing_are_stored_as_handled(
    deaf: Paidup, stripe_side: StripeSide
) -> None:
    """Six of the eight events of a payment; what comes again is a duplicate, and changes no row."""
    await _paid_without_webhooks(deaf, stripe_side)
    expected = {
        "payment_intent.succeeded": "settled",
        "customer.subscription.created": "unchanged",
        "invoice.created": "skipped",
        "charge.succeeded": "unhandled_type",
        "invoice_payment.paid": "skipped",
        "invoice.paid": "already_settled",
        "invoice.payment_succeeded": "already_settled",
    }
    bodies = [await _body_of(stripe_side, kind) for kind in expected]
    first = [(await deaf.webhook(body))[1]["outcome"] for body in bodies]
    assert first == list(expected.values())
    rows = await StripeEvent.all().order_by("id").values()
    assert {row["type"]: row["outcome"] for row in rows} == expected
    assert {(row["attempts"], row["next_attempt_at"], row["handled_at"] is None) for row in rows} == {
        (1, None, False)
    }
    again = [await deaf.webhook(body) for body in bodies]
    assert [(status, answer["outcome"]) for status, answer in again] == [(200, "duplicate")] * len(expected)
    assert await StripeEvent.all().order_by("id").values() == rows
    await assert_books_balance(grants=1)


async def test_the_event_of_a_link_waits_for_the_one_that_settles_its_invoice(
    deaf: Paidup, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They arrive together: the link is no reason to verify then, so it is stored as handled, too."""
    await _paid_without_webhooks(deaf, stripe_side)
    await wait_until(lambda: Invoice.exists(published_version=1))  # nothing else changes the row
    writing, waiting, ended = asyncio.Event(), asyncio.Event(), SettlementsUnderWay.ended

    async def write(units: Sequence[VersionedRows]) -> list[bool]:
        writing.set()
        await waiting.wait()
        return await write_unchanged(units)

    def wait(under_way: SettlementsUnderWay, invoice: str) -> Awaitable[bool]:
        waiting.set()
        return ended(under_way, invoice)

    monkeypatch.setattr(settlement_batches, "write_unchanged", write)
    monkeypatch.setattr(SettlementsUnderWay, "ended", wait)
    monkeypatch.setattr(Events, "store", None)
    bodies = [await _body_of(stripe_side, kind) for kind in ("invoice.paid", "invoice_payment.paid")]
    paid = asyncio.create_task(deaf.webhook(bodies[0]))
    await wait_until(writing.is_set)
    link = await deaf.webhook(bodies[1])
    assert [answer["outcome"] for _, answer in (await paid, link)] == ["settled", "skipped"]
    await assert_books_balance(grants=1)


async def test_events_that_change_nothing_give_way_to_a_settlement_that_a_customer_waits_for(
    deaf: Paidup, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They arrive together, and share the event loop and SQLite's connection. All are stored."""
    _, purchase = await _paid_without_webhooks(deaf, stripe_side)
    await wait_until(lambda: Invoice.exists(published_version=1))  # nothing else changes the row
    deaf.services.verification_queue.add(purchase["invoice"], at_once=False)  # as a page does
    steps: list[str] = []
    writing, waiting, give_way = asyncio.Event(), asyncio.Event(), SettlementsUnderWay.give_way

    async def write(units: Sequence[VersionedRows]) -> list[bool]:
        writing.set()
        await waiting.wait()
        written = await write_unchanged(units)
        steps.append("settled")
        return written

    async def insert(*rows: Any) -> set[Any]:
        steps.append("stored")
        return await insert_missing(*rows)

    def wait(under_way: SettlementsUnderWay, invoices: Container[str]) -> Awaitable[None]:
        waiting.set()
        return give_way(under_way, invoices)

    monkeypatch.setattr(settlement_batches, "write_unchanged", write)
    monkeypatch.setattr(received_events, "insert_missing", insert)
    monkeypatch.setattr(SettlementsUnderWay, "give_way", wait)
    monkeypatch.setattr(settlements_under_way, "GIVE_WAY_S", 60)
    bodies = [await _body_of(stripe_side, kind) for kind in ("invoice.paid", "charge.succeeded")]
    paid = asyncio.create_task(deaf.webhook(bodies[0]))
    await wait_until(writing.is_set)
    charged = await deaf.webhook(bodies[1])
    assert [answer["outcome"] for _, answer in (await paid, charged)] == ["settled", "unhandled_type"]
    assert steps == ["settled", "stored"]
    assert await StripeEvent.filter(handled_at__not_isnull=True).count() == 2


async def test_an_event_that_changes_nothing_is_stored_once_however_often_it_comes(
    deaf: Paidup, stripe_side: StripeSide
) -> None:
    """S11: ten times at once: one answer says what became of it, and the others that they are repeated."""
    await _paid_without_webhooks(deaf, stripe_side)
    body = await _body_of(stripe_side, "charge.succeeded")
    answers = await asyncio.gather(*(deaf.webhook(body) for _ in range(10)))
    outcomes = sorted(answer["outcome"] for _, answer in answers)
    assert outcomes == ["duplicate"] * 9 + ["unhandled_type"]
    assert (await StripeEvent.get()).attempts == 1


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_an_event_is_stored_though_another_process_has_settled_it_meanwhile(
    deaf: Paidup, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S10: the statement that was to store it is aborted; once more, it finds the invoice settled."""
    _, purchase = await _paid_without_webhooks(deaf, stripe_side)
    event = await stripe_side.event("invoice.paid", purchase["invoice"])

    async def aborted(_: Any) -> list[bool]:
        await deaf.services.settlement._settle_locked(_facts_of(event), Source.RECONCILIATION, None)
        raise TransactionAborted("a deadlock")

    monkeypatch.setattr(settlement_batches, "write_unchanged", aborted)
    status, answer = await deaf.webhook(json.dumps(event).encode())
    assert (status, answer["outcome"]) == (200, "already_settled")
    row = await StripeEvent.get()
    assert (row.outcome, row.attempts, row.handled_at is None) == ("already_settled", 1, False)
    await assert_books_balance(grants=1)


async def test_two_secrets_on_one_address_credit_once(world: World, stripe_side: StripeSide) -> None:
    """S12: two endpoints on one address, each with its own secret, deliver the same change: one grant."""
    secrets = f"whsec_of_another_endpoint_of_the_same_address,{WEBHOOK_SECRET}"
    paidup = await world.server(webhooks=False, stripe_webhook_secret=secrets)
    ada, purchase = await _paid_without_webhooks(paidup, stripe_side)
    body = await _body_of(stripe_side, "invoice.paid", purchase["invoice"])
    answers = [await paidup.webhook(body, sign(body, secret)) for secret in secrets.split(",")]
    assert [(status, answer["outcome"]) for status, answer in answers] == [
        (200, "settled"),
        (200, "duplicate"),
    ]
    assert await ada.balance() == 2000
    await assert_books_balance(grants=1)


async def test_an_event_that_was_stored_and_never_handled_is_credited_by_the_reconciler_once(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S13: the handler stopped between claiming the event and crediting: credited later, once."""
    ada, purchase = await _paid_without_webhooks(paidup, stripe_side)
    body = await _body_of(stripe_side, "invoice.paid", purchase["invoice"])
    assert await store(decode(Event, body), body.decode())
    assert await paidup.services.reconciler.due.events() == 0, "its first handler has its time"
    assert await ada.balance() == 0
    await StripeEvent.all().update(next_attempt_at=now() - timedelta(seconds=1))
    sweeps = await asyncio.gather(*(paidup.services.reconciler.due.events() for _ in range(5)))
    assert sum(sweeps) == 1, "several reconcilers, one claim"
    assert await ada.balance() == 2000
    assert await paidup.services.reconciler.due.events() == 0
    assert (await StripeEvent.get()).handled_at is not None
    await assert_books_balance(grants=1)


async def test_an_event_whose_handling_fails_is_answered_200_kept_and_credited_later(
    paidup: Paidup, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S13: a failure while handling gets 200, is stored with its error, and the reconciler handles it."""
    ada, purchase = await _paid_without_webhooks(paidup, stripe_side)
    body = await _body_of(stripe_side, "invoice.paid", purchase["invoice"])

    async def broken(*_: Any) -> None:
        raise RuntimeError("the handler died")

    with monkeypatch.context() as patch:
        for name in ("settle", "settle_received"):
            patch.setattr(paidup.services.settlement, name, broken)
        assert await paidup.webhook(body) == (200, {"received": True, "outcome": "postponed"})
    kept = await StripeEvent.get()
    assert kept.handled_at is None
    assert (kept.attempts, kept.error) == (1, "RuntimeError: the handler died")
    assert await ada.balance() == 0
    await StripeEvent.all().update(next_attempt_at=now() - timedelta(seconds=1))
    assert await paidup.services.reconciler.due.events() == 1
    assert await ada.balance() == 2000
    made_good = await StripeEvent.get()
    assert made_good.handled_at is not None
    assert made_good.attempts == 2
    assert not made_good.error
    await assert_books_balance(grants=1)


async def test_a_kill_between_commit_and_publish_delays_the_status(
    world: World, stripe_side: StripeSide
) -> None:
    """S14: killed after its commit and before publishing: the socket gets the status within 10 s."""
    paidup = await world.server(webhooks=False, resync_interval_s=1)
    ada, purchase = await _paid_without_webhooks(paidup, stripe_side)
    event = await stripe_side.event("invoice.paid", purchase["invoice"])
    file = world.folder / "facts.json"
    file.write_bytes(msgspec.json.encode([_facts_of(event)]))
    await stripe_side.conditions(api_down=True)  # so that verification does not settle it first
    async with ada.watch(purchase) as socket:
        assert (await next_status(socket))["status"] == "open"
        child = _driver(world, "die", str(file), "nowhere")
        assert await asyncio.to_thread(child.process.wait, 30) == -signal.SIGKILL, child.output
        told = await status_with(socket, within=10, status="active")
    assert (told["via"], told["credits_granted"], told["balance"]) == ("webhook", 2000, 2000)
    await assert_books_balance(grants=1)


async def test_the_reconciler_publishes_for_a_killed_process(world: World, stripe_side: StripeSide) -> None:
    """S14: a version that was committed and not published is published by the reconciler, once."""
    paidup = await world.server(webhooks=False, resync_interval_s=600)
    ada, purchase = await _paid_without_webhooks(paidup, stripe_side)
    event = await stripe_side.event("invoice.paid", purchase["invoice"])
    file = world.folder / "facts.json"
    file.write_bytes(msgspec.json.encode([_facts_of(event)]))
    await stripe_side.conditions(api_down=True)
    async with ada.watch(purchase) as socket:
        assert (await next_status(socket))["status"] == "open"
        child = _driver(world, "die", str(file), "nowhere")
        assert await asyncio.to_thread(child.process.wait, 30) == -signal.SIGKILL, child.output
        assert await paidup.services.reconciler.due.versions() == 0, "its publisher has its time"
        await Invoice.all().update(publish_due_at=now() - timedelta(seconds=1))
        assert await paidup.services.reconciler.due.versions() == 1
        assert (await status_with(socket, status="active"))["version"] == 2
    assert await paidup.services.reconciler.due.versions() == 0
    await assert_books_balance(grants=1)


async def test_an_event_repeated_much_later_grants_nothing(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S16: an event repeated a year later, even one whose row was purged, grants nothing more."""
    ada, purchase = await _paid_without_webhooks(paidup, stripe_side)
    body = await _body_of(stripe_side, "invoice.paid", purchase["invoice"])
    assert (await paidup.webhook(body))[1]["outcome"] == "settled"
    long_ago = now() - timedelta(days=400)
    await StripeEvent.all().update(received_at=long_ago, handled_at=long_ago)
    assert (await paidup.webhook(body)) == (200, {"received": True, "outcome": "duplicate"})
    await StripeEvent.all().delete()
    assert (await paidup.webhook(body)) == (200, {"received": True, "outcome": "already_settled"})
    assert await ada.balance() == 2000
    await assert_books_balance(grants=1)


async def test_an_event_comes_again_after_its_payload_was_pruned(
    world: World, stripe_side: StripeSide
) -> None:
    """S16: the reconciler removes old payloads; the row still says that the event was handled."""
    paidup = await world.server(event_payload_days=30, timeline_days=20)
    ada, purchase = await _paid_without_webhooks(paidup, stripe_side)
    body = await _body_of(stripe_side, "invoice.paid", purchase["invoice"])
    assert (await paidup.webhook(body))[1]["outcome"] == "settled"
    for days, pruned in ((29, False), (31, True)):
        await StripeEvent.all().update(handled_at=now() - timedelta(days=days))
        await paidup.services.reconciler.sweep()
        assert ((await StripeEvent.get(type="invoice.paid")).payload == "") == pruned
    assert (await paidup.webhook(body)) == (200, {"received": True, "outcome": "duplicate"})
    assert await ada.balance() == 2000
    await assert_books_balance(grants=1)


async def test_an_event_refused_with_503_is_delivered_again(
    world: World, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S17: an event that cannot be stored gets 503; Stripe delivers it again, and it is credited once."""
    paidup = await world.server(webhooks=True)
    ada, purchase = await _paid_without_webhooks(paidup, stripe_side, confirm=False)
    refused: set[str] = set()

    async def full(event: Event, _: str) -> bool:
        refused.add(event.type)
        raise StorageUnavailable("disk full")

    async def full_at_once(*_: Any) -> None:
        raise StorageUnavailable("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(ReceivedEvents, "__call__", full_at_once)
        patch.setattr(paidup.services.events, "store", full)
        await stripe_side.confirm(purchase["client_secret"])
        await wait_until(lambda: refused.issuperset(KINDS))
    assert await ada.balance() == 0
    assert not await StripeEvent.exists(type__in=KINDS)

    async def credited() -> bool:
        await stripe_side.control("deliveries/flush")
        return await ada.balance() == 2000

    await wait_until(credited)

    async def all_delivered() -> bool:
        await stripe_side.control("deliveries/flush")
        events = (await stripe_side.look("events"))["events"]
        return all(sent["status"] == "delivered" for event in events for sent in event["deliveries"])

    await wait_until(all_delivered)
    events = (await stripe_side.look("events"))["events"]
    paid = next(event for event in events if event["type"] == "invoice.paid")
    assert [attempt["status"] for attempt in paid["deliveries"][0]["attempts"]][:1] == [503]
    await assert_books_balance(grants=1)


async def test_a_lost_response_repeats_the_event_and_grants_once(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S17: our 200 was lost: the event is handled, delivered again, and grants nothing more."""
    ada, purchase = await _paid_without_webhooks(paidup, stripe_side)
    body = await _body_of(stripe_side, "invoice.paid", purchase["invoice"])
    address = urlsplit(paidup.url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    head += f"Stripe-Signature: {sign(body, WEBHOOK_SECRET)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    writer.close()  # the response is never read
    await writer.wait_closed()
    await wait_until(lambda: StripeEvent.exists(handled_at__not_isnull=True))
    assert (await paidup.webhook(body)) == (200, {"received": True, "outcome": "duplicate"})
    assert await ada.balance() == 2000
    await assert_books_balance(grants=1)


async def test_events_out_of_order_credit_and_stay_credited(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S18: invoice.paid before subscription.created; an older event that arrives later changes nothing."""
    ada, purchase = await _paid_without_webhooks(paidup, stripe_side, card="pm_card_chargeDeclined")
    await stripe_side.confirm(purchase["client_secret"])
    late = ["customer.subscription.created", "payment_intent.payment_failed", "invoice.payment_failed"]
    late_bodies = [await _body_of(stripe_side, kind) for kind in late]
    assert json.loads(late_bodies[0])["data"]["object"]["status"] == "incomplete"
    assert (await paidup.webhook(await _body_of(stripe_side, "invoice.paid")))[1]["outcome"] == "settled"
    for body in late_bodies:
        assert (await paidup.webhook(body))[0] == 200
    status, shown = await ada.call("GET", f"/api/invoices/{purchase['invoice']}")
    assert (status, shown["status"], shown["version"], shown["error"]) == (200, "active", 2, None)
    assert await ada.balance() == 2000
    await assert_books_balance(grants=1)


async def test_the_socket_is_on_one_process_and_the_webhook_comes_to_the_other(
    world: World, stripe_side: StripeSide
) -> None:
    """S10: two processes, one Redis, no verification: the webhook's process notifies the socket's."""
    paidup = await world.server(webhooks=False, resync_interval_s=600)
    other = await world.process(webhooks=False)
    ada, purchase = await _paid_without_webhooks(paidup, stripe_side)
    body = await _body_of(stripe_side, "invoice.paid", purchase["invoice"])
    await stripe_side.conditions(rate_limited=True)
    async with ada.watch(purchase) as socket:
        assert (await next_status(socket))["status"] == "open"
        assert (await other.webhook(body)) == (200, {"received": True, "outcome": "settled"})
        told = await status_with(socket, status="active")
    assert (told["via"], told["version"], told["balance"]) == ("webhook", 2, 2000)
    await assert_books_balance(grants=1)


async def test_verification_and_webhooks_on_two_processes_credit_once(
    world: World, stripe_side: StripeSide
) -> None:
    """S10: ten customers pay at once, sockets on one process, webhooks on the other: each credited once."""
    paidup = await world.server(webhooks=False)
    await world.process(webhooks=True)

    async def pays_and_waits(customer: Customer) -> Any:
        purchase = await customer.buy("basic")
        await stripe_side.confirm(purchase["client_secret"])
        async with customer.watch(purchase) as socket:
            return await status_with(socket, status="active")

    told = await asyncio.gather(*(pays_and_waits(paidup.customer(f"user-{n}")) for n in range(10)))
    assert [frame["balance"] for frame in told] == [500] * 10
    await wait_until(lambda: _nothing_unhandled("invoice.paid", 10))
    await assert_books_balance(grants=10)


async def _nothing_unhandled(kind: str, expected: int) -> bool:
    return await StripeEvent.filter(type=kind, handled_at__not_isnull=True).count() == expected


async def _paid_without_webhooks(
    paidup: Paidup, stripe_side: StripeSide, card: str = "pm_card_visa", confirm: bool = True
) -> tuple[Customer, Any]:
    """Ada has confirmed her payment for pro; webhooks are not delivered unless the test delivers them."""
    ada = paidup.customer("ada")
    if confirm:
        await stripe_side.conditions(webhook_drop=True)
    purchase = await ada.buy("pro")
    if confirm:
        await stripe_side.confirm(purchase["client_secret"], card)
    return ada, purchase


async def _body_of(stripe_side: StripeSide, kind: str, about: str | None = None) -> bytes:
    event = await stripe_side.event(kind, about)
    assert event is not None, kind
    return json.dumps(event).encode()


async def _paid_invoices(
    stripe_side: StripeSide, paidup: Paidup, count: int
) -> tuple[list[PaymentFacts], list[PaymentFacts]]:
    """Paid invoices of several accounts, as invoice.paid events and as verification shows them."""
    gateway, customers = paidup.services.gateway, []
    for number in range(ACCOUNTS):
        account = await paidup.services.accounts.get(f"user-{number}")
        customers.append(await stripe_side.customer())
        await Account.filter(id=account.id).update(stripe_customer=customers[-1])
    card = {"payment_behavior": "allow_incomplete", "default_payment_method": "pm_card_visa"}
    bought = [
        await stripe_side.subscribe(customers[number % ACCOUNTS], "basic", **card) for number in range(count)
    ]
    told: dict[str, PaymentFacts] = {}
    after = ""
    while len(told) < count:
        page = (await stripe_side.api("GET", f"events?type=invoice.paid&limit=100{after}"))["data"]
        told.update({event["data"]["object"]["id"]: _facts_of(event) for event in page})
        after = f"&starting_after={page[-1]['id']}"
    ids = [subscription["latest_invoice"]["id"] for subscription in bought]
    read = [(await gateway.read_invoice(invoice)).facts() for invoice in ids]
    return [told[invoice] for invoice in ids], read


def _facts_of(event: Any) -> PaymentFacts:
    return decode(StripeInvoice, json.dumps(event["data"]["object"])).facts()


def _before_payment(facts: PaymentFacts) -> PaymentFacts:
    assert facts.invoice is not None
    due = facts.invoice.amount_due_minor
    unpaid = msgspec.structs.replace(
        facts.invoice, status="open", amount_paid_minor=0, amount_remaining_minor=due
    )
    return PaymentFacts(unpaid)


def _driver(world: World, *arguments: str) -> Child:
    log = world.folder / "driver.log"
    return Child(["-m", "tests.support.driver", *arguments], environment(**world.given()), log, forked=True)
