"""What the reconciler does with a job in each state: small steps, each of which may be repeated at any time.

A step reads the evidence and makes at most one transition. It returns how many seconds the job may be left alone, or
None when there is more to do at once. It may raise LauncherUnavailable, TrackingUnavailable and StaleRowError: then
nothing was decided, and the reconciler comes back.
"""

import logging
import random
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from jobs.directory.fencing import issue_control
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Failure, Outcome, Result, Want
from jobs.errors import ErrorClass, SubmissionRefused
from jobs.interfaces import Launcher, Submission, Tracking
from jobs.specs import job_spec
from service.db.models import JobRow
from service.db.store import Store
from service.job_state import Desired, State
from service.reconciler.endings import Endings
from service.reconciler.liveness import Observation, Verdict, has_left, judge
from service.reconciler.observer import Observer
from service.settings import ReconcilerSettings
from service.upstream.cluster_monitor import ClusterMonitor, ClusterStatus

__all__ = ["Steps"]

log = logging.getLogger(__name__)


class Steps:
    """The steps of one control plane.

    Args:
        store: the job database.
        launcher: the cluster.
        tracking: MLflow.
        jobs_dir: folder with a folder for each job; absolute, the same on every machine.
        settings: how patient to be.
        environment: for every driver: where MLflow is, where data is.
    """

    def __init__(
        self,
        store: Store,
        launcher: Launcher,
        tracking: Tracking,
        jobs_dir: Path,
        settings: ReconcilerSettings,
        environment: Mapping[str, str],
    ) -> None:
        self._store = store
        self._launcher = launcher
        self._cluster = ClusterMonitor(launcher, store.now)
        self._lookout = Observer(store, self._cluster, jobs_dir, settings)
        self._jobs_dir = jobs_dir
        self._settings = settings
        self._environment = dict(environment)
        self._endings = Endings(store, self._cluster, tracking, jobs_dir, settings)
        self._by_state: Mapping[State, Callable[[JobRow], float | None]] = {
            State.SUBMITTING: self._submit,
            State.STARTING: self._observe,
            State.RUNNING: self._observe,
            State.PAUSED: self._queue_again,
            State.PAUSING: self._wait_for_pause,
            State.CANCELLING: self._wait_for_cancel,
            State.LOST: self._fence,
            State.RETRY_WAIT: self._queue_again,
            State.FINALIZING: self._endings.finalize,
            State.SUCCEEDED: self._endings.tidy,
            State.FAILED: self._endings.tidy,
            State.CANCELLED: self._endings.tidy,
        }

    def step(self, job: JobRow) -> float | None:
        """Does what is next for a job whose lease is held."""
        return self._by_state[job.state](job)

    # --- SUBMITTING

    def _submit(self, job: JobRow) -> float | None:
        """Asks the cluster to run the attempt that admission wrote down."""
        folder = self._folder(job)
        spec = job_spec.validate_python(job.spec)
        folder.write_spec(spec)
        issue_control(folder, Control(attempt=job.attempt))
        self._endings.inherit(job)
        job = self._endings.ensure_run(job)
        attempt = self._store.attempt(job.id, job.attempt)
        cluster = self._launcher.cluster_id()
        if attempt.cluster_id is None:
            self._store.set_attempt(job, cluster_id=cluster)
        elif attempt.cluster_id != cluster:
            # The head that was asked may have started a driver, which outlives it; this number must not run twice.
            self._lose(job, _infrastructure("the cluster was replaced while it was asked"))
            return None
        submission = Submission(
            job_id=job.id,
            attempt=job.attempt,
            kind=spec.kind,
            job_dir=folder.path,
            environment=self._environment | {"SEQAE_RUN_ID": job.mlflow_run_id or ""},
        )
        try:
            # An earlier call may have got through without an answer: look before asking again. An attempt that has
            # left files has run, whatever the cluster remembers.
            has_run = folder.attempt(job.attempt).path.exists()
            if not has_run and self._launcher.state(attempt.submission_id) is None:
                self._launcher.submit(submission)
        except SubmissionRefused as error:
            changes = _error("submission_refused", str(error))
            self._endings.end(job, State.FAILED, str(error), outcome="failed", **changes)
            return None
        self._store.transition(job, State.STARTING, leased=True, alive_at=self._store.now())
        return None

    # --- STARTING, RUNNING

    def _observe(self, job: JobRow) -> float | None:
        job, evidence = self._lookout.look(job)
        if evidence.result is not None:
            return self._take_result(job, evidence.result)
        if job.state == State.STARTING and evidence.progress is not None:
            now = self._store.now()
            self._store.set_attempt(job, started_at=now)
            fresh: dict[str, Any] = {"error_class": None, "error_message": None}
            self._store.transition(job, State.RUNNING, leased=True, started_at=job.started_at or now, **fresh)
            return None
        now, settings = self._store.now(), self._settings
        verdict = judge(
            evidence,
            now=now,
            since=job.state_since,
            alive_at=job.alive_at or job.state_since,
            moved_at=job.moved_at,
            settings=settings,
        )
        if verdict == Verdict.LOST:
            self._take_failure(job, self._endings.why_it_died(job))
        elif verdict == Verdict.STALLED:
            self._lose(job, _infrastructure(f"alive, but no further for {settings.stall_after:g} s"))
        elif verdict == Verdict.NOT_STARTED:
            self._lose(job, _infrastructure(f"the cluster did not start it within {settings.start_deadline:g} s"))
        elif self._is_over_time(job):
            error = _error("time_limit", f"ran for longer than {settings.time_limit:g} s")
            self._store.transition(job, State.CANCELLING, "ran into its time limit", leased=True, **error)
        else:
            return settings.reconcile_every
        return None

    def _take_result(self, job: JobRow, result: Result) -> float | None:
        if result.outcome == Outcome.SUCCEEDED:
            changes: dict[str, Any] = {"metrics": result.metrics, "error_class": None, "error_message": None}
            self._store.transition(job, State.FINALIZING, leased=True, outcome="succeeded", **changes)
        elif result.outcome == Outcome.FAILED:
            failure = result.error or _infrastructure("it failed and gave no reason")
            if failure.error_class == ErrorClass.INTERNAL and job.state != State.PAUSING:
                # What a driver takes for its own error may be its cluster dying under it.
                word = self._cluster.word(self._store.attempt(job.id, job.attempt))
                if word == ClusterStatus.UNKNOWN:
                    return self._settings.cluster_poll
                if word == ClusterStatus.GONE:
                    failure = _infrastructure(f"the cluster was replaced under it: {failure.message}")
            self._take_failure(job, failure)
        else:
            self._lose(job, _infrastructure(f"it left ({result.outcome}) without being asked"))
        return None

    def _take_failure(self, job: JobRow, failure: Failure) -> None:
        """Infrastructure's failures are tried again; the job's own only as often as its retries allow."""
        may_retry = job.retries < self._settings.max_retries and job.state != State.PAUSING
        if may_retry or not failure.error_class.is_users:
            self._lose(job, failure)
        else:
            reason = failure.message.partition("\n")[0]
            error = _error(failure.error_class, failure.message)
            self._endings.end(job, State.FAILED, reason, outcome="failed", **error)

    def _is_over_time(self, job: JobRow) -> bool:
        now, limit = self._store.now(), timedelta(seconds=self._settings.time_limit)
        if job.started_at is None or now - job.started_at < limit:
            return False
        # Pauses and waits between attempts don't count.
        ran = [
            (attempt.ended_at or now) - attempt.started_at
            for attempt in self._store.attempts(job.id)
            if attempt.started_at is not None
        ]
        return sum(ran, timedelta()) >= limit

    def _lose(self, job: JobRow, failure: Failure) -> None:
        """Gives an attempt up; what comes next is decided when it is fenced off."""
        iteration = int((job.progress or {}).get("iteration", 0))
        got_further = iteration > job.best_iteration
        changes: dict[str, Any] = {
            "best_iteration": max(iteration, job.best_iteration),
            "losses_in_row": 1 if got_further else job.losses_in_row + 1,
            "queued_at": self._store.now(),
        }
        spent = "retries" if failure.error_class.is_users else "losses"
        changes |= {spent: getattr(job, spent) + 1, **_error(failure.error_class, failure.message)}
        reason = failure.message.partition("\n")[0]
        self._store.transition(job, State.LOST, reason, leased=True, outcome="lost", **changes)

    # --- LOST, RETRY_WAIT

    def _fence(self, job: JobRow) -> float | None:
        """Makes sure that the lost attempt can do no harm if it wakes up, then lets the next one wait its turn."""
        issue_control(self._folder(job), Control(attempt=job.attempt + 1))
        self._endings.try_to_stop(job)
        self._endings.try_to_keep_logs(job)
        if job.desired == Desired.CANCEL:
            self._endings.end(job, State.CANCELLED)
        elif job.losses > self._settings.max_losses:
            self._endings.end(job, State.FAILED, f"lost {job.losses} attempts: {job.error_message}")
        elif job.desired == Desired.PAUSE:
            self._store.transition(job, State.PAUSED, leased=True)
        else:
            wait = self._back_off(job)
            again = self._store.now() + timedelta(seconds=wait)
            reason = f"will be tried again in {wait:.0f} s"
            self._store.transition(job, State.RETRY_WAIT, reason, leased=True, not_before=again)
        return None

    def _back_off(self, job: JobRow) -> float:
        """Doubles with each loss in a row, and is spread so that jobs lost together don't come back together."""
        whole = self._settings.retry_wait * 2.0 ** min(job.losses_in_row - 1, 20)
        return min(whole, self._settings.retry_wait_max) * random.uniform(0.75, 1.25)

    def _queue_again(self, job: JobRow) -> float | None:
        """The back-off is over, or a resume came while the attempt was still leaving."""
        self._store.transition(job, State.QUEUED, leased=True)
        return None

    # --- PAUSING, CANCELLING

    def _wait_for_pause(self, job: JobRow) -> float | None:
        job, evidence = self._lookout.look(job, ask=True)
        result = evidence.result
        if result is not None and result.outcome in (Outcome.SUCCEEDED, Outcome.FAILED):
            error = result.error
            if result.outcome == Outcome.SUCCEEDED or (error is not None and error.error_class.is_users):
                return self._take_result(job, result)
        if not self._has_left(job, evidence):
            return self._settings.reconcile_every
        issue_control(self._folder(job), Control(attempt=job.attempt + 1))
        self._endings.try_to_keep_logs(job)
        self._store.transition(job, State.PAUSED, leased=True, outcome="paused")
        return None

    def _wait_for_cancel(self, job: JobRow) -> float | None:
        job, evidence = self._lookout.look(job, ask=True)
        if not self._has_left(job, evidence):
            return self._settings.reconcile_every
        issue_control(self._folder(job), Control(attempt=job.attempt + 1, want=Want.CANCEL))
        by_limit = job.error_class == "time_limit" and job.desired != Desired.CANCEL
        to = State.FAILED if by_limit else State.CANCELLED
        self._endings.end(job, to, outcome="cancelled")
        return None

    def _has_left(self, job: JobRow, evidence: Observation) -> bool:
        """Asks an attempt to leave, by force after the grace time, and says whether it has."""
        attempt = self._store.attempt(job.id, job.attempt)
        if attempt.cluster_id is None:
            return True  # No cluster was ever asked to run it.
        now = self._store.now()
        want = Want.PAUSE if job.state == State.PAUSING else Want.CANCEL
        issue_control(self._folder(job), Control(attempt=job.attempt, want=want))
        if has_left(evidence, now - (job.alive_at or job.state_since), self._settings):
            return True
        if now - job.state_since >= timedelta(seconds=self._settings.stop_grace):
            self._launcher.stop(attempt.submission_id)
        return False

    def _folder(self, job: JobRow) -> JobFolder:
        return JobFolder(self._jobs_dir / job.id)


def _infrastructure(message: str) -> Failure:
    return Failure(error_class=ErrorClass.INFRASTRUCTURE, message=message)


def _error(error_class: str, message: str) -> dict[str, str]:
    return {"error_class": str(error_class), "error_message": message[:10_000]}
