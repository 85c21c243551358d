"""What is counted, for Prometheus. One registry for each app, so that tests can make many.

docs/operations.md says what each means, and its alerts read them.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._of_payments()
        self._of_the_edge()
        self._of_what_it_stands_on()

    def _of_payments(self) -> None:
        self.activation_seconds = Histogram(
            "paidup_activation_seconds",
            "How long a customer who waited on a socket here waited, by the road that ended it.",
            ["source"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.settlements = self._counter(
            "paidup_settlements_total", "Calls of settle() by source and outcome.", "source", "outcome"
        )
        self.sweep_seconds = Histogram(
            "paidup_reconciler_sweep_duration_seconds",
            "How long one round of a reconciler's sweep took.",
            ["sweep"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.audit_differences = self._counter(
            "paidup_ledger_mismatches_total",
            "Differences that the audit found. Anything above 0 wants a person.",
        )
        self.alarm = self._gauge("paidup_alarm", "1 while the alarm is on.", "name")
        self.due = self._gauge(
            "paidup_reconciler_backlog", "Rows whose time has come, for the reconciler.", "queue"
        )

    def _of_the_edge(self) -> None:
        self.webhooks = self._counter("paidup_webhooks_total", "Deliveries by what became of them.", "result")
        self.sockets = self._gauge("paidup_sockets", "Sockets open now, by what they are on.", "kind")
        for kind in ("invoice", "account"):
            self.sockets.labels(kind)  # so that it says 0, not nothing, before the first
        self.sockets_refused = self._counter(
            "paidup_sockets_refused_total", "Handshakes refused, by HTTP status.", "status"
        )
        self.requests_failed = self._counter(
            "paidup_requests_failed_total", "Requests answered with an error, by HTTP status.", "status"
        )

        self.limited = self._counter(
            "paidup_limited_total", "What was refused because one account asked for too much.", "limit"
        )

    def _of_what_it_stands_on(self) -> None:
        self.up = self._gauge(
            "paidup_up", "1 while this process can use the part it stands on: database, redis.", "part"
        )
        self.gaps = self._counter(
            "paidup_pubsub_gaps_total",
            "Times that messages of Redis may have been missed, and the waiting rows were read again.",
        )
        self.probes_missed = self._counter(
            "paidup_redis_probes_missed_total",
            "Messages to ourselves that Redis did not bring back in time.",
        )
        self.channels_restored = self._counter(
            "paidup_redis_channels_restored_total",
            "Channels that were subscribed again after a connection had ended or a slot had moved.",
        )
        self.rescued = self._counter(
            "paidup_resync_deliveries_total",
            "Statuses and balances that were told because their row was read again, and no message had come.",
        )
        self.stripe_requests = self._counter(
            "paidup_stripe_requests_total",
            "Places in the budget of requests to Stripe that were taken, for a customer or the background.",
            "endpoint",
            "purpose",
        )
        self.stripe_budget_exhausted = self._counter(
            "paidup_stripe_rate_limit_timeouts_total",
            "Requests to Stripe that were not made, since no place came free in time.",
            "endpoint",
        )
        self.stripe_rate_limited = self._counter(
            "paidup_stripe_rate_limited_total", "Requests that Stripe answered with 429.", "endpoint"
        )

        self.key_set_fetches = self._counter(
            "paidup_key_set_fetches_total", "Fetches of the identity provider's key set.", "result"
        )
        self.key_set_age = self._gauge(
            "paidup_key_set_age_seconds", "Seconds since the identity provider's key set was last fetched."
        )

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(name, words, labels, registry=self.registry)

    def _gauge(self, name: str, words: str, *labels: str) -> Gauge:
        return Gauge(name, words, labels, registry=self.registry)
