"""The tables: their columns, and the unique keys that make a double credit impossible.

- `credit_grants` UNIQUE(invoice, installment): one grant for one paid invoice.
- `ledger_entries` UNIQUE(kind, reference): one entry for one business fact.
- `stripe_events` PRIMARY KEY(evt_ id): one row for one event, however often it is delivered.
- `reversals` PRIMARY KEY(Stripe's id), `reservations` UNIQUE(account, key).
- `stripe_customers` PRIMARY KEY(cus_ id): one account for one customer.
- `credit_grants` UNIQUE(correction), `audit_log` UNIQUE(key): one grant for one operator's correction.
- `checkout_sessions` PRIMARY KEY(cs_ id). A session without an invoice is a row of `invoices` of its own id.

Holds no rules: what is written, and when, is decided by the ledger and the settlement.
All times are UTC. (No backticks in a table's first line: Tortoise makes it an SQL comment.)
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from tortoise import fields
from tortoise.indexes import Index
from tortoise.models import Model

import paidup.db.model_comments  # noqa: F401 (before the classes below)
from paidup.db.indexes import ConditionalIndex
from paidup.domain.catalog import Interval
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.entitlements import ENDED
from paidup.domain.payment_facts import Source
from paidup.domain.units import DEFAULT_UNIT, MAX_UNIT_NAME


class EntryKind(StrEnum):
    """Why the balance changed. Negative: spend, reserve, freeze, reverse, expire."""

    GRANT = "grant"
    SPEND = "spend"
    RESERVE = "reserve"
    RELEASE = "release"
    FREEZE = "freeze"
    REVERSE = "reverse"
    RESTORE = "restore"
    EXPIRE = "expire"
    ADJUST = "adjust"


class Action(StrEnum):
    """What an operator did. The second of each pair undoes the first, up to `MERGE`."""

    GRANT = "grant"
    REVOKE = "revoke"
    ADJUST = "adjust"
    LINK = "link"
    UNLINK = "unlink"
    DISMISS = "dismiss"
    REOPEN = "reopen"
    MERGE = "merge"
    ERASE = "erase"
    CREATE_ENDPOINT = "create_endpoint"
    CHANGE_ENDPOINT = "change_endpoint"
    DELETE_ENDPOINT = "delete_endpoint"
    ROTATE_SECRET = "rotate_secret"  # noqa: S105
    REPLAY = "replay"


class GrantState(StrEnum):
    PLANNED = "planned"
    """An installment of a yearly plan that is not due yet. It holds no credits."""
    LIVE = "live"
    EXPIRED = "expired"
    CANCELED = "canceled"
    """A planned installment whose subscription has ended."""


class ReversalKind(StrEnum):
    """How the money of a paid invoice was returned or disputed."""

    REFUND = "refund"
    DISPUTE = "dispute"
    CREDIT_NOTE = "credit_note"


class ReservationState(StrEnum):
    HELD = "held"
    COMMITTED = "committed"
    RELEASED = "released"
    EXPIRED = "expired"


SPENDABLE = "state = 'live' AND remaining > 0"
"""The grants that have credits to spend."""
WITH_CREDITS = "state = 'live' AND remaining <> 0"
"""The same grants, for the index by account.

It is not written alike: where PostgreSQL's statistics are old, it could read the index of `SPENDABLE`, which
has those of all accounts, to find those of one.
"""
ROLLS_OVER = "rollover_cap > 0"
"""The grants of which unused credits stay after their end, or have stayed."""
NOT_ENDED = f"status NOT IN {ENDED}"
"""The subscriptions that have not ended."""
WITHOUT_INVOICE = "invoice IS NULL AND status IN ('complete', 'open')"
"""The Checkout Sessions that are paid without an invoice so far, or may still be."""
PLANNED = "state = 'planned'"
"""The installments of yearly plans that are not granted yet."""
UNHANDLED = "outcome = 'unhandled_type'"
"""The events of types that Paidup does not handle."""


class EventSource(StrEnum):
    """How an event arrived: Stripe delivered it, or the reconciler found it in Stripe's list."""

    WEBHOOK = "webhook"
    LIST = "list"


class Account(Model):
    """A customer of the SaaS.

    `balance` is the sum of its entries, changed in the same transaction; a negative balance is a debt. It is
    of the default unit, like `held` and `low_balance`.
    `version` grows with each entry, and where what its subscriptions give changes, so that an account session
    can discard old messages.
    """

    id = fields.IntField(primary_key=True)
    external_id = fields.CharField(200, unique=True)
    stripe_customer = fields.CharField(255, unique=True, null=True)
    """The customer that new purchases use. `stripe_customers` has all that the account ever had."""
    balance = fields.BigIntField(default=0)
    version = fields.IntField(default=0, db_default=0)
    held = fields.BigIntField(default=0, db_default=0)
    """How many credits its reservations hold now. They are not in `balance`."""
    unit_balances: Any = fields.JSONField(null=True)
    """By other units than the default one: `balance`, `held` and `low_balance`. See db/unit_accounts.py."""
    known_subscriptions: Any = fields.JSONField(null=True)
    """Those that have not ended, else the newest: see payments/entitlements.py. None: not written yet."""
    purchase_number = fields.IntField(default=1)
    """Part of the idempotency key of the next subscription: see subscriptions/checkout.py."""
    low_balance = fields.BigIntField(null=True)
    """A balance at or below it is low, which its plan says: an outbound event tells of the crossing."""
    merged_into = fields.IntField(null=True)
    """The account that has all that was its own: see operations/merging.py. It answers for this one."""
    created_at = fields.DatetimeField(auto_now_add=True)

    unit = DEFAULT_UNIT

    class Meta:
        table = "accounts"
        indexes = (ConditionalIndex(fields=("merged_into",), condition="merged_into IS NOT NULL"),)


class StripeCustomer(Model):
    """A customer at Stripe, and the account that it belongs to for good. An account may have several.

    Kept when Stripe's customer is deleted, since its invoices and refunds are still the account's.
    """

    id = fields.CharField(255, primary_key=True)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField(
        "paidup.Account", "stripe_customers", on_delete=fields.RESTRICT
    )
    deleted_at = fields.DatetimeField(null=True)
    """When Paidup learned that Stripe has deleted it."""
    created_at = fields.DatetimeField(auto_now_add=True)

    account_id: int

    class Meta:
        table = "stripe_customers"
        indexes = (Index(fields=("account_id",)),)


class Invoice(Model):
    """One of Stripe's invoices, and what browsers are told of it.

    A Checkout Session that was paid without an invoice is one, too: its `id` is the session's, `cs_...`, and
    its `customer` is empty where Stripe made none.
    `version` grows by one with each change that is published; `published_version` is the last one that Redis
    accepted. `credits_quoted` is granted with the payment; `quote` is all that the lines give, and when
    (domain/quotes.py).
    """

    id = fields.CharField(255, primary_key=True)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField(
        "paidup.Account", "invoices", on_delete=fields.RESTRICT
    )
    customer = fields.CharField(255)
    subscription = fields.CharField(255, null=True, db_index=True)
    payment_intent = fields.CharField(255, null=True, db_index=True)
    checkout = fields.CharField(255, null=True)
    """The Checkout Session that it came from."""
    plan = fields.CharField(40, null=True)
    price = fields.CharField(255, null=True)
    billing_reason = fields.CharField(60, null=True)
    currency = fields.CharField(3)
    amount_due_minor = fields.BigIntField()
    credits_quoted = fields.BigIntField(default=0)
    credits_offset = fields.BigIntField(default=0, db_default=0)
    """How many credits carried over from downgrades were offset against it: domain/credit_schedule.py."""
    quote: Any = fields.JSONField(null=True)
    total_minor = fields.BigIntField(default=0, db_default=0)
    from_balance_minor = fields.BigIntField(default=0, db_default=0)
    finalized_at = fields.DatetimeField(null=True)
    sequence = fields.IntField(default=0, db_default=0)
    """Stripe's sequence number. With `finalized_at` it gives Stripe's order."""
    affects_others = fields.BooleanField(default=False, db_default=False)
    """Its grants depend on other invoices of the account, or theirs on it."""
    has_reversals = fields.BooleanField(default=False, db_default=False)
    """Whether it has reversals. Saves each settlement a query."""
    credits_reversed = fields.BigIntField(default=0, db_default=0)
    """How many granted credits were reversed: see credits/reversals.py."""
    credits_unrecoverable = fields.BigIntField(default=0, db_default=0)
    """How many of these could not be taken back: expired unused, or forgiven."""
    credits_forgiven = fields.BigIntField(default=0, db_default=0)
    """How many of these are forgiven: spent, or reserved and possibly returned later."""
    credits_owed = fields.BigIntField(default=0, db_default=0)
    """How many reversed credits became a debt, whether or not it has been paid since."""
    reserved_through = fields.BigIntField(default=0, db_default=0)
    """The newest reservation when credits were last forgiven or owed: see credits/reversals.py."""
    unit_credits: Any = fields.JSONField(null=True)
    """By other units than the default one: what the columns `credits_...` and this one before say of that."""
    status = fields.CharEnumField(InvoiceStatus, max_length=20, default=InvoiceStatus.OPEN)
    error: Any = fields.JSONField(null=True)
    version = fields.IntField(default=1)
    published_version = fields.IntField(default=0)
    publish_due_at = fields.DatetimeField(null=True, db_index=True)
    """When the reconciler publishes this version; None once it is published."""
    changed_at = fields.DatetimeField()
    payment_seen_at = fields.DatetimeField(null=True)
    """When Stripe first showed it as paid, while its credits cannot be computed yet; else None."""
    payment_method = fields.CharField(40, null=True)
    """The type of the payment method of the latest attempt, where it is known: `sepa_debit`."""
    processing_since = fields.DatetimeField(null=True)
    """When a payment of it was first seen in processing; None while none is."""
    voucher: Any = fields.JSONField(null=True)
    """The voucher that this payment waits for: `delayed_methods.Voucher`."""
    debit_failed = fields.BooleanField(default=False, db_default=False)
    """Whether a bank debit of it has failed: an account is given no credits on trust after one of its own."""
    credits_on_trust = fields.BigIntField(default=0, db_default=0)
    """How many credits were granted while its payment is processing: see credits/trust.py."""
    settled_via = fields.CharEnumField(Source, max_length=20, null=True)
    settled_at = fields.DatetimeField(null=True, db_index=True)
    provisioning_until = fields.DatetimeField(null=True)
    """Until then, browsers are not told that it is active: its plan waits for the SaaS's endpoints."""
    lease_expires_at = fields.DatetimeField(null=True)
    """Until then, one process verifies this invoice and the others do not."""
    next_check_at = fields.DatetimeField(null=True, db_index=True)
    """When the reconciler verifies it next; None once the status is terminal."""
    checks_made = fields.IntField(default=0)
    traceparent = fields.CharField(55, null=True)
    """Where its trace began: see runtime/tracing.py."""
    created_at = fields.DatetimeField()

    account_id: int
    unit = DEFAULT_UNIT

    class Meta:
        table = "invoices"
        indexes = (
            Index(fields=("account_id", "status", "created_at")),
            ConditionalIndex(("account_id",), "has_reversals", "idx_invoices_has_reversals"),
            ConditionalIndex(("account_id",), "affects_others", "idx_invoices_affects_others"),
        )


class CheckoutSession(Model):
    """One of Stripe's Checkout Sessions as it was last read. It grants nothing: its invoice's row does.

    `account` None: made elsewhere, and of nobody yet. `purchase`: "subscription", or the top-up's plan; None
    where it was made elsewhere. An account has one open session for each purchase: an older one is
    `superseded_by` a newer session or invoice, in the transaction that inserts it.
    """

    id = fields.CharField(255, primary_key=True)
    account: fields.ForeignKeyNullableRelation[Account] = fields.ForeignKeyField(
        "paidup.Account", "checkout_sessions", on_delete=fields.RESTRICT, null=True
    )
    mode = fields.CharField(20)
    purchase = fields.CharField(60, null=True)
    status = fields.CharField(20)
    payment_status = fields.CharField(30)
    plan = fields.CharField(40, null=True)
    price = fields.CharField(255, null=True)
    quantity = fields.IntField(default=1)
    currency = fields.CharField(3, null=True)
    amount_minor = fields.BigIntField(null=True)
    customer = fields.CharField(255, null=True)
    client_reference = fields.CharField(255, null=True)
    named_by_payer = fields.BooleanField(default=False, db_default=False)
    """Only its `client_reference_id` says whose it is, which anybody may write into a Payment Link."""
    payment_intent = fields.CharField(255, null=True, db_index=True)
    subscription = fields.CharField(255, null=True, db_index=True)
    invoice = fields.CharField(255, null=True, db_index=True)
    """The row of `invoices` that it became."""
    return_to = fields.CharField(2000, null=True)
    superseded_by = fields.CharField(255, null=True)
    """The session or invoice that replaced it. While it is still open at Stripe, it is to be expired."""
    duplicate_of = fields.CharField(255, null=True)
    """A second payment for one purchase: the subscription, session or invoice that was paid as well."""
    resolution = fields.CharField(20, null=True)
    """What was done about a second payment, or one of nobody's: "refunded", "credited" or "kept"."""
    resolved_at = fields.DatetimeField(null=True)
    claimed_at = fields.DatetimeField(null=True)
    expires_at = fields.DatetimeField()
    completed_at = fields.DatetimeField(null=True, db_index=True)
    """When it was first read as complete."""
    fetched_at = fields.DatetimeField(null=True)
    """When it was read from Stripe. A read that began earlier changes nothing."""
    lease_expires_at = fields.DatetimeField(null=True)
    next_check_at = fields.DatetimeField(null=True, db_index=True)
    checks_made = fields.IntField(default=0)
    created_at = fields.DatetimeField()

    account_id: int | None

    class Meta:
        table = "checkout_sessions"
        indexes = (
            Index(fields=("account_id", "status")),
            ConditionalIndex(("account_id", "created_at"), WITHOUT_INVOICE),
            Index(fields=("duplicate_of",)),
            ConditionalIndex(fields=("client_reference",), condition="client_reference IS NOT NULL"),
        )


class CreditGrant(Model):
    """Credits that came together: of an invoice, or of an operator's `correction`.

    While LIVE, `remaining` may be spent. `frozen` is withheld by an open dispute. `expires_at` None: never.
    `usable_until`: until when its credits can be used after `expires_at`, while a renewal is awaited.
    With a `rollover_cap`, unused credits stay after the expiry, up to the cap over all grants. `due_at`: when
    a PLANNED installment is granted.
    """

    id = fields.IntField(primary_key=True)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField(
        "paidup.Account", "grants", on_delete=fields.RESTRICT
    )
    invoice: fields.ForeignKeyNullableRelation[Invoice] = fields.ForeignKeyField(
        "paidup.Invoice", "grants", on_delete=fields.RESTRICT, null=True
    )
    correction = fields.CharField(40, null=True)
    """The row of `audit_log` that gave it, where no invoice did."""
    installment = fields.IntField(default=1)
    plan = fields.CharField(40, null=True)
    unit = fields.CharField(MAX_UNIT_NAME, default=DEFAULT_UNIT, db_default=DEFAULT_UNIT)
    credits = fields.BigIntField()
    remaining = fields.BigIntField()
    frozen = fields.BigIntField(default=0, db_default=0)
    expired = fields.BigIntField(default=0, db_default=0)
    rollover_cap = fields.BigIntField(default=0, db_default=0)
    due_at = fields.DatetimeField(null=True)
    expires_at = fields.DatetimeField(null=True)
    usable_until = fields.DatetimeField(null=True)
    state = fields.CharEnumField(GrantState, max_length=10, default=GrantState.LIVE)
    created_at = fields.DatetimeField(auto_now_add=True)

    account_id: int
    invoice_id: str | None

    class Meta:
        table = "credit_grants"
        unique_together = (("invoice", "installment"), ("correction",))
        indexes = (
            Index(fields=("account_id", "state", "usable_until")),
            ConditionalIndex(fields=("due_at",), condition=PLANNED),
            ConditionalIndex(fields=("expires_at",), condition=SPENDABLE),
            # With `state`: else SQLite prefers the first one.
            ConditionalIndex(("account_id", "state", "expires_at", "id"), WITH_CREDITS),
            ConditionalIndex(("account_id", "state", "rollover_cap"), f"{WITH_CREDITS} AND {ROLLS_OVER}"),
        )


class LedgerEntry(Model):
    """A movement of credits. Append-only.

    `credits` is signed. `reference` identifies the business fact behind the entry; `reason` describes it to
    the customer.
    """

    id = fields.BigIntField(primary_key=True)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField(
        "paidup.Account", "entries", on_delete=fields.RESTRICT
    )
    kind = fields.CharEnumField(EntryKind, max_length=10)
    unit = fields.CharField(MAX_UNIT_NAME, default=DEFAULT_UNIT, db_default=DEFAULT_UNIT)
    credits = fields.BigIntField()
    grant: fields.ForeignKeyNullableRelation[CreditGrant] = fields.ForeignKeyField(
        "paidup.CreditGrant", "entries", on_delete=fields.RESTRICT, null=True
    )
    reference = fields.CharField(400)
    reason = fields.CharField(200, default="", db_default="")
    balance_after = fields.BigIntField()
    created_at = fields.DatetimeField()

    account_id: int

    class Meta:
        table = "ledger_entries"
        unique_together = (("kind", "reference"),)
        indexes = (Index(fields=("account_id", "id")),)


class Subscription(Model):
    """A subscription as Stripe last showed it, never as events arrived.

    `fetched_at` is when it was read from Stripe; `refresh_at` when to read it again, None if no change is
    known. `pending_plan` awaits its payment.
    """

    id = fields.CharField(255, primary_key=True)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField(
        "paidup.Account", "subscriptions", on_delete=fields.RESTRICT
    )
    status = fields.CharField(30, default="incomplete")
    plan = fields.CharField(40, null=True)
    price = fields.CharField(255, null=True)
    quantity = fields.IntField(default=1)
    pending_plan = fields.CharField(40, null=True)
    current_period_end = fields.DatetimeField(null=True)
    cancel_at = fields.DatetimeField(null=True)
    ended_at = fields.DatetimeField(null=True)
    latest_invoice = fields.CharField(255, null=True)
    paid_elsewhere = fields.CharField(255, null=True)
    """Its latest paid invoice when it was taken up, "" if that is not paid: none until then is credited."""
    collection_paused = fields.BooleanField(default=False, db_default=False)
    """Its invoices are not collected for now (`pause_collection`); its status does not say so."""
    fetched_at = fields.DatetimeField(null=True)
    refresh_at = fields.DatetimeField(null=True, db_index=True)
    collection_at = fields.DatetimeField(null=True)
    """When Stripe has said that it will next collect the renewal."""
    created_at = fields.DatetimeField(auto_now_add=True)

    account_id: int

    class Meta:
        table = "subscriptions"
        indexes = (
            Index(fields=("account_id", "created_at", "id")),
            ConditionalIndex(("account_id", "created_at", "id"), NOT_ENDED, "idx_subscriptions_not_ended"),
        )


class Reversal(Model):
    """Money that went back, or is in dispute: a refund, a dispute or a credit note of Stripe's."""

    id = fields.CharField(255, primary_key=True)
    kind = fields.CharEnumField(ReversalKind, max_length=12)
    invoice: fields.ForeignKeyRelation[Invoice] = fields.ForeignKeyField(
        "paidup.Invoice", "reversals", on_delete=fields.RESTRICT
    )
    amount_minor = fields.BigIntField()
    status = fields.CharField(40)
    withdrawn = fields.BooleanField(null=True)
    """Whether a dispute's money is away from the merchant's balance; None where Stripe did not say."""
    fetched_at = fields.DatetimeField(null=True)
    """When it was read from Stripe. A read that began earlier changes nothing."""
    changes = fields.IntField(default=0, db_default=0)
    """How often it has changed: part of its entries' references, since a status may come again."""
    changed_at = fields.DatetimeField()

    invoice_id: str

    class Meta:
        table = "reversals"
        indexes = (Index(fields=("invoice_id",)),)


class Reservation(Model):
    """Credits set aside for work whose cost is known only afterwards. UNIQUE(account, key).

    `sources` are the grants that they were taken from, to which unused credits return.
    """

    id = fields.BigIntField(primary_key=True)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField(
        "paidup.Account", "reservations", on_delete=fields.RESTRICT
    )
    key = fields.CharField(200)
    unit = fields.CharField(MAX_UNIT_NAME, default=DEFAULT_UNIT, db_default=DEFAULT_UNIT)
    credits = fields.BigIntField()
    used = fields.BigIntField(default=0)
    sources: Any = fields.JSONField()
    state = fields.CharEnumField(ReservationState, max_length=10, default=ReservationState.HELD)
    expires_at = fields.DatetimeField()
    created_at = fields.DatetimeField(auto_now_add=True)

    account_id: int

    class Meta:
        table = "reservations"
        unique_together = (("account", "key"),)
        indexes = (
            Index(fields=("state", "expires_at")),
            ConditionalIndex(fields=("account_id",), condition="state = 'held'"),
        )


class StripeEvent(Model):
    """A verified delivery, kept for good.

    `handled_at` is set in the transaction that handles it, or after, never before.
    """

    id = fields.CharField(255, primary_key=True)
    type = fields.CharField(100)
    api_version = fields.CharField(40, null=True)
    payload = fields.TextField()
    source = fields.CharEnumField(EventSource, max_length=10, default=EventSource.WEBHOOK)
    received_at = fields.DatetimeField(db_index=True)
    handled_at = fields.DatetimeField(null=True, db_index=True)
    attempts = fields.IntField(default=0)
    next_attempt_at = fields.DatetimeField(null=True, db_index=True)
    outcome = fields.CharField(200, null=True)
    error = fields.TextField(null=True)
    dismissed_by = fields.CharField(200, null=True)
    dismissed_because = fields.TextField(null=True)

    class Meta:
        table = "stripe_events"
        indexes = (ConditionalIndex(("received_at",), UNHANDLED, "idx_stripe_events_unhandled"),)


class KnownPrice(Model):
    """A Stripe price once tied to a plan. Kept, since a lookup key may move to a newer price."""

    id = fields.CharField(255, primary_key=True)
    lookup_key = fields.CharField(200)
    plan = fields.CharField(40)
    unit_amount_minor = fields.BigIntField()
    currency = fields.CharField(3)
    interval = fields.CharEnumField(Interval, max_length=10, default=Interval.MONTH, db_default="month")
    product = fields.CharField(255, null=True)
    """Stripe's product; None in a row from before it was kept, until the price is read again."""
    currency_options: Any = fields.JSONField(null=True)
    """What one unit costs in the price's other currencies: {"eur": 2700}."""

    class Meta:
        table = "prices"


class Watermark(Model):
    """How far a sweep through Stripe's lists has come."""

    name = fields.CharField(40, primary_key=True)
    value = fields.CharField(255)
    moved_at = fields.DatetimeField()

    class Meta:
        table = "watermarks"


class StripeReads(Model):
    """How often all processes have read from Stripe in a month (UTC): see stripe_api/read_count.py."""

    month = fields.CharField(7, primary_key=True)
    reads = fields.BigIntField()

    class Meta:
        table = "stripe_reads"


class Correction(Model):
    """What an operator did, and why. Append-only, but for what an erasure takes out.

    `key` is the operator's idempotency key; `digest` is of what was asked for under it. `details` says what
    was asked, `before` and `after` what it changed.
    """

    id = fields.CharField(40, primary_key=True)
    at = fields.DatetimeField(db_index=True)
    actor = fields.CharField(200)
    action = fields.CharField(20)
    account: fields.ForeignKeyNullableRelation[Account] = fields.ForeignKeyField(
        "paidup.Account", "corrections", on_delete=fields.RESTRICT, null=True
    )
    key = fields.CharField(200, unique=True)
    digest = fields.CharField(64)
    reason = fields.TextField()
    details: Any = fields.JSONField()
    before: Any = fields.JSONField()
    after: Any = fields.JSONField()

    account_id: int | None

    class Meta:
        table = "audit_log"
        indexes = (Index(fields=("account_id",)),)


class TimelineEntry(Model):
    """Append-only: what happened to one invoice, and when."""

    id = fields.BigIntField(primary_key=True)
    invoice = fields.CharField(255, db_index=True)
    at = fields.DatetimeField()
    event_type = fields.CharField(40)
    detail: Any = fields.JSONField(null=True)

    class Meta:
        table = "timeline"
