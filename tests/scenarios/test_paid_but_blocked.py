"""Paid, but blocked (S01 to S09): a customer who has paid gets access at once, and sees it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from paidup.db.models import Account, Invoice
from paidup.domain.messages import StatusMessage, encode
from paidup.domain.payment_facts import PaymentFacts, Source
from paidup.payments import verification_queue
from paidup.payments.settlement import Settlement
from paidup.realtime.current_rows import read_current
from paidup.realtime.hub import INVOICES
from paidup.realtime.redis_connection import PubSubConnection
from paidup.runtime.clock import now
from paidup.services import Services
from paidup.stripe_api.schemas import StripeInvoice, decode
from paidup.web.websocket import snapshots
from tests.conftest import World
from tests.support.factories import ignore_balance
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Customer, Paidup, next_status, status_with
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

READ_INVOICE = "GET /v1/invoices/{id}"
SUBSCRIBE = "POST /v1/subscriptions"


async def test_active_within_one_verification_though_the_webhook_is_a_minute_late(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S01: the webhook is a minute late: active within one verification of opening the socket."""
    await stripe_side.conditions(webhook_delay_ms=60_000)
    ada, purchase = await _confirmed(paidup, stripe_side)
    async with ada.watch(purchase) as socket:
        told = await status_with(socket, status="active")
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1000
    assert (told["via"], told["stage"], told["credits_granted"]) == ("verification", "active", 2000)
    assert await stripe_side.calls(READ_INVOICE) == 1
    assert (await ada.spend(1500, "report-1"))[0] == 200
    await assert_books_balance(grants=1)


async def test_five_tabs_and_their_reconnects_cost_one_stripe_call(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S01: five tabs open at once, get the status, and reconnect: still one Stripe call."""
    await stripe_side.conditions(webhook_delay_ms=60_000, api_latency_ms=100)
    ada, purchase = await _confirmed(paidup, stripe_side)

    async def tab() -> Any:
        async with ada.watch(purchase) as socket:
            return await status_with(socket, status="active")

    told = await asyncio.gather(*(tab() for _ in range(5)))
    assert [frame["version"] for frame in told] == [2] * 5
    again = await asyncio.gather(*(tab() for _ in range(5)))
    assert again == told
    assert await stripe_side.calls(READ_INVOICE) == 1
    await assert_books_balance(grants=1)


async def test_tabs_that_open_do_not_put_off_the_next_verification(
    world: World, stripe_side: StripeSide
) -> None:
    """S01: twenty tabs open before the payment succeeds: the next verification still follows soon."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    async with AsyncExitStack() as stack:
        for _ in range(20):
            tab = await stack.enter_async_context(ada.watch(purchase))
            await next_status(tab)
        await stripe_side.confirm(purchase["client_secret"])
        await status_with(tab, within=10, status="active")
    assert await stripe_side.calls(READ_INVOICE) <= 5


async def test_tabs_on_two_processes_cost_one_stripe_call(world: World, stripe_side: StripeSide) -> None:
    """S01: tabs on two server processes share one verification, and both get its result."""
    paidup, other = await world.server(webhooks=False), await world.process(webhooks=False)
    await stripe_side.conditions(api_latency_ms=300)
    _, purchase = await _confirmed(paidup, stripe_side)

    async def tab(server: Paidup) -> Any:
        async with server.customer("ada").watch(purchase) as socket:
            return await status_with(socket, status="active")

    told = await asyncio.gather(*(tab(server) for server in (paidup, other, paidup, other)))
    assert [frame["via"] for frame in told] == ["verification"] * 4
    assert await stripe_side.calls(READ_INVOICE) == 1
    await assert_books_balance(grants=1)


async def test_a_browser_that_says_verify_is_active_at_once(
    world: World, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S01: a socket that stays open through 3DS asks to verify when the bank is done: active at once."""
    monkeypatch.setattr(verification_queue, "watched_delay_s", lambda *_: 3600.0)
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    challenged = await stripe_side.confirm(purchase["client_secret"], "pm_card_authenticationRequired")
    assert challenged["status"] == "requires_action"
    async with ada.watch(purchase) as socket:
        await status_with(socket, stage="action_required")
        await _tired(paidup)
        await stripe_side.authenticate(purchase["client_secret"])
        await socket.send_json({"type": "verify"})
        told = await status_with(socket, status="active")
    assert told["via"] == "verification"
    await assert_books_balance(grants=1)


async def test_the_reconciler_credits_without_a_webhook_or_a_browser(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S02: the webhook is dropped and the browser closed: the reconciler credits it when it is due."""
    await stripe_side.conditions(webhook_drop=True)
    ada, purchase = await _confirmed(paidup, stripe_side)
    assert await paidup.services.reconciler.due.invoices() == 0
    assert await ada.balance() == 0
    await Invoice.all().update(next_check_at=now() - timedelta(seconds=1))
    sweeps = await asyncio.gather(*(paidup.services.reconciler.due.invoices() for _ in range(5)))
    assert sum(sweeps) == 1, "several reconcilers, one claim"
    status, shown = await ada.call("GET", f"/api/invoices/{purchase['invoice']}")
    assert (status, shown["status"], shown["via"]) == (200, "active", "reconciliation")
    assert await ada.balance() == 2000
    assert (await Invoice.get()).next_check_at is None
    assert await stripe_side.calls(READ_INVOICE) == 1
    await assert_books_balance(grants=1)


async def test_an_unpaid_invoice_is_verified_again_later(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S02: an invoice that is unpaid when the reconciler reads it is read again later, and credited then."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await Invoice.all().update(next_check_at=now() - timedelta(seconds=1))
    assert await paidup.services.reconciler.due.invoices() == 1
    assert await ada.balance() == 0
    due = (await Invoice.get()).next_check_at
    assert due is not None
    assert due > now()
    await stripe_side.conditions(webhook_drop=True)
    await stripe_side.confirm(purchase["client_secret"])
    await Invoice.all().update(next_check_at=now() - timedelta(seconds=1), lease_expires_at=None)
    assert await paidup.services.reconciler.due.invoices() == 1
    assert await ada.balance() == 2000
    await assert_books_balance(grants=1)


async def test_a_refused_spend_names_the_activation(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S03: the refusal names the payment that is being activated, with a ticket for its socket."""
    await stripe_side.conditions(webhook_drop=True)
    ada, purchase = await _confirmed(paidup, stripe_side)
    status, refused = await ada.spend(10, "report-1")
    assert (status, refused["balance"], refused["needed"]) == (402, 0, 10)
    assert refused["activating"]["invoice"] == purchase["invoice"]
    assert refused["activating"]["status"]["status"] == "open"
    assert refused["activating"]["reason"] == "subscription_create"
    async with ada.watch(refused["activating"]) as socket:
        await status_with(socket, status="active")
    assert await ada.spend(10, "report-1") == (200, {"balance": 1990, "credits": 10, "key": "report-1"})
    status, refused = await ada.spend(5000, "report-2")
    assert (status, refused["balance"], refused["activating"]) == (402, 1990, None)
    await assert_books_balance(grants=1)


async def test_a_socket_opened_before_the_row_is_notified_by_the_webhook(
    world: World, stripe_side: StripeSide
) -> None:
    """S04: the socket opens before the invoice's row exists: the webhook creates it and notifies."""
    paidup = await world.server(webhooks=False, resync_interval_s=600)
    ada, made = await _subscribed_past_us(paidup, stripe_side)
    async with ada.watch(made) as socket:
        await wait_until(lambda: paidup.services.hub.subscriber_count(INVOICES, made["invoice"]) == 1)
        await stripe_side.confirm(made["client_secret"])
        assert (await paidup.webhook(await _paid_body(stripe_side)))[1]["outcome"] == "settled"
        told = await status_with(socket, status="active")
    assert (told["via"], told["balance"]) == ("webhook", 2000)
    await assert_books_balance(grants=1)


async def test_a_socket_opened_before_the_row_is_notified_by_verification(
    world: World, stripe_side: StripeSide
) -> None:
    """S04: the row is created after the socket, without a webhook: verification starts once it exists."""
    paidup = await world.server(webhooks=False, resync_interval_s=600)
    ada, made = await _subscribed_past_us(paidup, stripe_side)
    async with ada.watch(made) as socket:
        await wait_until(lambda: paidup.services.hub.subscriber_count(INVOICES, made["invoice"]) == 1)
        await wait_until(lambda: not paidup.services.verification_queue.is_checking(made["invoice"]))
        status, adopted = await ada.call("POST", "/api/invoices", {"invoice": made["invoice"]})
        assert (status, adopted["status"]["status"]) == (201, "open")
        await stripe_side.confirm(made["client_secret"])
        told = await status_with(socket, status="active")
    assert told["via"] == "verification"
    await assert_books_balance(grants=1)


@pytest.mark.parametrize("tie", ["customer", "metadata"])
async def test_the_webhook_comes_before_the_row_of_the_invoice(
    world: World, stripe_side: StripeSide, tie: str
) -> None:
    """S04: invoice.paid before the row is committed: the customer or the metadata names the account."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    assert await ada.balance() == 0
    customer = await stripe_side.customer()
    if tie == "customer":
        await Account.all().update(stripe_customer=customer)
    made = await stripe_side.subscribe(customer, "pro", "ada" if tie == "metadata" else None)
    await stripe_side.confirm(made["latest_invoice"]["confirmation_secret"]["client_secret"])
    body = await _paid_body(stripe_side)
    assert await paidup.webhook(body) == (200, {"received": True, "outcome": "settled"})
    assert await ada.balance() == 2000
    assert (await Account.get()).stripe_customer == customer
    status, adopted = await ada.call("POST", "/api/invoices", {"invoice": made["latest_invoice"]["id"]})
    assert (status, adopted["status"]["status"]) == (200, "active")
    await assert_books_balance(grants=1)


async def test_the_webhook_and_the_row_come_at_once(world: World, stripe_side: StripeSide) -> None:
    """S04: row and webhook at the same moment, with an open socket: one grant, sent once."""
    paidup = await world.server(webhooks=False)
    ada, made = await _subscribed_past_us(paidup, stripe_side)
    await stripe_side.confirm(made["client_secret"])
    body = await _paid_body(stripe_side)
    async with ada.watch(made) as socket:
        (status, _), (answered, _) = await asyncio.gather(
            ada.call("POST", "/api/invoices", {"invoice": made["invoice"]}), paidup.webhook(body)
        )
        assert (status in (200, 201), answered) == (True, 200)
        frames = await _all_statuses(socket)
    assert [frame["status"] for frame in frames].count("active") == 1
    assert await ada.balance() == 2000
    await assert_books_balance(grants=1)


@pytest.mark.parametrize("teller", ["this process", "another process", "nobody"])
@pytest.mark.parametrize("moment", ["before the ack", "after the ack", "after the read"])
async def test_the_status_changes_between_the_subscription_and_the_read(
    world: World, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch, moment: str, teller: str
) -> None:
    """S05: settled at any moment while a socket opens, published or not: the final status is sent once."""
    resync_interval_s = 1 if (moment, teller) == ("after the read", "nobody") else 600
    paidup = await world.server(webhooks=False, resync_interval_s=resync_interval_s)
    ada, purchase = await _confirmed(paidup, stripe_side)
    facts = _facts_of(await stripe_side.event("invoice.paid"))
    await stripe_side.conditions(rate_limited=True)  # verification must not settle it first
    settlement = _settlement_of(teller, paidup.services)

    async def settle() -> None:
        await settlement.settle(facts, Source.WEBHOOK)

    _at(moment, settle, paidup.services, monkeypatch)
    async with ada.watch(purchase) as socket:
        frames = await _all_statuses(socket)
        assert socket.close_code == 1000
    assert [frame["status"] for frame in frames].count("active") == 1
    assert [frame["version"] for frame in frames] == sorted({frame["version"] for frame in frames})
    assert frames[-1]["status"] == "active"
    await assert_books_balance(grants=1)


async def test_a_processing_payment_is_shown(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S06: a payment that is not final has the status processing, so the customer can leave the page."""
    await stripe_side.conditions(processing_ms=600_000)
    ada, purchase = await _confirmed(paidup, stripe_side)
    async with ada.watch(purchase) as socket:
        told = await status_with(socket, stage="processing")
    assert (told["status"], told["credits_granted"]) == ("processing", 0)
    await assert_books_balance(grants=0)


@pytest.mark.parametrize("source", ["verification", "webhook"])
async def test_a_late_success_follows_a_failure_on_the_same_socket(
    world: World, stripe_side: StripeSide, source: str
) -> None:
    """S07: the status was failed, the next card succeeds: the same socket gets active."""
    paidup = await world.server(webhooks=source == "webhook")
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"], "pm_card_chargeDeclined")
    async with ada.watch(purchase) as socket:
        # The invoice's own event may arrive first; only the intent's has the reason.
        failed = await status_with(socket, status="failed")
        while failed["error"]["code"] != "card_declined":
            failed = await status_with(socket, status="failed")
        assert failed["error"]["decline_code"] == "generic_decline"
        if source == "webhook":
            await stripe_side.conditions(rate_limited=True)
        await stripe_side.confirm(purchase["client_secret"], "pm_card_visa")
        told = await status_with(socket, status="active")
    assert (told["via"], told["error"], told["balance"]) == (source, None, 2000)
    await assert_books_balance(grants=1)


async def test_ten_clicks_are_one_subscription(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S08: ten requests at once: one subscription, one invoice, one PaymentIntent at Stripe's side."""
    ada = paidup.customer("ada")
    answers = await asyncio.gather(*(_click(ada) for _ in range(10)))
    assert {purchase["invoice"] for _, purchase in answers} == {answers[0][1]["invoice"]}
    assert {purchase["client_secret"] for _, purchase in answers} == {answers[0][1]["client_secret"]}
    assert [status for status, _ in answers].count(201) == 1
    await _assert_one_purchase(stripe_side)


async def test_clicks_on_two_processes_are_one_subscription(world: World, stripe_side: StripeSide) -> None:
    """S08: a double click reaches two server processes: still one subscription."""
    servers = [await world.server(webhooks=False), await world.process(webhooks=False)]
    answers = await asyncio.gather(*(_click(servers[n % 2].customer("ada")) for n in range(6)))
    assert {purchase["invoice"] for _, purchase in answers} == {answers[0][1]["invoice"]}
    assert [status for status, _ in answers].count(201) == 1
    await _assert_one_purchase(stripe_side)


async def test_a_reload_gets_the_same_payment_and_both_tabs_get_the_status(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S08: a reload gets the same pending payment with 200; both tabs get the status."""
    ada = paidup.customer("ada")
    first = await _click(ada)
    second = await _click(ada)
    assert (first[0], second[0]) == (201, 200)
    assert second[1]["client_secret"] == first[1]["client_secret"]
    async with AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(ada.watch(purchase)) for _, purchase in (first, second)]
        await stripe_side.confirm(second[1]["client_secret"])
        told = [await status_with(tab, status="active") for tab in tabs]
    assert [frame["balance"] for frame in told] == [2000, 2000]
    await _assert_one_purchase(stripe_side)
    await assert_books_balance(grants=1)


async def test_a_reload_after_paying_shows_active(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S08: clicking again after paying, before any webhook: active, and nothing new is sold."""
    await stripe_side.conditions(webhook_drop=True)
    ada, purchase = await _confirmed(paidup, stripe_side)
    status, again = await _click(ada)
    assert (status, again["invoice"], again["status"]["status"]) == (200, purchase["invoice"], "active")
    await _assert_one_purchase(stripe_side)
    status, refused = await _click(ada)
    assert (status, refused["type"].rpartition("/")[2]) == (409, "already-subscribed")
    await _assert_one_purchase(stripe_side)
    await assert_books_balance(grants=1)


async def test_another_plan_before_paying_voids_the_first(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S08: another plan is chosen before paying: the first payment is voided, and only one can be paid."""
    ada = paidup.customer("ada")
    pro = await ada.buy("pro")
    async with ada.watch(pro) as socket:
        await next_status(socket)
        status, basic = await _click(ada, "basic")
        assert (status, basic["status"]["plan"]) == (201, "basic")
        assert basic["invoice"] != pro["invoice"]
        told = await status_with(socket, status="void")
        assert (told["invoice"], told["stage"]) == (pro["invoice"], "void")
    assert "error" in await stripe_side.confirm(pro["client_secret"])
    await stripe_side.confirm(basic["client_secret"])
    async with ada.watch(basic) as socket:
        assert (await status_with(socket, status="active"))["credits_granted"] == 500
    assert await ada.balance() == 500
    await assert_books_balance(grants=1)


async def test_another_plan_while_a_payment_is_under_way_is_refused(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S08: another plan while the first payment is processing: refused, so that both cannot be paid."""
    await stripe_side.conditions(processing_ms=600_000)
    ada, _ = await _confirmed(paidup, stripe_side)
    status, refused = await _click(ada, "basic")
    assert (status, refused["type"].rpartition("/")[2]) == (409, "payment-under-way")
    await _assert_one_purchase(stripe_side)


async def test_a_saved_card_that_needs_no_3ds_is_credited(world: World, stripe_side: StripeSide) -> None:
    """S09: a stored payment method confirms without 3DS: credited as well, with no webhook."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    customer = (await Account.get()).stripe_customer
    saved = await stripe_side.api("POST", "payment_methods/pm_card_visa/attach", customer=customer)
    confirmed = await stripe_side.confirm(purchase["client_secret"], saved["id"])
    assert (confirmed["status"], confirmed["payment_method"]) == ("succeeded", saved["id"])
    async with ada.watch(purchase) as socket:
        told = await status_with(socket, status="active")
    assert (told["via"], told["balance"]) == ("verification", 2000)
    await assert_books_balance(grants=1)


async def _confirmed(
    paidup: Paidup, stripe_side: StripeSide, card: str = "pm_card_visa"
) -> tuple[Customer, Any]:
    """Ada has bought pro and confirmed her card."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"], card)
    return ada, purchase


async def _subscribed_past_us(paidup: Paidup, stripe_side: StripeSide) -> tuple[Customer, Any]:
    """Ada has an account, a subscription that only Stripe knows, and a ticket from the SaaS."""
    ada = paidup.customer("ada")
    assert await ada.balance() == 0
    made = await stripe_side.subscribe(await stripe_side.customer(), "pro", "ada")
    invoice = made["latest_invoice"]
    return ada, {
        "invoice": invoice["id"],
        "client_secret": invoice["confirmation_secret"]["client_secret"],
        "ticket": paidup.services.tickets.issue(invoice["id"], account_id=1),
    }


async def _tired(paidup: Paidup) -> None:
    """Wait until the last answer is no longer fresh, so that "verify" causes a call."""
    await wait_until(lambda: Invoice.filter(lease_expires_at__lte=now()).exists())


async def _paid_body(stripe_side: StripeSide) -> bytes:
    return json.dumps(await stripe_side.event("invoice.paid")).encode()


async def _click(customer: Customer, plan: str = "pro") -> tuple[int, Any]:
    return await customer.call("POST", "/api/subscriptions", {"plan": plan})


async def _assert_one_purchase(stripe_side: StripeSide) -> None:
    for objects in ("subscriptions?status=all", "invoices", "payment_intents", "customers"):
        found = (await stripe_side.api("GET", objects))["data"]
        assert len(found) == 1, (objects, [one["id"] for one in found])


async def _all_statuses(socket: aiohttp.ClientWebSocketResponse, within: float = 30.0) -> list[Any]:
    """Every status frame until the server closes."""
    frames = []
    async with asyncio.timeout(within):
        async for message in socket:
            frame = json.loads(message.data)
            if frame["type"] == "status":
                frames.append(frame)
    return frames


def _facts_of(event: Any) -> PaymentFacts:
    return decode(StripeInvoice, json.dumps(event["data"]["object"])).facts()


def _settlement_of(teller: str, services: Services) -> Settlement:
    """A settlement that is published to this process's sockets as if `teller` had settled it."""

    async def through_redis_alone(status: StatusMessage) -> bool:
        return bool(await services.redis.publish(INVOICES.channel(status.invoice), encode(status)))

    async def not_at_all(_: StatusMessage) -> bool:
        return False

    publish = {
        "this process": services.hub.publish,
        "another process": through_redis_alone,
        "nobody": not_at_all,
    }
    return Settlement(
        *(services.catalogue, services.prices, publish[teller], ignore_balance),
        *(services.timeline, services.metrics),
    )


def _at(moment: str, act: Any, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `act` at this point of a socket's opening."""
    hub_acknowledged = services.hub.acknowledged
    redis_subscribe = PubSubConnection.subscribe

    async def before_the_ack(listener: PubSubConnection, channels: Sequence[bytes]) -> None:
        await act()
        await redis_subscribe(listener, channels)

    async def after_the_ack(ack: Any) -> None:
        await hub_acknowledged(ack)
        await act()

    async def after_the_read(topic: Any, invoices: Any) -> Any:
        found = await read_current(topic, invoices)
        await act()
        return found

    if moment == "before the ack":
        monkeypatch.setattr(PubSubConnection, "subscribe", before_the_ack)
    elif moment == "after the ack":
        monkeypatch.setattr(services.hub, "acknowledged", after_the_ack)
    else:
        monkeypatch.setattr(snapshots, "read_current", after_the_read)
