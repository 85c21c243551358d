"""Python client for your backend: balances, spends, reservations and purchases over HTTP.

    paidup = Paidup("https://billing.example.com", signed_with(AUTH_JWT_SECRET))
    try:
        paidup.spend("user-17", 5, key="report-4711")
    except InsufficientCreditsError as error:
        show(error.activating or plans())

`Paidup` is blocking; `AsyncPaidup` has the same methods as coroutines and needs aiohttp
(`pip install "paidup[async]"`). Both are used as they are, or as context managers. They cover the
whole API: plans, account, ledger, purchases, plan changes, credits. Every method but `plans` takes
your own user id as `customer`.

Every call has a deadline. Within it, a call is retried where no response arrived or the server
answered 429, 502, 503 or 504, and never earlier than `Retry-After`. Retrying is safe for every
method: the same key, or the same pending payment, gives the same result. A retry budget keeps
many callers from making an outage worse.

This package imports msgspec, PyJWT and urllib3, and nothing of the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paidup.client.blocking import Paidup
from paidup.client.entitlements import EntitledBalance, EntitledUnit, Entitlements
from paidup.client.errors import (
    AlreadyOnPlanError,
    AlreadySubscribedError,
    APIConnectionError,
    APIError,
    APIStatusError,
    ChangeRefusedError,
    ConflictError,
    IdentityUnavailableError,
    InsufficientCreditsError,
    InsufficientScopeError,
    InternalServerError,
    InvalidInputError,
    InvoiceUnpaidError,
    KeyMismatchError,
    KeyReusedError,
    MethodNotAllowedError,
    NotAllowedError,
    NotAuthenticatedError,
    NotConfiguredError,
    NotFoundError,
    NotSubscribedError,
    PaymentUnderWayError,
    ReservationClosedError,
    RestartingError,
    SeveralSubscriptionsError,
    StorageUnavailableError,
    StripeRefusedError,
    StripeUnavailableError,
    TooLargeError,
    TooManyRequestsError,
    TooManySocketsError,
    UnavailableError,
    UnknownPlanError,
    WebhookRefusedError,
)
from paidup.client.outages import AllowDuringOutage, DeferredSpend
from paidup.client.responses import (
    AccountState,
    ActivatingPayment,
    AvailableGrant,
    ChangePreview,
    CheckoutInProgress,
    CheckoutPage,
    CheckoutStatus,
    ClaimLink,
    Credits,
    DebitUnderWay,
    Entry,
    EntryPage,
    Expiry,
    FreshTicket,
    PaymentFailure,
    PendingPayment,
    PlannedCredits,
    PlanOnSale,
    PreviewCard,
    PreviewLine,
    PriceOnSale,
    Renewing,
    ReservationResult,
    RunningSubscription,
    SecondPayment,
    SpendResult,
    Status,
    SubscriptionState,
    UnitCredits,
)
from paidup.client.tokens import TokenFactory, backend_token, page_token, signed_with

if TYPE_CHECKING:
    from paidup.client.asynchronous import AsyncPaidup

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIStatusError",
    "AccountState",
    "ActivatingPayment",
    "AllowDuringOutage",
    "AlreadyOnPlanError",
    "AlreadySubscribedError",
    "AsyncPaidup",
    "AvailableGrant",
    "ChangePreview",
    "ChangeRefusedError",
    "CheckoutInProgress",
    "CheckoutPage",
    "CheckoutStatus",
    "ClaimLink",
    "ConflictError",
    "Credits",
    "DebitUnderWay",
    "DeferredSpend",
    "EntitledBalance",
    "EntitledUnit",
    "Entitlements",
    "Entry",
    "EntryPage",
    "Expiry",
    "FreshTicket",
    "IdentityUnavailableError",
    "InsufficientCreditsError",
    "InsufficientScopeError",
    "InternalServerError",
    "InvalidInputError",
    "InvoiceUnpaidError",
    "KeyMismatchError",
    "KeyReusedError",
    "MethodNotAllowedError",
    "NotAllowedError",
    "NotAuthenticatedError",
    "NotConfiguredError",
    "NotFoundError",
    "NotSubscribedError",
    "Paidup",
    "PaymentFailure",
    "PaymentUnderWayError",
    "PendingPayment",
    "PlanOnSale",
    "PlannedCredits",
    "PreviewCard",
    "PreviewLine",
    "PriceOnSale",
    "Renewing",
    "ReservationClosedError",
    "ReservationResult",
    "RestartingError",
    "RunningSubscription",
    "SecondPayment",
    "SeveralSubscriptionsError",
    "SpendResult",
    "Status",
    "StorageUnavailableError",
    "StripeRefusedError",
    "StripeUnavailableError",
    "SubscriptionState",
    "TokenFactory",
    "TooLargeError",
    "TooManyRequestsError",
    "TooManySocketsError",
    "UnavailableError",
    "UnitCredits",
    "UnknownPlanError",
    "WebhookRefusedError",
    "backend_token",
    "page_token",
    "signed_with",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    # aiohttp is optional, and most of the import time: it is imported on the first use of AsyncPaidup.
    if name != "AsyncPaidup":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from paidup.client.asynchronous import AsyncPaidup  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ImportError('AsyncPaidup needs aiohttp: pip install "paidup[async]"') from error
    return AsyncPaidup
