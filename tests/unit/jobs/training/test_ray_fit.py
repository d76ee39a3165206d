"""Which of several workers' errors counts, and the span of a worker.

That workers are started, lost and replaced is tested on a real cluster.
"""

from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from ray.exceptions import RayActorError
from ray.train import TrainingFailedError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from jobs.directory.records import Outcome, Result
from jobs.errors import DiskFullError, FencedError, WorkersLostError
from jobs.telemetry.tracing import Tracing
from jobs.training.ray_fit import _cause_of, train_traced
from jobs.training.worker import DistributedContext, TrainingTask
from seqae.errors import DivergedError

BROKEN = RuntimeError("[gloo] Connection closed by peer")


def _of_workers(*errors: Exception) -> TrainingFailedError:
    wrapped = {rank: UserExceptionWithTraceback(error, "trace") for rank, error in enumerate(errors)}
    return WorkerGroupError("some failed", wrapped)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ((DivergedError("nan"), BROKEN), DivergedError),
        ((BROKEN, DiskFullError("full")), DiskFullError),
        ((BROKEN, FencedError("stale")), FencedError),
        ((DivergedError("nan"), FencedError("stale")), FencedError),
        ((BROKEN,), WorkersLostError),
        ((RayActorError(), BROKEN), WorkersLostError),
    ],
    ids=str,
)
def test_the_workers_own_error_counts_before_the_connections_it_broke(
    errors: tuple[Exception, ...], expected: type[Exception]
) -> None:
    assert type(_cause_of(_of_workers(*errors))) is expected


def test_a_lost_controller_is_like_lost_workers() -> None:
    assert isinstance(_cause_of(ControllerError(RayActorError())), WorkersLostError)


def test_a_worker_trains_below_the_drivers_span(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider, result = InMemorySpanExporter(), TracerProvider(), Result(outcome=Outcome.SUCCEEDED)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("jobs.training.ray_fit.tracing_of_job", lambda _part: Tracing(provider))
    monkeypatch.setattr("jobs.training.ray_fit.train", lambda _task, _workers: result)
    task = TrainingTask(folder=tmp_path, control=tmp_path, attempt=3, cache_dir=tmp_path, data_dir=None)
    assert train_traced(task, DistributedContext(1, 2, "cpu"), None) is result
    assert exporter.get_finished_spans() == (), "the driver makes none either"
    assert train_traced(task, DistributedContext(1, 2, "cpu"), f"00-{'ab' * 16}-{'cd' * 8}-01") is result
    (span,) = exporter.get_finished_spans()
    assert span.parent is not None
    assert (span.name, span.context.trace_id, span.parent.span_id) == (
        "training",
        int("ab" * 16, 16),
        int("cd" * 8, 16),
    )
    assert dict(span.attributes or {}) == {"seqae.attempt": 3, "seqae.rank": 1, "seqae.workers": 2}
