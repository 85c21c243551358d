"""What is counted, for Prometheus. One registry for each app, so that tests can make many."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.activation_seconds = Histogram(
            "paidup_activation_seconds",
            "How long a customer who waited on a socket here waited, by the road that ended it.",
            ["road"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.settlements = Counter(
            "paidup_settlements_total",
            "Calls of settle() by road and outcome.",
            ["road", "outcome"],
            registry=self.registry,
        )
        self.sweep_seconds = Histogram(
            "paidup_sweep_seconds",
            "How long one round of a reconciler's sweep took.",
            ["sweep"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.audit_differences = Counter(
            "paidup_audit_differences_total",
            "Differences that the audit found. Anything above 0 wants a person.",
            registry=self.registry,
        )
        self.alarm = Gauge("paidup_alarm", "1 while the alarm is on.", ["name"], registry=self.registry)
        self.webhooks = Counter(
            "paidup_webhooks_total", "Deliveries by what became of them.", ["result"], registry=self.registry
        )
        self.sockets = Gauge(
            "paidup_sockets", "Sockets open now, by what they are on.", ["kind"], registry=self.registry
        )
        for kind in ("invoice", "account"):
            self.sockets.labels(kind)  # so that it says 0, not nothing, before the first
        self.sockets_refused = Counter(
            "paidup_sockets_refused_total",
            "Handshakes refused, by HTTP status.",
            ["status"],
            registry=self.registry,
        )
        self.gaps = Counter(
            "paidup_redis_gaps_total",
            "Times that messages of Redis may have been missed, and the waiting rows were read again.",
            registry=self.registry,
        )
        self.probes_missed = Counter(
            "paidup_redis_probes_missed_total",
            "Messages to ourselves that Redis did not bring back in time.",
            registry=self.registry,
        )
        self.channels_restored = Counter(
            "paidup_redis_channels_restored_total",
            "Channels that were subscribed again after a connection had ended or a slot had moved.",
            registry=self.registry,
        )
        self.rescued = Counter(
            "paidup_rescued_total",
            "Statuses and balances that were told because their row was read again, and no message had come.",
            registry=self.registry,
        )
        self.requests_failed = Counter(
            "paidup_requests_failed_total",
            "Requests answered with an error, by HTTP status.",
            ["status"],
            registry=self.registry,
        )
