"""Webhook endpoints of the SaaS: made, changed, rotated, disabled and enabled. Each in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import structlog

from paidup.db.connection import locked, storage_errors, write_transaction
from paidup.db.outbound_models import DeliveryState, EndpointState, EventDelivery, EventEndpoint
from paidup.domain.outbound_addresses import url_problem
from paidup.domain.outbound_events import OutboundEventType
from paidup.domain.outbound_settings import OutboundSettings, parts, secret_problem
from paidup.errors import Conflict, InvalidInput, NotFound
from paidup.outbound.signing import new_secret
from paidup.runtime.clock import now

log = structlog.get_logger(__name__)

ROTATION = timedelta(hours=24)
"""How long deliveries are signed with the old secret as well."""
ALWAYS = timedelta(days=3650)
"""How long a second secret of the settings is used: until they no longer have it."""
NAME = 255
MAX_ENDPOINTS = 50
TYPES = frozenset(each.value for each in OutboundEventType)


async def create(
    name: str,
    url: str,
    types: Sequence[str] = (),
    secret: str | None = None,
    private: bool = False,
) -> EventEndpoint:
    """A new endpoint; later events are sent to it. Raises InvalidInput, Conflict, StorageUnavailable.

    `types` (): all. `private`: plain http and private addresses are allowed, as EVENT_PRIVATE_ADDRESSES says.
    """
    _check(url, types, private)
    if secret is not None and (problem := secret_problem(secret)):
        raise InvalidInput(f"The secret cannot be used: {problem}.")
    async with write_transaction():
        if await EventEndpoint.exclude(state=EndpointState.DELETED).count() >= MAX_ENDPOINTS:
            raise Conflict(f"There are {MAX_ENDPOINTS} endpoints already.")
        row = await EventEndpoint.get_or_none(name=name) or EventEndpoint(name=name)
        if row.pk is not None and row.state is not EndpointState.DELETED:
            raise Conflict(f"There is an endpoint {name!r} already.")
        row.url, row.types, row.secret = url, sorted(set(types)), secret or new_secret()
        row.old_secret = row.old_secret_until = None
        row.from_settings = False
        _enable(row)
        await row.save()
    return row


async def find(name: str) -> EventEndpoint:
    """The endpoint with this name. Raises NotFound."""
    row = await EventEndpoint.exclude(state=EndpointState.DELETED).get_or_none(name=name)
    if row is None:
        raise NotFound(f"There is no endpoint {name!r}.")
    return row


async def change(
    name: str, url: str | None = None, types: Sequence[str] | None = None, private: bool = False
) -> EventEndpoint:
    """Change its address or types. Raises NotFound, InvalidInput, StorageUnavailable."""
    async with write_transaction():
        row = await _lock(name)
        _check(url or row.url, row.types if types is None else types, private)
        row.url = url or row.url
        row.types = row.types if types is None else sorted(set(types))
        await row.save(update_fields=["url", "types"])
    return row


async def rotate(name: str, keep_old: timedelta = ROTATION) -> EventEndpoint:
    """Give it a new secret. Deliveries are signed with both for `keep_old`."""
    async with write_transaction():
        row = await _lock(name)
        row.old_secret, row.old_secret_until = row.secret, now() + keep_old
        row.secret = new_secret()
        await row.save(update_fields=["secret", "old_secret", "old_secret_until"])
    return row


async def disable(endpoint: int, because: str, state: EndpointState = EndpointState.DISABLED) -> None:
    """Send nothing to it any more. What is pending is given up: it can be replayed."""
    async with write_transaction():
        row = await locked(EventEndpoint.filter(id=endpoint)).get()
        if row.state in (state, EndpointState.DELETED):
            return
        row.state, row.disabled_at, row.disabled_because = state, now(), because
        await row.save(update_fields=["state", "disabled_at", "disabled_because"])
        pending = EventDelivery.filter(endpoint_id=endpoint, state=DeliveryState.PENDING)
        given_up = await pending.update(
            state=DeliveryState.DEAD,
            next_attempt_at=None,
            error=f"the endpoint was disabled: {because}"[:200],
        )
    log.error("event_endpoint_disabled", endpoint=row.name, reason=because, given_up=given_up)


async def enable(name: str) -> EventEndpoint:
    """Send it later events again. What it has missed can be replayed: see replay.py."""
    async with write_transaction():
        row = await _lock(name)
        _enable(row)
        await row.save()
    return row


def _enable(row: EventEndpoint) -> None:
    row.state, row.disabled_at, row.disabled_because = EndpointState.ENABLED, None, None
    row.failures, row.failing_since, row.retry_at = 0, None, None


async def take_settings(settings: OutboundSettings) -> None:
    """Make the rows of the endpoints that the settings name; those that they no longer name are deleted.

    One that was disabled stays so until it is enabled. Raises StorageUnavailable.
    """
    urls, secrets = parts(settings.event_endpoints), parts(settings.event_secret)
    for url in urls:
        async with write_transaction():
            made = EventEndpoint(name=url[:NAME], url=url, types=[], secret=secrets[0], from_settings=True)
            await EventEndpoint.bulk_create([made], ignore_conflicts=True)  # another process may make it, too
            row = await locked(EventEndpoint.filter(name=url[:NAME])).get()
            if row.state is EndpointState.DELETED:
                _enable(row)
            row.url, row.secret, row.from_settings = url, secrets[0], True
            row.old_secret = secrets[1] if len(secrets) > 1 else None
            row.old_secret_until = now() + ALWAYS if row.old_secret else None
            await row.save()
    gone = EventEndpoint.filter(from_settings=True).exclude(state=EndpointState.DELETED)
    with storage_errors():
        rows = await gone.exclude(name__in=[url[:NAME] for url in urls])
    for row in rows:
        await disable(row.id, "EVENT_ENDPOINTS no longer names it", EndpointState.DELETED)


async def _lock(name: str) -> EventEndpoint:
    row = await locked(EventEndpoint.filter(name=name).exclude(state=EndpointState.DELETED)).get_or_none()
    if row is None:
        raise NotFound(f"There is no endpoint {name!r}.")
    return row


def _check(url: str, types: Sequence[str], private: bool) -> None:
    """Raises InvalidInput."""
    if problem := url_problem(url, private):
        raise InvalidInput(f"The URL cannot be used: {problem}.")
    if unknown := sorted(set(types) - TYPES):
        raise InvalidInput(f"Unknown types: {', '.join(unknown)}. docs/events.md lists them.")
