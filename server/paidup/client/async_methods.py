"""The methods of the asynchronous clients, over any transport: HTTP, or the same process."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Generator
from typing import Any, Self, TypeVar, Unpack

from paidup.client import calls
from paidup.client.calls import ApiCall, CheckoutChoices
from paidup.client.entitlements import Entitlements
from paidup.client.errors import APIError
from paidup.client.outages import DeferredSpend
from paidup.client.remembering import RememberingCaller
from paidup.client.responses import (
    AccountState,
    ChangePreview,
    CheckoutPage,
    CheckoutStatus,
    ClaimLink,
    Credits,
    Entry,
    EntryPage,
    FreshTicket,
    PendingPayment,
    PlanOnSale,
    ReservationResult,
    SpendResult,
    Status,
    SubscriptionState,
)
from paidup.client.retries import HttpRequest, HttpResponse

T = TypeVar("T")


class AsyncMethods(RememberingCaller):
    """Every call of the API as a coroutine. `customer` is your id of a user.

    A call is retried for at most `deadline_s` seconds. It then raises APIConnectionError, after which it
    may have succeeded: retry it with the same key. Other errors are subclasses of APIStatusError.
    """

    async def plans(self) -> list[PlanOnSale]:
        """Return the plans and top-ups on sale, with their prices. Needs no token."""
        return (await self._run(calls.plans_call())).plans

    async def account(self, customer: str) -> AccountState:
        """Return the balance, the subscriptions, and the payment in progress.

        The customer's account is created on first use, here and in every other method.
        """
        return await self._run(calls.account_call(customer))

    async def entries_page(
        self, customer: str, limit: int = 50, starting_after: int | None = None
    ) -> EntryPage:
        """Return up to `limit` (at most 100) entries of the ledger, newest first.

        `starting_after` is the last `id` of the page before.
        """
        return await self._run(calls.entries_call(customer, limit, starting_after))

    async def entries(self, customer: str, limit: int = calls.PAGE) -> AsyncIterator[Entry]:
        """Iterate over the whole ledger, newest first. `limit` is the number of entries in a request."""
        after: int | None = None
        while True:
            page = await self.entries_page(customer, limit, after)
            for entry in page.entries:
                yield entry
            if not page.has_more:
                return
            after = page.entries[-1].id

    async def account_ticket(self, customer: str) -> FreshTicket:
        """Return a ticket for the WebSocket of the customer's balance."""
        return await self._run(calls.account_ticket_call(customer))

    async def credits(self, customer: str) -> Credits:
        """Return the balance, the grants that can be spent, and the payment in progress."""
        return await self._run(calls.credits_call(customer))

    async def entitlements(self, customer: str) -> Entitlements:
        """Return what the customer may use now: plan, features, limits and balance.

        Kept for up to a minute, or until `on_event` gets an event of the customer's; then asked for with its
        ETag. In an outage, as the client's policy says: the last known ones, or APIConnectionError.
        """
        found: Entitlements = await self._drive(self._asking_entitlements(customer))
        return found

    async def spend(
        self, customer: str, credits: int, key: str, reason: str | None = None, unit: str | None = None
    ) -> SpendResult:
        """Spend `credits` (a whole number, at least 1) at most once for each `key`.

        `reason` is shown in the customer's ledger; `unit` is one of the plans file, its first by default.
        The same `key` and amount return the first result again. Raises InsufficientCreditsError, or
        KeyReusedError if the key was used with another amount or unit. In an outage, the client's
        policy may allow it and charge it later: see `deferred` of the result.
        """
        found: SpendResult = await self._drive(
            self._spending(DeferredSpend(customer, credits, key, reason, unit))
        )
        return found

    async def send_deferred(self) -> int:
        """Charge the spends that an outage has deferred. Return how many are left.

        Each successful spend charges some as well. Call this now and then, and before `close`, with a
        policy of AllowDuringOutage.
        """
        left: int = await self._drive(self._sending_deferred(len(self.deferred)))
        return left

    async def reserve(
        self, customer: str, credits: int, key: str, expires_in_s: int = 900, unit: str | None = None
    ) -> ReservationResult:
        """Reserve `credits` for `expires_in_s` seconds, at most once for each `key`. `unit` as in `spend`.

        Raises InsufficientCreditsError, KeyReusedError and ReservationClosedError (the key's
        reservation was committed, released or expired).
        """
        return await self._run(calls.reserve_call(customer, credits, key, expires_in_s, unit))

    async def commit(self, customer: str, credits: int, key: str, reason: str | None = None) -> SpendResult:
        """Spend `credits` (0 or more) of the reservation `key` and return the rest to the balance.

        `reason` is shown in the customer's ledger. Raises NotFoundError, KeyReusedError if it was
        committed with another amount, or ReservationClosedError if it was released or has expired.
        """
        return await self._run(calls.commit_call(customer, credits, key, reason))

    async def release(self, customer: str, key: str) -> SpendResult:
        """Return all credits of the reservation `key` to the balance, if it has not ended.

        Raises NotFoundError, or ReservationClosedError if it was committed.
        """
        return await self._run(calls.release_call(customer, key))

    async def subscribe(
        self, customer: str, plan: str, interval: str | None = None, quantity: int = 1
    ) -> PendingPayment:
        """Create a subscription to pay, or return the one that is already pending.

        `plan` is an id from the plans file; `interval` is "month" or "year", by default the plan's
        first. Raises UnknownPlanError, AlreadySubscribedError, PaymentUnderWayError, InvalidInputError.
        """
        made: PendingPayment = await self._drive(calls.subscribe_steps(customer, plan, interval, quantity))
        return made

    async def change(
        self,
        customer: str,
        plan: str,
        interval: str | None = None,
        quantity: int | None = None,
        subscription: str | None = None,
    ) -> PendingPayment:
        """Upgrade or downgrade. Billed at once, and in effect once it is paid. None leaves a value unchanged.

        Raises NotSubscribedError, AlreadyOnPlanError, SeveralSubscriptionsError (name a
        `subscription`), InvoiceUnpaidError, PaymentUnderWayError, ChangeRefusedError, UnknownPlanError.
        """
        made: PendingPayment = await self._drive(
            calls.change_steps(customer, plan, interval, quantity, subscription)
        )
        return made

    async def preview(
        self,
        customer: str,
        plan: str,
        interval: str | None = None,
        quantity: int | None = None,
        subscription: str | None = None,
    ) -> ChangePreview:
        """Return what `change` with the same arguments would charge now. Changes nothing.

        Raises what `change` raises.
        """
        return await self._run(calls.preview_call(customer, plan, interval, quantity, subscription))

    async def cancel(
        self, customer: str, when: str = "period_end", subscription: str | None = None
    ) -> SubscriptionState:
        """Cancel the subscription at the end of its period, or with `when` "now" at once.

        An end at once is only retried where you name the `subscription`: else it could end a second one.
        Raises NotSubscribedError, SeveralSubscriptionsError (name a `subscription`), ChangeRefusedError.
        """
        return (await self._run(calls.cancel_call(customer, when, subscription))).subscription

    async def resume(self, customer: str, subscription: str | None = None) -> SubscriptionState:
        """Undo a cancellation that has not taken effect yet. Raises what `cancel` raises."""
        return (await self._run(calls.resume_call(customer, subscription))).subscription

    async def top_up(self, customer: str, plan: str, quantity: int = 1) -> PendingPayment:
        """Buy credits once, or return the top-up that is already pending.

        Raises UnknownPlanError, PaymentUnderWayError, or InvalidInputError if `plan` is no top-up.
        """
        return await self._run(calls.top_up_call(customer, plan, quantity))

    async def checkout(self, customer: str, **choices: Unpack[CheckoutChoices]) -> CheckoutPage:
        """Return a Checkout Session for the customer to pay on a page of Stripe's, or the open one again.

        Give `plan` (with an `interval`) or `top_up`; `ui` is "hosted" (the default), "embedded" or
        "elements", and `return_to` is where they go on to once it is active. Raises
        AlreadySubscribedError, PaymentUnderWayError, UnknownPlanError, InvalidInputError.
        """
        return await self._run(calls.checkout_call(customer, choices))

    async def claim_link(self, checkout: str) -> ClaimLink:
        """Return a link with which its customer, once logged in, claims a payment that belongs to nobody.

        Raises NotFoundError, or ConflictError if it has an account already or nobody has paid.
        """
        return await self._run(calls.claim_link_call(checkout))

    async def claim(self, customer: str, claim: str) -> CheckoutStatus:
        """Make a payment the customer's, by the token of a claim link: once, and again for the same customer.

        Raises ConflictError if it is another customer's, or InvalidInputError if the link has expired.
        """
        return await self._run(calls.claim_call(customer, claim))

    async def adopt(self, customer: str, invoice: str) -> PendingPayment:
        """Track an invoice that you created in Stripe yourself.

        Raises NotFoundError if it does not belong to this customer.
        """
        return await self._run(calls.adopt_call(customer, invoice))

    async def status(self, customer: str, invoice: str) -> Status:
        """Return the stored state of this customer's invoice. Does not call Stripe.

        Raises NotFoundError.
        """
        return await self._run(calls.status_call(customer, invoice))

    async def ticket(self, customer: str, invoice: str) -> FreshTicket:
        """Return a new ticket for the WebSocket of this customer's invoice. Raises NotFoundError."""
        return await self._run(calls.ticket_call(customer, invoice))

    async def checkout_status(self, checkout: str) -> CheckoutStatus:
        """Return the state of a Checkout Session, which is verified at Stripe first. Needs no token.

        Limited by your address, except in the same process: TooManyRequestsError. Raises NotFoundError.
        """
        return await self._run(calls.checkout_status_call(checkout))

    @abstractmethod
    async def close(self) -> None:
        """Close all connections."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @abstractmethod
    async def _send(self, request: HttpRequest) -> HttpResponse | None:
        """Send the request; None if no response came within its `timeout_s`."""

    async def _drive(self, steps: Generator[ApiCall[Any], Any, Any]) -> Any:
        """Make the calls that `steps` yields; what it returns."""
        try:
            call = next(steps)
            while True:
                try:
                    found = await self._run(call)
                except APIError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(found)
        except StopIteration as done:
            return done.value

    async def _run(self, call: ApiCall[T]) -> T:
        steps = self._steps(call)
        response: HttpResponse | None = None
        try:
            step = next(steps)
            while True:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    response = await self._send(step)
                step = steps.send(response)
        except StopIteration as done:
            result: T = done.value
            return result
