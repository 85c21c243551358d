"""The errors that Paidup raises.

    PaidupError
    ├── ConfigurationError      the settings are contradictory or incomplete
    ├── InvalidInput            a caller's value is malformed, unknown or out of range
    │   ├── UnknownPlan
    │   ├── KeyMismatch         the body and the header name different idempotency keys
    │   └── WebhookRefused      bad signature, malformed body, wrong mode
    ├── NotAuthenticated        no identity, or its proof is invalid or expired
    ├── NotAllowed              the identity is known, but may not do this
    │   └── InsufficientScope   the request needs a scope that only the backend has
    ├── NotFound
    ├── Conflict                the request contradicts what exists
    │   ├── KeyReused           an idempotency key was used for another amount or unit
    │   ├── ReservationOver     it was already committed, released or expired
    │   ├── AlreadySubscribed
    │   ├── AlreadyOnPlan
    │   ├── NotSubscribed
    │   ├── SeveralSubscriptions    the request has to say which one
    │   ├── ChangeRefused   Stripe does not make this change of the subscription
    │   ├── InvoiceUnpaid       a renewal has to be paid before a plan change
    │   └── PaymentUnderWay     another payment is being activated
    ├── InsufficientCredits
    ├── TooManyRequests         the account or the address exceeded a limit: try again later
    ├── StripeError
    │   ├── StripeUnavailable   network, 5xx, 429, or our rate limiter: try again
    │   └── StripeRefused       Stripe rejects the request: do not try again
    ├── IdentityUnavailable     the identity provider's keys cannot be fetched: try again
    └── StorageUnavailable      the database is unreachable or refuses: try again
        ├── TransactionAborted  in favour of another transaction
        ├── OutcomeUnknown      it took too long: the same key gives its result
        └── DatabaseUnreachable     at the start: it does not answer at its address

Errors carry data. `web/problems.py` maps them to HTTP statuses.
"""

from __future__ import annotations


class PaidupError(Exception):
    """The base class of all errors that Paidup raises."""


class ConfigurationError(PaidupError):
    """The settings cannot work. `problems` lists the reasons, ready to be printed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class InvalidInput(PaidupError):
    """A caller's value is malformed, unknown or out of range."""


class UnknownPlan(InvalidInput):
    """No plan has this id; `plan` is what was asked for."""

    def __init__(self, plan: str, known: list[str]) -> None:
        super().__init__(f"There is no plan {plan!r}. There are: {', '.join(known)}.")
        self.plan = plan


class KeyMismatch(InvalidInput):
    """The body and the header `Idempotency-Key` name different keys."""

    def __init__(self) -> None:
        super().__init__("The body's `key` and the header Idempotency-Key differ. Please send one of them.")


class WebhookRefused(InvalidInput):
    """The delivery is not from Stripe, malformed, or for another mode."""


class NotAuthenticated(PaidupError):
    """No identity, or its proof is invalid or expired."""


class NotAllowed(PaidupError):
    """The identity is known, but may not do this."""


class InsufficientScope(NotAllowed):
    """The customer is known, but the request needs a token of another scope; `scope` names it."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"This needs a token with the scope '{scope}', which stays on your backend.")
        self.scope = scope


class NotFound(PaidupError):
    """This customer has no such invoice or reservation."""


class Conflict(PaidupError):
    """The request contradicts what exists."""


class KeyReused(Conflict):
    """The idempotency `key` was already used for another amount: `credits` of `unit`."""

    def __init__(self, key: str, credits: int, unit: str = "") -> None:
        super().__init__(f"The key {key!r} was already used for {credits} {unit or 'credits'}.")
        self.key = key
        self.credits = credits


class ReservationOver(Conflict):
    """The reservation has ended. `state`: committed, released or expired."""

    def __init__(self, key: str, state: str) -> None:
        super().__init__(f"The reservation {key!r} is over: it is {state}.")
        self.key = key
        self.state = state


class AlreadySubscribed(Conflict):
    """The customer has a running subscription; `subscriptions` has its id, plan and status.

    `invoice` is its latest one, where it has the plan, price and quantity that were asked for.
    """

    def __init__(self, subscriptions: list[dict[str, str | None]], invoice: str | None = None) -> None:
        super().__init__("This customer already has a running subscription.")
        self.subscriptions = subscriptions
        self.invoice = invoice


class AlreadyOnPlan(Conflict):
    """The subscription already has this plan, price and quantity. `invoice` is its latest one."""

    def __init__(self, plan: str, invoice: str | None) -> None:
        super().__init__(f"The subscription is on {plan!r} already, at this price and quantity.")
        self.plan = plan
        self.invoice = invoice


class NotSubscribed(Conflict):
    """A plan change or a cancellation needs a running subscription."""

    def __init__(self) -> None:
        super().__init__("There is no running subscription. Subscribe to a plan first.")


class SeveralSubscriptions(Conflict):
    """The request has to say which one; `subscriptions` has the id, plan and status of each."""

    def __init__(self, subscriptions: list[dict[str, str | None]]) -> None:
        super().__init__("This customer has several subscriptions. Please name one as `subscription`.")
        self.subscriptions = subscriptions


class ChangeRefused(Conflict):
    """Stripe does not make this change of the subscription. `reason` is a word for programs."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class InvoiceUnpaid(Conflict):
    """An invoice of the running subscription has to be paid first; `invoice` names it."""

    def __init__(self, invoice: str) -> None:
        super().__init__("The subscription's last invoice is unpaid. Please pay it first.")
        self.invoice = invoice


class PaymentUnderWay(Conflict):
    """Another payment of this customer is being activated; `invoice` names it."""

    def __init__(self, invoice: str) -> None:
        super().__init__("A payment is already being activated. You do not need to pay again.")
        self.invoice = invoice


class InsufficientCredits(PaidupError):
    """The balance is too low: `needed` is more than `balance`, both in credits of `unit`."""

    def __init__(self, balance: int, needed: int, unit: str = "") -> None:
        super().__init__(f"{needed} {unit or 'credits'} are needed, the balance is {balance}.")
        self.balance = balance
        self.needed = needed
        self.unit = unit


class TooManyRequests(PaidupError):
    """The account or the address exceeded a limit. Try again after `retry_after_s` seconds."""

    def __init__(self, what: str, retry_after_s: float, whose: str = "this account") -> None:
        super().__init__(f"Too many {what} for {whose}. Please wait a moment.")
        self.retry_after_s = retry_after_s


class ServerBusy(PaidupError):
    """This process takes no more connections that wait. Try again after `retry_after_s` seconds."""

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class TooManySockets(ServerBusy):
    """A limit on open connections is reached: of the process, the address, or what is watched."""

    def __init__(self, scope: str, retry_after_s: float) -> None:
        super().__init__(f"Too many sockets for {scope}. Try again later.", retry_after_s)


class Restarting(ServerBusy):
    """The process is draining its connections."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__("This process is shutting down. Try again.", retry_after_s)


class StripeError(PaidupError):
    """A call to Stripe failed. `final`: Stripe repeats this response for the request's idempotency key."""

    final = False


class StripeUnavailable(StripeError):
    """Stripe did not respond in time. The same call may succeed after `retry_after_s` seconds."""

    def __init__(self, reason: str, retry_after_s: float = 1.0, final: bool = False) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.final = final


class StripeRefused(StripeError):
    """Stripe rejected the request. Retrying gives the same response. `code` is Stripe's error code."""

    final = True

    def __init__(self, reason: str, code: str | None = None, http_status: int | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.http_status = http_status

    @property
    def is_missing(self) -> bool:
        """Whether Stripe has no such object."""
        return self.code == "resource_missing"


class IdentityUnavailable(PaidupError):
    """The identity provider's keys cannot be fetched. The same request may succeed later."""


class StorageUnavailable(PaidupError):
    """The database is unreachable or refuses. Nothing was changed; the same request may succeed later."""


class TransactionAborted(StorageUnavailable):
    """The database aborted this transaction in favour of another one (a deadlock). Nothing was changed."""


class OutcomeUnknown(StorageUnavailable):
    """What was asked took too long, and may still be done. The same key gives its result, or does it once."""


class DatabaseUnreachable(StorageUnavailable):
    """The database does not answer at its address. The text is one line that says what to do."""
