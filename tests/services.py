"""Real Ray cluster and MLflow server with their clients, and jobs that a test runs on them without a control plane."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from jobs.backends.mlflow import MlflowTracking
from jobs.backends.mlflow_experiments import search_runs
from jobs.backends.provenance import changed_params, run_details
from jobs.backends.ray import RayLauncher
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Phase
from jobs.interfaces import RunRef, Submission, submission_id
from jobs.specs import AnySpec, job_spec
from tests.daemons import Daemons, wait_until

__all__ = ["ClusterJob", "Services", "run_id_of", "trial_runs"]


def run_id_of(url: str | None) -> str:
    """The run's id in the address of its page."""
    assert url is not None
    return url.rpartition("/")[2].partition("?")[0]


def trial_runs(tracking: MlflowTracking, run_id: str) -> list[Any]:
    """Runs of the trials of a search, as a real MLflow server has them."""
    experiment = tracking._client.get_run(run_id).info.experiment_id
    return search_runs(tracking._client, [experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")


@dataclass(frozen=True)
class Services:
    """A real Ray cluster and a real MLflow server, with their clients."""

    daemons: Daemons
    launcher: RayLauncher
    tracking: MlflowTracking

    def actors(self) -> list[dict[str, Any]]:
        """See `RayDashboard.actors`."""
        return self.daemons.dashboard.actors()

    def folder(self, job_id: str) -> JobFolder:
        """The folder of a job."""
        return JobFolder(self.daemons.layout.home / "jobs" / job_id)

    def job(self, job_id: str, spec: dict[str, Any]) -> "ClusterJob":
        """A job as the control plane would make it, with its run; not submitted yet."""
        parsed = job_spec.validate_python(spec)
        folder = self.folder(job_id)
        folder.write_spec(parsed)
        details = run_details(parsed, "")
        run = self.tracking.create_run(job_id, parsed.name, parsed.kind, changed_params(parsed), details)
        return ClusterJob(self, job_id, parsed, folder, run)


@dataclass(frozen=True)
class ClusterJob:
    """A job whose attempts the test submits to the real cluster, without a control plane."""

    services: Services
    id: str
    spec: AnySpec
    folder: JobFolder
    run: RunRef

    def start(self, attempt: int = 1) -> None:
        """Submits an attempt."""
        self.folder.write_control(Control(attempt=attempt))
        environment = {"MLFLOW_TRACKING_URI": self.services.daemons.mlflow.url, "SEQAE_RUN_ID": self.run.run_id}
        submission = Submission(self.id, attempt, self.spec.kind, self.folder.path, environment)
        self.services.launcher.submit(submission)

    def wait(self, attempt: int = 1) -> None:
        """Waits until the driver has ended."""
        name = submission_id(self.id, attempt)
        wait_until(lambda: self._has_ended(name), f"the end of {name}, in {self.folder.path}")

    def wait_for(self, condition: Callable[[], bool], attempt: int = 1) -> None:
        """Waits until a condition holds; fails the test when the driver ends first."""
        name = submission_id(self.id, attempt)

        def holds() -> bool:
            if self._has_ended(name):
                pytest.fail(self.log(attempt))
            return condition()

        wait_until(holds, f"what the test waits for in {name}")

    def wait_for_iteration(self, iteration: int, attempt: int = 1) -> None:
        """Waits until the attempt has trained so far."""

        def reached() -> bool:
            progress = self.folder.attempt(attempt).read_progress()
            return progress is not None and progress.phase is Phase.TRAINING and progress.iteration >= iteration

        self.wait_for(reached, attempt)

    def log(self, attempt: int = 1) -> str:
        """What the driver printed, or what Ray says of one that did not start."""
        own = self.folder.attempt(attempt).log
        return own.read_text() if own.exists() else self.services.launcher.logs(submission_id(self.id, attempt))

    def _has_ended(self, name: str) -> bool:
        state = self.services.launcher.state(name)
        return state is None or state.is_terminal()
