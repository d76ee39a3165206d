"""The ends of attempts and jobs: logs kept, metrics and model taken to MLflow, nothing left behind."""

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

from jobs import crash_diagnosis
from jobs.backends.provenance import flat_params
from jobs.directory.carry_over import inherit_run, inherit_search
from jobs.directory.fencing import issue_control
from jobs.directory.files import write_atomically
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Failure, Result, Shipped, Want
from jobs.errors import LauncherUnavailable, NoRun, TrackingUnavailable
from jobs.interfaces import Launcher, ModelVersion, RunStatus, Tracking, submission_id
from jobs.specs import job_spec
from seqae.checkpoints.manifest import verify
from seqae.errors import CheckpointError
from service.db.models import JobRow
from service.db.store import Store
from service.job_state import Desired, State
from service.reconciler.liveness import read
from service.scheduling.log_reader import tail
from service.settings import ReconcilerSettings
from service.upstream.circuit_breaker import CircuitBreaker
from service.upstream.cluster_monitor import ClusterMonitor, ClusterStatus

__all__ = ["Endings"]

log = logging.getLogger(__name__)

_STATUS = {State.SUCCEEDED: RunStatus.FINISHED, State.FAILED: RunStatus.FAILED, State.CANCELLED: RunStatus.KILLED}


class Endings:
    """What a job leaves behind, seen to.

    Args:
        store: the job database.
        cluster: asked whether processes have ended.
        tracking: MLflow.
        jobs_dir: folder with a folder for each job.
        settings: how patient to be.
    """

    def __init__(
        self, store: Store, cluster: ClusterMonitor, tracking: Tracking, jobs_dir: Path, settings: ReconcilerSettings
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._launcher: Launcher = cluster.launcher
        self._tracking = tracking
        self._jobs_dir = jobs_dir
        self._settings = settings
        self._breaker = CircuitBreaker(TrackingUnavailable, store.now, settings.tracking_retry / 2)

    # --- the MLflow run

    def ensure_run(self, job: JobRow) -> JobRow:
        """Makes the job's MLflow run, if it has none. Raises: TrackingUnavailable."""
        if job.mlflow_run_id is not None:
            return job
        params = flat_params(job_spec.validate_python(job.spec))
        run = self._breaker.call(lambda: self._tracking.create_run(job.id, job.name, job.kind, params))
        return self._store.note(job, mlflow_run_id=run.run_id, mlflow_url=run.url)

    def _forget_run(self, job: JobRow) -> None:
        """MLflow has lost the run: the next step makes another and ships everything again."""
        log.warning("job %s: MLflow knows no run %s any more; making another", job.id, job.mlflow_run_id)
        self._folder(job).write_shipped(Shipped())
        self._store.note(job, mlflow_run_id=None, mlflow_url=None)

    # --- FINALIZING

    def finalize(self, job: JobRow) -> float | None:
        """Takes the rest of the metrics and the model to MLflow. Repeated until MLflow has them."""
        if job.desired == Desired.CANCEL:
            self.end(job, State.CANCELLED)
            return None
        result, _ = read(self._folder(job).attempt(job.attempt))
        if result is None or (result.checkpoint is None and job.kind != "figure"):
            self._lose_result(job, "its result names no model")
            return None
        job = self.ensure_run(job)
        try:
            self._publish(job, result)
        except NoRun:
            self._forget_run(job)
        except CheckpointError as error:
            # An older checkpoint is still there: the next attempt goes on from it.
            self._lose_result(job, f"the model's checkpoint is damaged: {error}")
        return None

    def _publish(self, job: JobRow, result: Result) -> None:
        run_id, folder = job.mlflow_run_id, self._folder(job).path
        if run_id is None:
            raise NoRun(f"job {job.id} has no run")
        checkpoint = None if result.checkpoint is None else folder / result.checkpoint
        if checkpoint is not None:
            verify(checkpoint)
        self.try_to_keep_logs(job)
        self._breaker.call(lambda: self._tracking.ship(folder, run_id))
        if self._store.again(job).desired == Desired.CANCEL:
            return  # The next look cancels it. From here on the model is out, and a request comes too late.
        changes: dict[str, Any] = {}
        reason = "nothing is left to do"
        if checkpoint is not None:
            model = self._register(job.id, run_id, checkpoint, result)
            changes = {"model_name": model.name, "model_version": model.version}
            reason = f"registered as {model.name} version {model.version}"
        self._breaker.call(lambda: self._tracking.close_run(run_id, RunStatus.FINISHED))
        self._store.transition(self._store.again(job), State.SUCCEEDED, reason, leased=True, **changes)

    def _register(self, job_id: str, run_id: str, checkpoint: Path, result: Result) -> ModelVersion:
        scenes = result.evaluation_set or ""
        return self._breaker.call(lambda: self._tracking.register(job_id, run_id, checkpoint, result.metrics, scenes))

    def _lose_result(self, job: JobRow, message: str) -> None:
        self._store.transition(
            job,
            State.LOST,
            message,
            leased=True,
            queued_at=self._store.now(),
            losses=job.losses + 1,
            losses_in_row=job.losses_in_row + 1,
            error_class="checkpoint",
            error_message=message,
        )

    # --- ended jobs

    def end(
        self, job: JobRow, to: State, reason: str | None = None, *, outcome: str | None = None, **changes: Any
    ) -> None:
        """Ends a job. Its MLflow run is closed first if MLflow answers, else when tidying up."""
        try:
            self._close(job, to)
        except TrackingUnavailable as error:
            log.info("job %s: its run is closed later: %s", job.id, error)
        self._store.transition(job, to, reason, leased=True, outcome=outcome, **changes)

    def tidy(self, job: JobRow) -> float | None:
        """Makes sure that an ended job leaves no process, no open run and no log behind."""
        folder = self._folder(job)
        if job.attempt > 0:
            issue_control(folder, Control(attempt=job.attempt + 1, want=Want.CANCEL))
            word = self._cluster.word(self._store.attempt(job.id, job.attempt))
            if word == ClusterStatus.UNKNOWN:
                return self._settings.cluster_poll
            if word == ClusterStatus.ALIVE:
                self._stop_if_it_lingers(job)
                return self._settings.reconcile_every
        self.try_to_keep_logs(job)
        self._close(job, job.state)
        self._store.note(job, tidy=True)
        return None

    def _stop_if_it_lingers(self, job: JobRow) -> None:
        """A driver that has written its result needs a moment to leave."""
        if self._store.now() - job.state_since >= timedelta(seconds=self._settings.exit_grace):
            self._launcher.stop(submission_id(job.id, job.attempt))

    def _close(self, job: JobRow, state: State) -> None:
        run_id, folder = job.mlflow_run_id, self._folder(job).path
        if run_id is None:
            return
        try:
            if folder.is_dir():
                self._breaker.call(lambda: self._tracking.ship(folder, run_id))
            self._breaker.call(lambda: self._tracking.close_run(run_id, _STATUS[state]))
        except NoRun:
            log.warning("job %s has ended, and MLflow has lost its run %s", job.id, job.mlflow_run_id)

    # --- attempts

    def inherit(self, job: JobRow) -> None:
        """Gives a job that repeats another one what that one got done, as its attempt 0."""
        if job.retry_of is None:
            return
        before, mine = JobFolder(self._jobs_dir / job.retry_of), self._folder(job)
        if job.kind == "train":
            inherit_run(before, mine)
        elif job.kind == "tune":
            inherit_search(before, mine)

    def try_to_stop(self, job: JobRow) -> None:
        """Stops the newest attempt's process, if the cluster answers; if not, it is fenced off anyway."""
        try:
            self._launcher.stop(submission_id(job.id, job.attempt))
        except LauncherUnavailable as error:
            log.info("job %s: attempt %d is left to its fence: %s", job.id, job.attempt, error)

    def try_to_keep_logs(self, job: JobRow) -> None:
        """Where the newest attempt's driver printed nothing, keeps what the cluster says of it, if it answers."""
        own = self._folder(job).attempt(job.attempt).log
        if job.attempt == 0 or own.exists():
            return
        try:
            text = self._launcher.logs(submission_id(job.id, job.attempt))
        except LauncherUnavailable as error:
            log.info("job %s: its log is kept later: %s", job.id, error)
            return
        if text:
            write_atomically(own, text)

    def why_it_died(self, job: JobRow) -> Failure:
        """What the output of a driver without a result tells."""
        self.try_to_keep_logs(job)
        own = self._folder(job).attempt(job.attempt).log
        text = tail(own)[0].decode(errors="replace") if own.is_file() else ""
        return crash_diagnosis.explain(text)

    def _folder(self, job: JobRow) -> JobFolder:
        return JobFolder(self._jobs_dir / job.id)
