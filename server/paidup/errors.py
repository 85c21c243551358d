"""Every error that Paidup raises on purpose.

    PaidupError
    ├── ConfigurationError      the settings contradict themselves or lack something
    ├── InvalidInput            a caller's value is malformed, unknown or out of range
    │   ├── UnknownPlan
    │   └── WebhookRefused      bad signature, bad body, wrong mode
    ├── NotAuthenticated        nobody is named, or the proof is false or expired
    ├── NotAllowed              somebody is named, and this is not his
    │   └── InsufficientScope   a browser's token asks for what only the backend may do
    ├── NotFound
    ├── Conflict                the request contradicts what exists
    │   ├── KeyReused           an idempotency key came again with another amount
    │   ├── ReservationOver     it was committed, released or expired before
    │   ├── AlreadySubscribed
    │   ├── AlreadyOnPlan
    │   ├── NotSubscribed
    │   ├── InvoiceUnpaid       a renewal has to be paid before anything is changed
    │   └── PaymentUnderWay     another payment is being activated
    ├── InsufficientCredits
    ├── TooManyRequests         one account asks for more than its limit: try again later
    ├── StripeError
    │   ├── StripeUnavailable   network, 5xx, 429, or our own budget: try again
    │   └── StripeRefused       Stripe says that the request is wrong: do not try again
    ├── IdentityUnavailable     the identity provider's keys cannot be fetched: try again
    └── StorageUnavailable      the database did not take it: try again

Errors carry data. Which HTTP status one becomes is chosen at the edge, in `web/problems.py`.
"""

from __future__ import annotations


class PaidupError(Exception):
    """The root: catch this to catch all that is raised on purpose."""


class ConfigurationError(PaidupError):
    """The settings cannot work; `problems` says each reason, ready to be printed."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class InvalidInput(PaidupError):
    """A value from outside is malformed, unknown or out of range."""


class UnknownPlan(InvalidInput):
    def __init__(self, plan: str, known: list[str]) -> None:
        super().__init__(f"There is no plan {plan!r}. There are: {', '.join(known)}.")
        self.plan = plan


class WebhookRefused(InvalidInput):
    """The delivery is not Stripe's, not whole, or not for this mode."""


class NotAuthenticated(PaidupError):
    """No identity, or one whose proof is false or expired."""


class NotAllowed(PaidupError):
    """A known identity asks for what is not its own."""


class InsufficientScope(NotAllowed):
    """The customer is known, but the request needs a token of another scope; `scope` names it."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"This needs a token with the scope {scope!r}, which stays on your backend.")
        self.scope = scope


class NotFound(PaidupError):
    pass


class Conflict(PaidupError):
    pass


class KeyReused(Conflict):
    def __init__(self, key: str, credits: int) -> None:
        super().__init__(f"The key {key!r} was already used for {credits} credits.")
        self.key = key
        self.credits = credits


class ReservationOver(Conflict):
    """`state` says how it ended: committed, released or expired."""

    def __init__(self, key: str, state: str) -> None:
        super().__init__(f"The reservation {key!r} is over: it is {state}.")
        self.key = key
        self.state = state


class AlreadySubscribed(Conflict):
    def __init__(self, subscription: str) -> None:
        super().__init__("This customer already has a running subscription.")
        self.subscription = subscription


class AlreadyOnPlan(Conflict):
    def __init__(self, plan: str) -> None:
        super().__init__(f"The subscription is on {plan!r} already, at this price and quantity.")
        self.plan = plan


class NotSubscribed(Conflict):
    def __init__(self) -> None:
        super().__init__("There is no running subscription. Subscribe to a plan first.")


class InvoiceUnpaid(Conflict):
    """An invoice of the running subscription has to be paid first; `invoice` names it."""

    def __init__(self, invoice: str) -> None:
        super().__init__("The subscription's last invoice is unpaid. Please pay it first.")
        self.invoice = invoice


class PaymentUnderWay(Conflict):
    """Another payment of this customer is on its way; `invoice` names it."""

    def __init__(self, invoice: str) -> None:
        super().__init__("A payment is already being activated. Nothing need be paid again.")
        self.invoice = invoice


class InsufficientCredits(PaidupError):
    def __init__(self, balance: int, needed: int) -> None:
        super().__init__(f"{needed} credits are needed, the balance is {balance}.")
        self.balance = balance
        self.needed = needed


class TooManyRequests(PaidupError):
    """One account asked for more than its limit; `retry_after_s` is when it may ask again."""

    def __init__(self, what: str, retry_after_s: float) -> None:
        super().__init__(f"Too many {what} for this account. Please wait a moment.")
        self.retry_after_s = retry_after_s


class StripeError(PaidupError):
    """`final`: Stripe processed the request, and replays this answer to its idempotency key."""

    final = False


class StripeUnavailable(StripeError):
    """Stripe did not answer, or not yet: the same call may succeed later."""

    def __init__(self, reason: str, retry_after_s: float = 1.0, final: bool = False) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.final = final


class StripeRefused(StripeError):
    """Stripe understood and said no; asking again gives the same answer."""

    final = True

    def __init__(self, reason: str, code: str | None = None, http_status: int | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.http_status = http_status


class IdentityUnavailable(PaidupError):
    pass


class StorageUnavailable(PaidupError):
    pass
