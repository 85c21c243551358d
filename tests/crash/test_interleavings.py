"""Whatever comes in whatever order, and is cut off wherever: the same books.

Stripe's side is a model here: invoices that are paid, fail, wait and are voided, and the list of
events that tell of it. Everything on our side is real: events, verification, sweeps, settlement,
ledger, on SQLite.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from collections.abc import Awaitable, Coroutine, Iterator
from datetime import datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest.mock import patch

import msgspec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from redis.asyncio import Redis
from tortoise.backends.base.executor import EXECUTOR_CACHE

from paidup.credits import ledger
from paidup.db.connection import open_database, write_transaction
from paidup.db.models import Account, CreditGrant, Invoice, LedgerEntry, StripeEvent
from paidup.domain.catalog import StripePrice
from paidup.domain.messages import StatusMessage
from paidup.domain.plans_toml import parse_catalogue
from paidup.errors import InsufficientCredits, StripeRefused, StripeUnavailable
from paidup.payments import invoice_intake, invoice_rows, settlement, settlement_rules, verification
from paidup.payments.timeline import Timeline
from paidup.reconciliation import due_rows, list_scanner, stripe_events
from paidup.reconciliation.stripe_events import store
from paidup.runtime import clock
from paidup.runtime.metrics import Metrics
from paidup.services import compose
from paidup.settings import PACKAGED_PLANS
from paidup.stripe_api.client import API_VERSION
from paidup.stripe_api.events import Event
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.schemas import ListOf, PaymentIntent, StripeInvoice, decode
from tests.support.cancel_at_await import cut_off
from tests.support.factories import three_sums
from tests.support.publishing_hub import PublishingHub

T = TypeVar("T")

PLAN, PRICE, AMOUNT, CREDITS = "pro", "price_pro", 2900, 2000
CUSTOMERS = ("cus_1", "cus_2")
INVOICES = {"in_1": "cus_1", "in_2": "cus_1", "in_3": "cus_2"}
ANYWHERE = st.integers(0, 60)
HANGS_AFTER_S = 20.0
"""Milliseconds are enough, but a busy machine's disk may stand still for seconds."""
SOMETIMES_CUT = st.one_of(st.none(), st.none(), ANYWHERE)


class Stripe:
    """What is true at Stripe's side, and what it says of it."""

    connected_account = ""

    def __init__(self) -> None:
        self.checkout_sessions = self
        self.status = dict.fromkeys(INVOICES, "open")
        self.intent = dict.fromkeys(INVOICES, "requires_payment_method")
        self.failed: set[str] = set()
        self.events: list[dict[str, Any]] = []
        self.away = False

    @property
    def paid(self) -> set[str]:
        return {id for id, status in self.status.items() if status == "paid"}

    def money_came(self, id: str) -> bool:
        return self.intent[id] == "succeeded" or self.status[id] == "paid"

    def tell(self, kind: str, shape: dict[str, Any]) -> None:
        number = len(self.events) + 1
        event = {"id": f"evt_{number}", "type": kind, "livemode": False, "api_version": API_VERSION}
        self.events.append({**event, "data": {"object": shape}})

    def invoice(self, id: str, customer: str | None = None, expanded: bool = False) -> dict[str, Any]:
        paid = self.status[id] == "paid"
        link = {"id": f"inpay_{id}", "invoice": id, "status": "paid" if paid else "open"}
        payment = {"type": "payment_intent", "payment_intent": self.payment(id)}
        line = {
            "amount": AMOUNT,
            "quantity": 1,
            "period": {"start": 0, "end": 1},
            "id": "il_1",
            "pricing": {"price_details": {"price": PRICE}},
            "parent": None,
        }
        return {
            "id": id,
            "status": self.status[id],
            "customer": customer or INVOICES[id],
            "currency": "usd",
            "amount_due": AMOUNT,
            "amount_paid": AMOUNT if paid else 0,
            "amount_remaining": 0 if paid else AMOUNT,
            "total": AMOUNT,
            "billing_reason": "subscription_create",
            "created": 0,
            "parent": {"subscription_details": {"subscription": f"sub_{id}"}},
            "lines": {"data": [line], "has_more": False},
            "payments": {"data": [{**link, "payment": payment}], "has_more": False} if expanded else None,
        }

    def payment(self, id: str, customer: str | None = None) -> dict[str, Any]:
        error = {"code": "card_declined", "message": "Declined."} if id in self.failed else None
        return {
            "id": f"pi_{id}",
            "status": self.intent[id],
            "currency": "usd",
            "amount": AMOUNT,
            "amount_received": AMOUNT if self.intent[id] == "succeeded" else 0,
            "customer": customer or INVOICES[id],
            "last_payment_error": error,
        }

    # What the gateway would ask

    async def read_invoice(self, id: str, *_: Any, **__: Any) -> StripeInvoice:
        await self._answer()
        if id not in INVOICES:
            raise StripeRefused("no such invoice", "resource_missing", 404)
        return decode(StripeInvoice, msgspec.json.encode(self.invoice(id, expanded=True)))

    async def list_paid_invoices(self, *_: Any) -> ListOf[StripeInvoice]:
        await self._answer()
        shapes = [self.invoice(id) for id in sorted(self.paid)]
        return ListOf([decode(StripeInvoice, msgspec.json.encode(shape)) for shape in shapes])

    async def list_undelivered_events(self, *_: Any) -> ListOf[msgspec.Raw]:
        await self._answer()
        return ListOf([msgspec.Raw(msgspec.json.encode(event)) for event in reversed(self.events)])

    async def list_drafts(self, *_: Any) -> ListOf[Any]:
        await self._answer()
        return ListOf([])

    async def list_reversals(self, *_: Any) -> ListOf[Any]:
        await self._answer()
        return ListOf([])

    async def list_complete(self, *_: Any) -> ListOf[Any]:
        """No Checkout Session: tests/scenarios/test_claims_in_any_order.py has them."""
        await self._answer()
        return ListOf([])

    async def of_intent(self, *_: Any) -> None:
        await self._answer()

    async def invoice_of_intent(self, intent: str) -> str | None:
        await self._answer()
        invoice = intent.removeprefix("pi_")
        return invoice if invoice in INVOICES else None

    async def read_intent(self, intent: str) -> PaymentIntent:
        await self._answer()
        return decode(PaymentIntent, msgspec.json.encode(self.payment(intent.removeprefix("pi_"))))

    async def acquire_read_slots(self, *_: Any) -> int:
        return 1

    async def list_prices(self, _: Any) -> list[Any]:
        return []

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise StripeUnavailable("away")


class Interleavings(RuleBasedStateMachine):
    """One example: a world of its own in a copy of an empty database."""

    template: ClassVar[Path]
    numbers: ClassVar[Iterator[int]]

    def __init__(self) -> None:
        super().__init__()
        self.stripe = Stripe()
        self.told: dict[str, StatusMessage] = {}
        self.redis_away = False
        self.asked: dict[str, int] = {}
        self.acknowledged: dict[str, int] = {}
        self.ahead = timedelta()
        self._runner = asyncio.Runner()
        self._open = contextlib.AsyncExitStack()
        try:
            self._run(self._set_up())
        except BaseException:
            self._close()  # of what did not come to be there is no teardown
            raise

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(_in_time(coroutine))

    async def _set_up(self) -> None:
        EXECUTOR_CACHE.clear()
        path = self.template.with_name(f"interleaving-{next(self.numbers)}.db")
        shutil.copy(self.template, path)
        self._open.callback(path.unlink)
        for module in (
            *(settlement, settlement_rules, invoice_intake, invoice_rows, verification),
            *(stripe_events, due_rows, list_scanner),
        ):
            self._open.enter_context(patch.object(module, "now", self._now))
        await self._open.enter_async_context(open_database(f"sqlite://{path}"))
        catalogue = parse_catalogue(PACKAGED_PLANS.read_bytes())
        price = StripePrice(PRICE, "paidup_pro_monthly", PLAN, AMOUNT, "usd")
        metrics, timeline = Metrics(), Timeline()
        gateway: Any = self.stripe
        redis = Redis()  # connects to nothing until it is used, and it is not
        self._open.push_async_callback(redis.aclose)
        book = PriceCatalog(catalogue, gateway)
        book.add(price)
        services = compose(book, gateway, PublishingHub(redis, self._publish), timeline, metrics)
        self.settlement, self.verification = services.settlement, services.verification
        self.events, self.reconciler = services.events, services.reconciler
        for number, customer in enumerate(CUSTOMERS):
            await Account.create(external_id=f"user-{number}", stripe_customer=customer)

    def _now(self) -> datetime:
        return clock.now() + self.ahead

    async def _publish(self, status: StatusMessage) -> bool:
        await asyncio.sleep(0)
        if not self.redis_away:
            self.told[status.invoice] = status
        return not self.redis_away

    def _do(self, coroutine: Coroutine[Any, Any, Any], cut: int | None) -> Any:
        """Run it to its end, or until it is cut off."""
        return self._run(_perhaps_cut(coroutine, cut))

    # Stripe's side

    @rule(id=st.sampled_from(list(INVOICES)))
    def made(self, id: str) -> None:
        self.stripe.tell("invoice.created", self.stripe.invoice(id))

    @rule(id=st.sampled_from(list(INVOICES)), lag=st.booleans())
    def pays(self, id: str, lag: bool) -> None:
        """The payment succeeds; with `lag` the invoice still says open for a while."""
        stripe = self.stripe
        if stripe.status[id] != "open":
            return
        stripe.intent[id] = "succeeded"
        stripe.failed.discard(id)
        stripe.tell("payment_intent.succeeded", stripe.payment(id))
        if not lag:
            self.closes(id)

    @rule(id=st.sampled_from(list(INVOICES)))
    def closes(self, id: str) -> None:
        """The invoice of a payment that succeeded says so at last."""
        stripe = self.stripe
        if stripe.intent[id] == "succeeded" and stripe.status[id] == "open":
            stripe.status[id] = "paid"
            stripe.tell("invoice.paid", stripe.invoice(id))
            stripe.tell("invoice.payment_succeeded", stripe.invoice(id))

    @rule(id=st.sampled_from(list(INVOICES)))
    def fails(self, id: str) -> None:
        stripe = self.stripe
        if stripe.status[id] == "open" and stripe.intent[id] != "succeeded":
            stripe.intent[id] = "requires_payment_method"
            stripe.failed.add(id)
            stripe.tell("payment_intent.payment_failed", stripe.payment(id))
            stripe.tell("invoice.payment_failed", stripe.invoice(id))

    @rule(id=st.sampled_from(list(INVOICES)))
    def takes_its_time(self, id: str) -> None:
        stripe = self.stripe
        if stripe.status[id] == "open" and stripe.intent[id] == "requires_payment_method":
            stripe.intent[id] = "processing"
            stripe.tell("payment_intent.processing", stripe.payment(id))

    @rule(id=st.sampled_from(list(INVOICES)))
    def is_voided(self, id: str) -> None:
        stripe = self.stripe
        if stripe.status[id] == "open" and stripe.intent[id] == "requires_payment_method":
            stripe.status[id], stripe.intent[id] = "void", "canceled"
            stripe.tell("invoice.voided", stripe.invoice(id))
            stripe.tell("payment_intent.canceled", stripe.payment(id))

    @rule(away=st.booleans())
    def goes_away_or_comes_back(self, away: bool) -> None:
        self.stripe.away = away

    # Our side

    @precondition(lambda self: self.stripe.events)
    @rule(data=st.data(), cut=SOMETIMES_CUT)
    def event_comes(self, data: st.DataObject, cut: int | None) -> None:
        """Any event, in any order, any number of times."""
        event = data.draw(st.sampled_from(self.stripe.events))
        self._do(self._webhook(event), cut)

    @rule(id=st.sampled_from(list(INVOICES)), other=st.sampled_from(CUSTOMERS), cut=SOMETIMES_CUT)
    def unknown_accounts_event_comes(self, id: str, other: str, cut: int | None) -> None:
        """S22: facts that name this invoice or its payment, and another customer."""
        if other == INVOICES[id] or not self._run(_await(Invoice.exists(id=id))):
            return
        shape = {**self.stripe.payment(id, other), "status": "succeeded", "amount_received": AMOUNT}
        forged = Stripe()
        forged.status[id] = "paid"
        forged.tell("payment_intent.succeeded", shape)
        forged.tell("invoice.paid", forged.invoice(id, other))
        for number, event in enumerate(forged.events):
            self._do(self._webhook({**event, "id": f"evt_foreign_{id}_{number}"}), cut)

    @rule(id=st.sampled_from(list(INVOICES)), cut=SOMETIMES_CUT)
    def verified(self, id: str, cut: int | None) -> None:
        self._do(self.verification.verify(id), cut)

    @rule(
        name=st.sampled_from(
            [
                "due.events",
                "due.invoices",
                "due.versions",
                "lists.undelivered_events",
                "lists.paid_invoices",
            ]
        ),
        cut=SOMETIMES_CUT,
    )
    def swept(self, name: str, cut: int | None) -> None:
        self._do(attrgetter(name)(self.reconciler)(), cut)

    @rule(seconds=st.sampled_from([1, 5, 40, 400, 4000]))
    def time_passes(self, seconds: int) -> None:
        self.ahead += timedelta(seconds=seconds)

    @rule(away=st.booleans())
    def redis_goes_or_comes(self, away: bool) -> None:
        self.redis_away = away

    @rule(number=st.integers(1, 4), customer=st.sampled_from([1, 2]), cut=SOMETIMES_CUT)
    def spends(self, number: int, customer: int, cut: int | None) -> None:
        """The same few keys again and again; each stands for one amount."""
        key = f"{customer}-{number}"
        self.asked[key] = 300 * number
        with contextlib.suppress(InsufficientCredits):
            if self._do(self._spend(customer, key), cut):
                self.acknowledged[key] = 300 * number

    async def _spend(self, account_id: int, key: str) -> bool:
        async with write_transaction():
            account = await ledger.lock_account(account_id)
            await ledger.spend(account, self.asked[key], key, self._now())
        return True

    async def _webhook(self, event: dict[str, Any]) -> None:
        body = msgspec.json.encode(event)
        shape = decode(Event, body)
        if await store(shape, body.decode()):
            await self.events.handle(shape)

    # What must hold

    @invariant()
    def the_books_balance(self) -> None:
        """S37: balance = entries = live grants, and nothing was granted for no money."""
        self._run(self._check_books())

    async def _check_books(self) -> None:
        for account in await Account.all():
            assert len(set(await three_sums(account.id))) == 1
            assert account.balance >= 0
        granted = await CreditGrant.all().values_list("invoice_id", flat=True)
        assert len(granted) == len(set(granted))
        assert all(self.stripe.money_came(str(id)) for id in granted)
        spent = {e.reference.partition(":")[2]: -e.credits for e in await LedgerEntry.filter(kind="spend")}
        assert self.acknowledged.items() <= spent.items() <= self.asked.items()
        for row in await Invoice.all():
            assert row.published_version == row.version or row.publish_due_at is not None

    def teardown(self) -> None:
        """One round of each sweep, with Stripe and Redis there: what is paid is granted, once, and told."""
        try:
            self.stripe.away = self.redis_away = False
            for id in INVOICES:
                self.closes(id)
            self.ahead += timedelta(days=1)
            self._run(self._sweep_and_check())
        finally:
            self._close()

    def _close(self) -> None:
        try:
            self._run(self._open.aclose())
        finally:
            self._runner.close()

    async def _sweep_and_check(self) -> None:
        done = await self.reconciler.sweep()
        assert set(done) == {
            *("unhandled_events", "due_invoices", "unpublished_versions", "undelivered_events"),
            *("due_sessions", "named_sessions", "second_payments", "completed_sessions"),
            *("paid_invoices", "reversals", "due_installments", "due_subscriptions"),
            *("expired_reservations", "ended_grants", "audit", "alarms", "prune", "leftover_drafts"),
        }
        await self._check_books()
        granted = {grant.invoice_id: grant.credits for grant in await CreditGrant.all()}
        assert granted == dict.fromkeys(self.stripe.paid, CREDITS)
        for row in await Invoice.all():
            assert row.id not in self.stripe.paid or row.status == "active"
            assert self.told[row.id].version == row.version
            assert self.told[row.id].status == row.status
        foreign = StripeEvent.filter(id__startswith="evt_foreign")
        assert not await foreign.filter(outcome="settled").exists()


async def _in_time(coroutine: Coroutine[Any, Any, T]) -> T:
    """Its result; where it hangs, what every task was waiting for is printed."""
    task = asyncio.create_task(coroutine)
    done, _ = await asyncio.wait([task], timeout=HANGS_AFTER_S)
    if not done:
        for each in asyncio.all_tasks():
            each.print_stack(file=sys.stdout)
        task.cancel()
    return await task


async def _perhaps_cut(coroutine: Coroutine[Any, Any, T], cut: int | None) -> T | None:
    with contextlib.suppress(StripeUnavailable):
        return await (coroutine if cut is None else cut_off(coroutine, cut))
    return None


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


def test_any_interleaving_of_sources_refusals_and_crashes_gives_the_same_books(
    sqlite_template: Path,
) -> None:
    """S04, S10, S11, S13, S16, S18, S20, S22, S23, S37: in any order, repeated, cut off at any await."""
    Interleavings.template = sqlite_template
    Interleavings.numbers = iter(range(1_000_000))
    run_machine(
        Interleavings,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
            database=None,
        ),
    )
