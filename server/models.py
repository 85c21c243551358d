"""The tables. Owns their columns and, above all, the unique keys that make a double credit impossible.

- `credit_grants` UNIQUE(invoice, installment): one grant for one paid invoice.
- `ledger_entries` UNIQUE(kind, reference): one entry for one business fact.
- `stripe_events` PRIMARY KEY(evt_ id): one row for one event, however often it is delivered.

Refuses to hold rules: what is written, and when, is the ledger's and the settlement's.
All times are UTC. (No backticks in a table's first line: Tortoise makes it an SQL comment.)
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from tortoise import fields
from tortoise.indexes import Index
from tortoise.models import Model

from server.core.decisions import InvoiceStatus
from server.core.facts import Road


class EntryKind(StrEnum):
    GRANT = "grant"
    SPEND = "spend"
    REVERSE = "reverse"
    EXPIRE = "expire"
    ADJUST = "adjust"


class GrantState(StrEnum):
    LIVE = "live"
    EXPIRED = "expired"
    REVERSED = "reversed"


class EventSource(StrEnum):
    """How an event came to us: Stripe delivered it, or the reconciler found it in Stripe's list."""

    WEBHOOK = "webhook"
    LIST = "list"


class Account(Model):
    """A customer of the SaaS.

    `balance` is the sum of his entries, kept in the same transaction.
    """

    id = fields.IntField(primary_key=True)
    external_id = fields.CharField(200, unique=True)
    stripe_customer = fields.CharField(255, unique=True, null=True)
    balance = fields.BigIntField(default=0)
    purchase_number = fields.IntField(default=1)
    """Part of the idempotency key of the next subscription: see purchases.py."""
    created_at = fields.DatetimeField(auto_now_add=True)

    class Meta:
        table = "accounts"


class Invoice(Model):
    """One of Stripe's invoices, and what browsers are told of it.

    `version` grows by one with each change that a browser should hear of; which of them Redis
    last took stands in `published_version`. `credits_quoted` is what the lines give once paid.
    """

    id = fields.CharField(255, primary_key=True)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField(
        "paidup.Account", "invoices", on_delete=fields.RESTRICT
    )
    customer = fields.CharField(255)
    subscription = fields.CharField(255, null=True, db_index=True)
    payment_intent = fields.CharField(255, null=True, db_index=True)
    plan = fields.CharField(40, null=True)
    price = fields.CharField(255, null=True)
    billing_reason = fields.CharField(60, null=True)
    currency = fields.CharField(3)
    amount_due_minor = fields.BigIntField()
    credits_quoted = fields.BigIntField(default=0)
    credits_expire_at = fields.DatetimeField(null=True)
    status = fields.CharEnumField(InvoiceStatus, max_length=20, default=InvoiceStatus.OPEN)
    error: Any = fields.JSONField(null=True)
    version = fields.IntField(default=1)
    published_version = fields.IntField(default=0)
    publish_due_at = fields.DatetimeField(null=True, db_index=True)
    """When somebody else should publish this version; None once it is published."""
    changed_at = fields.DatetimeField()
    settled_via = fields.CharEnumField(Road, max_length=20, null=True)
    settled_at = fields.DatetimeField(null=True, db_index=True)
    checking_until = fields.DatetimeField(null=True)
    """A lease: until then nobody else asks Stripe about this invoice."""
    next_check_at = fields.DatetimeField(null=True, db_index=True)
    """When the reconciler asks; None once the status is terminal."""
    checks_made = fields.IntField(default=0)
    created_at = fields.DatetimeField()

    account_id: int

    class Meta:
        table = "invoices"
        indexes = (Index(fields=("account_id", "status")),)


class CreditGrant(Model):
    id = fields.IntField(primary_key=True)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField(
        "paidup.Account", "grants", on_delete=fields.RESTRICT
    )
    invoice: fields.ForeignKeyRelation[Invoice] = fields.ForeignKeyField(
        "paidup.Invoice", "grants", on_delete=fields.RESTRICT
    )
    installment = fields.IntField(default=1)
    credits = fields.BigIntField()
    remaining = fields.BigIntField()
    expires_at = fields.DatetimeField(null=True)
    state = fields.CharEnumField(GrantState, max_length=10, default=GrantState.LIVE)
    created_at = fields.DatetimeField(auto_now_add=True)

    account_id: int
    invoice_id: str

    class Meta:
        table = "credit_grants"
        unique_together = (("invoice", "installment"),)
        indexes = (Index(fields=("account_id", "state", "expires_at")),)


class LedgerEntry(Model):
    """A movement of credits. Append-only.

    `credits` is signed; `reference` is the business fact that the entry stands for.
    """

    id = fields.BigIntField(primary_key=True)
    account: fields.ForeignKeyRelation[Account] = fields.ForeignKeyField(
        "paidup.Account", "entries", on_delete=fields.RESTRICT
    )
    kind = fields.CharEnumField(EntryKind, max_length=10)
    credits = fields.BigIntField()
    grant: fields.ForeignKeyNullableRelation[CreditGrant] = fields.ForeignKeyField(
        "paidup.CreditGrant", "entries", on_delete=fields.RESTRICT, null=True
    )
    reference = fields.CharField(400)
    balance_after = fields.BigIntField()
    created_at = fields.DatetimeField(auto_now_add=True)

    account_id: int

    class Meta:
        table = "ledger_entries"
        unique_together = (("kind", "reference"),)
        indexes = (Index(fields=("account_id",)),)


class StripeEvent(Model):
    """A verified delivery, kept for good.

    `handled_at` is set after it was handled, never before.
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

    class Meta:
        table = "stripe_events"


class KnownPrice(Model):
    """A Stripe price once tied to a plan. Kept, since a lookup key may move to a newer price."""

    id = fields.CharField(255, primary_key=True)
    lookup_key = fields.CharField(200)
    plan = fields.CharField(40)
    unit_amount_minor = fields.BigIntField()
    currency = fields.CharField(3)

    class Meta:
        table = "prices"


class Watermark(Model):
    """How far a sweep through Stripe's lists has come."""

    name = fields.CharField(40, primary_key=True)
    value = fields.CharField(255)
    moved_at = fields.DatetimeField()

    class Meta:
        table = "watermarks"


class TimelineEntry(Model):
    """Append-only: what happened to one invoice, and when."""

    id = fields.BigIntField(primary_key=True)
    invoice = fields.CharField(255, db_index=True)
    at = fields.DatetimeField()
    what = fields.CharField(40)
    detail: Any = fields.JSONField(null=True)

    class Meta:
        table = "timeline"
