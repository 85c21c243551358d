"""Outbound events one after the other, for `paidup listen`; and examples of them, for `paidup trigger`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from paidup.db.connection import storage_errors, write_transaction
from paidup.db.outbound_models import EndpointState, EventDelivery, EventEndpoint, OutboundEvent
from paidup.domain.example_events import ACCOUNT, example_event
from paidup.domain.outbound_events import OutboundEventType
from paidup.errors import Conflict
from paidup.operations.event_deliveries import bodies
from paidup.operations.event_endpoints import checked_types, find_endpoint
from paidup.runtime.clock import now

MOST = 1000
"""Events of one answer."""
COMPLETE_AFTER = timedelta(seconds=15)
"""A transaction that writes an event takes less: after that, no lower id appears below an event's."""


class StreamedEvent(msgspec.Struct, frozen=True):
    """An event as it is sent: `body` is its request's, to the byte."""

    id: int
    event: str
    type: str
    created_at: datetime
    body: str


class StreamPage(msgspec.Struct, frozen=True):
    """Events in the order of their ids. `complete_to`: no event up to this id is still to come."""

    events: list[StreamedEvent]
    complete_to: int


async def read_stream(after: int | None, types: Sequence[str]) -> StreamPage:
    """The events whose id is above `after`; None: none, but from where to go on.

    Ask again with the `complete_to` of the answer, and leave out what was read before: an id may appear
    below one that was read, since its transaction took longer. Raises InvalidInput, StorageUnavailable.
    """
    wanted, before = checked_types(types), now() - COMPLETE_AFTER
    with storage_errors():
        if after is None:
            newest = await OutboundEvent.all().order_by("-id").first()
            return StreamPage([], newest.id if newest else 0)
        later = OutboundEvent.filter(id__gt=after)
        complete = await later.filter(created_at__lt=before).order_by("-id").first()
        rows = await (later.filter(type__in=wanted) if wanted else later).order_by("id").limit(MOST)
        texts = await bodies(rows)
    events = [
        StreamedEvent(row.id, row.message, row.type, row.created_at, body.decode())
        for row, body in zip(rows, texts, strict=True)
    ]
    if len(rows) == MOST:  # else what comes after these would never be read
        return StreamPage(events, rows[-1].id)
    return StreamPage(events, complete.id if complete else after)


class Triggered(msgspec.Struct, frozen=True):
    """The example that was made. `endpoints`: how many it is sent to; listeners get it as well."""

    event: str
    type: str
    endpoints: int


async def trigger(event_type: str, endpoint: str | None, account: str | None) -> Triggered:
    """Make an example of an event, to be sent to `endpoint`, or to all that want its type.

    It is of no account here, and moves nothing. Raises InvalidInput, NotFound, Conflict (the endpoint is
    disabled), StorageUnavailable.
    """
    (name,) = checked_types([event_type])
    at = now()
    example = example_event(OutboundEventType(name), at)
    data = {**example.data, "account": account or ACCOUNT}
    if name == OutboundEventType.CHECKOUT_UNCLAIMED:
        del data["account"]
    row = OutboundEvent(
        message=f"msg_{secrets.token_hex(16)}",
        type=name,
        invoice=example.invoice,
        subscription=example.subscription,
        version=example.version,
        balance=example.balance,
        data=data,
        created_at=at,
    )
    async with write_transaction():
        if endpoint is None:
            await row.save(force_create=True)
            enabled = await EventEndpoint.filter(state=EndpointState.ENABLED)
            wanting = sum(not each.types or name in each.types for each in enabled)
            return Triggered(row.message, name, wanting)
        only = await find_endpoint(endpoint)
        if only.state is not EndpointState.ENABLED:
            raise Conflict(f"The endpoint {only.name!r} is {only.state}: enable it first.")
        row.fanned_out = True  # to no other endpoint
        await row.save(force_create=True)
        await EventDelivery.create(event=row, endpoint=only, next_attempt_at=at, created_at=at)
    return Triggered(row.message, name, 1)
