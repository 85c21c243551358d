"""Whatever comes first of a payment that names nobody: it is credited to one account, once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from itertools import permutations

import pytest

from paidup.db.models import Account, CheckoutSession, CreditGrant, Invoice, ReversalKind, StripeEvent
from paidup.domain.decisions import InvoiceStatus
from paidup.errors import Conflict, NotFound
from paidup.reconciliation.alarms import take_snapshot
from paidup.runtime.clock import now
from tests.support.checkout_shop import EXTRA, PRO, CheckoutShop
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Paidup
from tests.support.stripe_sandbox import StripeSide

EVENTS = ("invoice.paid", "checkout.session.completed", "payment_intent.succeeded", "refund.created")
STEPS = (*EVENTS, "claim by ada", "claim by bob", "claim by ada", "cleo signs up", "list", "retry")


class Life:
    """One payment, and what may happen to it, in the order in which the test wants it."""

    def __init__(self, paidup: Paidup, shop: CheckoutShop, number: int) -> None:
        self.paidup, self.shop, self.services = paidup, shop, paidup.services
        self.names = {name: f"{name}-{number}" for name in ("ada", "bob", "cleo")}
        self.bodies: dict[str, bytes] = {}
        self.session = ""
        self.won: set[str] = set()

    async def begin(self, lookup_key: str, named: bool, refunded: bool) -> None:
        form = {"client_reference_id": self.names["cleo"]} if named else {}
        self.session = await self.shop.open(lookup_key, **form)
        done = await self.shop.pay(self.session)
        intent = done["payment_intent"]
        if intent is None:
            read = await self.shop.stripe.api("GET", f"invoice_payments?invoice={done['invoice']}")
            intent = read["data"][0]["payment"]["payment_intent"]
        self.bodies["checkout.session.completed"] = await self.shop.event(
            "checkout.session.completed", self.session
        )
        self.bodies["payment_intent.succeeded"] = await self.shop.event("payment_intent.succeeded", intent)
        if done["invoice"]:
            self.bodies["invoice.paid"] = await self.shop.event("invoice.paid", done["invoice"])
        if refunded:
            refund = await self.shop.stripe.api("POST", "refunds", payment_intent=intent)
            self.bodies["refund.created"] = await self.shop.event("refund.created", refund["id"])

    async def do(self, step: str) -> None:
        steps: dict[str, Callable[[], Awaitable[object]]] = {
            "cleo signs up": lambda: self.services.accounts.get(self.names["cleo"]),
            "list": lambda: self.services.reconciler.lists._sessions._handle_page(0, None),
            "retry": self.retry,
        }
        if body := self.bodies.get(step):
            await self.paidup.webhook(body)
        elif step.startswith("claim by "):
            await self.claim(step.rpartition(" ")[2])
        elif step in steps:
            await steps[step]()

    async def claim(self, name: str) -> None:
        account = await self.services.accounts.get(self.names[name])
        try:
            await self.services.claims.claim(self.session, account)
            self.won.add(name)
        except (NotFound, Conflict):
            pass  # not known yet, or another's

    async def retry(self) -> None:
        await StripeEvent.filter(handled_at__isnull=True).update(next_attempt_at=now())
        await CheckoutSession.filter(next_check_at__not_isnull=True).update(
            next_check_at=now(), lease_expires_at=None
        )
        await self.services.reconciler.due.events()
        await self.services.reconciler.sessions.sweep()
        await self.services.reconciler.sessions.adopt_named()


async def test_it_is_credited_once_to_one_account(deaf: Paidup, stripe_side: StripeSide) -> None:
    """S41, S42: events, two claims, a sign-up, a refund, a list and retries, in any order or at once."""
    shop = CheckoutShop(stripe_side)
    for number in range(8):
        await one_life(deaf, shop, number, random.Random(number))


async def one_life(paidup: Paidup, shop: CheckoutShop, number: int, chance: random.Random) -> None:
    life = Life(paidup, shop, number)
    refunded = chance.random() < 0.3
    await life.begin(chance.choice((PRO, EXTRA)), named=chance.random() < 0.4, refunded=refunded)
    steps = list(STEPS)
    chance.shuffle(steps)
    while steps:
        together = [steps.pop() for _ in range(min(len(steps), chance.choice((1, 1, 2, 3))))]
        await asyncio.gather(*(life.do(step) for step in together))
    for step in ("checkout.session.completed", "claim by ada", "claim by bob", "retry", "retry"):
        await life.do(step)
    row = await CheckoutSession.get(id=life.session).select_related("account")
    assert row.account is not None, number
    assert life.won <= {row.account.external_id.partition("-")[0]}
    invoices = await Invoice.filter(checkout=life.session)
    assert [each.account_id for each in invoices] == [row.account_id], number
    wanted = InvoiceStatus.REVERSED if refunded else InvoiceStatus.ACTIVE
    assert invoices[0].status is wanted, number
    assert await CreditGrant.filter(invoice_id=invoices[0].id).count() == 1
    balances = {
        account.external_id: account.balance
        for account in await Account.filter(external_id__in=list(life.names.values()))
    }
    granted = 0 if refunded else {"pro": 2000, "extra": 1000}[row.plan or ""]
    assert {name for name, balance in balances.items() if balance} <= {row.account.external_id}
    assert sum(balances.values()) == granted, number
    assert not await StripeEvent.filter(handled_at__isnull=True).count(), number
    assert (await take_snapshot()).alarms == []
    await assert_books_balance()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_renewal_that_was_refunded_before_the_claim_gives_nothing(
    deaf: Paidup, stripe_side: StripeSide
) -> None:
    """S25, S42: whether its events came, in which order, or only Stripe's lists have shown it."""
    shop = CheckoutShop(stripe_side)
    heard = [[], ["list"], *permutations(("invoice.paid", "refund.created")), ["invoice.paid", "list"]]
    for number, steps in enumerate(heard):
        ada = await deaf.services.accounts.get(f"renewing-{number}")
        session = await shop.open(PRO)
        paid = await shop.pay(session)
        await deaf.webhook(await shop.event("checkout.session.completed", session))
        await stripe_side.control(f"subscriptions/{paid['subscription']}/renew")
        listed = await stripe_side.api("GET", f"invoices?subscription={paid['subscription']}")
        (renewal,) = [each["id"] for each in listed["data"] if each["id"] != paid["invoice"]]
        link = (await stripe_side.api("GET", f"invoice_payments?invoice={renewal}"))["data"][0]
        refund = await stripe_side.api("POST", "refunds", payment_intent=link["payment"]["payment_intent"])
        bodies = {
            "invoice.paid": await shop.event("invoice.paid", renewal),
            "refund.created": await shop.event("refund.created", refund["id"]),
        }
        for step in steps:
            if step == "list":
                await deaf.services.reconciler.lists._handle_reversals(ReversalKind.REFUND, 0, None)
            else:
                await deaf.webhook(bodies[step])
        await deaf.services.claims.claim(session, ada)
        await StripeEvent.filter(handled_at__isnull=True).update(next_attempt_at=now())
        await deaf.services.reconciler.due.events()
        await deaf.services.subscriptions.read(paid["subscription"])
        if not steps:  # what had not been looked for by then
            await deaf.services.reconciler.lists._handle_reversals(ReversalKind.REFUND, 0, None)
        await ada.refresh_from_db()
        assert ada.balance == 2000, steps
        await assert_books_balance()
