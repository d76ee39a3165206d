"""Counters and histograms that the control plane's threads fill while they work, in a registry of this app's own."""

import time
from collections.abc import Callable
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["Metrics"]

ResultT = TypeVar("ResultT")

_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROUND_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0)
_QUEUE_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 4 * 3_600.0, 24 * 3_600.0)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """Instruments of one app. Every label takes its values from a list of ours, never from a client."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        """What `/metrics` shows besides what it reads off at that moment."""
        self.http_request_seconds = Histogram(
            "seqae_http_request_seconds",
            "Time from a request to the head of its answer, by route template and status",
            ("route", "status"),
            buckets=_REQUEST_SECONDS,
            registry=self.registry,
        )
        self.queue_seconds = Histogram(
            "seqae_queue_seconds",
            "Time that an admitted job had waited in the queue",
            buckets=_QUEUE_SECONDS,
            registry=self.registry,
        )
        self.attempts_lost = Counter(
            "seqae_attempts_lost",
            "Attempts given up by this process, to be tried again, by class of the error",
            ("error_class",),
            registry=self.registry,
        )
        self.reconcile_round_seconds = Histogram(
            "seqae_reconcile_round_seconds",
            "Time of one round of the reconciler, by its part",
            ("part",),
            buckets=_ROUND_SECONDS,
            registry=self.registry,
        )
        self.reconcile_last_round = Gauge(
            "seqae_reconcile_last_round_timestamp_seconds",
            "When the newest round of the reconciler ended, seconds since 1970, by its part",
            ("part",),
            registry=self.registry,
        )
        self.reconstruct_batch_size = Histogram(
            "seqae_reconstruct_batch_size",
            "Images that a model was given at once by /reconstruct",
            buckets=_BATCH_SIZES,
            registry=self.registry,
        )
        self.reconstruct_explained_share = Histogram(
            "seqae_reconstruct_explained_share",
            "Share of the picture that a reconstruction explained",
            buckets=_SHARES,
            registry=self.registry,
        )

    def timed_round(self, part: str, act: Callable[[], ResultT]) -> ResultT:
        """Calls one round of the reconciler, and measures it whether it fails or not.

        Args:
            part: name of the part, one of a few.
            act: the round.
        """
        started = time.monotonic()
        try:
            return act()
        finally:
            self.reconcile_round_seconds.labels(part).observe(time.monotonic() - started)
            self.reconcile_last_round.labels(part).set_to_current_time()
