"""One random schedule of one customer: tabs, pages, cards, retries, and webhooks late, twice or lost.

At its end every event that was not lost is delivered, the sweeps run, and `verdict` says what is wrong:
two live subscriptions, a second payment that is not flagged, a payment that is not credited once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

from paidup.db.models import Account, CheckoutSession, CreditGrant, Invoice, LedgerEntry
from paidup.domain.payment_facts import Source
from paidup.errors import Conflict, PaidupError
from paidup.reconciliation.second_payments import SecondPayments
from paidup.runtime.clock import now
from paidup.stripe_api.checkout_sessions import CHECKOUT_METADATA_KEY, SUBSCRIPTION, Ui
from paidup.subscriptions.session_purchases import WantedSession
from tests.schedules.shop import PUBLISHABLE, Shop
from tests.support.cancel_at_await import cut_off

PLANS = ("basic", "advanced", "pro")
PAYS, DECLINES = "pm_card_visa", "pm_card_visa_chargeDeclined"
RETURN_URL = "https://app.example.test/activate?session_id={CHECKOUT_SESSION_ID}"
RUNNING = ("active", "trialing", "past_due", "unpaid")
STEPS = 14


class Schedule:
    """`told` is what happened, for the message of a failure."""

    def __init__(self, shop: Shop, name: str) -> None:
        self.shop = shop
        self.name = name
        self.chance = shop.chance.draw
        self.told: list[str] = []
        self.pages: list[str] = []
        self.secrets: list[str] = []
        self.seen: set[str] = set()
        self.elsewhere = False
        self.most_open: dict[str, int] = {}
        self._steps: list[tuple[Callable[[], Coroutine[Any, Any, Any]], int]] = [
            (self.open_page, 6),
            (self.open_two_at_once, 2),
            (self.pay_page, 6),
            (self.pay_while_opening, 2),
            (self.buy_by_card, 4),
            (self.confirm_card, 5),
            (self.come_back, 3),
            (self.deliver_some, 3),
            (self.sweep, 1),
            (self.lose_an_answer, 1),
            (self.be_killed, 1),
            (self.make_page_elsewhere, 2),
        ]

    async def run(self) -> None:
        for _ in range(self.chance.randint(4, STEPS)):
            names, weights = zip(*self._steps, strict=True)
            step = self.chance.choices(names, weights)[0]
            self.told.append(step.__name__)
            await step()
        self.shop.transport.loses_next = False
        await self.settle_down()

    # What the customer does

    async def open_page(self) -> None:
        await self._keep(self._page(self._wanted()))

    async def open_two_at_once(self) -> None:
        await asyncio.gather(*(self._keep(self._page(self._wanted())) for _ in range(2)))

    async def pay_page(self) -> None:
        if self.pages:
            card = self.chance.choice((PAYS, PAYS, PAYS, DECLINES))
            await self.shop.pay(self.chance.choice(self.pages[-3:]), card)

    async def pay_while_opening(self) -> None:
        await asyncio.gather(self.pay_page(), self.open_page())

    async def buy_by_card(self) -> None:
        top_up = self.chance.random() < 0.3
        await self._keep(self._card("extra" if top_up else self.chance.choice(PLANS)))

    async def confirm_card(self) -> None:
        if self.secrets:
            secret, card = self.chance.choice(self.secrets[-2:]), self.chance.choice((PAYS, PAYS, DECLINES))
            form = {"client_secret": secret, "payment_method": card}
            intent = secret.partition("_secret_")[0]
            await self.shop.api("POST", f"payment_intents/{intent}/confirm", form, PUBLISHABLE)

    async def come_back(self) -> None:
        """The page that they come back to has the session read."""
        if self.pages:
            await self._keep(self.shop.payments.checkouts.verify(self.chance.choice(self.pages)))

    async def make_page_elsewhere(self) -> None:
        """With the SaaS's own key, which knows nothing of Paidup's pages: Stripe lets both be paid."""
        self.elsewhere = True
        price = (await self.shop.api("GET", "prices", {"lookup_keys[0]": "paidup_pro_monthly"}))["data"][0]
        form = {
            "mode": "subscription",
            "line_items[0][price]": price["id"],
            "line_items[0][quantity]": "1",
            "success_url": RETURN_URL,
            "client_reference_id": self.name,
        }
        self.pages.append((await self.shop.api("POST", "checkout/sessions", form))["id"])

    # What happens between Stripe and us

    async def deliver_some(self) -> None:
        """In any order, some of them twice."""
        waiting = await self.shop.events(await self._ours(), self.seen)
        for event in self.chance.sample(waiting, self.chance.randint(0, len(waiting))):
            await self._keep(self.shop.deliver(event))
            if self.chance.random() < 0.8:
                self.seen.add(event["id"])

    async def sweep(self) -> None:
        await SecondPayments().sweep()
        await self.shop.payments.reconciler.sessions.sweep()

    async def lose_an_answer(self) -> None:
        self.shop.transport.loses_next = True
        await self.open_page()
        self.shop.transport.loses_next = False

    async def be_killed(self) -> None:
        """The process ends in the middle of a request."""
        await cut_off(self._keep(self._page(self._wanted())), self.chance.randint(1, 60))

    # Its end

    async def settle_down(self) -> None:
        """Every event but the lost ones arrives, and the sweeps do what is due."""
        lost = self.chance.random() < 0.3
        for event in [] if lost else await self.shop.events(await self._ours(), self.seen):
            await self._keep(self.shop.deliver(event))
        account = await self.account()
        own = CheckoutSession.filter(account_id=account.id)
        for top_up in (False, True):
            await self._keep(self._last_purchase(top_up))
        for page in set(self.pages):
            await self._keep(self.shop.payments.checkouts.verify(page, Source.RECONCILIATION))
        for row in await Invoice.filter(account_id=account.id):
            await self._keep(self.shop.payments.verification.read(row.id, Source.RECONCILIATION))
        for _ in range(2):
            await own.filter(next_check_at__not_isnull=True).update(
                next_check_at=now() - timedelta(seconds=1), lease_expires_at=None
            )
            await self.sweep()

    async def _last_purchase(self, top_up: bool) -> None:
        """After this request, its own page at most may be open at Stripe for this purchase."""
        plan, most = "extra" if top_up else "pro", 1
        if self.chance.random() < 0.5:
            await self._page(WantedSession(plan, top_up, Ui.HOSTED, RETURN_URL))
        else:
            most = 0 if await self._card(plan) else 1  # a pending payment that is given out again closes none
        self.most_open["extra" if top_up else SUBSCRIPTION] = most

    async def verdict(self) -> list[str]:
        """What is wrong; nothing, if all is well."""
        account = await self.account()
        live, paid = await self._live(account), await self._paid(account)
        flagged = await CheckoutSession.filter(account_id=account.id, duplicate_of__not_isnull=True).count()
        wrong = []
        if len(live) > 1 and not self.elsewhere:
            wrong.append(f"two live subscriptions: {live}")
        if flagged < len(live) - 1:
            wrong.append(f"{len(live)} live subscriptions, and {flagged} flagged")
        granted = {str(grant.invoice_id) for grant in await CreditGrant.filter(account_id=account.id)}
        if granted != paid:
            wrong.append(f"paid {sorted(paid)}, credited {sorted(granted)}")
        for purchase, most in sorted(self.most_open.items()):
            if len(pages := await self._open_pages(account, purchase)) > most:
                wrong.append(f"more than {most} open pages for {purchase}: {pages}")
        entries = sum(entry.credits for entry in await LedgerEntry.filter(account_id=account.id))
        if account.balance != entries:
            wrong.append(f"balance {account.balance}, entries {entries}")
        return wrong

    async def _live(self, account: Account) -> list[str]:
        """The account's subscriptions that run, as Stripe has them."""
        running = [
            each["id"]
            for customer in await self._customers(account)
            for each in await self._list("subscriptions", customer=customer, status="all")
            if each["status"] in RUNNING
        ]
        return sorted(running)

    async def _open_pages(self, account: Account, purchase: str) -> list[str]:
        """The pages of ours that can be paid, as Stripe has them."""
        return [
            each["id"]
            for customer in await self._customers(account)
            for each in await self._list("checkout/sessions", customer=customer, status="open")
            if each["metadata"].get(CHECKOUT_METADATA_KEY) == purchase
        ]

    async def _paid(self, account: Account) -> set[str]:
        """The account's invoices that are paid, as Stripe has them."""
        return {
            each["id"]
            for customer in await self._customers(account)
            for each in await self._list("invoices", customer=customer, limit="100")
            if each["status"] == "paid"
        }

    async def _list(self, what: str, **form: str) -> list[Any]:
        listed: list[Any] = (await self.shop.api("GET", what, form))["data"]
        return listed

    async def _customers(self, account: Account) -> set[str]:
        sessions = await CheckoutSession.filter(account_id=account.id, customer__not_isnull=True)
        return {each for each in (account.stripe_customer, *(row.customer for row in sessions)) if each}

    async def _ours(self) -> set[str]:
        account = await self.account()
        return {*self.pages, *(await self._customers(account))}

    async def account(self) -> Account:
        account, _ = await Account.get_or_create(external_id=self.name)
        return account

    def _wanted(self) -> WantedSession:
        top_up = self.chance.random() < 0.3
        return WantedSession(
            plan="extra" if top_up else self.chance.choice(PLANS),
            top_up=top_up,
            ui=self.chance.choice((Ui.HOSTED, Ui.HOSTED, Ui.EMBEDDED)),
            return_url=RETURN_URL,
            quantity=self.chance.choice((1, 1, 2)) if top_up else 1,
        )

    async def _page(self, wanted: WantedSession) -> None:
        opened = await self.shop.pages.open(await self.account(), wanted)
        self.pages.append(opened.shown.id)

    async def _card(self, plan: str) -> bool:
        """`POST /api/subscriptions` or `/api/top-ups`. Whether another payment was made than before."""
        account, checkout = await self.account(), self.shop.checkout
        bought = await (checkout.top_up(account, plan) if plan == "extra" else checkout.buy(account, plan))
        if bought.client_secret:
            self.secrets.append(bought.client_secret)
        return bought.created

    async def _keep(self, work: Awaitable[Any]) -> None:
        """Do it; a refusal is told, and is no fault of the schedule's."""
        try:
            await work
        except (Conflict, PaidupError) as error:
            self.told.append(f"{type(error).__name__}: {error}"[:120])
