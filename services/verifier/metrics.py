"""What the verifier counts, for Prometheus."""

from collections import Counter as Tally
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.grading import Kind, VerifyResult


class Metrics:
    """The verifier's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.verdicts = Counter(
            "drift_verifier_verdicts", "Graded items by kind and verdict.", ["kind", "verdict"], registry=self.registry
        )
        self.methods = Counter(
            "drift_verifier_methods", "Decided items by the tier that decided.", ["method"], registry=self.registry
        )
        self.cache_hits = Counter(
            "drift_verifier_cache_hits",
            "Items answered from the cache or from a twin in flight.",
            registry=self.registry,
        )
        self.kills = Counter(
            "drift_verifier_worker_ends",
            "Symbolic workers lost, by cause: deadline, memory or died.",
            ["cause"],
            registry=self.registry,
        )
        self.refusals = Counter("drift_verifier_refusals", "Requests refused with 429.", registry=self.registry)
        self.in_flight = Gauge(
            "drift_verifier_items_in_flight", "Items accepted and not yet answered.", registry=self.registry
        )
        self.symbolic = Gauge(
            "drift_verifier_symbolic_in_flight", "Symbolic tasks that wait or run.", registry=self.registry
        )
        self.seconds = Histogram(
            "drift_verifier_item_seconds",
            "Grading time of one item by method.",
            ["method"],
            registry=self.registry,
            buckets=(2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.2, 1, 5),
        )

    def count(self, graded: Sequence[tuple[Kind, VerifyResult]]) -> None:
        """Count the results of one request."""
        for (kind, verdict), number in Tally((kind, result.verdict) for kind, result in graded).items():
            self.verdicts.labels(kind, verdict).inc(number)
        methods = Tally(result.method or "none" for _, result in graded)
        for method, number in methods.items():
            self.methods.labels(method).inc(number)
        seconds = {method: self.seconds.labels(method) for method in methods}
        for _, result in graded:
            seconds[result.method or "none"].observe(result.ms / 1000)
