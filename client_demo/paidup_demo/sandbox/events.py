"""Events: snapshots of what changed, stored and passed to the webhook sender (delivery.py)."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from paidup_demo.sandbox import objects
from paidup_demo.sandbox.clock import Clock
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.expansion import present
from paidup_demo.sandbox.settings import API_VERSION
from paidup_demo.sandbox.state import Store, copied

# The API request behind the events of this context; None for what the clock causes.
NO_REQUEST: Json = {"id": None, "idempotency_key": None}
current_request: ContextVar[Json] = ContextVar("current_request", default=NO_REQUEST)


class EventLog:
    """Records events in the store and passes each to the webhook sender."""

    def __init__(self, store: Store, clock: Clock, dispatch: Callable[[Json], int]) -> None:
        self._store = store
        self._clock = clock
        self._dispatch = dispatch

    def record(self, kind: str, subject: Json, previous: Json | None = None) -> Json:
        """Record one event of `subject` as it is now. `previous`: the old values of what changed."""
        self._store.touch()
        data: Json = {"object": present(subject)}
        if previous:
            data["previous_attributes"] = copied(previous)
        request = current_request.get()
        event = objects.event(self._clock.real(), kind, data, API_VERSION, request, 0)
        self._store.add(event)
        event["pending_webhooks"] = self._dispatch(event)
        return event

    def change(self, kind: str, subject: Json, **new: object) -> Json:
        """Update a stored object and record the event with the old values."""
        previous = {key: subject.get(key) for key, value in new.items() if subject.get(key) != value}
        subject.update(new)
        return self.record(kind, subject, previous)
