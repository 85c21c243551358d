"""The reconciler's sweeps, where so many invoices are settled: `tests.bench.growth` measures them.

In all the same small number is due: 20 open invoices, 20 events that were not handled, 20 versions that were
not published, and two pages of Stripe's lists. Stripe answers from memory, so that what is measured is ours:
the database and Python.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from redis.asyncio import Redis

from paidup.db.connection import connection
from paidup.domain.catalog import StripePrice
from paidup.domain.messages import StatusMessage
from paidup.domain.plans_toml import parse_catalogue
from paidup.payments.timeline import Timeline
from paidup.reconciliation.reconciler import Reconciler
from paidup.runtime.metrics import Metrics
from paidup.services import compose
from paidup.settings import PACKAGED_PLANS
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.schemas import ListOf, StripeInvoice, decode
from tests.support.grown_tables import DUE, DUE_AGAIN
from tests.support.publishing_hub import PublishingHub

PAGE = 100


class StripeInMemory:
    """The gateway's part that the sweeps ask. The invoices that are due are open still."""

    connected_account = ""
    checkout_sessions: Any = None

    def __init__(self) -> None:
        self._open = [_shape(f"in_due{n + 1}", "open") for n in range(DUE)]
        self._paid = ListOf([_shape(f"in_{n + 1}", "paid") for n in range(PAGE)])

    async def acquire_read_slots(self, *_: Any) -> int:
        return 1

    async def read_invoice(self, invoice: str, *_: Any, **__: Any) -> StripeInvoice:
        return next(shape for shape in self._open if shape.id == invoice)

    async def list_paid_invoices(self, *_: Any, **__: Any) -> ListOf[StripeInvoice]:
        return self._paid

    async def list_drafts(self, *_: Any, **__: Any) -> ListOf[Any]:
        return ListOf([])

    async def list_reversals(self, *_: Any, **__: Any) -> ListOf[Any]:
        return ListOf([])

    async def list_undelivered_events(self, *_: Any, **__: Any) -> ListOf[msgspec.Raw]:
        events = [{"id": f"evt_{n + 1}", "type": "invoice.paid", "livemode": False} for n in range(PAGE)]
        return ListOf([msgspec.Raw(msgspec.json.encode(event)) for event in events])


async def timed_sweeps(rounds: int) -> dict[str, float]:
    """Milliseconds of one round of each sweep, the median of `rounds`."""
    reconciler, redis = reconciler_of_memory()
    sweeps = sweeps_of(reconciler)
    took: dict[str, list[float]] = {name: [] for name in sweeps}
    for _ in range(rounds + 1):
        for statement in DUE_AGAIN:
            await connection().execute_query(statement)
        for name, sweep in sweeps.items():
            began = time.perf_counter()
            if not await sweep() and name == "audit":
                continue  # it has come to the end, and begins again with the next round
            took[name].append((time.perf_counter() - began) * 1000)
    await redis.aclose()
    return {name: statistics.median(times[1:]) for name, times in took.items()}  # the first warms


def sweeps_of(reconciler: Reconciler) -> dict[str, Callable[[], Awaitable[int]]]:
    return {
        "unhandled_events": reconciler.due.events,
        "due_invoices": reconciler.due.invoices,
        "unpublished_versions": reconciler.due.versions,
        "due_installments": reconciler.due.installments,
        "expired_reservations": reconciler.due.reservations,
        "ended_grants": reconciler.due.grants,
        "undelivered_events": reconciler.lists.undelivered_events,
        "paid_invoices": reconciler.lists.paid_invoices,
        "audit": reconciler.maintenance.audit,
        "alarms": reconciler.maintenance.alarms,
    }


def reconciler_of_memory() -> tuple[Reconciler, Redis]:
    """A reconciler for which Stripe answers from memory."""
    gateway: Any = StripeInMemory()
    catalogue, metrics, timeline = parse_catalogue(PACKAGED_PLANS.read_bytes()), Metrics(), Timeline()
    prices = PriceCatalog(catalogue, gateway)
    prices.add(StripePrice("price_pro", "paidup_pro_monthly", "pro", 2900, "usd"))
    redis = Redis()  # connects to nothing: the hub is not opened
    hub = PublishingHub(redis, _published)
    return compose(prices, gateway, hub, timeline, metrics).reconciler, redis


async def _published(_: StatusMessage) -> bool:
    return True


def _shape(id: str, status: str) -> StripeInvoice:
    shape = {
        "id": id,
        "status": status,
        "customer": "cus_1",
        "currency": "usd",
        "amount_due": 2900,
        "total": 2900,
        "amount_paid": 2900 if status == "paid" else 0,
        "amount_remaining": 0 if status == "paid" else 2900,
        "created": 0,
        "lines": {"data": [], "has_more": False},
    }
    return decode(StripeInvoice, msgspec.json.encode(shape))
