"""What Prometheus reads of the server."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32)


class Figures:
    """The numbers of one server, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # a second series for each first one
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "stargan_serve_requests", "answered requests", ["route", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "stargan_serve_request_seconds", "time to answer a request", ["route"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.queue = Gauge(
            "stargan_serve_queue_length", "pictures that wait for the network",
            registry=self.registry,
        )  # fmt: skip
        self.inside = Gauge(
            "stargan_serve_requests_inside", "edits that were admitted and are not answered",
            registry=self.registry,
        )  # fmt: skip
        self.batch = Histogram(
            "stargan_serve_batch_size", "pictures in one pass of the network", buckets=SIZES,
            registry=self.registry,
        )  # fmt: skip
        self.pass_seconds = Histogram(
            "stargan_serve_pass_seconds", "time of one pass of the network", buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.version = Gauge(
            "stargan_serve_version", "1 for the served version", ["model", "version"],
            registry=self.registry,
        )  # fmt: skip
        self.answers = Gauge(
            "stargan_serve_registry_answers", "1 if the registry answered when last asked",
            registry=self.registry,
        )  # fmt: skip
        self.refused = Counter(
            "stargan_serve_refused_versions", "versions that could not be loaded, each try",
            registry=self.registry,
        )  # fmt: skip

    def serve(self, name: str, version: str) -> None:
        """Name the version that is served from now on."""
        self.version.clear()
        self.version.labels(name, version).set(1)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
