"""Random lives of customers at Stripe, driven through the real sandbox and a real server.

A `Town` has several people, each with a currency, subscriptions of Paidup's and of another product, and
webhooks that come, come late, come twice, or never. Time passes at Stripe and here together: over the end of
each period in small steps, as for a server that runs. `lives_invariants.py` says what must hold.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from paidup.db.models import Invoice, StripeEvent, Subscription, Watermark
from paidup.runtime.clock import now
from tests.support.paidup import Customer
from tests.support.stripe_sandbox import StripeSide
from tests.support.subscription_lifecycle import Life

PLANS = ("basic", "advanced", "pro")
RATES = {"usd": (1, 1), "eur": (93, 100), "jpy": (155, 100), "inr": (83, 1), "kwd": (310, 100)}
"""What a cent is in the smallest unit of each currency; amounts in dinars are multiples of ten."""
DECLINES, PAYS = "pm_card_chargeCustomerFail", "pm_card_visa"
HOUR_S = 3600
MINUTE = timedelta(minutes=1)
ROUNDS = 12
RUNNING = ("active", "past_due", "trialing", "unpaid", "paused")
KEPT = ("status", "cancel_at", "cancel_at_period_end", "pause_collection", "metadata", "quantity")


def amount_in(currency: str, cents: int) -> int:
    times, over = RATES[currency]
    amount = cents * times // over
    return amount // 10 * 10 if currency == "kwd" else amount


@dataclass
class Person:
    """One customer. `foreign`: their subscriptions to another product, as these must stay."""

    name: str
    currency: str
    customer: Customer
    stripe_customer: str
    foreign: dict[str, Any] = field(default_factory=dict)
    spends: list[tuple[int, int]] = field(default_factory=list)
    """When, by Stripe's calendar, and how many credits."""


class Town:
    """The people of one server and one sandbox. `told` is what happened, for a failure's message."""

    def __init__(self, life: Life, seed: int) -> None:
        self.life = life
        self.stripe: StripeSide = life.stripe
        self.people: list[Person] = []
        self.chance = random.Random(seed)
        self.told: list[str] = []
        self.held: list[Any] = []
        self.newest_event: str | None = None
        self.other_price = ""

    @property
    def at(self) -> int:
        return int(self.life.clock().timestamp())

    async def begin(self, currencies: list[str]) -> None:
        """Each person has a Stripe customer of theirs, which fixes their currency with the first payment."""
        form = {"currency": "usd", "unit_amount": "500", "recurring[interval]": "month"}
        options = {f"currency_options[{c}][unit_amount]": str(amount_in(c, 500)) for c in RATES if c != "usd"}
        made = await self.stripe.api("POST", "prices", **form, **options, **{"product_data[name]": "Support"})
        self.other_price = made["id"]
        for number, currency in enumerate(currencies):
            name = f"person-{number}"
            customer = await self.stripe.customer(name=name)
            person = Person(name, currency, self.life.paidup.customer(name), customer)
            self.people.append(person)
            await person.customer.call("GET", "/api/account", stripe_customer=customer)
            await self.buy_at_stripe(person, number)
        await self.hear("now")

    async def post(self, person: Person, path: str, **body: Any) -> Any:
        """One call of the person's page: it succeeds, or is refused with a reason."""
        status, answer = await person.customer.call("POST", path, body)
        self.told.append(f"    {path} {body} -> {status} {answer.get('type', '')}")
        assert status in (200, 201) or 400 <= status < 500, (status, answer)
        return answer if status < 300 else None

    # What people do

    async def pay(self, secret: str | None, card: str = PAYS) -> None:
        if secret and secret.startswith("pi_"):
            await self.stripe.confirm(secret, card)

    async def pay_first(self, subscription: Any) -> None:
        """Pay its first invoice, unless the customer's balance at Stripe has."""
        if found := subscription["latest_invoice"]["confirmation_secret"]:
            await self.pay(found["client_secret"])

    async def buy(self, person: Person, n: int) -> None:
        interval = "year" if n % 5 == 4 else "month"
        wanted = {"plan": PLANS[n % 3], "interval": interval, "quantity": 1 + (n % 7 == 6)}
        if made := await self.post(person, "/api/subscriptions", **wanted):
            await self.pay(made["client_secret"], "pm_card_chargeDeclined" if n % 11 == 10 else PAYS)

    async def buy_at_stripe(self, person: Person, n: int) -> None:
        """By a Payment Link, say: sometimes with a customer of its own."""
        customer = person.stripe_customer
        if n % 4 == 3:
            customer = await self.stripe.customer(name=person.name)
        form = {
            "currency": person.currency,
            "payment_settings[save_default_payment_method]": "on_subscription",
        }
        made = await self.stripe.subscribe(customer, PLANS[n % 3], person.name, **form)
        await self.pay_first(made)

    async def top_up(self, person: Person, n: int) -> None:
        if made := await self.post(person, "/api/top-ups", plan="extra", quantity=1 + n % 3):
            await self.pay(made["client_secret"])

    async def spend(self, person: Person, n: int) -> None:
        balance = await person.customer.balance()
        credits = balance * (10, 40, 90, 100)[n % 4] // 100
        if credits > 0:
            status, answer = await person.customer.spend(credits, f"spend-{len(person.spends)}")
            assert status == 200, answer
            person.spends.append((self.at, credits))

    async def change(self, person: Person, n: int) -> None:
        if own := await self.own(person, n):
            wanted = {"plan": PLANS[n % 3], "subscription": own["id"]}
            made = await self.post(person, "/api/subscriptions/change", **wanted)
            if made and made.get("client_secret"):
                await self.pay(made["client_secret"])

    async def cancel(self, person: Person, n: int) -> None:
        if own := await self.own(person, n):
            when = "now" if n % 4 == 3 else "period_end"
            await self.post(person, "/api/subscriptions/cancel", subscription=own["id"], when=when)

    async def resume(self, person: Person, n: int) -> None:
        if own := await self.own(person, n):
            await self.post(person, "/api/subscriptions/resume", subscription=own["id"])

    async def portal(self, person: Person, n: int) -> None:
        """Cancel in the customer portal, or undo that there."""
        if own := await self.own(person, n):
            end = own["items"]["data"][0]["current_period_end"]
            if end > self.at:  # not that of a paused one
                await self.in_stripe(own, cancel_at=str(end) if n % 3 else "")

    async def pause(self, person: Person, n: int) -> None:
        """Pause or resume the subscription, or the collection of its invoices."""
        if own := await self.own(person, n):
            if own["status"] == "paused":
                await self.stripe.api("POST", f"subscriptions/{own['id']}/resume")
            elif n % 3 == 0 and own["status"] == "active":
                await self.stripe.api("POST", f"subscriptions/{own['id']}/pause")
            elif own["pause_collection"]:
                await self.in_stripe(own, pause_collection="")
            else:
                await self.in_stripe(own, **{"pause_collection[behavior]": "void"})

    async def card(self, person: Person, n: int) -> None:
        """From now on, renewals are declined, or paid again."""
        if own := await self.own(person, n):
            await self.in_stripe(own, default_payment_method=DECLINES if n % 2 else PAYS)

    async def refund(self, person: Person, n: int) -> None:
        charges = [each for each in await self.charges(person) if not each["disputed"]]
        if charges := [each for each in charges if each["amount"] > each["amount_refunded"]]:
            charge = charges[n % len(charges)]
            left = charge["amount"] - charge["amount_refunded"]
            amount = (left // 3 or left) // 10 * 10 if n % 2 else left
            await self.stripe.api("POST", "refunds", charge=charge["id"], amount=str(amount or left))

    async def fail_refund(self, person: Person, n: int) -> None:
        charges = {each["id"] for each in await self.charges(person)}
        made = [each for each in await self.listed("refunds") if each["charge"] in charges]
        if standing := [each for each in made if each["status"] == "succeeded"]:
            await self.stripe.control(f"refunds/{standing[n % len(standing)]['id']}/fail")

    async def dispute(self, person: Person, n: int) -> None:
        charges = [each for each in await self.charges(person) if not each["disputed"]]
        if charges := [each for each in charges if not each["amount_refunded"]]:
            await self.stripe.control("disputes", {"charge": charges[n % len(charges)]["id"]})

    async def dispute_goes_on(self, person: Person, n: int) -> None:
        """The bank decides, or a lost one is appealed."""
        charges = {each["id"] for each in await self.charges(person)}
        made = [each for each in await self.listed("disputes") if each["charge"] in charges]
        undecided = [each for each in made if each["status"] not in ("won", "warning_closed")]
        if undecided:
            one = undecided[n % len(undecided)]
            if one["status"] == "lost":
                await self.stripe.control(f"disputes/{one['id']}/appeal", {"status": "appeal_under_review"})
            else:
                status = "won" if n % 2 else "lost"
                await self.stripe.control(f"disputes/{one['id']}/close", {"status": status})

    async def other_product(self, person: Person, n: int) -> None:
        """The same Stripe customer subscribes to something else."""
        form = {"items[0][price]": self.other_price, "currency": person.currency}
        saved = {"payment_settings[save_default_payment_method]": "on_subscription"}
        made = await self.stripe.subscribe(person.stripe_customer, **form, **saved)
        await self.pay_first(made)
        person.foreign[made["id"]] = await self.as_it_is(made["id"])

    # What is there at Stripe

    async def as_it_is(self, subscription: str) -> Any:
        read = await self.stripe.api("GET", f"subscriptions/{subscription}")
        items = [(item["price"]["id"], item["quantity"]) for item in read["items"]["data"]]
        return {name: read.get(name) for name in KEPT} | {"items": items}

    async def listed(self, path: str) -> list[Any]:
        """A whole list, oldest first."""
        found: list[Any] = []
        more, after = True, ""
        sign = "&" if "?" in path else "?"
        while more:
            page = await self.stripe.api("GET", f"{path}{sign}limit=100{after}")
            found += page["data"]
            more, after = page["has_more"], f"&starting_after={found[-1]['id']}" if found else ""
        return found[::-1]

    async def own(self, person: Person, n: int) -> Any:
        """One of the person's running subscriptions to a plan, if there is one."""
        found = [
            each
            for each in await self.listed("subscriptions")
            if each["metadata"].get("paidup_account") == person.name and each["status"] in RUNNING
        ]
        return found[n % len(found)] if found else None

    async def charges(self, person: Person) -> list[Any]:
        """What the person has paid of ours, by card."""
        own = {each["id"] for each in await self.listed("invoices") if account_of(each) == person.name}
        payments = await self.listed("invoice_payments")
        intents = {each["payment"]["payment_intent"] for each in payments if each["invoice"] in own}
        return [e for e in await self.listed("charges") if e["paid"] and e["payment_intent"] in intents]

    async def in_stripe(self, subscription: Any, **form: Any) -> None:
        await self.stripe.api("POST", f"subscriptions/{subscription['id']}", **form)

    # Webhooks, and the worker

    async def hear(self, how: str) -> None:
        """Deliver Stripe's new events: now (with those held back), later, twice and mixed, or never."""
        news = await self.new_events()
        if how == "late":
            self.held += news
            return
        if how == "lost":
            return
        news, self.held = self.held + news, []
        if how == "mixed":
            news += self.chance.sample(news, len(news) // 3)
            self.chance.shuffle(news)
        for event in news:
            status, answer = await self.life.paidup.webhook(json.dumps(event).encode())
            assert status == 200, answer

    async def new_events(self) -> list[Any]:
        """Oldest first."""
        found: list[Any] = []
        more = True
        while more:
            before = f"&ending_before={self.newest_event}" if self.newest_event else ""
            page = await self.stripe.api("GET", f"events?limit=100{before}")
            found += page["data"][::-1]
            more = page["has_more"] and bool(self.newest_event)
            self.newest_event = page["data"][0]["id"] if page["data"] else self.newest_event
        return found

    async def recover(self) -> None:
        """What the worker does within hours about all that was late or lost."""
        due, lists = self.life.paidup.services.reconciler.due, self.life.paidup.services.reconciler.lists
        await Watermark.all().delete()  # the lists are scanned from their beginning
        for _ in range(ROUNDS):
            await StripeEvent.filter(handled_at=None).update(next_attempt_at=now())
            await Invoice.filter(next_check_at__not_isnull=True).update(next_check_at=now())
            await due.events()
            await due.invoices()
            while await due.installments():
                pass
            await lists.paid_invoices()
            await lists.reversals()
            read = await due.subscriptions()
            if not read and not await StripeEvent.exists(handled_at=None):
                break
        for person in self.people:
            await person.customer.balance()  # ends what has expired

    async def advance(self, by: timedelta) -> None:
        self.life.clock.ahead += by
        await self.stripe.control("clock", {"advance_seconds": round(by.total_seconds())})

    async def period_ends(self, until: int) -> list[int]:
        """When the periods of subscriptions to plans end, from now on."""
        ends = {
            item["current_period_end"]
            for each in await self.listed("subscriptions")
            if account_of(each) and each["status"] in RUNNING
            for item in each["items"]["data"]
        }
        known = await Subscription.exists()
        return sorted(end for end in ends if known and self.at < end < until)


def account_of(invoice: Any) -> str | None:
    """The account that an invoice or subscription names in its metadata; None: another product's."""
    details = (invoice.get("parent") or {}).get("subscription_details") or {}
    found = (invoice["metadata"] or {}).get("paidup_account")
    return found or (details.get("metadata") or {}).get("paidup_account")
