"""Training jobs on a real cluster, undisturbed and with workers killed, pauses, cancels and forced stops."""

from typing import Any

import psutil
import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, NoteKind, Outcome, Want
from jobs.errors import ErrorClass
from jobs.interfaces import ProcessState, RunStatus
from seqae.checkpoints.manifest import verify
from seqae.evaluation.names import of_split, with_split
from tests.daemons import wait_until
from tests.services import Services

pytestmark = pytest.mark.timeout(540)


def _long(tiny: dict[str, Any], workers: int = 1) -> dict[str, Any]:
    """Runs until it is stopped."""
    return tiny | {"schedule": tiny["schedule"] | {"epochs": 10_000}, "scaling": {"workers": workers}}


def _curve(services: Services, run_id: str, name: str) -> list[int]:
    return [metric.step for metric in services.tracking._client.get_metric_history(run_id, name)]


def _losses(folder: JobFolder) -> list[int]:
    return [row.step for row in folder.history() if "train/loss" in row.metrics]


def test_two_workers_of_which_one_is_killed(services: Services, tiny: dict[str, Any]) -> None:
    """The job ends well by itself, and its curve in MLflow is whole and not doubled."""
    schedule = tiny["schedule"] | {"epochs": 30}
    job = services.job("job_killed", tiny | {"scaling": {"workers": 2}, "schedule": schedule})
    job.start()
    job.wait_for_iteration(40)
    workers = [actor for actor in services.actors() if "TrainWorker" in actor["class_name"]]
    assert len(workers) == 2
    psutil.Process(workers[1]["pid"]).kill()
    job.wait()

    attempt = job.folder.attempt(1)
    result = attempt.read_result()
    assert result is not None
    assert (result.outcome, result.iterations) == (Outcome.SUCCEEDED, 240)
    assert result.checkpoint is not None
    assert verify(job.folder.path / result.checkpoint).metrics == with_split(of_split(result.metrics, "val"), "val")
    assert result.metrics["test/mse"] > 0
    kinds = [note.kind for note in attempt.notes()]
    assert kinds.count(NoteKind.WORKERS_LOST) == 1
    assert kinds.count(NoteKind.RESUMED) == 1
    assert _losses(job.folder) == list(range(2, 241, 2))

    services.tracking.ship(job.folder.path, job.run.run_id)
    assert _curve(services, job.run.run_id, "train/loss") == list(range(2, 241, 2))
    assert _curve(services, job.run.run_id, "val/mse") == list(range(20, 241, 20))
    assert services.actors() == []

    version = services.tracking.register(
        job.id, job.run.run_id, "resumed", job.folder.path / result.checkpoint, result.metrics, None
    ).version
    services.tracking.close_run(job.run.run_id, RunStatus.FINISHED)
    found = services.tracking.resolve(job.id)
    assert (found.version, found.metrics) == (version.version, result.metrics)
    assert verify(found.path).iteration == int(result.checkpoint.rsplit("/", 1)[1])


def test_cancel_while_training_leaves_no_actor(services: Services, tiny: dict[str, Any]) -> None:
    job = services.job("job_cancelled", _long(tiny, workers=2))
    job.start()
    job.wait_for_iteration(4)
    job.folder.write_control(Control(attempt=1, want=Want.CANCEL))
    job.wait()
    result = job.folder.attempt(1).read_result()
    assert result is not None
    assert result.outcome is Outcome.CANCELLED
    assert services.actors() == []
    services.tracking.close_run(job.run.run_id, RunStatus.KILLED)
    assert job.run.run_id not in [run.run_id for run in services.tracking.open_runs()]


def test_pause_and_go_on_in_a_second_attempt(services: Services, tiny: dict[str, Any]) -> None:
    job = services.job("job_paused", tiny | {"schedule": tiny["schedule"] | {"epochs": 30}})
    job.start()
    job.wait_for_iteration(30)
    job.folder.write_control(Control(attempt=1, want=Want.PAUSE))
    job.wait()
    paused = job.folder.attempt(1).read_result()
    assert paused is not None
    assert paused.outcome is Outcome.PAUSED
    assert 30 < paused.iterations < 240
    job.start(attempt=2)
    job.wait(attempt=2)
    result = job.folder.attempt(2).read_result()
    assert result is not None
    assert (result.outcome, result.iterations) == (Outcome.SUCCEEDED, 240)
    resumed = [note.text for note in job.folder.attempt(2).notes() if note.kind is NoteKind.RESUMED]
    assert resumed == [f"from iteration {paused.iterations} of 240"]
    services.tracking.ship(job.folder.path, job.run.run_id)
    assert _curve(services, job.run.run_id, "train/loss") == list(range(2, 241, 2))


def test_cancel_before_training_starts(services: Services, tiny: dict[str, Any]) -> None:
    """No worker is there yet to obey; this one could never be placed."""
    job = services.job("job_waiting", _long(tiny) | {"scaling": {"workers": 1, "cpus_per_worker": 512}})
    job.start()
    job.wait_for(lambda: job.folder.attempt(1).read_progress() is not None)
    job.folder.write_control(Control(attempt=1, want=Want.CANCEL))
    job.wait()
    result = job.folder.attempt(1).read_result()
    assert result is not None
    assert result.outcome is Outcome.CANCELLED
    wait_until(lambda: services.actors() == [], "no actor is left")


@pytest.mark.slow
def test_sigterm_to_a_worker_ends_the_attempt_with_a_checkpoint_of_its_last_iteration(
    services: Services, tiny: dict[str, Any]
) -> None:
    job = services.job("job_notice", _long(tiny, workers=2))
    job.start()
    job.wait_for_iteration(20)
    workers = [actor for actor in services.actors() if "TrainWorker" in actor["class_name"]]
    psutil.Process(workers[1]["pid"]).terminate()
    job.wait()
    attempt = job.folder.attempt(1)
    result = attempt.read_result()
    assert result is not None
    assert result.error is not None
    assert result.error.error_class is ErrorClass.PREEMPTED
    assert "SIGTERM" in result.error.message
    assert attempt.checkpoint_steps()[-1] >= max(_losses(job.folder)), "no iteration is repeated"
    assert NoteKind.WORKERS_LOST not in [note.kind for note in attempt.notes()]


@pytest.mark.slow
def test_an_elastic_run_goes_on_with_fewer_workers(services: Services, tiny: dict[str, Any]) -> None:
    """Another job holds all but one of the cluster's cores at first."""
    room = int(services.launcher.capacity().cpus)
    other = services.job("job_large", _long(tiny) | {"scaling": {"workers": 1, "cpus_per_worker": room - 1}})
    other.start()
    other.wait_for_iteration(2)
    schedule = tiny["schedule"] | {"epochs": 30}
    job = services.job("job_elastic", tiny | {"scaling": {"workers": {"min": 1, "max": 2}}, "schedule": schedule})
    job.start()
    job.wait_for_iteration(2)
    progress = job.folder.attempt(1).read_progress()
    assert progress is not None
    assert progress.workers == 1
    other.folder.write_control(Control(attempt=1, want=Want.CANCEL))
    other.wait()
    job.wait()
    result = job.folder.attempt(1).read_result()
    assert result is not None
    assert (result.outcome, result.iterations) == (Outcome.SUCCEEDED, 240)
    assert _losses(job.folder) == list(range(2, 241, 2))
    assert services.actors() == []


def test_a_forced_stop_still_writes_a_result(services: Services, tiny: dict[str, Any]) -> None:
    job = services.job("job_stopped", _long(tiny))
    job.start()
    job.wait_for_iteration(4)
    services.launcher.stop("job_stopped-1")
    job.wait()
    assert services.launcher.state("job_stopped-1") is ProcessState.STOPPED
    result = job.folder.attempt(1).read_result()
    assert result is not None
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.error_class is ErrorClass.INFRASTRUCTURE


def test_a_users_error_is_told_and_not_retried(services: Services, tiny: dict[str, Any]) -> None:
    job = services.job("job_nodata", tiny | {"data": {"kind": "images", "path": "/nowhere/at/all"}})
    job.start()
    job.wait()
    attempt = job.folder.attempt(1)
    result = attempt.read_result()
    assert result is not None
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.error_class is ErrorClass.DATA
    assert NoteKind.WORKERS_LOST not in [note.kind for note in attempt.notes()]
    assert "Traceback" in attempt.log.read_text(), "what the driver printed is in its own folder"
