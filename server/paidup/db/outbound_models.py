"""The tables of outbound events: what the SaaS's own systems are told, where, and how each delivery went.

- `outbound_events` UNIQUE(message): one id for one event, however often it is delivered.
- `event_deliveries` UNIQUE(event, endpoint): one for each endpoint; a replay is the same row.
- `event_endpoints` UNIQUE(name).

An event is written in the transaction that moves the books: see db/outbox.py. Holds no rules.
All times are UTC. (No backticks in a table's first line: Tortoise makes it an SQL comment.)
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from tortoise import fields
from tortoise.indexes import Index, PartialIndex
from tortoise.models import Model

from paidup.db.indexes import ConditionalIndex
from paidup.db.models import Account

_OF_ACCOUNT = ("endpoint_id", "account_id", "event_id")
_PENDING = "state = 'pending'"


class EndpointState(StrEnum):
    ENABLED = "enabled"
    DISABLED = "disabled"
    """Nothing is sent to it, and later events make no deliveries for it."""
    DELETED = "deleted"
    """Like disabled, and shown nowhere: its row is kept for its deliveries."""


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"
    """Given up after its last try, or since its endpoint was disabled. It can be replayed."""


class OutboundEvent(Model):
    """An event for the SaaS's own systems.

    `id` grows in the order of the commits, for each account: the account is locked when it is inserted.
    `version` is the account's, and only grows. `balance` is the one after the event. Both are of no account
    where `account` is None: a payment that belongs to nobody yet.
    """

    id = fields.BigIntField(primary_key=True)
    message = fields.CharField(40, unique=True)
    """The `webhook-id` of each delivery: random, since a restored database counts its ids again."""
    account: fields.ForeignKeyNullableRelation[Account] = fields.ForeignKeyField(
        "paidup.Account", "outbound_events", on_delete=fields.RESTRICT, null=True
    )
    type = fields.CharField(60)
    invoice = fields.CharField(255, null=True, db_index=True)
    subscription = fields.CharField(255, null=True)
    version = fields.IntField(default=0)
    balance = fields.BigIntField(null=True)
    data: Any = fields.JSONField()
    """The few facts of its type: domain/outbound_events.py."""
    fanned_out = fields.BooleanField(default=False)
    """Whether its deliveries were made, one for each endpoint that wants it."""
    created_at = fields.DatetimeField()

    account_id: int | None

    class Meta:
        table = "outbound_events"
        indexes = (
            Index(fields=("account_id", "id")),
            PartialIndex(fields=("id",), condition={"fanned_out": False}),
        )


class EventEndpoint(Model):
    """Where events are sent: an address of the SaaS's own.

    `types` [] means all. While `old_secret_until` is ahead, deliveries are signed with both secrets.
    """

    id = fields.IntField(primary_key=True)
    name = fields.CharField(255, unique=True)
    url = fields.CharField(2000)
    types: Any = fields.JSONField()
    secret = fields.CharField(255)
    old_secret = fields.CharField(255, null=True)
    old_secret_until = fields.DatetimeField(null=True)
    state = fields.CharEnumField(EndpointState, max_length=10, default=EndpointState.ENABLED)
    disabled_at = fields.DatetimeField(null=True)
    disabled_because = fields.CharField(400, null=True)
    from_settings = fields.BooleanField(default=False)
    """Whether the settings name it: then they change it, and nothing else does."""
    failures = fields.IntField(default=0)
    """How many deliveries have failed in a row."""
    failing_since = fields.DatetimeField(null=True)
    """When the first of these failed."""
    retry_at = fields.DatetimeField(null=True)
    """Nothing is sent to it before then: it has failed several times in a row."""
    created_at = fields.DatetimeField(auto_now_add=True)

    class Meta:
        table = "event_endpoints"


class EventDelivery(Model):
    """One event's delivery to one endpoint, and how its last attempt went.

    `next_attempt_at` is also its lease: the process that sends it moves that ahead. One that waits behind
    another of its account may be put off by it: outbound/order.py. A replayed delivery keeps its order among
    the replayed ones, and the others do not wait for it.
    """

    id = fields.BigIntField(primary_key=True)
    event: fields.ForeignKeyRelation[OutboundEvent] = fields.ForeignKeyField(
        "paidup.OutboundEvent", "deliveries", on_delete=fields.CASCADE
    )
    endpoint: fields.ForeignKeyRelation[EventEndpoint] = fields.ForeignKeyField(
        "paidup.EventEndpoint", "deliveries", on_delete=fields.RESTRICT
    )
    account_id = fields.IntField(null=True)
    """The event's account: repeated here for the order of its deliveries."""
    state = fields.CharEnumField(DeliveryState, max_length=10, default=DeliveryState.PENDING)
    attempts = fields.IntField(default=0)
    next_attempt_at = fields.DatetimeField(null=True)
    last_attempt_at = fields.DatetimeField(null=True)
    delivered_at = fields.DatetimeField(null=True)
    replayed_at = fields.DatetimeField(null=True)
    """When it was last replayed; None for a delivery that was only made once."""
    status_code = fields.IntField(null=True)
    answer = fields.TextField(null=True)
    """The beginning of the last answer's body, as text."""
    error = fields.CharField(200, null=True)
    """Why the last attempt failed, in a few words."""
    duration_ms = fields.IntField(null=True)
    created_at = fields.DatetimeField()

    event_id: int
    endpoint_id: int

    class Meta:
        table = "event_deliveries"
        unique_together = (("event", "endpoint"),)
        indexes = (
            PartialIndex(fields=("endpoint_id", "next_attempt_at"), condition={"state": "pending"}),
            ConditionalIndex(
                _OF_ACCOUNT, f"{_PENDING} AND replayed_at IS NULL", "idx_event_deliveries_order"
            ),
            ConditionalIndex(
                _OF_ACCOUNT, f"{_PENDING} AND replayed_at IS NOT NULL", "idx_event_deliveries_replays"
            ),
            PartialIndex(fields=("endpoint_id", "id"), condition={"state": "dead"}),
        )
