"""The API's calls, without I/O: what each one sends, and the type of its response."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from urllib.parse import quote, urlencode

from paidup.client.entitlements import Entitlements
from paidup.client.errors import AlreadyOnPlanError, AlreadySubscribedError, APIStatusError
from paidup.client.responses import (
    AccountState,
    ChangePreview,
    CheckoutPage,
    CheckoutStatus,
    ClaimLink,
    Credits,
    EntryPage,
    FreshTicket,
    PendingPayment,
    PlanList,
    ReservationResult,
    SpendResult,
    Status,
    SubscriptionResult,
)

T = TypeVar("T")

BACKEND = "backend"
"""The subject of a token with which no customer is meant. No account is made for it."""
PAGE = 100
"""Ledger entries of one page while iterating over all of them."""


class ApiCall(NamedTuple, Generic[T]):
    """One call of the API and the type of its response. `customer` None: it needs no token."""

    response_type: type[T]
    customer: str | None
    method: str
    path: str
    body: dict[str, Any] | None = None
    etag: str | None = None
    """Of the response that the caller has: the call then returns None where it has not changed."""
    repeatable: bool = True
    """Whether it may be sent again after an attempt that got no answer, and may have done it."""


def _given(**values: Any) -> dict[str, Any]:
    """The values that are not None; the API fills in the others."""
    return {name: value for name, value in values.items() if value is not None}


def plans_call() -> ApiCall[PlanList]:
    """GET /api/plans."""
    return ApiCall(PlanList, None, "GET", "/api/plans")


def account_call(customer: str) -> ApiCall[AccountState]:
    """GET /api/account."""
    return ApiCall(AccountState, customer, "GET", "/api/account")


def entries_call(customer: str, limit: int, starting_after: int | None) -> ApiCall[EntryPage]:
    """GET /api/account/entries."""
    query = urlencode(_given(limit=limit, starting_after=starting_after))
    return ApiCall(EntryPage, customer, "GET", f"/api/account/entries?{query}")


def account_ticket_call(customer: str) -> ApiCall[FreshTicket]:
    """POST /api/account/ticket."""
    return ApiCall(FreshTicket, customer, "POST", "/api/account/ticket")


def credits_call(customer: str) -> ApiCall[Credits]:
    """GET /api/credits."""
    return ApiCall(Credits, customer, "GET", "/api/credits")


def entitlements_call(customer: str, etag: str | None = None) -> ApiCall[Entitlements]:
    """GET /api/entitlements."""
    return ApiCall(Entitlements, customer, "GET", "/api/entitlements", None, etag)


def spend_call(
    customer: str, credits: int, key: str, reason: str | None, unit: str | None = None
) -> ApiCall[SpendResult]:
    """POST /api/credits/spend."""
    body = _given(credits=credits, key=key, reason=reason, unit=unit)
    return ApiCall(SpendResult, customer, "POST", "/api/credits/spend", body)


def reserve_call(
    customer: str, credits: int, key: str, expires_in_s: int, unit: str | None = None
) -> ApiCall[ReservationResult]:
    """POST /api/credits/reserve."""
    body = _given(credits=credits, key=key, expires_in_s=expires_in_s, unit=unit)
    return ApiCall(ReservationResult, customer, "POST", "/api/credits/reserve", body)


def commit_call(customer: str, credits: int, key: str, reason: str | None) -> ApiCall[SpendResult]:
    """POST /api/credits/commit."""
    body = _given(credits=credits, key=key, reason=reason)
    return ApiCall(SpendResult, customer, "POST", "/api/credits/commit", body)


def release_call(customer: str, key: str) -> ApiCall[SpendResult]:
    """POST /api/credits/release."""
    return ApiCall(SpendResult, customer, "POST", "/api/credits/release", {"key": key})


def subscribe_call(customer: str, plan: str, interval: str | None, quantity: int) -> ApiCall[PendingPayment]:
    """POST /api/subscriptions."""
    body = _given(plan=plan, quantity=quantity, interval=interval)
    return ApiCall(PendingPayment, customer, "POST", "/api/subscriptions", body)


def subscribe_steps(
    customer: str, plan: str, interval: str | None, quantity: int
) -> Generator[ApiCall[Any], Any, PendingPayment]:
    """The purchase. One with nothing to pay runs at once."""
    return _made_once(customer, subscribe_call(customer, plan, interval, quantity), AlreadySubscribedError)


def _made_once(
    customer: str, call: ApiCall[PendingPayment], refused: type[APIStatusError]
) -> Generator[ApiCall[Any], Any, PendingPayment]:
    """The call. Where an attempt that got no answer has done it, the next is `refused`: then its invoice."""
    try:
        made: PendingPayment = yield call
    except refused as error:
        if not error.repeated or error.invoice is None:
            raise
        made = yield adopt_call(customer, error.invoice)
    return made


def change_call(
    customer: str, plan: str, interval: str | None, quantity: int | None, subscription: str | None
) -> ApiCall[PendingPayment]:
    """POST /api/subscriptions/change."""
    body = _given(plan=plan, interval=interval, quantity=quantity, subscription=subscription)
    return ApiCall(PendingPayment, customer, "POST", "/api/subscriptions/change", body)


def change_steps(
    customer: str, plan: str, interval: str | None, quantity: int | None, subscription: str | None
) -> Generator[ApiCall[Any], Any, PendingPayment]:
    """The change."""
    return _made_once(
        customer, change_call(customer, plan, interval, quantity, subscription), AlreadyOnPlanError
    )


def preview_call(
    customer: str, plan: str, interval: str | None, quantity: int | None, subscription: str | None
) -> ApiCall[ChangePreview]:
    """POST /api/subscriptions/preview."""
    body = _given(plan=plan, interval=interval, quantity=quantity, subscription=subscription)
    return ApiCall(ChangePreview, customer, "POST", "/api/subscriptions/preview", body)


def cancel_call(customer: str, when: str, subscription: str | None) -> ApiCall[SubscriptionResult]:
    """POST /api/subscriptions/cancel. Once it has ended one at once, another may be the only one left."""
    body, repeatable = _given(when=when, subscription=subscription), when != "now" or subscription is not None
    return ApiCall(
        SubscriptionResult, customer, "POST", "/api/subscriptions/cancel", body, repeatable=repeatable
    )


def resume_call(customer: str, subscription: str | None) -> ApiCall[SubscriptionResult]:
    """POST /api/subscriptions/resume."""
    body = _given(subscription=subscription)
    return ApiCall(SubscriptionResult, customer, "POST", "/api/subscriptions/resume", body)


def top_up_call(customer: str, plan: str, quantity: int) -> ApiCall[PendingPayment]:
    """POST /api/top-ups."""
    body = {"plan": plan, "quantity": quantity}
    return ApiCall(PendingPayment, customer, "POST", "/api/top-ups", body)


class CheckoutChoices(TypedDict, total=False):
    """`plan` or `top_up`, and how it is paid."""

    plan: str
    top_up: str
    interval: str
    quantity: int
    ui: Literal["hosted", "embedded", "elements"]
    return_to: str


def checkout_call(customer: str, choices: CheckoutChoices) -> ApiCall[CheckoutPage]:
    """POST /api/checkout."""
    return ApiCall(CheckoutPage, customer, "POST", "/api/checkout", dict(choices))


def claim_call(customer: str, claim: str) -> ApiCall[CheckoutStatus]:
    """POST /api/claims."""
    return ApiCall(CheckoutStatus, customer, "POST", "/api/claims", {"claim": claim})


def claim_link_call(checkout: str) -> ApiCall[ClaimLink]:
    """POST /api/checkout/{checkout}/claim-link. It concerns no customer yet: the token names the backend."""
    path = f"/api/checkout/{quote(checkout, safe='')}/claim-link"
    return ApiCall(ClaimLink, BACKEND, "POST", path, {})


def adopt_call(customer: str, invoice: str) -> ApiCall[PendingPayment]:
    """POST /api/invoices."""
    return ApiCall(PendingPayment, customer, "POST", "/api/invoices", {"invoice": invoice})


def status_call(customer: str, invoice: str) -> ApiCall[Status]:
    """GET /api/invoices/{invoice}."""
    return ApiCall(Status, customer, "GET", f"/api/invoices/{quote(invoice, safe='')}")


def ticket_call(customer: str, invoice: str) -> ApiCall[FreshTicket]:
    """POST /api/invoices/{invoice}/ticket."""
    return ApiCall(FreshTicket, customer, "POST", f"/api/invoices/{quote(invoice, safe='')}/ticket")


def checkout_status_call(checkout: str) -> ApiCall[CheckoutStatus]:
    """GET /api/checkout/{checkout}."""
    return ApiCall(CheckoutStatus, None, "GET", f"/api/checkout/{quote(checkout, safe='')}")
