"""Deliveries of events: what was sent where, what was answered, and what is left to do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from tortoise.queryset import QuerySet

from paidup.db.accounts import find_account
from paidup.db.connection import storage_errors
from paidup.db.models import Account, Invoice
from paidup.db.outbound_models import DeliveryState, EventDelivery, OutboundEvent
from paidup.domain.endpoint_urls import without_secrets
from paidup.domain.outbound_events import OutboundFacts, payload
from paidup.errors import InvalidInput, NotFound
from paidup.operations.audit_log import with_merged
from paidup.operations.event_endpoints import find_endpoint

MAX_PAGE = 100
_LONGEST = {"endpoint": 200, "account": 200, "state": 20, "type": 60, "invoice": 255, "event": 40}
"""Characters."""


class DeliveryFilter(msgspec.Struct, frozen=True):
    """Which deliveries to list; "": all. `account` is your user id, `event` a `msg_` id."""

    endpoint: str = ""
    account: str = ""
    state: str = ""
    type: str = ""
    invoice: str = ""
    event: str = ""


class DeliveryDetails(msgspec.Struct, frozen=True, kw_only=True):
    """One event's delivery to one endpoint, and how its last attempt went."""

    id: int
    event: str
    type: str
    account: str | None
    invoice: str | None
    endpoint: str
    state: DeliveryState
    attempts: int
    created_at: datetime
    last_attempt_at: datetime | None
    next_attempt_at: datetime | None
    delivered_at: datetime | None
    replayed_at: datetime | None
    status_code: int | None
    error: str | None
    duration_ms: int | None

    @property
    def newest_at(self) -> datetime:
        """When it was last heard of."""
        return self.delivered_at or self.last_attempt_at or self.created_at

    @property
    def outcome(self) -> str:
        """Its state, and why it is not delivered."""
        return f"{self.state}, {self.error}" if self.error else str(self.state)


class DeliveryRequest(msgspec.Struct, frozen=True):
    """What is sent. `url` has no user and no query: a key may be in them.

    `webhook-timestamp` and `webhook-signature` are of each attempt, and not kept.
    """

    url: str
    headers: dict[str, str]
    body: str


class DeliveryAnswer(msgspec.Struct, frozen=True):
    """The beginning of what the endpoint answered last."""

    status_code: int
    body: str


class DeliveryReport(DeliveryDetails, frozen=True, kw_only=True):
    """A delivery with its request and its last answer."""

    request: DeliveryRequest
    answer: DeliveryAnswer | None


class DeliveryPage(msgspec.Struct, frozen=True):
    """The newest first. `next`: where the next page begins (`before`), None after the last."""

    deliveries: list[DeliveryDetails]
    next: int | None


async def list_deliveries(wanted: DeliveryFilter, before: int | None, limit: int) -> DeliveryPage:
    """A page of the deliveries that match. Raises NotFound (endpoint), InvalidInput, StorageUnavailable."""
    with storage_errors():
        found = await _matching(wanted)
        if before is not None:
            found = found.filter(id__lt=before)
        rows = await found.order_by("-id").limit(limit + 1).select_related("event", "endpoint")
        shown = rows[:limit]
        names = await _account_names(row.account_id for row in shown)
    details = [_to_details(row, names) for row in shown]
    return DeliveryPage(details, shown[-1].id if len(rows) > limit else None)


async def read_delivery(delivery: int) -> DeliveryReport:
    """One delivery with its request and its last answer. Raises NotFound, StorageUnavailable."""
    with storage_errors():
        row = await EventDelivery.get_or_none(id=delivery).select_related("event", "endpoint")
        if row is None:
            raise NotFound(f"There is no delivery {delivery}.")
        names = await _account_names([row.account_id])
        (body,) = await bodies([row.event])
    answer = None
    if row.status_code is not None:
        answer = DeliveryAnswer(row.status_code, row.answer or "")
    headers = {"content-type": "application/json", "webhook-id": row.event.message}
    return DeliveryReport(
        **msgspec.structs.asdict(_to_details(row, names)),
        request=DeliveryRequest(without_secrets(row.endpoint.url), headers, body.decode()),
        answer=answer,
    )


async def bodies(events: Sequence[OutboundEvent]) -> list[bytes]:
    """The body of each event's request, as every delivery of it sends it."""
    names = await _account_names(event.account_id for event in events)
    missing = [event.invoice for event in events if event.invoice and not event.subscription]
    rows = await Invoice.filter(id__in=missing).values_list("id", "subscription") if missing else []
    subscriptions: dict[str, str | None] = dict(rows)
    return [
        payload(
            OutboundFacts(
                type=event.type,
                at=event.created_at,
                account=names.get(event.account_id) or event.data.get("account"),
                version=event.version,
                balance=event.balance,
                invoice=event.invoice,
                subscription=event.subscription or subscriptions.get(event.invoice or ""),
                data=event.data,
            )
        )
        for event in events
    ]


async def _matching(wanted: DeliveryFilter) -> QuerySet[EventDelivery]:
    for name, longest in _LONGEST.items():
        text = getattr(wanted, name)
        if "\0" in text or len(text) > longest:  # PostgreSQL rejects NUL
            raise InvalidInput(f"There is no such {name}: it has a character, or a length, that none has.")
    if wanted.state and wanted.state not in list(DeliveryState):
        raise InvalidInput(f"There is no state {wanted.state!r}: pending, delivered or dead.")
    conditions: dict[str, Any] = {}
    if wanted.endpoint:
        conditions["endpoint_id"] = (await find_endpoint(wanted.endpoint)).id
    if wanted.account:
        account = await find_account(wanted.account)
        conditions["event__account_id__in"] = await with_merged(account) if account else [-1]
    for name, value in (("type", wanted.type), ("invoice", wanted.invoice), ("message", wanted.event)):
        if value:
            conditions[f"event__{name}"] = value
    if wanted.state:
        conditions["state"] = DeliveryState(wanted.state)
    return EventDelivery.filter(**conditions)


async def _account_names(ids: Any) -> dict[int | None, str]:
    wanted = {each for each in ids if each is not None}
    rows = await Account.filter(id__in=wanted).values_list("id", "external_id") if wanted else []
    return dict(rows)


def _to_details(row: EventDelivery, names: dict[int | None, str]) -> DeliveryDetails:
    return DeliveryDetails(
        id=row.id,
        event=row.event.message,
        type=row.event.type,
        account=names.get(row.account_id),
        invoice=row.event.invoice,
        endpoint=row.endpoint.name,
        state=row.state,
        attempts=row.attempts,
        created_at=row.created_at,
        last_attempt_at=row.last_attempt_at,
        next_attempt_at=row.next_attempt_at,
        delivered_at=row.delivered_at,
        replayed_at=row.replayed_at,
        status_code=row.status_code,
        error=row.error,
        duration_ms=row.duration_ms,
    )
