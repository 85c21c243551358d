"""Errors that the client raises."""

from __future__ import annotations

import msgspec

from paidup.client.responses import ActivatingPayment, Renewing, RunningSubscription


class APIError(Exception):
    """Base class of the client's errors."""


class APIConnectionError(APIError):
    """No response before the deadline. The call may have succeeded: retry it with the same key."""


class APIStatusError(APIError):
    """The API answered with an error. `problem` is its type in docs/api.md, such as `unknown-plan`."""

    subscriptions: list[RunningSubscription]
    """The customer's running subscriptions, for `already-subscribed`; else empty."""

    def __init__(self, status: int, problem: str, detail: str, invoice: str | None = None) -> None:
        super().__init__(f"{status} {problem}: {detail}")
        self.status = status
        self.problem = problem
        self.detail = detail
        self.subscriptions = []
        self.invoice = invoice
        """The invoice that prevents the call, for `payment-under-way` and `invoice-unpaid`."""


class NotFoundError(APIStatusError):
    """This customer has no such reservation or invoice."""


class KeyReusedError(APIStatusError):
    """The key was used before with another amount."""


class ReservationClosedError(APIStatusError):
    """The reservation was already committed, released or expired."""


class InsufficientCreditsError(APIStatusError):
    """The balance is too low.

    `activating` is the customer's payment in progress, `renewing` the renewal that Stripe is collecting, if
    there is one.
    """

    balance: int
    needed: int
    activating: ActivatingPayment | None
    renewing: Renewing | None


class _ProblemDocument(msgspec.Struct, frozen=True):
    type: str = "http"
    detail: str = ""
    invoice: str | None = None
    balance: int = 0
    needed: int = 0
    activating: ActivatingPayment | None = None
    renewing: Renewing | None = None
    subscriptions: list[RunningSubscription] = []


_ERRORS: dict[str, type[APIStatusError]] = {
    "not-found": NotFoundError,
    "key-reused": KeyReusedError,
    "reservation-over": ReservationClosedError,
    "insufficient-credits": InsufficientCreditsError,
}


def status_error(status: int, body: bytes) -> APIStatusError:
    """Return the error for a response with a problem document (RFC 9457), or with anything else."""
    try:
        document = msgspec.json.decode(body, type=_ProblemDocument)
    except (msgspec.DecodeError, UnicodeDecodeError):
        document = _ProblemDocument(detail=body[:200].decode(errors="replace"))  # a proxy's error page
    problem = document.type.rpartition("/")[2]
    error = _ERRORS.get(problem, APIStatusError)(status, problem, document.detail, document.invoice)
    error.subscriptions = document.subscriptions
    if isinstance(error, InsufficientCreditsError):
        error.balance, error.needed = document.balance, document.needed
        error.activating, error.renewing = document.activating, document.renewing
    return error
