"""Events: what changed, as a snapshot, kept and handed to the courier.

Owns the making of events. Who receives them, and when, is delivery.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from paidup_demo.sandbox import objects
from paidup_demo.sandbox.clock import Clock
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.expansion import present
from paidup_demo.sandbox.settings import API_VERSION
from paidup_demo.sandbox.state import Store, copied

# The API request that causes the events made in this context; none for what happens by itself.
NO_REQUEST: Json = {"id": None, "idempotency_key": None}
current_request: ContextVar[Json] = ContextVar("current_request", default=NO_REQUEST)


class EventLog:
    """Records events in the store and tells the courier of each."""

    def __init__(self, store: Store, clock: Clock, dispatch: Callable[[Json], int]) -> None:
        self._store = store
        self._clock = clock
        self._dispatch = dispatch

    def record(self, kind: str, subject: Json, previous: Json | None = None) -> Json:
        """Makes one event of `subject` as it is now. `previous` holds the former values of what changed."""
        self._store.touch()
        data: Json = {"object": present(subject)}
        if previous:
            data["previous_attributes"] = copied(previous)
        request = current_request.get()
        event = objects.event(self._clock.now(), kind, data, API_VERSION, request, 0)
        self._store.add(event)
        event["pending_webhooks"] = self._dispatch(event)
        return event

    def change(self, kind: str, subject: Json, **new: object) -> Json:
        """Sets these members of a stored object and records the event with what they were before."""
        previous = {key: subject.get(key) for key, value in new.items() if subject.get(key) != value}
        subject.update(new)
        return self.record(kind, subject, previous)
