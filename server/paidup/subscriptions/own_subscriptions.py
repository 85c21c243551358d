"""Finds an account's running subscriptions at Stripe, those that Paidup sells, and follows each.

A Stripe customer may have subscriptions to other products. Those are never returned here, so that
nothing shows, changes or cancels them, and no purchase is refused because of them.
"""

from __future__ import annotations

from paidup.db.connection import storage_errors
from paidup.db.customers import customers_of
from paidup.db.models import Account, Subscription
from paidup.db.own_purchases import named_by_payers
from paidup.errors import (
    AlreadySubscribed,
    NotFound,
    NotSubscribed,
    SeveralSubscriptions,
    StripeRefused,
)
from paidup.runtime.clock import Clock
from paidup.stripe_api.gateway import RUNNING, StripeGateway
from paidup.stripe_api.schemas import StripeSubscription
from paidup.subscriptions.sync import SubscriptionSync

MAX_READ_ONE_BY_ONE = 20


class OwnSubscriptions:
    def __init__(self, gateway: StripeGateway, sync: SubscriptionSync, clock: Clock) -> None:
        self._gateway = gateway
        self._sync = sync
        self._clock = clock

    async def running(self, account: Account, of_own_purchases: bool = False) -> list[StripeSubscription]:
        """All of them, newest first. One that is new here is taken up: see `SubscriptionSync.take_up`.

        `of_own_purchases`: without those that somebody who paid has named the account for, by a Payment
        Link: they refuse no purchase.
        """
        found: list[StripeSubscription] = []
        for customer in await customers_of(account):
            requested_at = self._clock()
            for listed in await self._gateway.running_subscriptions(customer):
                if await self._sync.is_own(listed, account):
                    await self._sync.take_up(listed, account, requested_at)
                    found.append(listed)
        found += await self._known_elsewhere(account, [each.id for each in found])
        return await _of_own_purchases(account, found) if of_own_purchases else found

    async def choose(self, account: Account, wanted: str | None) -> StripeSubscription:
        """The running subscription `wanted`, or without an id the only one, or the only one of their own.

        Raises NotFound, NotSubscribed, SeveralSubscriptions, StripeError.
        """
        running = await self.running(account)
        if wanted is not None:
            running = [each for each in running if each.id == wanted]
            if not running:
                raise NotFound(f"This customer has no running subscription {wanted}.")
        if not running:
            raise NotSubscribed
        if len(running) > 1:
            running = await _of_own_purchases(account, running) or running
        if len(running) > 1:
            raise SeveralSubscriptions(self.described(running))
        return running[0]

    async def ended(self, account: Account, wanted: str | None) -> Subscription | None:
        """The account's subscription `wanted`, if it was cancelled and is over."""
        with storage_errors():
            return await Subscription.get_or_none(id=wanted, account_id=account.id, status="canceled")

    def refused(self, running: list[StripeSubscription], wanted: tuple[str, int]) -> AlreadySubscribed:
        """Why nothing is sold. It names the invoice of the only one, if it is of this price and quantity."""
        item = self._sync.item_of(running[0])
        same = len(running) == 1 and (item.price.id, item.quantity or 1) == wanted
        return AlreadySubscribed(self.described(running), running[0].latest_invoice_id if same else None)

    def described(self, subscriptions: list[StripeSubscription]) -> list[dict[str, str | None]]:
        """What tells them apart in a problem document."""
        return [
            {"id": each.id, "plan": self._sync.plan_of(each), "status": each.status} for each in subscriptions
        ]

    async def _known_elsewhere(self, account: Account, listed: list[str]) -> list[StripeSubscription]:
        """Those that are known by their id and on no list: of another customer, or over meanwhile."""
        with storage_errors():
            known = Subscription.filter(account_id=account.id, status__in=RUNNING).exclude(id__in=listed)
            rows = await known.order_by("-created_at").limit(MAX_READ_ONE_BY_ONE)
        found = []
        for row in rows:
            requested_at = self._clock()
            try:
                current = await self._gateway.read_subscription(row.id)
            except StripeRefused as error:
                if not error.is_missing:
                    raise
                continue
            if await self._sync.is_own(current, account):
                await self._sync.save(current, requested_at)
                if current.status in RUNNING:
                    found.append(current)
        return found


async def _of_own_purchases(account: Account, running: list[StripeSubscription]) -> list[StripeSubscription]:
    """Those of `running` that no stranger has bought for this account."""
    with storage_errors():
        bought = named_by_payers(account.id).filter(subscription__in=[each.id for each in running])
        others = {row.subscription for row in await bought.only("id", "subscription")}
    return [each for each in running if each.id not in others]
