"""Builds every long-lived part, opens them in order, and closes them in reverse.

The web application, `paidup work` and the other commands open the same services; the first two also deliver
events. Importing this module connects to nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from paidup.credits.move_batches import CreditMoves
from paidup.db.applied_migrations import require_migrated
from paidup.db.connection import open_database
from paidup.db.postgres import Timeouts
from paidup.domain.catalog import Catalogue
from paidup.domain.return_page import ReturnPage
from paidup.outbound.dispatcher import Dispatcher
from paidup.outbound.endpoints import take_settings
from paidup.outbound.sender import Sender
from paidup.payments.after_commit import PublishBalance
from paidup.payments.bulk_verification import BulkVerification
from paidup.payments.checkout_verification import CheckoutVerification
from paidup.payments.claim_links import ClaimLinks
from paidup.payments.claims import Claims
from paidup.payments.refunds import ReversalHandler
from paidup.payments.settlement import Settlement
from paidup.payments.timeline import Timeline
from paidup.payments.verification import Verification
from paidup.payments.verification_queue import VerificationQueue
from paidup.payments.verification_worker import CheckResult, Checks, Slot, VerificationWorker
from paidup.rate_limits.account_limits import AccountLimits
from paidup.rate_limits.address_limits import AddressLimits
from paidup.realtime.hub import Hub
from paidup.realtime.publishing import publish_balance, publish_status
from paidup.realtime.resync import resync_forever
from paidup.realtime.tickets import Tickets
from paidup.reconciliation.abandoned_purchases import AbandonedPurchases
from paidup.reconciliation.alarms import Alarms
from paidup.reconciliation.checkout_events import CheckoutEvents
from paidup.reconciliation.completed_sessions import CompletedSessions
from paidup.reconciliation.due_rows import DueRows
from paidup.reconciliation.due_sessions import DueSessions
from paidup.reconciliation.leftover_drafts import LeftoverDrafts
from paidup.reconciliation.list_sweeps import ListSweeps
from paidup.reconciliation.maintenance import Maintenance
from paidup.reconciliation.policy import DEFAULT_POLICY, ReconcilerPolicy, policy_of
from paidup.reconciliation.received_events import ReceivedEvents
from paidup.reconciliation.reconciler import Reconciler
from paidup.reconciliation.stripe_events import Events
from paidup.runtime.clock import Clock, now
from paidup.runtime.embedded_valkey import embedded_valkey
from paidup.runtime.metrics import Metrics
from paidup.runtime.plans_file import read_catalogue
from paidup.runtime.redis_client import RedisClient, connect_redis
from paidup.runtime.return_page_file import read_return_page
from paidup.runtime.tasks import cancel_tasks
from paidup.runtime.telemetry import tracing
from paidup.settings import Settings
from paidup.stripe_api.checkout_schemas import is_session
from paidup.stripe_api.gateway import StripeGateway, open_gateway
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.rate_limiter import RateLimiter
from paidup.stripe_api.read_count import ReadCounter
from paidup.subscriptions.accounts import Accounts
from paidup.subscriptions.beginnings import Beginnings
from paidup.subscriptions.checkout import Checkout
from paidup.subscriptions.customers import StripeCustomers
from paidup.subscriptions.open_sessions import OpenSessions
from paidup.subscriptions.own_subscriptions import OwnSubscriptions
from paidup.subscriptions.plan_changes import PlanChanges
from paidup.subscriptions.renewals import Renewals
from paidup.subscriptions.session_purchases import SessionPurchases
from paidup.subscriptions.sync import SubscriptionSync


@dataclass(frozen=True)
class PaymentServices:
    """What gathers facts about payments, and the settlement that they lead to."""

    settlement: Settlement
    verification: Verification
    checkouts: CheckoutVerification
    claims: Claims
    verification_queue: VerificationQueue
    verification_worker: VerificationWorker
    subscriptions: SubscriptionSync
    events: Events
    reconciler: Reconciler


def compose(
    prices: PriceCatalog,
    gateway: StripeGateway,
    hub: Hub,
    timeline: Timeline,
    metrics: Metrics,
    clock: Clock = now,
    policy: ReconcilerPolicy = DEFAULT_POLICY,
) -> PaymentServices:
    """Build the payment services, for the server, the worker and the tests. Opens and starts nothing."""
    publish, publish_account = partial(publish_status, hub), partial(publish_balance, hub)
    settlement = Settlement(prices.catalogue, prices, publish, publish_account, timeline, metrics, clock)
    queue = VerificationQueue()
    verification = Verification(gateway, settlement, prices, hub, timeline, queue)
    checkouts = CheckoutVerification(gateway, verification, settlement.publish, prices, hub, queue, timeline)
    claims = Claims(checkouts, hub)
    bulk = BulkVerification(gateway, verification, timeline)

    async def check(key: str, slot: Slot) -> CheckResult:
        return await (checkouts.check(key, slot) if is_session(key) else verification.check(key, slot))

    checks = Checks(gateway.acquire_read_slots, check, bulk.check, bulk.is_due)
    reversals = ReversalHandler(gateway, verification, settlement)
    renewals = Renewals(gateway, prices.catalogue, prices, verification)
    subscriptions = SubscriptionSync(gateway, prices, settlement, verification, renewals, clock)
    checkout_events = CheckoutEvents(checkouts)
    events = Events(
        verification, reversals, subscriptions, renewals, checkout_events, timeline, gateway.connected_account
    )
    abandoned = AbandonedPurchases(gateway, verification, clock, policy.abandoned_after)
    drafts = LeftoverDrafts(gateway, clock, policy.abandoned_after)
    completed = CompletedSessions(gateway, checkouts)
    reconciler = Reconciler(
        DueRows(settlement, verification, events, subscriptions, abandoned, clock),
        DueSessions(checkouts, OpenSessions(gateway, checkouts, prices), claims),
        ListSweeps(gateway, verification, events, reversals, drafts, completed, policy.reads_per_month),
        Maintenance(metrics, policy),
        metrics,
    )
    return PaymentServices(
        settlement=settlement,
        verification=verification,
        checkouts=checkouts,
        claims=claims,
        verification_queue=queue,
        verification_worker=VerificationWorker(queue, checks),
        subscriptions=subscriptions,
        events=events,
        reconciler=reconciler,
    )


@dataclass(frozen=True)
class Services:
    settings: Settings
    catalogue: Catalogue
    return_page: ReturnPage
    metrics: Metrics
    redis: RedisClient
    hub: Hub
    gateway: StripeGateway
    prices: PriceCatalog
    timeline: Timeline
    clock: Clock
    publish_balance: PublishBalance
    settlement: Settlement
    verification: Verification
    checkouts: CheckoutVerification
    claims: Claims
    claim_links: ClaimLinks
    verification_queue: VerificationQueue
    subscriptions: SubscriptionSync
    events: Events
    received: ReceivedEvents
    accounts: Accounts
    credit_moves: CreditMoves
    checkout: Checkout
    session_purchases: SessionPurchases
    plan_changes: PlanChanges
    reconciler: Reconciler
    tickets: Tickets
    account_limits: AccountLimits
    address_limits: AddressLimits
    alarms: Alarms
    dispatcher: Dispatcher


@dataclass(frozen=True)
class Connections:
    """The clients of Redis and of Stripe, the hub, and what uses nothing else."""

    redis: RedisClient
    gateway: StripeGateway
    hub: Hub
    timeline: Timeline


@asynccontextmanager
async def open_services(settings: Settings, clock: Clock = now) -> AsyncIterator[Services]:
    """Open all services for the length of the block. `clock` is Stripe's calendar: see runtime/clock.py.

    Raises ConfigurationError, StorageUnavailable (no database). Redis and Stripe are retried while serving.
    """
    catalogue, return_page = read_catalogue(settings.plans_file), read_return_page(settings.return_page_file)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        connections = await _open_connections(stack, settings, metrics)
        redis, gateway, hub = connections.redis, connections.gateway, connections.hub
        prices = await _load_prices(settings, catalogue, gateway)
        payments = compose(prices, gateway, hub, connections.timeline, metrics, clock, policy_of(settings))
        _start_tasks(stack, settings, hub, payments)
        own = OwnSubscriptions(gateway, payments.subscriptions, clock)
        open_sessions = OpenSessions(gateway, payments.checkouts, prices)
        verification, subscriptions = payments.verification, payments.subscriptions
        checkout = Checkout(prices, gateway, verification, subscriptions, own, open_sessions, clock)
        yield Services(
            settings=settings,
            catalogue=catalogue,
            return_page=return_page,
            metrics=metrics,
            redis=redis,
            hub=hub,
            gateway=gateway,
            prices=prices,
            timeline=connections.timeline,
            clock=clock,
            publish_balance=payments.settlement.publish_balance,
            settlement=payments.settlement,
            verification=payments.verification,
            checkouts=payments.checkouts,
            claims=payments.claims,
            claim_links=_claim_links(settings, payments.checkouts),
            verification_queue=payments.verification_queue,
            subscriptions=payments.subscriptions,
            events=payments.events,
            received=_received_events(payments, connections.timeline),
            accounts=Accounts(StripeCustomers(gateway, clock), payments.claims),
            credit_moves=_credit_moves(stack, payments.settlement.publish_balance),
            checkout=checkout,
            session_purchases=SessionPurchases(gateway, prices, checkout, own, open_sessions),
            plan_changes=PlanChanges(prices, gateway, verification, checkout, subscriptions, own, clock),
            reconciler=payments.reconciler,
            alarms=Alarms(settings.stripe_reads_per_month, settings.unclaimed_alarm_after_h),
            dispatcher=await _prepare_dispatcher(stack, settings, hub, payments.settlement),
            tickets=Tickets(settings.secret_key, settings.ticket_ttl_s),
            account_limits=AccountLimits(redis, settings, metrics),
            address_limits=AddressLimits(redis, settings, metrics),
        )


@asynccontextmanager
async def delivering_events(services: Services) -> AsyncIterator[None]:
    """Apply the endpoints of the settings, and send events, for the length of the block.

    Not for a command that soon ends: it may be run where EVENT_ENDPOINTS is not set, and the server or the
    worker delivers what it caused. Raises StorageUnavailable.
    """
    await take_settings(services.settings)
    try:
        await services.dispatcher.open()
        yield
    finally:
        await services.dispatcher.close()


async def _load_prices(settings: Settings, catalogue: Catalogue, gateway: StripeGateway) -> PriceCatalog:
    prices = PriceCatalog(catalogue, gateway.account, settings.sells_at_stripes_prices)
    await prices.load()
    return prices


def _credit_moves(stack: AsyncExitStack, publish_balance: PublishBalance) -> CreditMoves:
    credit_moves = CreditMoves(publish_balance)
    stack.push_async_callback(credit_moves.close)
    return credit_moves


def _received_events(payments: PaymentServices, timeline: Timeline) -> ReceivedEvents:
    subscriptions = payments.subscriptions
    beginnings = Beginnings(subscriptions, payments.settlement.publish_balance)
    return ReceivedEvents(payments.events, payments.verification, subscriptions, beginnings, timeline)


def _claim_links(settings: Settings, checkouts: CheckoutVerification) -> ClaimLinks:
    return ClaimLinks(settings.secret_key, settings.claim_link_days, settings.claim_url, checkouts)


async def _open_connections(stack: AsyncExitStack, settings: Settings, metrics: Metrics) -> Connections:
    await stack.enter_async_context(tracing(settings.traces))
    timeouts = Timeouts(settings.database_lock_timeout_s, settings.database_statement_timeout_s)
    url, pool = settings.effective_database_url, settings.database_pool
    await stack.enter_async_context(open_database(url, pool, timeouts))
    await require_migrated()
    url = settings.redis_url or stack.enter_context(embedded_valkey(settings.data_dir))
    redis = connect_redis(url, settings.redis_cluster)
    stack.push_async_callback(redis.aclose)
    rate_limiter = RateLimiter(redis, settings.stripe_requests_per_second, metrics)
    reads = ReadCounter()
    stack.push_async_callback(reads.flush)
    counting = asyncio.create_task(reads.flush_forever(), name="read-counter")
    stack.push_async_callback(cancel_tasks, counting)
    key, api_base, account = settings.stripe_secret_key, settings.stripe_api_base, settings.stripe_account
    gateway = await stack.enter_async_context(
        open_gateway(
            key, api_base, settings.stripe_timeout_s, rate_limiter, reads, account, settings.outgoing
        )
    )
    hub = Hub(redis, metrics)
    await hub.open()
    stack.push_async_callback(hub.close)
    timeline = Timeline()
    timeline.open()
    stack.push_async_callback(timeline.close)
    return Connections(redis, gateway, hub, timeline)


async def _prepare_dispatcher(
    stack: AsyncExitStack, settings: Settings, hub: Hub, settlement: Settlement
) -> Dispatcher:
    """It sends nothing yet, but knows whether `credits.granted` is awaited: another may deliver it."""
    sender = Sender(settings.outgoing, settings.allows_private_addresses)
    after = timedelta(hours=settings.event_endpoint_disable_after_h)
    dispatcher = Dispatcher(sender, hub.metrics, after)
    await dispatcher.read_endpoints()
    hub.on_publish = dispatcher.wake
    dispatcher.on_granted = settlement.provisioning.answered
    settlement.provisioning.is_awaited = dispatcher.wants_grants
    stack.callback(settlement.provisioning.close)
    return dispatcher


def _start_tasks(stack: AsyncExitStack, settings: Settings, hub: Hub, payments: PaymentServices) -> None:
    stack.push_async_callback(payments.verification.close)
    payments.verification_worker.start()
    stack.push_async_callback(payments.verification_worker.close)
    resync = asyncio.create_task(resync_forever(hub, settings.resync_interval_s), name="resync")
    stack.push_async_callback(cancel_tasks, resync)
    if settings.reconciler_in_server:
        sweeps = payments.reconciler.run_forever(settings.reconciler_interval_s)
        stack.push_async_callback(cancel_tasks, asyncio.create_task(sweeps, name="reconciler"))
