"""The blocking client, on urllib3."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any, Self, TypeVar, Unpack

import urllib3

from paidup.client import calls
from paidup.client.calls import ApiCall, CheckoutChoices
from paidup.client.deadline_pools import POOL_CLASSES
from paidup.client.entitlements import Entitlements
from paidup.client.errors import APIError
from paidup.client.outages import AllowDuringOutage, DeferredSpend
from paidup.client.remembering import MAX_AGE_S, RememberingCaller
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
from paidup.client.retries import DEADLINE_S, HttpRequest, HttpResponse, web_address
from paidup.client.tokens import TokenFactory

T = TypeVar("T")


class Paidup(RememberingCaller):
    """Blocking client. Safe to share between threads. Close it, or use it as a context manager.

    `base_url` is the server's address; `token_for` makes a backend token for a user id (`signed_with`).
    A call is retried for at most `deadline_s` seconds. It then raises APIConnectionError, after which it
    may have succeeded: retry it with the same key. Other errors are subclasses of APIStatusError.
    `outage`: what to do while Paidup does not answer; without it, spends are refused.
    """

    def __init__(
        self,
        base_url: str,
        token_for: TokenFactory,
        deadline_s: float = DEADLINE_S,
        entitlements_max_age_s: float = MAX_AGE_S,
        outage: AllowDuringOutage | None = None,
    ) -> None:
        super().__init__(web_address(base_url), token_for, deadline_s, entitlements_max_age_s, outage)
        self._pool = urllib3.PoolManager(maxsize=20, retries=False)
        self._pool.pool_classes_by_scheme = POOL_CLASSES

    def plans(self) -> list[PlanOnSale]:
        """Return the plans and top-ups on sale, with their prices. Needs no token."""
        return self._run(calls.plans_call()).plans

    def account(self, customer: str) -> AccountState:
        """Return the balance, the subscriptions, and the payment in progress.

        The customer's account is created on first use, here and in every other method.
        """
        return self._run(calls.account_call(customer))

    def entries_page(self, customer: str, limit: int = 50, starting_after: int | None = None) -> EntryPage:
        """Return up to `limit` (at most 100) entries of the ledger, newest first.

        `starting_after` is the last `id` of the page before.
        """
        return self._run(calls.entries_call(customer, limit, starting_after))

    def entries(self, customer: str, limit: int = calls.PAGE) -> Iterator[Entry]:
        """Iterate over the whole ledger, newest first. `limit` is the number of entries in a request."""
        after: int | None = None
        while True:
            page = self.entries_page(customer, limit, after)
            yield from page.entries
            if not page.has_more:
                return
            after = page.entries[-1].id

    def account_ticket(self, customer: str) -> FreshTicket:
        """Return a ticket for the WebSocket of the customer's balance."""
        return self._run(calls.account_ticket_call(customer))

    def credits(self, customer: str) -> Credits:
        """Return the balance, the grants that can be spent, and the payment in progress."""
        return self._run(calls.credits_call(customer))

    def entitlements(self, customer: str) -> Entitlements:
        """Return what the customer may use now: plan, features, limits and balance.

        Kept for up to a minute, or until `on_event` gets an event of the customer's; then asked for with its
        ETag. In an outage, as the client's policy says: the last known ones, or APIConnectionError.
        """
        found: Entitlements = self._drive(self._asking_entitlements(customer))
        return found

    def spend(
        self, customer: str, credits: int, key: str, reason: str | None = None, unit: str | None = None
    ) -> SpendResult:
        """Spend `credits` (a whole number, at least 1) at most once for each `key`.

        `reason` is shown in the customer's ledger; `unit` is one of the plans file, its first by default.
        The same `key` and amount return the first result again. Raises InsufficientCreditsError, or
        KeyReusedError if the key was used with another amount or unit. In an outage, the client's
        policy may allow it and charge it later: see `deferred` of the result.
        """
        found: SpendResult = self._drive(self._spending(DeferredSpend(customer, credits, key, reason, unit)))
        return found

    def send_deferred(self) -> int:
        """Charge the spends that an outage has deferred. Return how many are left.

        Each successful spend charges some as well. Call this now and then, and before `close`, with a
        policy of AllowDuringOutage.
        """
        left: int = self._drive(self._sending_deferred(len(self.deferred)))
        return left

    def reserve(
        self, customer: str, credits: int, key: str, expires_in_s: int = 900, unit: str | None = None
    ) -> ReservationResult:
        """Reserve `credits` for `expires_in_s` seconds, at most once for each `key`. `unit` as in `spend`.

        Raises InsufficientCreditsError, KeyReusedError and ReservationClosedError (the key's
        reservation was committed, released or expired).
        """
        return self._run(calls.reserve_call(customer, credits, key, expires_in_s, unit))

    def commit(self, customer: str, credits: int, key: str, reason: str | None = None) -> SpendResult:
        """Spend `credits` (0 or more) of the reservation `key` and return the rest to the balance.

        `reason` is shown in the customer's ledger. Raises NotFoundError, KeyReusedError if it was
        committed with another amount, or ReservationClosedError if it was released or has expired.
        """
        return self._run(calls.commit_call(customer, credits, key, reason))

    def release(self, customer: str, key: str) -> SpendResult:
        """Return all credits of the reservation `key` to the balance, if it has not ended.

        Raises NotFoundError, or ReservationClosedError if it was committed.
        """
        return self._run(calls.release_call(customer, key))

    def subscribe(
        self, customer: str, plan: str, interval: str | None = None, quantity: int = 1
    ) -> PendingPayment:
        """Create a subscription to pay, or return the one that is already pending.

        `plan` is an id from the plans file; `interval` is "month" or "year", by default the plan's
        first. Raises UnknownPlanError, AlreadySubscribedError, PaymentUnderWayError, InvalidInputError.
        """
        made: PendingPayment = self._drive(calls.subscribe_steps(customer, plan, interval, quantity))
        return made

    def change(
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
        made: PendingPayment = self._drive(
            calls.change_steps(customer, plan, interval, quantity, subscription)
        )
        return made

    def preview(
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
        return self._run(calls.preview_call(customer, plan, interval, quantity, subscription))

    def cancel(
        self, customer: str, when: str = "period_end", subscription: str | None = None
    ) -> SubscriptionState:
        """Cancel the subscription at the end of its period, or with `when` "now" at once.

        An end at once is only retried where you name the `subscription`: else it could end a second one.
        Raises NotSubscribedError, SeveralSubscriptionsError (name a `subscription`), ChangeRefusedError.
        """
        return self._run(calls.cancel_call(customer, when, subscription)).subscription

    def resume(self, customer: str, subscription: str | None = None) -> SubscriptionState:
        """Undo a cancellation that has not taken effect yet. Raises what `cancel` raises."""
        return self._run(calls.resume_call(customer, subscription)).subscription

    def top_up(self, customer: str, plan: str, quantity: int = 1) -> PendingPayment:
        """Buy credits once, or return the top-up that is already pending.

        Raises UnknownPlanError, PaymentUnderWayError, or InvalidInputError if `plan` is no top-up.
        """
        return self._run(calls.top_up_call(customer, plan, quantity))

    def checkout(self, customer: str, **choices: Unpack[CheckoutChoices]) -> CheckoutPage:
        """Return a Checkout Session for the customer to pay on a page of Stripe's, or the open one again.

        Give `plan` (with an `interval`) or `top_up`; `ui` is "hosted" (the default), "embedded" or
        "elements", and `return_to` is where they go on to once it is active. Raises
        AlreadySubscribedError, PaymentUnderWayError, UnknownPlanError, InvalidInputError.
        """
        return self._run(calls.checkout_call(customer, choices))

    def claim_link(self, checkout: str) -> ClaimLink:
        """Return a link with which its customer, once logged in, claims a payment that belongs to nobody.

        Raises NotFoundError, or ConflictError if it has an account already or nobody has paid.
        """
        return self._run(calls.claim_link_call(checkout))

    def claim(self, customer: str, claim: str) -> CheckoutStatus:
        """Make a payment the customer's, by the token of a claim link: once, and again for the same customer.

        Raises ConflictError if it is another customer's, or InvalidInputError if the link has expired.
        """
        return self._run(calls.claim_call(customer, claim))

    def adopt(self, customer: str, invoice: str) -> PendingPayment:
        """Track an invoice that you created in Stripe yourself.

        Raises NotFoundError if it does not belong to this customer.
        """
        return self._run(calls.adopt_call(customer, invoice))

    def status(self, customer: str, invoice: str) -> Status:
        """Return the stored state of this customer's invoice. Does not call Stripe.

        Raises NotFoundError.
        """
        return self._run(calls.status_call(customer, invoice))

    def ticket(self, customer: str, invoice: str) -> FreshTicket:
        """Return a new ticket for the WebSocket of this customer's invoice. Raises NotFoundError."""
        return self._run(calls.ticket_call(customer, invoice))

    def checkout_status(self, checkout: str) -> CheckoutStatus:
        """Return the state of a Checkout Session, which is verified at Stripe first. Needs no token.

        Limited by your address, except in the same process: TooManyRequestsError. Raises NotFoundError.
        """
        return self._run(calls.checkout_status_call(checkout))

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drive(self, steps: Generator[ApiCall[Any], Any, Any]) -> Any:
        """Make the calls that `steps` yields; what it returns."""
        try:
            call = next(steps)
            while True:
                try:
                    found = self._run(call)
                except APIError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(found)
        except StopIteration as done:
            return done.value

    def _run(self, call: ApiCall[T]) -> T:
        steps = self._steps(call)
        response: HttpResponse | None = None
        try:
            step = next(steps)
            while True:
                if isinstance(step, float):
                    time.sleep(step)
                else:
                    response = self._send(step)
                step = steps.send(response)
        except StopIteration as done:
            result: T = done.value
            return result

    def _send(self, request: HttpRequest) -> HttpResponse | None:
        timeout = urllib3.Timeout(total=request.timeout_s)
        try:
            response = self._pool.request(
                request.method,
                request.url,
                body=request.body,
                headers=request.headers,
                timeout=timeout,
                redirect=False,
            )
        except urllib3.exceptions.HTTPError:
            return None
        headers = response.headers
        return HttpResponse(
            response.status,
            headers.get("Retry-After", ""),
            response.data,
            headers.get("X-Request-Id", ""),
            headers.get("ETag", ""),
        )
