"""What the server counts, in Prometheus' text format."""

import time
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from insightv.models.chat import Delta

NAME = "insightv"
disable_created_metrics()
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        self.requests = Counter("requests", "Requests for a completion, by model and how they ended.", ("model", "status"), NAME, registry=own)
        self.in_flight = Gauge("requests_in_flight", "Requests in work.", (), NAME, registry=own)
        self.tokens = Counter("tokens", "Tokens by kind: prompt, cached (of it), reasoning, answer.", ("model", "kind"), NAME, registry=own)
        self.first = Histogram("first_text_seconds", "From a request to its first text.", ("model", "kind"), NAME, registry=own, buckets=_SECONDS)
        self.seconds = Histogram("request_seconds", "From a request to its end.", ("model",), NAME, registry=own, buckets=_SECONDS)

    def refused(self, model: str, status: int, known: bool) -> None:
        """A request that was not begun; only models that there are have a line of their own."""
        self.requests.labels(model if known else "", str(status)).inc()

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)


@dataclass
class Watch:
    """What one request comes to."""

    metrics: Metrics
    model: str
    _begun: float = field(default_factory=time.monotonic)
    _seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.metrics.in_flight.inc()

    def see(self, delta: Delta) -> None:
        """Hear of a piece of the reply."""
        if delta.kind not in self._seen and delta.kind != "usage":
            self._seen.add(delta.kind)
            self.metrics.first.labels(self.model, delta.kind).observe(time.monotonic() - self._begun)
        if usage := delta.usage:
            kinds = {"prompt": usage.prompt, "cached": usage.cached, "reasoning": usage.reasoning, "answer": usage.completion - usage.reasoning}
            for kind, count in kinds.items():
                self.metrics.tokens.labels(self.model, kind).inc(max(0, count))

    def end(self, status: str) -> None:
        """The request ended so: as an HTTP status, or `gone` with its client."""
        self.metrics.in_flight.dec()
        self.metrics.requests.labels(self.model, status).inc()
        self.metrics.seconds.labels(self.model).observe(time.monotonic() - self._begun)
