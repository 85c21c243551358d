"""Makes the Checkout Session with which an account pays on a page of Stripe's, or finds the open one.

One purchase has one open session, however often the button is pressed (S08). A subscription or top-up
that was begun with `POST /api/subscriptions` or `/api/top-ups` counts as the same purchase: it is given
up in favour of the page, and the other way round, so that two can never both be paid. No lock is
needed: see subscriptions/checkout.py for the idempotency key.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress

import msgspec

from paidup.db.connection import storage_errors
from paidup.db.models import Account, CheckoutSession, Invoice
from paidup.domain.catalog import Interval
from paidup.domain.checkout_options import CheckoutOptions
from paidup.errors import (
    AlreadySubscribed,
    Conflict,
    InvalidInput,
    PaymentUnderWay,
    StripeError,
    StripeRefused,
)
from paidup.stripe_api.checkout_schemas import COMPLETE, OPEN, StripeCheckoutSession
from paidup.stripe_api.checkout_sessions import SUBSCRIPTION, NewSession, Ui
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.prices import PriceCatalog
from paidup.subscriptions.checkout import Checkout
from paidup.subscriptions.customers import digest
from paidup.subscriptions.open_sessions import OpenSessions, Sold
from paidup.subscriptions.own_subscriptions import OwnSubscriptions

MAX_TRIES = 3


class WantedSession(msgspec.Struct, frozen=True):
    """What is to be paid, and where. `return_to`: where the customer goes on to once it is active."""

    plan: str
    top_up: bool
    ui: Ui
    return_url: str
    interval: Interval | None = None
    quantity: int = 1
    return_to: str | None = None
    cancel_url: str | None = None
    options: CheckoutOptions = CheckoutOptions()


class SessionPurchase(msgspec.Struct, frozen=True):
    shown: StripeCheckoutSession
    created: bool


class SessionPurchases:
    def __init__(
        self,
        gateway: StripeGateway,
        prices: PriceCatalog,
        checkout: Checkout,
        own: OwnSubscriptions,
        sessions: OpenSessions,
    ) -> None:
        self._gateway = gateway
        self._prices = prices
        self._catalogue = prices.catalogue
        self._checkout = checkout
        self._own = own
        self._sessions = sessions

    async def open(self, account: Account, wanted: WantedSession) -> SessionPurchase:
        """The account's open session for this purchase, or a new one in place of any other.

        Raises UnknownPlan, InvalidInput, AlreadySubscribed, PaymentUnderWay, StripeError.
        """
        plan = self._catalogue.plan(wanted.plan)
        if plan.top_up is not wanted.top_up:
            sold = "a top-up: send it as `top_up`" if plan.top_up else "a plan: send it as `plan`"
            raise InvalidInput(f"{plan.id} is {sold}.")
        listed = plan.price(wanted.interval)
        plan.check_quantity(wanted.quantity, listed)
        price = await self._prices.id_for(listed)
        purchase = plan.id if wanted.top_up else SUBSCRIPTION
        # Another request may settle it meanwhile: it is this one that has to be given up, or was paid.
        pending = await self._checkout.pending(account, price if wanted.top_up else None)
        if not wanted.top_up:
            await self._refuse_running(account, pending)
        for _ in range(MAX_TRIES):
            number = account.purchase_number
            again = await self._resume(account, purchase, price, wanted)
            if again is not None:
                return SessionPurchase(again, created=False)
            account = await _as_it_is_now(account)  # its customer may be gone
            if account.purchase_number == number:
                break  # else another request may have made one, after it was looked for
        if pending is not None:
            await self._checkout.give_up_pending(account, pending)
        return SessionPurchase(await self._create(account, purchase, price, wanted), created=True)

    async def _refuse_running(self, account: Account, pending: Invoice | None) -> None:
        """Where the account is subscribed, a page that is still open is closed, and none is made.

        `pending`: the invoice of a subscription that may still be paid, which is no such one.
        """
        running = await self._own.running(account, of_own_purchases=True)
        others = [each for each in running if pending is None or each.id != pending.subscription]
        if not others:
            return
        with suppress(PaymentUnderWay):  # it is what runs
            await self._sessions.close_known(account, SUBSCRIPTION)
        raise AlreadySubscribed(self._own.described(others))

    async def _resume(
        self, account: Account, purchase: str, price: str, wanted: WantedSession
    ) -> StripeCheckoutSession | None:
        """The open session again, if it is for the same, or if it was paid meanwhile. Others are closed."""
        row = await self._sessions.newest(account, purchase)
        if row is None:
            return None
        shown = await self._sessions.read(row)
        same = _is_same(row, shown, price, wanted) and not await self._is_unpayable(shown)
        if shown is not None and shown.status == COMPLETE:
            if same and wanted.top_up:
                return shown  # the customer pressed the button before they were told
            raise PaymentUnderWay(shown.invoice_id or row.id)
        if same and shown is not None and shown.status == OPEN:
            return shown
        await self._sessions.close_known(account, purchase)
        return None

    async def _is_unpayable(self, shown: StripeCheckoutSession | None) -> bool:
        """Whether nobody can pay it, since its customer was deleted."""
        if shown is None or shown.status != OPEN or shown.customer_id is None:
            return False
        return await self._checkout.is_gone(shown.customer_id)

    async def _create(
        self, account: Account, purchase: str, price: str, wanted: WantedSession
    ) -> StripeCheckoutSession:
        for _ in range(MAX_TRIES):
            made = await self._make_for_customer(account, price, wanted)
            lost = await self._sessions.without_row(made.customer_id or "", purchase, made.id)
            sold = Sold(purchase, price, wanted.quantity, wanted.return_to)
            row, older = await self._sessions.insert(made, account, sold, lost)
            if row.status == COMPLETE:
                raise PaymentUnderWay(row.invoice or row.id)
            if row.status == OPEN and row.superseded_by is None:
                break
            account = await Account.get(id=account.id)  # the key had made one that is over; it was rotated
        else:
            raise Conflict("Another purchase was begun at the same moment. Please try again.")
        try:
            for each in older:
                await self._sessions.close(each)
            # Give way to a payment that another request has begun meanwhile.
            if pending := await self._checkout.pending(account, price if wanted.top_up else None):
                raise PaymentUnderWay(pending.id)
        except PaymentUnderWay:
            await self._sessions.close(made.id)
            raise
        return made

    async def _make_for_customer(
        self, account: Account, price: str, wanted: WantedSession
    ) -> StripeCheckoutSession:
        """A new session; for a new customer, where Stripe has deleted the account's."""
        customer = await self._checkout.customer(account)
        try:
            return await self._make(account, customer, price, wanted)
        except StripeRefused as error:
            if not await self._checkout.forget_if_gone(customer, error):
                raise
        account = await Account.get(id=account.id)
        return await self._make(account, await self._checkout.customer(account), price, wanted)

    async def _make(
        self, account: Account, customer: str, price: str, wanted: WantedSession
    ) -> StripeCheckoutSession:
        new = NewSession(
            customer=customer,
            price=price,
            quantity=wanted.quantity,
            currency=await self._checkout.currency(account, customer, price),
            external_id=account.external_id,
            top_up=wanted.plan if wanted.top_up else None,
            ui=wanted.ui,
            return_url=wanted.return_url,
            cancel_url=wanted.cancel_url,
            options=wanted.options,
        )
        number = account.purchase_number
        # Stripe refuses a key that comes with other parameters: they are all part of it.
        contents = hashlib.sha256(msgspec.json.encode(new)).hexdigest()[:32]
        try:
            key = f"paidup-checkout-{digest(account)}-{number}-{contents}"
            return await self._gateway.checkout_sessions.create(new, key)
        except StripeError as error:
            await self._checkout.rotate_key_if_final(error, account.id, number)
            raise


async def _as_it_is_now(account: Account) -> Account:
    with storage_errors():
        return await Account.get(id=account.id)


def _is_same(
    row: CheckoutSession, shown: StripeCheckoutSession | None, price: str, wanted: WantedSession
) -> bool:
    """Whether the session is what is wanted now, on the same kind of page, with the same way back."""
    if shown is None or (row.price, row.quantity) != (price, wanted.quantity):
        return False
    return (shown.ui_mode or Ui.HOSTED, row.return_to) == (wanted.ui, wanted.return_to)
