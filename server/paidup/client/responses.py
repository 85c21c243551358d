"""Types of the API's successful responses (docs/api.md)."""

from __future__ import annotations

from datetime import date, datetime

import msgspec


class PaymentFailure(msgspec.Struct, frozen=True):
    """Why the bank or Stripe refused the payment."""

    code: str
    message: str
    decline_code: str | None = None


class DebitUnderWay(msgspec.Struct, frozen=True):
    """A payment that takes days. `message` is for the customer, and suits a page and a mail.

    `method` is Stripe's (`sepa_debit`), `name` for people. `expected_at`: by when the bank usually answers.
    `kind` is "debit" or "voucher". Of a voucher: `pay_by` is the last day on which it can be paid, and
    `voucher_url` where its customer sees it.
    """

    method: str
    name: str
    since: datetime
    expected_at: datetime
    credits_on_trust: int
    message: str
    kind: str = "debit"
    pay_by: date | None = None
    voucher_url: str | None = None


class Status(msgspec.Struct, frozen=True):
    """The state of one invoice; docs/protocol.md lists the values.

    `stage` is "awaiting_payment" while Stripe says that nothing was paid, and "delayed" only for a payment
    that was made. `checkout` is the Checkout Session that it came from; `replaced_by`, of a void invoice, the
    one that the customer has paid since instead.
    """

    invoice: str
    version: int
    status: str
    stage: str
    plan: str | None
    credits_granted: int
    balance: int
    via: str | None
    at: datetime
    error: PaymentFailure | None = None
    processing: DebitUnderWay | None = None
    checkout: str | None = None
    replaced_by: str | None = None
    units_granted: dict[str, int] = {}
    """What it has granted of other units than the default one."""

    @property
    def active(self) -> bool:
        """Whether the invoice's credits are granted."""
        return self.status == "active"


class CheckoutStatus(msgspec.Struct, frozen=True):
    """The state of one Checkout Session; docs/protocol.md lists the values.

    `stage` is "unclaimed" for a payment that is not assigned to an account yet. `return_to` is where the
    customer goes on, once it is active.
    """

    checkout: str
    version: int
    status: str
    stage: str
    plan: str | None
    credits_granted: int
    via: str | None
    at: datetime
    error: PaymentFailure | None = None
    return_to: str | None = None
    units_granted: dict[str, int] = {}

    @property
    def active(self) -> bool:
        """Whether the session's credits are granted."""
        return self.status == "active"


class ActivatingPayment(msgspec.Struct, frozen=True):
    """A payment in progress. Pass `invoice` and `ticket` to the browser's `activate()`.

    `reason` is Stripe's `billing_reason`: "subscription_create", "subscription_cycle" for a renewal,
    "subscription_update" for a plan change, "manual" for a top-up. `checkout` is the Checkout Session that
    it came from, if any.
    """

    invoice: str
    ticket: str
    status: Status
    reason: str | None = None
    checkout: str | None = None


class Renewing(msgspec.Struct, frozen=True):
    """A renewal that Stripe is collecting. The customer has nothing to pay or to wait for.

    `since`: when its period began. `expected_at`: when Stripe charges the customer next, if that is known.
    `reason` is Stripe's `billing_reason`.
    """

    subscription: str
    plan: str | None
    invoice: str | None
    since: datetime
    expected_at: datetime | None
    reason: str = "subscription_cycle"


class AvailableGrant(msgspec.Struct, frozen=True):
    """Credits that came together and can still be spent: until `usable_until`, if that is set.

    `expires_at` is when their period ends; they outlast it while a renewal is awaited.
    """

    invoice: str | None
    plan: str | None
    credits: int
    remaining: int
    expires_at: datetime | None
    usable_until: datetime | None = None


class Expiry(msgspec.Struct, frozen=True):
    """When credits expire next, and how many."""

    at: datetime
    credits: int


class UnitCredits(msgspec.Struct, frozen=True):
    """A customer's credits of another unit than the default one, as in Credits."""

    balance: int
    available: int
    held: int
    debt: int
    low_balance: int | None
    expiring: list[Expiry]


class Credits(msgspec.Struct, frozen=True):
    """A customer's credits. A negative `balance` is a debt.

    `available` can be spent, `held` is reserved and not spent, `debt` is owed. `expiring` is what expires if
    it is not spent, soonest first. A balance at or below `low_balance` is low. `grants` are those that are
    spent first, at most 100. All of it is of the default unit; `units` has the others, where the plans file
    names several.
    """

    balance: int
    grants: list[AvailableGrant]
    next_expiry: Expiry | None
    activating: ActivatingPayment | None
    renewing: Renewing | None = None
    available: int = 0
    held: int = 0
    debt: int = 0
    low_balance: int | None = None
    expiring: list[Expiry] = []
    units: dict[str, UnitCredits] = {}


class SpendResult(msgspec.Struct, frozen=True):
    """The balance after a spend, a commit or a release; `credits` is the amount of that call.

    `deferred`: Paidup did not answer, and it is charged later under the same key. Then `balance` is what is
    left of the last one that this client knows, or of 0. `unit`: where the plans file names several.
    """

    balance: int
    credits: int
    key: str
    deferred: bool = False
    unit: str | None = None


class ReservationResult(msgspec.Struct, frozen=True):
    """A reservation, and the balance after it. `unit`: where the plans file names several."""

    key: str
    credits: int
    expires_at: datetime
    balance: int
    unit: str | None = None


class RunningSubscription(msgspec.Struct, frozen=True):
    """A subscription of the customer's; `status` is Stripe's."""

    id: str
    plan: str | None
    status: str


class PendingPayment(msgspec.Struct, frozen=True):
    """A payment to make. `client_secret` is for Stripe.js; None if nothing is due."""

    invoice: str
    client_secret: str | None
    ticket: str
    status: Status


class FreshTicket(msgspec.Struct, frozen=True):
    """A ticket for one WebSocket address, until `expires_at`."""

    ticket: str
    expires_at: datetime


class PriceOnSale(msgspec.Struct, frozen=True):
    """A price, in the currency's smallest unit. `interval`: "month", "year", or "once" for a top-up."""

    lookup_key: str
    amount_minor: int
    currency: str
    interval: str


class PlanOnSale(msgspec.Struct, frozen=True):
    """A plan or a top-up. `credits` are per month and seat, or for each piece of a top-up.

    Where the plans file names several units, `unit` is that of `credits`, and `grants` has what it gives of
    others.
    """

    id: str
    name: str
    description: str
    credits: int
    top_up: bool
    max_quantity: int
    prices: list[PriceOnSale]
    unit: str | None = None
    grants: dict[str, int] = {}


class PlanList(msgspec.Struct, frozen=True):
    """All plans, in display order."""

    plans: list[PlanOnSale]


class SubscriptionState(msgspec.Struct, frozen=True):
    """A subscription as last fetched from Stripe; `status` is Stripe's.

    `pending_plan` is the plan after a change whose payment is pending; `cancel_at` is when it will end.
    """

    id: str
    status: str
    plan: str | None
    interval: str | None
    quantity: int
    pending_plan: str | None
    current_period_end: datetime | None
    cancel_at: datetime | None
    collection_paused: bool
    ended_at: datetime | None


class SubscriptionResult(msgspec.Struct, frozen=True):
    """The subscription after a cancellation, or after it was undone."""

    subscription: SubscriptionState


class PlannedCredits(msgspec.Struct, frozen=True):
    """Credits of a yearly plan that will be granted later."""

    credits: int
    plan: str | None
    due_at: datetime | None
    unit: str | None = None


class CheckoutPage(msgspec.Struct, frozen=True):
    """A Checkout Session to pay: redirect the browser to `url`, or give it `client_secret`.

    `status` is Stripe's. Where it is "complete", it was paid a moment ago, and both are None: show the
    activating screen with its id.
    """

    checkout: str
    status: str
    expires_at: datetime
    url: str | None = None
    client_secret: str | None = None


class ClaimLink(msgspec.Struct, frozen=True):
    """A link for the customer of a payment that belongs to nobody yet. Send it to them alone.

    `url` is CLAIM_URL with the token in `claim`, or None where that is not set.
    """

    checkout: str
    claim: str
    url: str | None
    expires_at: datetime


class CheckoutInProgress(msgspec.Struct, frozen=True):
    """A Checkout Session that the customer may be paying, or has paid a moment ago."""

    checkout: str
    status: str
    payment_status: str
    plan: str | None
    expires_at: datetime


class SecondPayment(msgspec.Struct, frozen=True):
    """A second payment for one purchase. Both are credited, until an operator does something about it."""

    checkout: str
    duplicate_of: str | None
    plan: str | None
    at: datetime | None


PLAN_RUNS = frozenset({"active", "trialing", "past_due"})
"""Stripe's statuses of a subscription whose customer has its plan: also while a renewal is retried."""


class AccountState(msgspec.Struct, frozen=True):
    """A customer's balance and subscriptions.

    `subscriptions` are all that run; where none does, the last one, which has ended or was never paid.
    `subscription` is the first of them. Whether a customer has a plan is in `running_plans`.
    """

    balance: int
    subscription: SubscriptionState | None
    subscriptions: list[SubscriptionState]
    installments: list[PlannedCredits]
    activating: ActivatingPayment | None
    renewing: Renewing | None
    checkout: CheckoutInProgress | None = None
    paid_twice: list[SecondPayment] = []

    @property
    def running_plans(self) -> frozenset[str]:
        """The plans that the customer has now: paid, in their trial, or while a renewal is retried."""
        return frozenset(one.plan for one in self.subscriptions if one.plan and one.status in PLAN_RUNS)


class Entry(msgspec.Struct, frozen=True):
    """A movement of credits: `credits` is signed, `balance` is the one after it.

    `key` is your key of the spend or the reservation that it belongs to, if it belongs to one.
    """

    id: int
    kind: str
    credits: int
    balance: int
    reason: str
    at: datetime
    key: str | None = None
    unit: str | None = None
    """Where the plans file names several."""


class EntryPage(msgspec.Struct, frozen=True):
    """One page of the ledger, newest first. The next one starts after the last entry's `id`."""

    entries: list[Entry]
    has_more: bool


class PreviewLine(msgspec.Struct, frozen=True):
    """A line of an invoice, as Stripe describes it. Below zero, it reduces the amount."""

    description: str
    amount_minor: int


class PreviewCard(msgspec.Struct, frozen=True):
    """The saved card that would be charged. `brand` is Stripe's name of the network, such as `visa`."""

    brand: str
    last4: str


class ChangePreview(msgspec.Struct, frozen=True):
    """What a change of plan would cost now, in the currency's smallest unit.

    `amount_due_minor` would be charged. A `total_minor` below zero would be kept for later invoices.
    `card` is None where nothing would be charged, or no card that may be shown.
    """

    plan: str
    interval: str
    quantity: int
    currency: str
    amount_due_minor: int
    total_minor: int
    lines: list[PreviewLine]
    card: PreviewCard | None = None
