"""What a client remembers between calls: entitlements, and the spends of an outage. No I/O.

Each method is a generator that yields the calls to make, and receives their results or their errors.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from typing import Any

import msgspec

from paidup.client import calls
from paidup.client.calls import ApiCall
from paidup.client.entitlements import Entitlements
from paidup.client.errors import APIConnectionError, APIStatusError
from paidup.client.outages import AllowDuringOutage, DeferredSpend, Outage
from paidup.client.responses import SpendResult
from paidup.client.retries import DEADLINE_S, RetryingCaller
from paidup.client.tokens import TokenFactory

MAX_AGE_S = 60.0
"""How long entitlements are used without asking. An event drops them sooner."""
MAX_CUSTOMERS = 10_000
SENT_WITH_A_SPEND = 10
"""How many deferred spends one spend sends at most, so that it does not take long."""

Calls = Generator[ApiCall[Any], Any, Any]


class _Kept(msgspec.Struct):
    """`newest`: the highest version of which an event has told; entitlements below it are not current."""

    value: Entitlements | None = None
    until: float = 0.0
    newest: int = 0


class KeptEntitlements:
    """The entitlements of the customers that were asked for last. Thread-safe."""

    def __init__(self, max_age_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_age_s = max_age_s
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def current(self, customer: str) -> Entitlements | None:
        """Those that need not be asked for."""
        with self._lock:
            kept = self._kept.get(customer)
            return kept.value if kept and kept.value and kept.until > self._clock() else None

    def last(self, customer: str) -> Entitlements | None:
        """Those that were current once."""
        with self._lock:
            kept = self._kept.get(customer)
            return kept.value if kept else None

    def keep(self, customer: str, found: Entitlements) -> None:
        """Keep what was asked for just now. It is asked for again where an event has told of more."""
        with self._lock:
            kept = self._of(customer)
            if kept.value is None or found.version >= kept.value.version:
                kept.value = found
                kept.until = self._clock() + self._max_age_s if found.version >= kept.newest else 0.0

    def drop(self, customer: str, version: int | None) -> None:
        """Something changed with this version of the account; None: with one that is not known."""
        with self._lock:
            kept = self._of(customer)
            if version is None or kept.value is None or kept.value.version < version:
                kept.until = 0.0
            kept.newest = max(kept.newest, version or 0)

    def _of(self, customer: str) -> _Kept:
        kept = self._kept.setdefault(customer, _Kept())
        self._kept.move_to_end(customer)
        if len(self._kept) > MAX_CUSTOMERS:
            self._kept.popitem(last=False)
        return kept


class RememberingCaller(RetryingCaller):
    """A caller that keeps entitlements, and the spends that an outage has deferred."""

    def __init__(
        self,
        base_url: str,
        token_for: TokenFactory,
        deadline_s: float = DEADLINE_S,
        entitlements_max_age_s: float = MAX_AGE_S,
        outage: AllowDuringOutage | None = None,
    ) -> None:
        super().__init__(base_url, token_for, deadline_s)
        self._entitlements = KeptEntitlements(entitlements_max_age_s)
        self._outage = Outage(outage) if outage else None
        self._sending = threading.Lock()

    def on_event(self, payload: bytes | str | dict[str, Any]) -> None:
        """Drop what an outbound event of Paidup's says is over. Verify its signature first.

        `payload` is the event's body, or what it decodes to. Events may come twice and in any order.
        """
        event = msgspec.json.decode(payload) if isinstance(payload, bytes | str) else payload
        data = event.get("data") if isinstance(event, dict) else None
        customer = data.get("account") if isinstance(data, dict) else None
        if isinstance(data, dict) and isinstance(customer, str):
            version = data.get("version")
            self._entitlements.drop(customer, version if isinstance(version, int) else None)

    @property
    def deferred(self) -> list[DeferredSpend]:
        """The spends that an outage has deferred and that are not charged yet, oldest first."""
        return self._outage.waiting if self._outage else []

    def _asking_entitlements(self, customer: str) -> Calls:
        if (current := self._entitlements.current(customer)) is not None:
            return current
        last = self._entitlements.last(customer)
        if last and self._outage and self._outage.skips():
            return last
        try:
            found = yield calls.entitlements_call(customer, last.etag if last else None)
        except APIConnectionError:
            if self._outage is None:
                raise
            self._outage.failed()
            if last is None or not self._outage.tolerable:
                raise
            return last
        if self._outage:
            self._outage.answered()
        answer: Entitlements | None = found or last
        assert answer is not None, "a 304 answers an ETag"
        self._entitlements.keep(customer, answer)
        return answer

    def _spending(self, spend: DeferredSpend) -> Calls:
        call = calls.spend_call(spend.customer, spend.credits, spend.key, spend.reason, spend.unit)
        if self._outage is None:
            return (yield call)
        if self._outage.skips() and (deferred := self._defer(self._outage, spend)):
            return deferred
        try:
            result = yield call
        except APIConnectionError:
            self._outage.failed()
            if deferred := self._defer(self._outage, spend):
                return deferred
            raise
        except APIStatusError:
            self._outage.answered()
            raise
        self._outage.answered()
        self._outage.charged(spend.customer, spend.key)
        yield from self._sending_deferred(SENT_WITH_A_SPEND)
        return result

    def _defer(self, outage: Outage, spend: DeferredSpend) -> SpendResult | None:
        last = self._entitlements.last(spend.customer)
        return outage.defer(spend, last.balance.available_in(spend.unit) if last else None)

    def _sending_deferred(self, at_most: int) -> Calls:
        """Charge deferred spends. Returns how many are left."""
        outage = self._outage
        if outage is None or not outage.waiting or not self._sending.acquire(blocking=False):
            return len(self.deferred)
        try:
            for spend in outage.waiting[:at_most]:
                try:
                    yield calls.spend_call(spend.customer, spend.credits, spend.key, spend.reason, spend.unit)
                except APIConnectionError:
                    outage.failed()
                    break
                except APIStatusError as error:
                    if error.problem == "too-many-requests" or error.status >= 500:  # says nothing of it
                        break
                    outage.policy.on_refused(spend, error)
                outage.answered()
                outage.charged(spend.customer, spend.key)
        finally:
            self._sending.release()
        return len(outage.waiting)
