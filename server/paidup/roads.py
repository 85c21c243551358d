"""The roads, put together: what gathers facts, and the settlement that they lead to.

Owns which of these parts is given which other, once for the server, the worker and the tests.
Refuses to open anything: what is connected is handed in.
"""

from __future__ import annotations

from dataclasses import dataclass

from paidup.clock import Clock, now
from paidup.domain.catalog import Catalogue
from paidup.metrics import Metrics
from paidup.payments.refunds import ReversalHandler
from paidup.payments.settlement import Publish, PublishBalance, Settlement
from paidup.payments.timeline import Timeline
from paidup.payments.verification import Verification
from paidup.realtime.hub import Hub
from paidup.reconciliation.pruning import DEFAULT_RETENTION, Retention
from paidup.reconciliation.reconciler import Reconciler
from paidup.reconciliation.stripe_events import Events
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.prices import PriceCatalog
from paidup.subscriptions.sync import SubscriptionSync


@dataclass(frozen=True)
class Roads:
    settlement: Settlement
    verification: Verification
    clawbacks: ReversalHandler
    subscriptions: SubscriptionSync
    events: Events
    reconciler: Reconciler


def build_roads(
    catalogue: Catalogue,
    prices: PriceCatalog,
    gateway: StripeGateway,
    hub: Hub,
    timeline: Timeline,
    metrics: Metrics,
    publish: Publish,
    publish_balance: PublishBalance,
    clock: Clock = now,
    retention: Retention = DEFAULT_RETENTION,
) -> Roads:
    settlement = Settlement(catalogue, prices, publish, publish_balance, timeline, metrics, clock)
    verification = Verification(gateway, settlement, prices, hub, timeline)
    clawbacks = ReversalHandler(gateway, verification, settlement)
    subscriptions = SubscriptionSync(gateway, prices, settlement, verification, clock)
    events = Events(verification, clawbacks, subscriptions, timeline)
    reconciler = Reconciler(
        settlement, verification, events, clawbacks, subscriptions, gateway, metrics, clock, retention
    )
    return Roads(settlement, verification, clawbacks, subscriptions, events, reconciler)
