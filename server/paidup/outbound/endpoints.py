"""Endpoints that the settings name, and those that are disabled since they fail. operations/ has the rest."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256

import structlog
from tortoise.expressions import Q

from paidup.db.connection import locked, repeatable, storage_errors, write_transaction
from paidup.db.outbound_models import DeliveryState, EndpointState, EventDelivery, EventEndpoint
from paidup.domain.endpoint_urls import without_secrets
from paidup.domain.outbound_settings import OutboundSettings, parts
from paidup.runtime.clock import now

log = structlog.get_logger(__name__)

ALWAYS = timedelta(days=3650)
"""How long a second secret of the settings is used: until they no longer have it."""
MAX_NAME = 200
DISABLED_BY_OPERATOR = "disabled by an operator"


@repeatable
async def disable(endpoint: int, because: str, state: EndpointState = EndpointState.DISABLED) -> None:
    """Send nothing to it any more. What is pending is given up: it can be replayed."""
    async with write_transaction():
        row = await locked(EventEndpoint.filter(id=endpoint)).get()
        if row.state in (state, EndpointState.DELETED):
            return
        row.state, row.disabled_at, row.disabled_because = state, now(), because
        await row.save(update_fields=["state", "disabled_at", "disabled_because"])
        pending = EventDelivery.filter(endpoint_id=endpoint, state=DeliveryState.PENDING)
        error = f"the endpoint was disabled: {because}"[:200]
        given_up = await pending.update(state=DeliveryState.DEAD, next_attempt_at=None, error=error)
    log.error("event_endpoint_disabled", endpoint=row.name, reason=because, given_up=given_up)


async def take_settings(settings: OutboundSettings) -> None:
    """Make the rows of the endpoints that the settings name; those that they no longer name are deleted.

    One that was disabled stays so until it is enabled. Raises StorageUnavailable.
    """
    urls, secrets = parts(settings.event_endpoints), parts(settings.event_secret)
    taken = [await _take(url, secrets) for url in urls]
    known = EventEndpoint.filter(from_settings=True).exclude(state=EndpointState.DELETED)
    with storage_errors():
        gone = await known.exclude(id__in=taken)
    for row in gone:
        await disable(row.id, "EVENT_ENDPOINTS no longer names it", EndpointState.DELETED)


async def _take(url: str, secrets: list[str]) -> int:
    """The id of its row. An operator's row that has its name and URL becomes the settings' own."""
    names = _names(url)
    known = EventEndpoint.filter(Q(from_settings=True) | Q(name__in=[*names, url]), url=url)
    async with write_transaction():
        for name in names:
            if await known.exists():
                break
            made = EventEndpoint(name=name, url=url, types=[], secret=secrets[0], from_settings=True)
            # Another process may make it, too; and the first name may be that of another URL.
            await EventEndpoint.bulk_create([made], ignore_conflicts=True)
        row = await locked(known.order_by("-from_settings", "id")).first()
        assert row is not None, "it was there, or made"
        if row.state is EndpointState.DELETED:
            row.state, row.disabled_at, row.disabled_because = EndpointState.ENABLED, None, None
            row.failures, row.failing_since, row.retry_at = 0, None, None
        row.url, row.secret, row.from_settings = url, secrets[0], True
        row.old_secret = secrets[1] if len(secrets) > 1 else None
        row.old_secret_until = now() + ALWAYS if row.old_secret else None
        await row.save()
    return row.id


def _names(url: str) -> tuple[str, str]:
    """What it may be named in lists, metrics and logs; the second where another URL has the first."""
    name, suffix = without_secrets(url), f" ({sha256(url.encode()).hexdigest()[:8]})"
    return name[:MAX_NAME], name[: MAX_NAME - len(suffix)] + suffix
