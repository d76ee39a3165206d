"""Which of several workers' errors counts, and the span of a worker.

That workers are started, lost and replaced is tested on a real cluster.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import ray
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from ray.exceptions import RayActorError
from ray.train import TrainingFailedError
from ray.train.torch import TorchConfig
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from jobs.directory.layout import JobFolder
from jobs.directory.records import Outcome, Result
from jobs.directory.stored_specs import spec_to_json
from jobs.errors import DiskFullError, FencedError, FolderError, PreemptedError, WorkersLostError
from jobs.specs import TrainSpec
from jobs.storage.attempt_claim import AttemptClaim
from jobs.storage.driver_storage import DriverStorage
from jobs.storage.folder import FolderStore
from jobs.telemetry.tracing import Tracing
from jobs.training.ray_fit import _cause_of, _process_group, run_worker, train_traced
from jobs.training.worker import DistributedContext, TrainingTask
from seqae.errors import DataError, DivergedError

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
        ((BROKEN, PreemptedError("SIGTERM")), PreemptedError),
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


def test_the_process_groups_set_up_travels_to_the_cluster_and_is_rays_own_otherwise() -> None:
    """Ray pickles it by value; that SIGTERM becomes a notice in the workers is tested on a real cluster."""
    made = ray.cloudpickle.loads(ray.cloudpickle.dumps(_process_group("gloo")))
    assert made.backend == "gloo"
    assert isinstance(made, TorchConfig)
    assert issubclass(made.backend_cls, TorchConfig().backend_cls)


@pytest.fixture
def elsewhere(tmp_path: Path, spec: TrainSpec, monkeypatch: pytest.MonkeyPatch, cache_dir: Path) -> TrainingTask:
    """A task whose driver is on another machine, with a storage between the two."""
    store = FolderStore(tmp_path / "objects")
    monkeypatch.setenv("SEQAE_STORAGE", f"file://{tmp_path}/objects")
    store.put("jobs/job_1/spec.json", spec_to_json(spec).encode())
    AttemptClaim(store, "jobs/job_1", 1).take()
    folder = tmp_path / "node" / "jobs" / "job_1-1" / "job_1"
    return TrainingTask(folder, folder, 1, cache_dir, None)


def test_rank_0_on_another_machine_ships_what_it_writes(elsewhere: TrainingTask, tmp_path: Path) -> None:
    result = run_worker(elsewhere, DistributedContext())
    names = {info.key.removeprefix("jobs/job_1/") for info in FolderStore(tmp_path / "objects").list("jobs")}
    assert f"{result.checkpoint}/manifest.json" in names
    assert {"attempts/1/writer.json", "attempts/1/test.json"} <= names


def test_an_error_of_training_is_told_as_it_is(elsewhere: TrainingTask, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError):
        run_worker(replace(elsewhere, cache_dir=tmp_path / "file" / "below"), DistributedContext())


def test_a_trial_needs_the_machine_of_its_driver(elsewhere: TrainingTask) -> None:
    trial = replace(elsewhere, folder=elsewhere.folder / "trials" / "0")
    with pytest.raises(FolderError, match="machine of its driver"):
        run_worker(trial, DistributedContext())


def test_rank_0_beside_the_driver_writes_into_its_folder(elsewhere: TrainingTask, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "objects")
    storage = DriverStorage(store, JobFolder(elsewhere.folder), 2)
    storage.begin()
    result = run_worker(replace(elsewhere, attempt=2), DistributedContext())
    assert result.checkpoint is not None
    assert (elsewhere.folder / result.checkpoint).is_dir()
    names = {info.key.removeprefix("jobs/job_1/") for info in store.list("jobs")}
    assert names == {"spec.json", "claim.json", "attempts/2/writer.json"}
    storage.take_over()
    storage.finish(10)
    assert store.get(f"jobs/job_1/{result.checkpoint}/manifest.json") is not None


def test_a_worker_trains_below_the_drivers_span(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider, result = InMemorySpanExporter(), TracerProvider(), Result(outcome=Outcome.SUCCEEDED)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("jobs.training.ray_fit.tracing_of_job", lambda _part: Tracing(provider))
    monkeypatch.setattr("jobs.training.ray_fit.run_worker", lambda _task, _workers, _notices: result)
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
