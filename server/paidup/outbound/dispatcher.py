"""Delivers outbound events: at least once, and in order for each account and endpoint.

One task in each server and worker process. It is woken after each commit, and looks by itself each second.
All state is in the database, so any number of processes may run, and one that is killed loses nothing: what
it had claimed is due again when its lease ends. Each endpoint has its own slots: one that hangs holds up no
other.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import structlog

from paidup.db.connection import storage_errors
from paidup.db.outbound_models import DeliveryState, EndpointState, EventEndpoint
from paidup.domain.outbound_events import OutboundEventType, payload
from paidup.errors import StorageUnavailable
from paidup.outbound.due import Due, Result, claim, fan_out, record
from paidup.outbound.health import Health
from paidup.outbound.retries import OPENS_AFTER, retry_delay_s
from paidup.outbound.sender import Answer, Sender
from paidup.outbound.signing import signed_headers
from paidup.runtime.batching import BatchExecutor
from paidup.runtime.clock import now
from paidup.runtime.metrics import Metrics
from paidup.runtime.tasks import cancel_tasks

log = structlog.get_logger(__name__)

IDLE_S = 1.0
"""How often it looks by itself."""
PAUSE_S = 0.01
"""The least time between two rounds: what is committed meanwhile shares one."""
ENDPOINT_SLOTS = 16
"""Requests to one endpoint at the same time, from one process."""
SLOTS = 64
GONE = 410
DRAIN_S = 3.0
"""How long requests that are under way may take when the process stops."""


OnGranted = Callable[[str], Awaitable[None]]


class Dispatcher:
    """`disable_after`: an endpoint that has only failed for so long is disabled."""

    def __init__(
        self, sender: Sender, metrics: Metrics, disable_after: timedelta = timedelta(hours=120)
    ) -> None:
        self._sender = sender
        self._metrics = metrics
        self._health = Health(disable_after)
        self._woken = asyncio.Event()
        self._endpoints: list[EventEndpoint] = []
        self._read_at = float("-inf")
        self._sending: dict[int, set[asyncio.Task[None]]] = {}
        self._record: BatchExecutor[Result, None] = BatchExecutor(self._record_batch)
        self._task: asyncio.Task[None] | None = None
        self.on_granted: OnGranted | None = None
        """Called with the invoice of each `credits.granted` that was taken, or given up."""

    async def open(self) -> None:
        await self._sender.open()
        self.refresh()
        await self.read_endpoints()
        self._task = asyncio.create_task(self._run_forever(), name="event-dispatcher")

    async def close(self) -> None:
        """Stop; what is under way may end. What does not is delivered again, by another process or later."""
        if self._task is not None:
            await cancel_tasks(self._task)
        under_way = [task for tasks in self._sending.values() for task in tasks]
        if under_way:
            await asyncio.wait(under_way, timeout=DRAIN_S)
            await cancel_tasks(*under_way)
        await self._record.close()
        await self._sender.close()

    def wake(self) -> None:
        """Something was committed. Never waits, never raises."""
        if self._endpoints:
            self._woken.set()

    def wants_grants(self) -> bool:
        """Whether an endpoint gets `credits.granted`."""
        granted = OutboundEventType.CREDITS_GRANTED
        return any(not endpoint.types or granted in endpoint.types for endpoint in self._endpoints)

    def refresh(self) -> None:
        """An endpoint was added or changed by this process: read them again at once."""
        self._read_at = float("-inf")
        self._woken.set()

    async def _run_forever(self) -> None:
        while True:
            try:
                busy = await self._round()
            except StorageUnavailable as error:
                log.warning("event_dispatch_interrupted", error=str(error))
                busy = False
            except Exception:
                log.exception("event_dispatch_failed")  # a bug must not stop it for good
                busy = False
            if busy:
                await asyncio.sleep(PAUSE_S)
                continue
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._woken.wait()
                await asyncio.sleep(PAUSE_S)
            except TimeoutError:
                pass

    async def _round(self) -> bool:
        """Fan out, claim and start what is due. True where more may be due at once."""
        self._woken.clear()
        await self.read_endpoints()
        events = await fan_out(now())
        self._metrics.outbound_events.inc(events)
        busy = events > 0 and bool(self._endpoints)
        for endpoint in self._endpoints:
            busy = await self._start_due(endpoint) or busy
        return busy

    async def read_endpoints(self) -> None:
        """Unless it was done within the last second. Raises StorageUnavailable."""
        if time.monotonic() - self._read_at < IDLE_S:
            return
        with storage_errors():
            self._endpoints = await EventEndpoint.filter(state=EndpointState.ENABLED).order_by("id")
        self._read_at = time.monotonic()

    async def _start_due(self, endpoint: EventEndpoint) -> bool:
        """Claim and start what is due to this endpoint. True where more may be due."""
        sending = self._sending.setdefault(endpoint.id, set())
        slots = 1 if endpoint.failures >= OPENS_AFTER else ENDPOINT_SLOTS
        in_all = sum(map(len, self._sending.values()))
        free = min(slots - len(sending), SLOTS - in_all)
        if free <= 0 or (endpoint.retry_at and endpoint.retry_at > now()):
            return False
        claimed = await claim(endpoint.id, now(), free)
        for each in claimed.due:
            task = asyncio.create_task(self._deliver(endpoint, each), name="event-delivery")
            sending.add(task)
            task.add_done_callback(sending.discard)
        return claimed.more or len(claimed.due) == free

    async def _deliver(self, endpoint: EventEndpoint, due: Due) -> None:
        """One attempt, and what follows from it. What fails here is tried again when its lease ends."""
        try:
            answer = await self._post(endpoint, due)
            result = _result(due, answer)
            await self._record(result)
            await self._tell_granted(due, result)
            await self._health.note(endpoint, answer.delivered, answer.status == GONE)
        except StorageUnavailable as error:
            log.warning("event_delivery_not_recorded", message=due.message, error=str(error))
        except Exception:
            log.exception("event_delivery_failed", message=due.message)
        self.wake()  # the account's next event may be due now

    async def _tell_granted(self, due: Due, result: Result) -> None:
        is_grant = due.facts.type == OutboundEventType.CREDITS_GRANTED and due.facts.invoice
        if is_grant and self.on_granted and result.state is not DeliveryState.PENDING:
            await self.on_granted(is_grant)

    async def _post(self, endpoint: EventEndpoint, due: Due) -> Answer:
        body, at = payload(due.facts), now()
        secrets = [endpoint.secret]
        if endpoint.old_secret and endpoint.old_secret_until and endpoint.old_secret_until > at:
            secrets.append(endpoint.old_secret)
        answer = await self._sender.post(endpoint.url, body, signed_headers(due.message, at, body, secrets))
        result = "delivered" if answer.delivered else "failed"
        self._metrics.outbound_attempts.labels(endpoint.name, result).inc()
        if answer.delivered:
            self._metrics.outbound_seconds.observe((now() - due.facts.at).total_seconds())
        else:
            attempt = {"message": due.message, "endpoint": endpoint.name, "attempt": due.attempts}
            log.warning("event_not_delivered", **attempt, error=answer.error)
        return answer

    async def _record_batch(self, results: Sequence[Result]) -> list[None]:
        await record(results, now())
        return [None] * len(results)


def _result(due: Due, answer: Answer) -> Result:
    at, state, next_attempt_at = now(), DeliveryState.DELIVERED, None
    if not answer.delivered:
        delay_s = retry_delay_s(due.attempts, random.random(), answer.retry_after_s)  # noqa: S311
        gone = answer.status == GONE
        state = DeliveryState.DEAD if delay_s is None or gone else DeliveryState.PENDING
        if delay_s is not None and not gone:
            next_attempt_at = at + timedelta(seconds=delay_s)
    return Result(
        delivery=due.id,
        attempts=due.attempts,
        state=state,
        next_attempt_at=next_attempt_at,
        delivered_at=at if answer.delivered else None,
        status_code=answer.status,
        answer=answer.body,
        error=answer.error,
        duration_ms=answer.duration_ms,
    )
