"""Prometheus metrics. Each application has its own registry, so that tests can create many.

docs/operations.md explains each metric, and docs/alerts.yaml uses them.
"""

from __future__ import annotations

from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
DELAYS = (0.001, 0.0025, *SECONDS[:9])
SOCKET_KINDS = ("invoice", "checkout", "account")
"""What a WebSocket, or another connection that waits, is on."""


class Via(StrEnum):
    """How a browser is told."""

    WEBSOCKET = "websocket"
    SSE = "sse"
    LONG_POLL = "long_poll"


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._add_payment_metrics()
        self._add_request_metrics()
        self._add_dependency_metrics()
        self._add_outbound_metrics()

    def _add_payment_metrics(self) -> None:
        self.activation_seconds = Histogram(
            "paidup_activation_seconds",
            "Time from opening a WebSocket to the invoice's terminal status, by source.",
            ["source"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.settlements = self._counter(
            "paidup_settlements_total", "Calls of settle(), by source and outcome.", "source", "outcome"
        )
        self.sweep_seconds = Histogram(
            "paidup_reconciler_sweep_duration_seconds",
            "Duration of one run of a reconciler's sweep.",
            ["sweep"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.audit_differences = self._counter(
            "paidup_ledger_mismatches_total",
            "Mismatches found by the audit. Alert if above 0.",
        )
        self.alarm = self._gauge("paidup_alarm", "1 while the alarm is active.", "name")
        self.unclaimed = self._gauge(
            "paidup_unclaimed_payments", "Paid Checkout Sessions that belong to no account yet."
        )
        self.due = self._gauge("paidup_reconciler_backlog", "Rows that are due for the reconciler.", "queue")

    def _add_request_metrics(self) -> None:
        self.webhooks = self._counter("paidup_webhooks_total", "Webhooks received, by result.", "result")
        self.sockets = self._gauge(
            "paidup_sockets", "Browsers that wait, by kind and transport.", "kind", "transport"
        )
        for kind in SOCKET_KINDS:
            for via in Via:
                self.sockets.labels(kind, via)  # shows 0 before the first one is opened
        self.sockets_refused = self._counter(
            "paidup_sockets_refused_total",
            "WebSockets, event streams and long polls refused, by HTTP status and transport.",
            "status",
            "transport",
        )
        self.requests_failed = self._counter(
            "paidup_requests_failed_total", "Requests answered with an error, by HTTP status.", "status"
        )

        self.limited = self._counter(
            "paidup_limited_total", "Requests refused by the rate limit of an account or an address.", "limit"
        )

    def _add_dependency_metrics(self) -> None:
        self.event_loop_delay = Histogram(
            "paidup_event_loop_delay_seconds",
            "How late the event loop ran a timer, measured ten times a second.",
            buckets=DELAYS,
            registry=self.registry,
        )
        self.up = self._gauge("paidup_up", "1 while this process can use the database or Redis.", "part")
        self.gaps = self._counter(
            "paidup_pubsub_gaps_total",
            "Times that pub/sub messages may have been missed, which caused a resync.",
        )
        self.probes_missed = self._counter(
            "paidup_redis_probes_missed_total",
            "Probe messages that did not come back through Redis in time.",
        )
        self.channels_restored = self._counter(
            "paidup_redis_channels_restored_total",
            "Channels resubscribed after a connection ended or a slot moved.",
        )
        self.resync_deliveries = self._counter(
            "paidup_resync_deliveries_total",
            "Statuses and balances delivered by a resync, without a message.",
        )
        self.stripe_requests = self._counter(
            "paidup_stripe_requests_total",
            "Requests admitted by the rate limiter for Stripe, by endpoint and purpose.",
            "endpoint",
            "purpose",
        )
        self.stripe_reads = self._gauge(
            "paidup_stripe_reads", "Reads from Stripe this month (UTC), by all processes."
        )
        self.stripe_budget_exhausted = self._counter(
            "paidup_stripe_rate_limit_timeouts_total",
            "Requests to Stripe not made because the rate limiter timed out.",
            "endpoint",
        )
        self.stripe_rate_limited = self._counter(
            "paidup_stripe_rate_limited_total", "Requests that Stripe refused with 429.", "endpoint"
        )

        self.key_set_fetches = self._counter(
            "paidup_key_set_fetches_total", "Fetches of the identity provider's key set.", "result"
        )
        self.key_set_age = self._gauge(
            "paidup_key_set_age_seconds", "Seconds since the identity provider's key set was last fetched."
        )

    def _add_outbound_metrics(self) -> None:
        self.outbound_events = self._counter(
            "paidup_outbound_events_total", "Outbound events that were given to their endpoints."
        )
        self.outbound_attempts = self._counter(
            "paidup_outbound_attempts_total",
            "Attempts to deliver an outbound event, by endpoint and result.",
            "endpoint",
            "result",
        )
        self.outbound_seconds = Histogram(
            "paidup_outbound_delivery_seconds",
            "Time from an outbound event's commit to its endpoint's answer.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.provisioning_ended = self._counter(
            "paidup_provisioning_ended_total",
            "Payments whose page waited for the backend, by what ended that: answer or deadline.",
            "by",
        )
        self.outbound_deliveries = self._gauge(
            "paidup_outbound_deliveries", "Deliveries of outbound events, by state: pending or dead.", "state"
        )

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(name, help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(name, help_text, labels, registry=self.registry)
