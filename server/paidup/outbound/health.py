"""Keeps how an endpoint fares: pauses one that fails, disables one that has failed for long or is gone."""

from __future__ import annotations

import random
from datetime import timedelta

import structlog
from tortoise.expressions import F

from paidup.db.connection import storage_errors
from paidup.db.outbound_models import DeliveryState, EndpointState, EventDelivery, EventEndpoint
from paidup.outbound.endpoints import disable
from paidup.outbound.retries import OPENS_AFTER, endpoint_pause_s
from paidup.runtime.clock import now

log = structlog.get_logger(__name__)


class Health:
    def __init__(self, disable_after: timedelta) -> None:
        self._disable_after = disable_after

    async def note(self, endpoint: EventEndpoint, delivered: bool, gone: bool) -> None:
        """Note an attempt in the row, and in `endpoint`. Raises StorageUnavailable."""
        if delivered:
            if endpoint.failing_since is not None:
                await self._recover(endpoint)
            return
        if gone:
            await disable(endpoint.id, "it answered 410 Gone")
            return
        await self._fail(endpoint)

    async def _recover(self, endpoint: EventEndpoint) -> None:
        """It answers again: what waits for a retry is due at once, in order."""
        waited = endpoint.failures >= OPENS_AFTER
        endpoint.failures, endpoint.failing_since, endpoint.retry_at = 0, None, None
        with storage_errors():
            row = EventEndpoint.filter(id=endpoint.id)
            await row.update(failures=0, failing_since=None, retry_at=None)
            if waited:
                log.info("event_endpoint_recovered", endpoint=endpoint.name)
                # What was never tried is due, or waits behind one that was.
                failed = EventDelivery.filter(
                    endpoint_id=endpoint.id, state=DeliveryState.PENDING, attempts__gt=0
                )
                await failed.filter(next_attempt_at__gt=now()).update(next_attempt_at=now())

    async def _fail(self, endpoint: EventEndpoint) -> None:
        at = now()
        endpoint.failures += 1
        since = endpoint.failing_since = endpoint.failing_since or at
        pause_s = endpoint_pause_s(endpoint.failures, random.random())  # noqa: S311
        if pause_s is not None:
            endpoint.retry_at = at + timedelta(seconds=pause_s)
        with storage_errors():
            row = EventEndpoint.filter(id=endpoint.id, state=EndpointState.ENABLED)
            await row.update(failures=F("failures") + 1, retry_at=endpoint.retry_at)
            await row.filter(failing_since__isnull=True).update(failing_since=at)
        if at - since >= self._disable_after:  # another attempt may have succeeded meanwhile
            hours = self._disable_after / timedelta(hours=1)
            await disable(endpoint.id, f"every delivery has failed for {hours:g} hours")
