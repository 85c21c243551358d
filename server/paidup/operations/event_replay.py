"""Sends events again: one, those of a time, or those that an endpoint has never had.

A replayed delivery has its event's `webhook-id`, so a receiver that has handled it ignores it. The
dispatcher sends it as it sends all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from paidup.db.connection import repeatable, storage_errors, write_transaction
from paidup.db.models import Action
from paidup.db.outbound_models import (
    DeliveryState,
    EndpointState,
    EventDelivery,
    EventEndpoint,
    OutboundEvent,
)
from paidup.errors import Conflict, InvalidInput, NotFound
from paidup.operations.audit_log import Operator, note
from paidup.operations.event_endpoints import find_endpoint
from paidup.runtime.clock import now

MAX_MESSAGE = 40
BATCH = 500
"""Events of one transaction."""


class Replay(msgspec.Struct, frozen=True):
    """What to send again: a `delivery`, an `event` (`msg_...`), or what an `endpoint` should have.

    `event`: to every endpoint that wants it, or to `endpoint`. `endpoint` without an event: all of its
    events from `since` until `until`, also those from before it existed; with `dead`, only deliveries that
    were given up.
    """

    delivery: int | None = None
    event: str | None = None
    endpoint: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    dead: bool = False


class Replayed(msgspec.Struct, frozen=True):
    """How many deliveries are sent again."""

    deliveries: int


async def replay(wanted: Replay, operator: Operator) -> Replayed:
    """Make these deliveries due. One that is pending anyway is not counted.

    The audit log says what was asked for, before anything is sent.

    Raises InvalidInput, NotFound, Conflict (the endpoint is disabled), StorageUnavailable.
    """
    if wanted.delivery is not None:
        if wanted.event or wanted.endpoint:
            raise InvalidInput("Give a delivery alone: it names its event and its endpoint.")
        return Replayed(await _replay_delivery(wanted, operator))
    if wanted.event is not None:
        return Replayed(await _replay_event(wanted, operator))
    if wanted.endpoint is None:
        raise InvalidInput("Say what to send again: a delivery, an event (msg_...), or an endpoint.")
    for moment in (wanted.since, wanted.until):
        if moment is not None and moment.tzinfo is None:
            raise InvalidInput("A time needs its offset, such as 2026-11-27T10:00:00Z.")
    return Replayed(await _replay_range(wanted, operator))


async def _note(wanted: Replay, operator: Operator, endpoints: Sequence[EventEndpoint]) -> None:
    asked = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value}
    if wanted.endpoint is not None:
        asked["endpoint"] = endpoints[0].name
    async with write_transaction():
        await note(Action.REPLAY, operator, asked)


async def _replay_delivery(wanted: Replay, operator: Operator) -> int:
    with storage_errors():
        row = await EventDelivery.get_or_none(id=wanted.delivery).select_related("endpoint")
    if row is None:
        raise NotFound(f"There is no delivery {wanted.delivery}.")
    _require_enabled(row.endpoint)
    await _note(wanted, operator, [row.endpoint])
    return await _send_again(row.endpoint, [row.event_id], only_dead=False)


async def _replay_event(wanted: Replay, operator: Operator) -> int:
    message, reference = str(wanted.event), wanted.endpoint
    with storage_errors():
        possible = "\0" not in message and len(message) <= MAX_MESSAGE
        event = await OutboundEvent.get_or_none(message=message) if possible else None
        if event is None:
            raise NotFound(f"There is no event {message[:60]!r}: it may have been pruned.")
        if reference is None:
            enabled = await EventEndpoint.filter(state=EndpointState.ENABLED).order_by("id")
            wanting = [each for each in enabled if not each.types or event.type in each.types]
        else:
            wanting = [await find_endpoint(reference)]
    for endpoint in wanting:
        _require_enabled(endpoint)
    await _note(wanted, operator, wanting)
    return sum([await _send_again(endpoint, [event.id], only_dead=False) for endpoint in wanting])


async def _replay_range(wanted: Replay, operator: Operator) -> int:
    """In batches, oldest first: each is committed by itself, and doing it again does what is left."""
    assert wanted.endpoint is not None
    with storage_errors():
        endpoint = await find_endpoint(wanted.endpoint)
    _require_enabled(endpoint)
    await _note(wanted, operator, [endpoint])
    began, last, sent = now(), 0, 0
    while True:
        with storage_errors():
            ids = await _event_ids(wanted, endpoint, began, last)
        if not ids:
            return sent
        sent += await _send_again(endpoint, ids, wanted.dead)
        last = ids[-1]


async def _event_ids(wanted: Replay, endpoint: EventEndpoint, began: datetime, last: int) -> list[int]:
    """The next events, in order. Those that were not given to the endpoints yet will be anyway."""
    conditions: dict[str, Any] = {"id__gt": last, "fanned_out": True}
    conditions["created_at__lte"] = min(wanted.until or began, began)
    if wanted.since is not None:
        conditions["created_at__gte"] = wanted.since
    if endpoint.types:
        conditions["type__in"] = endpoint.types
    if wanted.dead:
        conditions |= {"deliveries__endpoint_id": endpoint.id, "deliveries__state": DeliveryState.DEAD}
    return [row.id for row in await OutboundEvent.filter(**conditions).order_by("id").limit(BATCH).only("id")]


@repeatable
async def _send_again(endpoint: EventEndpoint, events: Sequence[int], only_dead: bool) -> int:
    """Make the events' deliveries to this endpoint due, and those that there never were."""
    at = now()
    async with write_transaction():
        existing = EventDelivery.filter(endpoint_id=endpoint.id, event_id__in=events)
        done = existing.exclude(state=DeliveryState.PENDING)
        if only_dead:
            done = existing.filter(state=DeliveryState.DEAD)
        sent = await done.update(
            state=DeliveryState.PENDING, attempts=0, next_attempt_at=at, replayed_at=at, error=None
        )
        if only_dead:
            return sent
        known = {row.event_id for row in await existing.only("event_id")}
        missing = OutboundEvent.filter(id__in=[each for each in events if each not in known])
        new = [_new_delivery(row, endpoint, at) for row in await missing.order_by("id")]
        await EventDelivery.bulk_create(new, ignore_conflicts=True)
    return sent + len(new)


def _new_delivery(event: OutboundEvent, endpoint: EventEndpoint, at: datetime) -> EventDelivery:
    return EventDelivery(
        event_id=event.id,
        endpoint_id=endpoint.id,
        account_id=event.account_id,
        next_attempt_at=at,
        replayed_at=at,
        created_at=at,
    )


def _require_enabled(endpoint: EventEndpoint) -> None:
    if endpoint.state is not EndpointState.ENABLED:
        raise Conflict(f"The endpoint {endpoint.name!r} is {endpoint.state}: enable it first.")
