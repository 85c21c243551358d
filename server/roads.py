"""The roads, put together: what gathers facts, and the settlement that they lead to.

Owns which of these parts is given which other, once for the server, the worker and the tests.
Refuses to open anything: what is connected is handed in.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.clawbacks import Clawbacks
from server.clock import Clock, now
from server.core.plans import Catalogue
from server.events import Events
from server.hub import Hub
from server.metrics import Metrics
from server.prices import PriceBook
from server.pruning import DEFAULT_RETENTION, Retention
from server.reconciliation import Reconciler
from server.settlement import Publish, Settlement, TellBalance
from server.stripe_gateway import StripeGateway
from server.subscriptions import Subscriptions
from server.timeline import Timeline
from server.verification import Verification


@dataclass(frozen=True)
class Roads:
    settlement: Settlement
    verification: Verification
    clawbacks: Clawbacks
    subscriptions: Subscriptions
    events: Events
    reconciler: Reconciler


def build_roads(
    catalogue: Catalogue,
    prices: PriceBook,
    gateway: StripeGateway,
    hub: Hub,
    timeline: Timeline,
    metrics: Metrics,
    publish: Publish,
    tell_balance: TellBalance,
    clock: Clock = now,
    retention: Retention = DEFAULT_RETENTION,
) -> Roads:
    settlement = Settlement(catalogue, prices, publish, tell_balance, timeline, metrics, clock)
    verification = Verification(gateway, settlement, prices, hub, timeline)
    clawbacks = Clawbacks(gateway, verification, settlement)
    subscriptions = Subscriptions(gateway, prices, settlement, verification, clock)
    events = Events(verification, clawbacks, subscriptions, timeline)
    reconciler = Reconciler(
        settlement, verification, events, clawbacks, subscriptions, gateway, metrics, clock, retention
    )
    return Roads(settlement, verification, clawbacks, subscriptions, events, reconciler)
