"""Endpoints for events: list, make, change and delete them, and rotate their secrets.

A secret is shown once, when it is made. Endpoints that the settings name are changed there. What an
operator changes has its row in the audit log.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace
from tortoise.exceptions import IntegrityError

from paidup.db.connection import locked, repeatable, storage_errors, write_transaction
from paidup.db.models import Action
from paidup.db.outbound_models import DeliveryState, EndpointState, EventDelivery, EventEndpoint
from paidup.domain.endpoint_urls import url_problem, without_secrets
from paidup.domain.outbound_events import OutboundEventType
from paidup.errors import Conflict, InvalidInput, NotFound
from paidup.operations.audit_log import Operator, note
from paidup.outbound.endpoints import DISABLED_BY_OPERATOR
from paidup.outbound.left import count_left
from paidup.runtime.clock import now

MAX_ENDPOINTS = 50
MAX_NAME = 200
MAX_OVERLAP = timedelta(days=7)
DEFAULT_OVERLAP_H = 24
ENDPOINT_GONE = "the endpoint was disabled or deleted"


class EndpointDetails(msgspec.Struct, frozen=True):
    """An endpoint as it is now. `types` []: all. `dead`: deliveries that were given up.

    Of these, and of those `pending`, 10,000 are counted at most.

    `secret` is set only where it was just made. `old_secret_until`: until then, deliveries are signed with
    both secrets.
    """

    id: int
    name: str
    url: str
    types: list[str]
    state: EndpointState
    created_at: datetime
    from_settings: bool = False
    disabled_at: datetime | None = None
    disabled_because: str | None = None
    failing_since: datetime | None = None
    failures: int = 0
    old_secret_until: datetime | None = None
    pending: int = 0
    dead: int = 0
    secret: str | None = None


class EndpointChanges(msgspec.Struct, frozen=True):
    """What to change of an endpoint; None: nothing."""

    url: str | None = None
    types: Sequence[str] | None = None
    enabled: bool | None = None


async def list_endpoints() -> list[EndpointDetails]:
    """All endpoints but the deleted ones. Raises StorageUnavailable."""
    with storage_errors():
        rows = await EventEndpoint.exclude(state=EndpointState.DELETED).order_by("id")
        counts = await count_left()
    return [_details(row, counts) for row in rows]


async def read_endpoint(reference: str) -> EndpointDetails:
    """The endpoint with this id or name. Raises NotFound, StorageUnavailable."""
    with storage_errors():
        row = await find_endpoint(reference)
        return _details(row, await count_left())


async def create_endpoint(
    url: str, types: Sequence[str], name: str, private_allowed: bool, operator: Operator
) -> EndpointDetails:
    """Make an endpoint, with its secret. `name` "": made of the URL. Raises InvalidInput, Conflict."""
    _check_url(url, private_allowed)
    types, name = checked_types(types), _checked_name(name or _name_of(url))
    secret = new_secret()
    try:
        async with write_transaction():
            if await EventEndpoint.exclude(state=EndpointState.DELETED).count() >= MAX_ENDPOINTS:
                raise Conflict(f"There are {MAX_ENDPOINTS} endpoints: delete one first.")
            row = await EventEndpoint.create(name=name, url=url, types=types, secret=secret)
            await note(Action.CREATE_ENDPOINT, operator, _named(row), after=_facts(row))
    except IntegrityError:
        raise Conflict(f"There is an endpoint named {name!r}: give this one another name.") from None
    return replace(_details(row, {}), secret=secret)


@repeatable
async def change_endpoint(
    reference: str, changes: EndpointChanges, private_allowed: bool, operator: Operator
) -> EndpointDetails:
    """Change an endpoint. One that is disabled loses what it awaits, which can be replayed.

    Raises NotFound, InvalidInput, Conflict (the settings name it), StorageUnavailable.
    """
    async with write_transaction():
        only_switched = changes.enabled is not None and changes.url is None and changes.types is None
        row = await _changeable(reference, settings_too=only_switched)
        before = _facts(row)
        if changes.url is not None:
            _check_url(changes.url, private_allowed)
            row.url = changes.url
        if changes.types is not None:
            row.types = checked_types(changes.types)
        if changes.enabled is True:
            row.state, row.disabled_at, row.disabled_because = EndpointState.ENABLED, None, None
            row.failures, row.failing_since, row.retry_at = 0, None, None
        elif changes.enabled is False and row.state is EndpointState.ENABLED:
            row.state, row.disabled_at = EndpointState.DISABLED, now()
            row.disabled_because = DISABLED_BY_OPERATOR
            await _give_up_pending(row)
        await row.save()
        asked = {"url": changes.url, "types": changes.types, "state": changes.enabled}
        after = {name: value for name, value in _facts(row).items() if asked[name] is not None}
        await note(
            Action.CHANGE_ENDPOINT, operator, _named(row), {name: before[name] for name in after}, after
        )
    return await read_endpoint(str(row.id))


@repeatable
async def delete_endpoint(reference: str, operator: Operator) -> EndpointDetails:
    """Delete an endpoint; its deliveries stay listed. Raises what `change_endpoint` raises."""
    async with write_transaction():
        row = await _changeable(reference)
        details, named, before = _details(row, {}), _named(row), {"state": row.state}
        row.state, row.disabled_at = EndpointState.DELETED, now()
        row.name, row.secret, row.old_secret = f"{row.name[:MAX_NAME]} (deleted {row.id})", "", None
        await _give_up_pending(row)
        await row.save()
        await note(Action.DELETE_ENDPOINT, operator, named, before, {"state": row.state})
    return replace(details, state=EndpointState.DELETED)


async def rotate_secret(reference: str, overlap: timedelta, operator: Operator) -> EndpointDetails:
    """Make a new secret. The old one is valid for `overlap`, and deliveries are signed with both.

    Raises what `change_endpoint` raises, and Conflict while an older secret is still valid.
    """
    if not timedelta() <= overlap <= MAX_OVERLAP:
        raise InvalidInput(f"The old secret is valid for 0 to {MAX_OVERLAP.days * 24} hours.")
    at = now()
    async with write_transaction():
        row = await _changeable(reference)
        if overlap and row.old_secret_until is not None and row.old_secret_until > at:
            raise Conflict(
                "The secret was rotated, and the old one is valid until "
                f"{row.old_secret_until:%Y-%m-%d %H:%M} UTC. Rotate it then; or with an overlap of 0 hours, "
                "which ends both at once."
            )
        secret = new_secret()
        row.old_secret, row.secret = (row.secret if overlap else None), secret
        before, row.old_secret_until = row.old_secret_until, at + overlap if overlap else None
        await row.save()
        until = {"old_secret_until": row.old_secret_until}
        await note(Action.ROTATE_SECRET, operator, _named(row), {"old_secret_until": before}, until)
    return replace(_details(row, {}), secret=secret)


async def find_endpoint(reference: str) -> EventEndpoint:
    """The row with this id or name, unless it is deleted. Raises NotFound."""
    known = EventEndpoint.exclude(state=EndpointState.DELETED)
    row = None
    if "\0" not in reference and len(reference) <= MAX_NAME:
        row = await known.get_or_none(name=reference)
        if row is None and reference.isascii() and reference.isdecimal() and len(reference) < 10:
            row = await known.get_or_none(id=int(reference))
    if row is None:
        raise NotFound(f"There is no endpoint {reference[:MAX_NAME]!r}: `paidup endpoints` lists them.")
    return row


def checked_types(types: Sequence[str]) -> list[str]:
    """The types, each once. Raises InvalidInput, which names those that there are."""
    known = [each.value for each in OutboundEventType]
    for each in types:
        if each not in known:
            raise InvalidInput(f"There is no event type {each[:60]!r}. There are: {', '.join(known)}.")
    return list(dict.fromkeys(types))


def new_secret() -> str:
    """A secret of 32 random bytes, as Standard Webhooks has them."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def _named(row: EventEndpoint) -> dict[str, Any]:
    """Which endpoint a row of the audit log is about."""
    return {"endpoint": row.name, "id": row.id}


def _facts(row: EventEndpoint) -> dict[str, Any]:
    """What the audit log says of an endpoint. Somebody may have put a key into the query of its URL."""
    return {"url": without_secrets(row.url), "types": list(row.types), "state": row.state}


def _check_url(url: str, private_allowed: bool) -> None:
    if problem := url_problem(url, private_allowed):
        raise InvalidInput(problem)


def _name_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}{parts.path}".rstrip("/")[:MAX_NAME]


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or name.isdecimal():
        raise InvalidInput(f"A name has 1 to {MAX_NAME} printable characters, and not only digits.")
    return name


async def _changeable(reference: str, settings_too: bool = False) -> EventEndpoint:
    """The row, locked. Raises NotFound, and Conflict where the settings name it, unless `settings_too`."""
    found = await find_endpoint(reference)
    row = await locked(EventEndpoint.filter(id=found.id)).get()
    if row.from_settings and not settings_too:
        raise Conflict(f"The endpoint {row.name!r} is in the settings: change it there.")
    return row


async def _give_up_pending(row: EventEndpoint) -> None:
    await EventDelivery.filter(endpoint_id=row.id, state=DeliveryState.PENDING).update(
        state=DeliveryState.DEAD, next_attempt_at=None, error=ENDPOINT_GONE
    )


def _details(row: EventEndpoint, counts: dict[tuple[int, DeliveryState], int]) -> EndpointDetails:
    rotating = row.old_secret_until is not None and row.old_secret_until > now()
    return EndpointDetails(
        id=row.id,
        name=row.name,
        url=row.url,
        types=list(row.types),
        state=row.state,
        created_at=row.created_at,
        from_settings=row.from_settings,
        disabled_at=row.disabled_at,
        disabled_because=row.disabled_because,
        failing_since=row.failing_since,
        failures=row.failures,
        old_secret_until=row.old_secret_until if rotating else None,
        pending=counts.get((row.id, DeliveryState.PENDING), 0),
        dead=counts.get((row.id, DeliveryState.DEAD), 0),
    )
