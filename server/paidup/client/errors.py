"""Errors that the client raises: one for each problem type of docs/api.md.

APIError
├── APIConnectionError      no response in time: the call may have succeeded
│   └── UnavailableError    also an APIStatusError: the server answered 503
└── APIStatusError          the API answered with an error
"""

from __future__ import annotations

import msgspec

from paidup.client.responses import ActivatingPayment, Renewing, RunningSubscription


class APIError(Exception):
    """Base class of the client's errors."""


class APIConnectionError(APIError):
    """No response before the deadline. The call may have succeeded: retry it with the same key."""


class APIStatusError(APIError):
    """The API answered with an error. `problem` is its type in docs/api.md, such as `unknown-plan`."""

    request_id: str | None = None
    """Names the request in the server's log."""
    invoice: str | None = None
    """The invoice that prevents the call, for `payment-under-way` and `invoice-unpaid`; the subscription's
    latest one for `already-on-plan`, and for `already-subscribed` where it is what was asked for.
    """
    repeated: bool = False
    """Whether an earlier attempt of the call got no answer: it may have done what is refused now."""
    reason: str | None = None
    """Why, as a word for programs: for `change-refused` and `insufficient-credits`."""

    def __init__(self, status: int, problem: str, detail: str) -> None:
        super().__init__(f"{status} {problem}: {detail}")
        self.status = status
        self.problem = problem
        self.detail = detail
        self.subscriptions: list[RunningSubscription] = []
        """The customer's, for `already-subscribed` and `several-subscriptions`; else empty."""


class UnavailableError(APIStatusError, APIConnectionError):
    """The server could not answer before the deadline. Retry the call later with the same key."""


class InvalidInputError(APIStatusError):
    """An argument is malformed or out of range; `detail` says which."""


class UnknownPlanError(InvalidInputError):
    """No plan has this id."""


class KeyMismatchError(InvalidInputError):
    """The body's `key` and the header `Idempotency-Key` differ."""


class WebhookRefusedError(APIStatusError):
    """A delivery to the webhook endpoint is not from Stripe, malformed, or for another mode."""


class NotAuthenticatedError(APIStatusError):
    """The token is missing, invalid or expired."""


class NotAllowedError(APIStatusError):
    """The customer is known, but may not do this."""


class InsufficientScopeError(NotAllowedError):
    """The call needs a token of another `scope`."""

    scope: str


class NotFoundError(APIStatusError):
    """This customer has no such reservation, invoice or subscription."""


class MethodNotAllowedError(APIStatusError):
    """The address does not support the method."""


class TooLargeError(APIStatusError):
    """The body is larger than the server accepts."""


class ConflictError(APIStatusError):
    """The call contradicts what exists."""


class KeyReusedError(ConflictError):
    """The key was used before with another amount."""


class ReservationClosedError(ConflictError):
    """The reservation was already committed, released or expired."""


class AlreadySubscribedError(ConflictError):
    """The customer has a running subscription: see `subscriptions`."""


class AlreadyOnPlanError(ConflictError):
    """The subscription already has this plan, price and quantity."""


class NotSubscribedError(ConflictError):
    """There is no running subscription."""


class SeveralSubscriptionsError(ConflictError):
    """The call has to name one of `subscriptions`."""


class ChangeRefusedError(ConflictError):
    """Stripe does not make this change of the subscription: see `reason`."""


class InvoiceUnpaidError(ConflictError):
    """`invoice`, of the running subscription, has to be paid first."""


class PaymentUnderWayError(ConflictError):
    """Another payment of this customer, `invoice`, is being activated."""


class InsufficientCreditsError(APIStatusError):
    """The balance is too low.

    `activating` is the customer's payment in progress, `renewing` the renewal that Stripe is collecting, if
    there is one. `unit`: of which unit, where the plans file names several.
    """

    balance: int
    needed: int
    unit: str | None
    activating: ActivatingPayment | None
    renewing: Renewing | None


class TooManyRequestsError(APIStatusError):
    """The account exceeded a limit. Nothing was done; try again after `retry_after_s` seconds."""

    retry_after_s: float


class InternalServerError(APIStatusError):
    """A fault of the server, which logged it under `request_id`."""


class StripeRefusedError(APIStatusError):
    """Stripe rejected the request. Repeating it gives the same result."""


class StripeUnavailableError(UnavailableError):
    """Stripe did not respond in time."""


class StorageUnavailableError(UnavailableError):
    """The server's database did not respond."""


class IdentityUnavailableError(UnavailableError):
    """The identity provider's keys could not be fetched."""


class NotConfiguredError(UnavailableError):
    """An operator has to complete the server's configuration."""


class TooManySocketsError(UnavailableError):
    """The server holds as many WebSockets as it may."""


class RestartingError(UnavailableError):
    """The server is about to stop."""


class _ProblemDocument(msgspec.Struct, frozen=True):
    type: str = "http"
    detail: str = ""
    request_id: str | None = None
    invoice: str | None = None
    reason: str | None = None
    scope: str = ""
    balance: int = 0
    needed: int = 0
    unit: str | None = None
    activating: ActivatingPayment | None = None
    renewing: Renewing | None = None
    subscriptions: list[RunningSubscription] = []


ERRORS: dict[str, type[APIStatusError]] = {
    "webhook-refused": WebhookRefusedError,
    "key-mismatch": KeyMismatchError,
    "not-authenticated": NotAuthenticatedError,
    "insufficient-credits": InsufficientCreditsError,
    "not-allowed": NotAllowedError,
    "insufficient-scope": InsufficientScopeError,
    "not-found": NotFoundError,
    "method-not-allowed": MethodNotAllowedError,
    "payment-under-way": PaymentUnderWayError,
    "invoice-unpaid": InvoiceUnpaidError,
    "key-reused": KeyReusedError,
    "reservation-over": ReservationClosedError,
    "already-subscribed": AlreadySubscribedError,
    "already-on-plan": AlreadyOnPlanError,
    "not-subscribed": NotSubscribedError,
    "several-subscriptions": SeveralSubscriptionsError,
    "change-refused": ChangeRefusedError,
    "conflict": ConflictError,
    "too-large": TooLargeError,
    "unknown-plan": UnknownPlanError,
    "invalid-input": InvalidInputError,
    "too-many-requests": TooManyRequestsError,
    "internal": InternalServerError,
    "stripe-refused": StripeRefusedError,
    "stripe-unavailable": StripeUnavailableError,
    "storage-unavailable": StorageUnavailableError,
    "identity-unavailable": IdentityUnavailableError,
    "not-configured": NotConfiguredError,
    "too-many-sockets": TooManySocketsError,
    "restarting": RestartingError,
}
"""The error of each problem type. Any other, such as `http`, is an APIStatusError itself."""


def status_error(
    status: int, body: bytes, request_id: str = "", retry_after_s: float = 0.0
) -> APIStatusError:
    """Return the error for a response with a problem document (RFC 9457), or with anything else."""
    try:
        document = msgspec.json.decode(body, type=_ProblemDocument)
    except (msgspec.DecodeError, UnicodeDecodeError):
        document = _ProblemDocument(detail=body[:200].decode(errors="replace"))  # a proxy's error page
    problem = document.type.rpartition("/")[2]
    error = ERRORS.get(problem, APIStatusError)(status, problem, document.detail)
    error.request_id = document.request_id or request_id or None
    error.invoice, error.reason = document.invoice, document.reason
    error.subscriptions = document.subscriptions
    if isinstance(error, InsufficientCreditsError):
        error.balance, error.needed, error.unit = document.balance, document.needed, document.unit
        error.activating, error.renewing = document.activating, document.renewing
    if isinstance(error, TooManyRequestsError):
        error.retry_after_s = retry_after_s
    if isinstance(error, InsufficientScopeError):
        error.scope = document.scope
    return error
