"""Each way of paying, whatever becomes of the webhook and of the browser: active exactly once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from paidup.db.models import Account, CheckoutSession, Invoice
from paidup.runtime.clock import now
from tests.conftest import World
from tests.scenarios.test_return_page import visit
from tests.support.checkout_shop import CheckoutShop
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Customer, Paidup, next_status, status_with
from tests.support.waiting import wait_until

AFTERWARDS = ("page open", "tab closed", "another browser", "two pages", "back button")
ALIKE = (("embedded", "page open"), ("elements", "tab closed"))
"""Ways that differ from `hosted` in the browser alone."""


class Buyer:
    """A customer who pays in one way. Card field and Payment Element are one way for the server."""

    def __init__(self, shop: CheckoutShop, customer: Customer, way: str) -> None:
        self.shop = shop
        self.customer = customer
        self.way = way
        self.id = ""
        self._ticket = self._secret = ""

    async def begin(self) -> None:
        body = {"plan": "pro"}
        if self.way == "card":
            _, made = await self.customer.call("POST", "/api/subscriptions", body)
            self.id, self._secret, self._ticket = made["invoice"], made["client_secret"], made["ticket"]
        else:
            _, made = await self.customer.call("POST", "/api/checkout", {**body, "ui": self.way})
            assert self.id in ("", made["checkout"]), "an open page is the same page again"
            self.id = made["checkout"]

    async def pay(self) -> None:
        if self.way == "card":
            await self.shop.stripe.confirm(self._secret)
        else:
            await self.shop.pay(self.id)

    async def status(self) -> Any:
        """What a page asks for that was opened just now."""
        kind = "invoices" if self.way == "card" else "checkout"
        code, answer = await self.customer.call("GET", f"/api/{kind}/{self.id}")
        assert code == 200, answer
        return answer

    async def watch(self, then: Any) -> None:
        """With a socket, until it says active; `then` happens once it is open."""
        paidup, path = self.customer.paidup, f"checkout/{self.id}"
        ticket = self._ticket
        if self.way == "card":
            path = f"invoices/{self.id}"
        else:
            _, given = await self.customer.call("POST", f"/api/{path}/ticket")
            ticket = given["ticket"]
        protocols = ("paidup.v1", ticket)
        async with self.customer.http.ws_connect(f"{paidup.url}/ws/{path}", protocols=protocols) as socket:
            first = await next_status(socket)
            assert (first["status"], first["credits_granted"]) == ("open", 0)
            await then
            if self.way != "card":
                await socket.send_str('{"type":"verify"}')
            await status_with(socket, within=30, status="active")

    async def is_active(self) -> bool:
        return bool((await self.status())["status"] == "active")


async def afterwards(buyer: Buyer, what: str, paidup: Paidup) -> None:
    """Pay, and let this happen to the browser."""
    if what == "page open":
        await buyer.watch(buyer.pay())
        return
    if what == "back button":  # from the payment page, and there again
        assert (await buyer.status())["status"] == "open"
        await buyer.begin()
    await buyer.pay()
    if what == "tab closed":
        await make_due()
        await paidup.services.reconciler.sweep()
    elif what == "another browser" and buyer.way != "card":
        page = await visit(paidup, buyer.id)
        assert page.state in ("active", "verifying"), page.heading
    elif what == "two pages":
        await asyncio.gather(*(buyer.status() for _ in range(2)))
    await wait_until(buyer.is_active, within=30)


async def make_due() -> None:
    past = now() - timedelta(minutes=1)
    await Invoice.filter(status="open").update(next_check_at=past, lease_expires_at=None)
    await CheckoutSession.filter(invoice=None).update(next_check_at=past, lease_expires_at=None)


@pytest.mark.parametrize("webhooks", ["at once", "never, or late"])
async def test_every_way_ends_at_active_exactly_once(world: World, webhooks: str) -> None:
    """S38, S39: with the page open, closed, in another browser, on two pages and after the back button."""
    paidup = await world.server(webhooks=webhooks == "at once")
    shop = CheckoutShop(world.stripe_side)
    cells = [*((way, what) for way in ("card", "hosted") for what in AFTERWARDS), *ALIKE]
    buyers = []
    for way, what in cells:
        buyer = Buyer(shop, paidup.customer(f"{way}-{what}".replace(" ", "-")), way)
        buyers.append(buyer)
        await buyer.begin()
        assert (await buyer.status())["status"] == "open"
        await afterwards(buyer, what, paidup)
    if webhooks != "at once":  # now they come
        for buyer in buyers:
            kind = "invoice.paid" if buyer.way == "card" else "checkout.session.completed"
            status, _ = await paidup.webhook(await shop.event(kind, buyer.id))
            assert status == 200
    assert await Account.filter(balance=2000).count() == len(buyers)
    assert await CheckoutSession.filter(duplicate_of__not_isnull=True).count() == 0
    await assert_books_balance(grants=len(buyers))


@pytest.mark.parametrize("way", ["card", "hosted"])
async def test_while_nothing_answers_it_says_what_is_awaited(world: World, way: str) -> None:
    """Neither a webhook nor Stripe: nothing is granted, and nobody is told that they have not paid."""
    paidup = await world.server(webhooks=False)
    buyer = Buyer(CheckoutShop(world.stripe_side), paidup.customer(), way)
    await buyer.begin()
    await buyer.pay()
    await world.stripe_side.conditions(api_down=True)
    told = await buyer.status()
    assert (told["status"], told["credits_granted"]) == ("open", 0)
    if way == "hosted":
        page = await visit(paidup, buyer.id)
        assert (page.code, page.state, page.refresh is not None) == (200, "verifying", True)
    assert await Account.filter(balance=0).count() == 1
    await world.stripe_side.conditions(api_down=False)
    await wait_until(buyer.is_active, within=30)
    await assert_books_balance(grants=1)
