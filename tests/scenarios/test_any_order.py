"""A plan's history with its events in any order: the ledger balances, with the same result.

A random history happens at Stripe first. Its events are then delivered to an empty
database in several orders, and handled by the real handlers over the real SDK.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tortoise.backends.base.executor import EXECUTOR_CACHE

from paidup.credits import ledger
from paidup.db.connection import write_transaction
from paidup.db.models import Account, CreditGrant, Invoice, LedgerEntry, StripeEvent
from paidup.reconciliation.stripe_events import store
from paidup.services import Services, open_services
from paidup.settings import PACKAGED_PLANS
from paidup.stripe_api.events import Event
from paidup.stripe_api.schemas import decode
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import settings
from tests.support.postgres import Databases
from tests.support.stripe_sandbox import StripeSide
from tests.support.subscription_lifecycle import MovedClock
from tests.support.waiting import wait_until

PLANS = ["basic", "advanced", "pro"]
STEPS = 12


class Story:
    """One customer's random history at Stripe, made by the SaaS's own calls."""

    def __init__(self, stripe: StripeSide, seed: int) -> None:
        self.stripe = stripe
        self.chance = random.Random(seed)
        self.told: list[str] = []
        self.days = 0.0
        self.customer = ""

    async def live(self) -> None:
        self.customer = await self.stripe.customer(name="Ada")
        await self.subscribe()
        steps = [
            *(self.change, self.change, self.change, self.pass_time, self.pass_time),
            *(self.refund, self.fail_refund, self.dispute, self.close_dispute, self.credit_note),
            *(self.top_up, self.cancel, self.subscribe),
        ]
        for _ in range(STEPS):
            step = self.chance.choice(steps)
            await step()
            self.told.append(step.__name__)

    async def price(self, plan: str, interval: str = "") -> str:
        interval = interval or self.chance.choice(["monthly", "monthly", "yearly"])
        found = await self.stripe.api("GET", f"prices?lookup_keys[0]=paidup_{plan}_{interval}")
        return str(found["data"][0]["id"])

    async def running(self) -> Any:
        page = await self.stripe.api("GET", f"subscriptions?customer={self.customer}&limit=100")
        alive = [each for each in page["data"] if each["status"] in ("active", "trialing", "past_due")]
        return self.chance.choice(alive) if alive else None

    async def subscribe(self) -> None:
        form = {"items[0][quantity]": str(self.chance.choice([1, 1, 1, 3]))}
        if self.chance.random() < 0.2:
            form["trial_period_days"] = "7"
        if self.chance.random() < 0.2:
            percent = self.chance.choice([50, 100])
            coupon = await self.stripe.api("POST", "coupons", percent_off=percent, duration="once")
            form["discounts[0][coupon]"] = coupon["id"]
        form["items[0][price]"] = await self.price(self.chance.choice(PLANS))
        form["payment_settings[save_default_payment_method]"] = "on_subscription"
        made = await self.stripe.subscribe(self.customer, account="ada", **form)
        secret = (made["latest_invoice"].get("confirmation_secret") or {}).get("client_secret")
        if secret:
            await self.stripe.confirm(secret)

    async def change(self) -> None:
        subscription = await self.running()
        if subscription is None:
            return
        form = {
            "items[0][id]": subscription["items"]["data"][0]["id"],
            "items[0][price]": await self.price(self.chance.choice(PLANS)),
            "items[0][quantity]": str(self.chance.choice([1, 1, 2])),
            "proration_behavior": self.chance.choice(
                ["always_invoice", "always_invoice", "create_prorations"]
            ),
        }
        if form["proration_behavior"] == "always_invoice":
            form["payment_behavior"] = "pending_if_incomplete"
        await self.stripe.api("POST", f"subscriptions/{subscription['id']}", **form)

    async def pass_time(self) -> None:
        days = self.chance.choice([0.5, 10, 31, 100])
        self.days += days
        await self.stripe.control("clock", {"advance_seconds": round(days * 24 * 3600)})

    async def charges(self, **wanted: Any) -> list[Any]:
        page = await self.stripe.api("GET", f"charges?customer={self.customer}&limit=100")
        return [
            each for each in page["data"] if each["paid"] and all(each[k] == v for k, v in wanted.items())
        ]

    async def refund(self) -> None:
        charges = await self.charges(refunded=False, disputed=False)
        if charges:
            charge = self.chance.choice(charges)
            left = charge["amount"] - charge["amount_refunded"]
            amount = self.chance.choice([left, max(1, left // 2), max(1, left // 3)])
            await self.stripe.api("POST", "refunds", charge=charge["id"], amount=amount)

    async def fail_refund(self) -> None:
        made = (await self.stripe.api("GET", "refunds?limit=100"))["data"]
        if standing := [each for each in made if each["status"] == "succeeded"]:
            await self.stripe.control(f"refunds/{self.chance.choice(standing)['id']}/fail")

    async def dispute(self) -> None:
        if charges := await self.charges(disputed=False, refunded=False):
            await self.stripe.control("disputes", {"charge": self.chance.choice(charges)["id"]})

    async def close_dispute(self) -> None:
        made = (await self.stripe.api("GET", "disputes?limit=100"))["data"]
        if opened := [each for each in made if each["status"] == "needs_response"]:
            status = self.chance.choice(["won", "lost"])
            await self.stripe.control(
                f"disputes/{self.chance.choice(opened)['id']}/close", {"status": status}
            )

    async def credit_note(self) -> None:
        paid = [each for each in await self.stripe.paid_invoices() if each["amount_paid"] > 100]
        noted = (await self.stripe.api("GET", "credit_notes?limit=100"))["data"]
        fresh = [each for each in paid if each["id"] not in {note["invoice"] for note in noted}]
        if fresh:
            invoice = self.chance.choice(fresh)["id"]
            await self.stripe.api("POST", "credit_notes", invoice=invoice, amount=100, credit_amount=100)

    async def top_up(self) -> None:
        found = await self.stripe.api("GET", "prices?lookup_keys[0]=paidup_extra")
        draft = await self.stripe.api(
            "POST", "invoices", customer=self.customer, **{"metadata[paidup_account]": "ada"}
        )
        item = {"customer": self.customer, "invoice": draft["id"], "pricing[price]": found["data"][0]["id"]}
        await self.stripe.api("POST", "invoiceitems", **item)
        await self.stripe.api("POST", f"invoices/{draft['id']}/finalize")
        final = await self.stripe.api("GET", f"invoices/{draft['id']}?expand[0]=confirmation_secret")
        if final["confirmation_secret"]:
            await self.stripe.confirm(final["confirmation_secret"]["client_secret"])

    async def cancel(self) -> None:
        subscription = await self.running()
        if subscription is not None and self.chance.random() < 0.5:
            await self.stripe.api("DELETE", f"subscriptions/{subscription['id']}")

    async def events(self) -> list[Any]:
        """All events, oldest first, as Stripe would send them."""
        found: list[Any] = []
        more, after = True, ""
        while more:
            page = await self.stripe.api("GET", f"events?limit=100{after}")
            found += page["data"]
            more, after = page["has_more"], f"&starting_after={found[-1]['id']}"
        return list(reversed(found))


def shuffled(seed: int) -> Callable[[list[Any]], list[Any]]:
    def mixed(events: list[Any]) -> list[Any]:
        chance = random.Random(seed)
        twice = events + chance.sample(events, len(events) // 3)
        return chance.sample(twice, len(twice))

    return mixed


ORDERS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "as it was": lambda events: events,
    "backwards": lambda events: events[::-1],
    "shuffled, some twice": shuffled(1),
    "shuffled otherwise": shuffled(2),
}


FreshDatabase = Callable[[], str]


@pytest.fixture
def fresh_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FreshDatabase]:
    """Creates empty databases of the test's kind."""
    if request.param == "sqlite":
        template = request.getfixturevalue("sqlite_template")

        def copied() -> str:
            path = tmp_path / f"order{next(_numbers)}.db"
            shutil.copy(template, path)
            return f"sqlite://{path}"

        yield copied
        return
    databases: Databases = request.getfixturevalue("databases")
    taken: list[str] = []

    def lent() -> str:
        taken.append(databases.take())
        return databases.server.get_uri(database=taken[-1])

    yield lent
    for name in taken:
        databases.give_back(name)


_numbers = count()


@pytest.mark.parametrize(
    ("seed", "fresh_database"),
    [(0, "sqlite"), (1, "postgres"), (2, "sqlite"), (3, "postgres")],
    indirect=["fresh_database"],
)
async def test_any_order_of_a_history_gives_the_same_balance(
    seed: int, fresh_database: FreshDatabase, stripe_side: StripeSide, valkey: str, tmp_path: Path
) -> None:
    """S18, S25, S26, S37: replayed into an empty database in any order, the balances are the same."""
    story = Story(stripe_side, seed)
    await story.live()
    events = await story.events()
    world = {"redis_url": valkey, "stripe_api_base": stripe_side.url, "data_dir": tmp_path}
    books = {
        name: await _replayed(fresh_database(), order(events), story, world) for name, order in ORDERS.items()
    }
    first = books["as it was"]
    for name, found in books.items():
        assert found == first, (name, story.told)
    assert first["entries"], story.told


async def _replayed(database: str, events: list[Any], story: Story, world: dict[str, Any]) -> dict[str, Any]:
    """The account's state in an empty database after these events."""
    EXECUTOR_CACHE.clear()
    clock = MovedClock()
    clock.ahead = timedelta(days=story.days)
    plans = world["data_dir"] / "plans.toml"
    # What rolls over depends on what is left at that time, and so on when it is computed.
    uncapped = PACKAGED_PLANS.read_text().replace(
        'rollover = "cap"\nrollover_cap = 1200', 'rollover = "keep"'
    )
    plans.write_text(uncapped.replace("credits = 2000", "credits = 2000\ntrial_credits = 100"))
    async with open_services(settings(database_url=database, plans_file=plans, **world), clock) as services:
        account = await services.accounts.get("ada")
        for event in events:
            await _hear(services, event)
        await wait_until(lambda: _nothing_left(services), within=30)
        async with write_transaction():
            await ledger.expire_due(await ledger.lock_account(account.id), clock())
        await assert_books_balance()
        return await _books(account.id)


async def _hear(services: Services, event: Any) -> None:
    body = json.dumps(event)
    shape = decode(Event, body)
    if await store(shape, body):
        try:
            await services.events.handle(shape)
        except Exception:
            return


async def _nothing_left(services: Services) -> bool:
    """Whether the worker has nothing left to do."""
    for row in await StripeEvent.filter(handled_at=None):
        await services.events.handle(decode(Event, row.payload))
    done = await services.reconciler.due.installments() + await services.reconciler.due.subscriptions()
    return done == 0 and not await StripeEvent.exists(handled_at=None)


async def _books(account_id: int) -> dict[str, Any]:
    account = await Account.get(id=account_id)
    invoices = await Invoice.filter(account_id=account_id).order_by("id")
    grants = await CreditGrant.filter(account_id=account_id).order_by("invoice_id", "installment")
    return {
        "balance": account.balance,
        "entries": await LedgerEntry.filter(account_id=account_id).count() > 0,
        "invoices": [(row.id, row.status.value, row.credits_reversed) for row in invoices],
        "grants": [(grant.invoice_id, grant.installment, grant.credits) for grant in grants],
    }
