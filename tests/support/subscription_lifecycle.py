"""A plan's whole life, driven from both sides: what the customer does, what Stripe does, and time.

`Life` ties one server in this process, the sandbox and a clock that both follow. What happens
is waited for; time passes only by `pass_days`.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from paidup.db.models import Account, CreditGrant, Invoice, LedgerEntry, StripeEvent
from paidup.runtime.clock import now
from paidup.settings import PACKAGED_PLANS
from tests.conftest import World
from tests.support.paidup import Customer, Paidup
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until


class MovedClock:
    """The wall clock, so many seconds ahead."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return now() + self.ahead


class Life:
    """One customer of one server, from the first payment on."""

    def __init__(self, paidup: Paidup, stripe: StripeSide, clock: MovedClock, name: str = "ada") -> None:
        self.paidup = paidup
        self.stripe = stripe
        self.clock = clock
        self.customer: Customer = paidup.customer(name)

    # What the customer does

    async def post(self, path: str, **body: Any) -> tuple[int, Any]:
        return await self.customer.call("POST", path, body)

    async def buy(self, plan: str = "pro", card: str = "pm_card_visa", **how: Any) -> str:
        """Subscribe and pay; the invoice, once it is active."""
        status, purchase = await self.post("/api/subscriptions", plan=plan, **how)
        assert status == 201, purchase
        return await self.pay(purchase, card)

    async def change(self, plan: str, **how: Any) -> Any:
        """Change the plan; a saved card pays at once. The answer, whatever its status."""
        status, purchase = await self.post("/api/subscriptions/change", plan=plan, **how)
        assert status in (200, 201), purchase
        return purchase

    async def top_up(self, quantity: int = 1, card: str = "pm_card_visa") -> str:
        status, purchase = await self.post("/api/top-ups", plan="extra", quantity=quantity)
        assert status == 201, purchase
        return await self.pay(purchase, card)

    async def pay(self, purchase: Any, card: str = "pm_card_visa") -> str:
        """Confirm the payment (and pass the bank's check, where it asks); the invoice, once it is active."""
        invoice = str(purchase["invoice"])
        intent = await self.stripe.confirm(purchase["client_secret"], card)
        if intent.get("status") == "requires_action":
            await self.stripe.authenticate(purchase["client_secret"])
        await wait_until(lambda: Invoice.exists(id=invoice, status="active"))
        return invoice

    async def buy_by_hand(self, plan: str = "pro") -> str:
        """The same where nothing but `deliver` tells of what Stripe does."""
        _, purchase = await self.post("/api/subscriptions", plan=plan)
        await self.stripe.confirm(purchase["client_secret"])
        await self.deliver("invoice.paid", purchase["invoice"])
        return str(purchase["invoice"])

    async def spend(self, credits: int, key: str) -> None:
        status, answer = await self.customer.spend(credits, key)
        assert status == 200, answer

    # What is seen

    async def balance(self) -> int:
        return await self.customer.balance()

    async def entries(self) -> list[tuple[str, int]]:
        """The ledger as the customer may read it, oldest first: kinds and credits."""
        status, answer = await self.customer.call("GET", "/api/account/entries")
        assert status == 200, answer
        return [(entry["kind"], entry["credits"]) for entry in reversed(answer["entries"])]

    async def reasons(self) -> list[tuple[str, int, str]]:
        """The same with the reasons shown to the customer."""
        _, answer = await self.customer.call("GET", "/api/account/entries")
        shown = reversed(answer["entries"])
        return [(entry["kind"], entry["credits"], entry["reason"]) for entry in shown]

    async def status(self, invoice: str) -> Any:
        """What the customer is told of an invoice."""
        status, answer = await self.customer.call("GET", f"/api/invoices/{invoice}")
        assert status == 200, answer
        return answer

    async def wait_for_status(self, invoice: str, wanted: str) -> Any:
        """What the customer is told, once its status is `wanted`."""
        await wait_until(lambda: Invoice.exists(id=invoice, status=wanted))
        return await self.status(invoice)

    async def account(self) -> Any:
        status, answer = await self.customer.call("GET", "/api/account")
        assert status == 200, answer
        return answer

    async def row(self) -> Account:
        return await Account.get(external_id=self.customer.name)

    async def wait_for_balance(self, credits: int) -> None:
        async def there() -> bool:
            return await self.balance() == credits

        try:
            await wait_until(there)
        except AssertionError:
            raise AssertionError(f"{await self.entries()} is not {credits}") from None

    # What Stripe does

    async def pass_days(self, days: float) -> None:
        """Move Stripe's calendar, and ours; Stripe does all that falls due, then the worker does."""
        self.clock.ahead += timedelta(days=days)
        await self.stripe.control("clock", {"advance_seconds": round(days * 24 * 3600)})
        await self.calm()
        await self.work()

    async def calm(self) -> None:
        """Until every event that Stripe has made was delivered and handled (where there is an endpoint)."""

        async def handled() -> bool:
            waiting = (await self.stripe.look("events?limit=200"))["events"]
            delivered = all(d["status"] != "pending" for event in waiting for d in event["deliveries"])
            return delivered and not await StripeEvent.exists(handled_at=None, error=None)

        await wait_until(handled, within=30)

    async def work(self) -> None:
        """What the worker does about all that is due by now."""
        reconciler = self.paidup.services.reconciler
        while await reconciler.due.installments():
            pass
        await reconciler.due.subscriptions()
        await self.expire()

    async def expire(self) -> None:
        """Looking at the credits ends those whose time is over."""
        await self.balance()

    async def intent_of(self, invoice: str) -> str:
        return str((await Invoice.get(id=invoice)).payment_intent)

    async def refund(self, invoice: str, amount: int | None = None) -> Any:
        """Give the money back, or so much of it; the refund."""
        form = {"payment_intent": await self.intent_of(invoice)}
        if amount is not None:
            form["amount"] = str(amount)
        return await self.stripe.api("POST", "refunds", **form)

    async def credit_note(self, invoice: str, **form: int) -> Any:
        return await self.stripe.api("POST", "credit_notes", invoice=invoice, **form)

    async def deliver(self, kind: str, about: str | None = None) -> None:
        """Deliver the newest event of this type (about this object) once more, by hand."""
        event = await self.stripe.event(kind, about)
        status, answer = await self.paidup.webhook(json.dumps(event).encode())
        assert status == 200, answer

    async def dispute(self, invoice: str, **more: Any) -> Any:
        """The cardholder's bank opens a dispute; the dispute."""
        intent = await self.intent_of(invoice)
        return await self.stripe.control("disputes", {"payment_intent": intent, **more})


async def a_life(world: World, name: str = "ada", **changes: Any) -> Life:
    """A server with a clock that can be moved, and its first customer."""
    clock = MovedClock()
    paidup = await world.server(clock=clock, **changes)
    return Life(paidup, world.stripe_side, clock, name)


async def history(account: Account) -> list[tuple[str, int]]:
    """All entries of an account, oldest first."""
    rows = await LedgerEntry.filter(account_id=account.id).order_by("id")
    return [(row.kind.value, row.credits) for row in rows]


async def grants_of(invoice: str) -> list[tuple[str, int, int]]:
    """(state, credits, remaining) of an invoice's grants, in order."""
    rows = await CreditGrant.filter(invoice_id=invoice).order_by("installment")
    return [(row.state.value, row.credits, row.remaining) for row in rows]


def plans_with(folder: Path, plan: str, *lines: str) -> Path:
    """The packaged catalogue, with more lines for one plan; they replace what it says of the same."""
    pattern = rf'(id = "{plan}".*?)(?=\n\[\[plans\.prices)'
    before, own, after = re.split(pattern, PACKAGED_PLANS.read_text(), maxsplit=1, flags=re.DOTALL)
    for line in lines:
        own = re.sub(rf"\n{line.partition(' ')[0]} = .*", "", own)
    path = folder / "plans.toml"
    path.write_text(before + "\n".join([own, *lines]) + "\n" + after)
    return path


async def subscription_of(life: Life) -> Any:
    return (await life.account())["subscription"]


async def pay_on_with(life: Life, card: str) -> None:
    """From now on the subscription is charged to this card."""
    subscription = (await subscription_of(life))["id"]
    await life.stripe.api("POST", f"subscriptions/{subscription}", default_payment_method=card)
    await life.calm()


async def buy_without_webhooks(life: Life, plan: str, **how: Any) -> str:
    """Buy without webhooks: the customer's page imports the invoice."""
    _, purchase = await life.post("/api/subscriptions", plan=plan, **how)
    await life.stripe.confirm(purchase["client_secret"])
    _, answer = await life.post("/api/invoices", invoice=purchase["invoice"])
    assert answer["status"]["status"] == "active"
    return str(purchase["invoice"])


async def advance(life: Life, days: float) -> None:
    """Time passes at Stripe and here, and nobody does anything about it."""
    life.clock.ahead += timedelta(days=days)
    await life.stripe.control("clock", {"advance_seconds": round(days * 24 * 3600)})
