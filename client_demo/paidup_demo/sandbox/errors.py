"""Stripe's errors and their envelope. Knows nothing of HTTP frameworks: a status is a number here.

StripeError                 anything the API answers with an `error` object
  InvalidRequestError            400: the caller's mistake (`param`, `code`)
  MissingError                   404: no such object, no such URL
  UnauthorizedError              401: no key, or a key that may not do this
  PermissionRefusedError         403: a restricted key that may not do this
  CardError               402: the card was declined, or is no card
  IdempotencyMismatchError       400: a key used again with other parameters
  IdempotencyBusyError           409: a key whose first request is still running
  RateLimitError               429
  LockTimeoutError             429: the object is being changed
  ServerError             500, 502, 503: Stripe's own fault
"""

from __future__ import annotations

from typing import Any

DOC_URL = "https://docs.stripe.com/error-codes/"

Json = dict[str, Any]


class StripeError(Exception):
    """An answer other than 2xx. `fields` become the `error` object of the envelope."""

    status = 400
    kind = "invalid_request_error"
    # Whether Stripe would replay this answer to the same idempotency key (it had begun to execute).
    recorded = True

    def __init__(
        self, message: str, *, code: str | None = None, param: str | None = None, **more: Any
    ) -> None:
        super().__init__(message)
        self.fields: Json = {"message": message, "type": self.kind}
        if code is not None:
            self.fields |= {"code": code, "doc_url": DOC_URL + code.replace("_", "-")}
        if param is not None:
            self.fields["param"] = param
        self.fields |= more

    def envelope(self, request_id: str) -> Json:
        """The body as Stripe sends it."""
        log = f"https://dashboard.stripe.com/test/logs/{request_id}"
        return {"error": {**self.fields, "request_log_url": log}}


class InvalidRequestError(StripeError):
    """400."""


class ParameterError(InvalidRequestError):
    """400 before anything was executed: not replayed."""

    recorded = False


class MissingError(StripeError):
    """404."""

    status = 404


class UnauthorizedError(StripeError):
    """401."""

    status = 401
    recorded = False


class PermissionRefusedError(StripeError):
    """403."""

    status = 403
    recorded = False


class CardError(StripeError):
    """402."""

    status = 402
    kind = "card_error"


class IdempotencyMismatchError(StripeError):
    """400, type idempotency_error."""

    kind = "idempotency_error"
    recorded = False


class IdempotencyBusyError(StripeError):
    """409."""

    status = 409
    kind = "idempotency_error"
    recorded = False


class RateLimitError(StripeError):
    """429. `reason` goes into the header Stripe-Rate-Limited-Reason."""

    status = 429
    recorded = False

    def __init__(self, reason: str) -> None:
        super().__init__("Request rate limit exceeded. Learn more about rate limits.", code="rate_limit")
        self.reason = reason


class LockTimeoutError(StripeError):
    """429 that concerns one object: no rate-limit reason, and Stripe says that retrying helps.

    https://docs.stripe.com/rate-limits#object-lock-timeouts
    """

    status = 429
    recorded = False

    def __init__(self) -> None:
        super().__init__(
            "This object cannot be accessed right now because another API request or Stripe process is"
            " currently accessing it. If you see this error intermittently, retry the request.",
            code="lock_timeout",
        )


class ServerError(StripeError):
    """5xx."""

    kind = "api_error"

    def __init__(self, message: str, *, status: int = 500, recorded: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.recorded = recorded


def missing(what: str, object_id: str, param: str, *, in_path: bool = False) -> StripeError:
    """Stripe's resource_missing: 404 where the URL names the object, 400 where a parameter does."""
    kind = MissingError if in_path else InvalidRequestError
    name = "PaymentMethod" if what == "payment_method" else what
    return kind(f"No such {name}: '{object_id}'", code="resource_missing", param=param)


def parameter_missing(param: str) -> StripeError:
    """A required parameter is absent."""
    return ParameterError(f"Missing required param: {param}.", code="parameter_missing", param=param)
