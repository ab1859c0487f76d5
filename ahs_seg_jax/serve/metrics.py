"""What the server counts, in Prometheus' text format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The counts of one server; a process may have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, open files
        self.requests = Counter("ahs_seg_requests", "Answered requests.", ("path", "status"), registry=self.registry)
        self.seconds = Histogram(
            "ahs_seg_request_seconds",
            "Until the answer.",
            ("path",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.waiting = Gauge("ahs_seg_waiting", "Requests for labels that are being answered.", registry=self.registry)
        self.together = Histogram(
            "ahs_seg_images_together", "Images of one call.", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self.registry)
