"""Instruments of one app."""

import time

import pytest

from service.metrics.instruments import Metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_round_is_measured_whether_it_fails_or_not() -> None:
    metrics, before = Metrics(), time.time()
    assert metrics.timed_round("admit", lambda: 7) == 7

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        metrics.timed_round("admit", fail)
    assert value(metrics, "seqae_reconcile_round_seconds_count", part="admit") == 2
    ended = value(metrics, "seqae_reconcile_last_round_timestamp_seconds", part="admit")
    assert ended is not None
    assert before <= ended <= time.time()


def test_two_apps_of_one_process_count_for_themselves() -> None:
    one, other = Metrics(), Metrics()
    one.attempts_lost.labels("oom").inc()
    assert value(one, "seqae_attempts_lost_total", error_class="oom") == 1
    assert value(other, "seqae_attempts_lost_total", error_class="oom") is None
