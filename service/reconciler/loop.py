"""The reconciliation loop: moves the state of every job towards what is wanted of it.

It remembers nothing: each round starts from the database, so it may be stopped, killed, or run by several processes at
any moment.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from secrets import token_hex

from jobs.error_classes import is_outage_of_disk
from jobs.errors import ErrorClass, LauncherUnavailable, StorageRefused, StorageUnavailable, TrackingUnavailable
from jobs.interfaces import Tracking
from jobs.periodic_thread import PeriodicThread
from jobs.storage.job_files import JobFiles, SharedJobFiles
from jobs.telemetry.log_records import current_job
from jobs.telemetry.tracing import Tracing
from seqae.errors import Error
from service.backoff import exponential_backoff
from service.db.changes import JobChanges
from service.db.leases import Leases
from service.db.models import JobRow, Waiting, WaitingFor
from service.db.store import Store
from service.disk.removal import remove_job
from service.errors import StaleRowError, StoreUnavailableError
from service.job_state import AttemptOutcome, State, is_legal
from service.metrics.instruments import Metrics
from service.reconciler import finalization, recovery, running, stopping, submission
from service.reconciler.context import Delay, ReconcilerContext, wait_for
from service.reconciler.garbage_collector import GarbageCollector
from service.scheduling.admission import Plan, Preemption, plan
from service.settings import ReconcilerSettings
from service.upstream.cluster_monitor import ClusterMonitor

__all__ = ["Reconciler"]

log = logging.getLogger(__name__)

_OUTAGES = (LauncherUnavailable, TrackingUnavailable, StoreUnavailableError)
"""The cluster, MLflow or the database does not answer: a round that meets one is repeated."""

_LONGEST_RETRY = 30.0
"""Longest wait after a step that failed, in seconds."""

_LONGEST_MESSAGE = 1000

_STEPS: Mapping[State, Callable[[ReconcilerContext, JobRow], Delay]] = {
    State.SUBMITTING: submission.submit,
    State.STARTING: running.watch,
    State.RUNNING: running.watch,
    State.PAUSING: stopping.wait_for_pause,
    State.PAUSED: recovery.queue_again,
    State.CANCELLING: stopping.wait_for_cancel,
    State.LOST: recovery.fence_off,
    State.RETRY_WAIT: recovery.queue_again,
    State.FINALIZING: finalization.finalize,
    State.SUCCEEDED: finalization.clean_up,
    State.FAILED: finalization.clean_up,
    State.CANCELLED: finalization.clean_up,
}
"""What is next for a job in each state: the phases of its life, in their order."""


class Reconciler:
    """Admits jobs, takes each one a step further, and collects garbage, in threads of its own.

    Args:
        store: the job database.
        cluster: the cluster.
        tracking: the MLflow server.
        jobs_dir: folder with a folder for each job; absolute, the same on every machine.
        settings: limits and patience.
        environment: for every driver on the cluster: MLFLOW_TRACKING_URI, SEQAE_CACHE_DIR, SEQAE_DATA_DIR.
        name: names this process among those that share the database; None: a random name.
        metrics: instruments of this process; None: new ones.
        files: where jobs' files are; None: in `jobs_dir`, which drivers share.
        tracing: spans of this process; None: none.
    """

    def __init__(
        self,
        store: Store,
        cluster: ClusterMonitor,
        tracking: Tracking,
        jobs_dir: Path,
        settings: ReconcilerSettings | None = None,
        environment: Mapping[str, str] | None = None,
        name: str | None = None,
        metrics: Metrics | None = None,
        files: JobFiles | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._settings = settings or ReconcilerSettings()
        self.metrics = metrics or Metrics()
        self._tracing = tracing or Tracing()
        self._context = ReconcilerContext(
            store,
            cluster,
            tracking,
            jobs_dir,
            self._settings,
            environment or {},
            files or SharedJobFiles(jobs_dir),
            self.metrics,
            self._tracing,
        )
        self._garbage_collector = GarbageCollector(self._context)
        self._leases = Leases(store, name or token_hex(8), self._settings.longest_wait)
        self._threads: list[PeriodicThread] = []
        self._stopping = threading.Event()

    # --- the threads

    def start(self) -> None:
        """Starts working in threads of its own. Returns at once."""
        settings = self._settings
        # Three chances to renew before a lease runs out.
        self._run_every(settings.lease_for / 4, lambda: self._leases.renew(settings.lease_for), "renew")
        self._run_every(settings.reconcile_every, self.admit, "admit")
        self._run_every(settings.sweep_every, self.sweep, "sweep")
        self._run_every(settings.disk_sweep_every, self.sweep_disk, "sweep-disk")
        for number in range(settings.reconcile_threads):
            self._run_every(settings.reconcile_every, self._work, f"work-{number}", part="work")

    def stop(self, timeout: float = 10.0) -> None:
        """Stops after the steps in progress. What takes longer than `timeout` seconds is left to its lease's end."""
        self._stopping.set()
        PeriodicThread.stop_all(self._threads, timeout)

    def _run_every(self, seconds: float, act: Callable[[], object], name: str, part: str = "") -> None:
        measured = partial(self._measured_round, part or name, act)
        thread = PeriodicThread(f"reconciler-{name}", seconds, measured, expected_errors=_OUTAGES)
        self._threads.append(thread)
        thread.start()

    def _measured_round(self, part: str, act: Callable[[], object]) -> object:
        with self._tracing.span("reconcile", {"seqae.part": part}):
            return self.metrics.timed_round(part, act)

    def _work(self) -> None:
        """Looks after one job after the other until none is due."""
        while not self._stopping.is_set() and (jobs := self._leases.claim(self._settings.lease_for, limit=1)):
            self._look_after(jobs[0])

    def _look_after(self, job: JobRow) -> None:
        """One step of a job whose lease is held; whatever happens, the lease is given back."""
        again = self._settings.tracking_retry
        current_job.set(job.id)
        try:
            again = self._step(job)
        except StaleRowError as error:
            log.debug("job %s: %s", job.id, error)
            again = 0.0
        except StoreUnavailableError as error:
            log.warning("job %s stays %s: %s", job.id, job.state, error)
        except Exception:
            log.exception("job %s: why its step from %s failed can't be written down", job.id, job.state)
        self._leases.release(job, again)
        current_job.set(None)

    def _step(self, job: JobRow) -> float:
        """One step, and what came in its way, written down; seconds until the next.

        An outage is the service's, and lasts as long as it lasts. Every other error is this job's own: it is repeated
        for a while, and then the job fails, alone.
        """
        settings = self._settings
        try:
            self._context.files.fetch(job.id)
            again = _STEPS[job.state](self._context, job) or 0.0
        except (StaleRowError, StoreUnavailableError):
            raise
        except LauncherUnavailable as error:
            self._wait(job, WaitingFor.CLUSTER, str(error))
            return settings.cluster_poll
        except TrackingUnavailable as error:
            self._wait(job, WaitingFor.MLFLOW, str(error))
            return settings.tracking_retry
        except (StorageUnavailable, StorageRefused) as error:
            self._wait(job, WaitingFor.STORAGE, str(error))
            return settings.tracking_retry
        except Exception as error:  # noqa: BLE001 -- written down below
            # A bug or an odd file must not take the other jobs with it.
            if is_outage_of_disk(error):
                self._wait(job, WaitingFor.DISK, _message_of(error))
                return settings.tracking_retry
            return self._record_failure(job, error)
        if job.waiting is not None and job.waiting.reason not in (WaitingFor.WORKERS, WaitingFor.COMPARISONS):
            with suppress(StaleRowError):  # it has moved on, which ends the wait, too
                wait_for(self._context, job, None)
        return again

    def _wait(self, job: JobRow, reason: WaitingFor, missing: str) -> None:
        log.info("job %s stays %s: %s", job.id, job.state, missing)
        wait_for(self._context, job, Waiting(reason=reason, missing=missing, since=self._store.now()))

    def _record_failure(self, job: JobRow, error: Exception) -> float:
        """Counts a step that failed, and gives the job up after too many; seconds until the next."""
        now, message, known = self._store.now(), _message_of(error), job.waiting
        if known is None or known.reason is not WaitingFor.STEP:
            known = Waiting(reason=WaitingFor.STEP, missing=message, since=now)
        known = known.model_copy(update={"missing": message, "failures": known.failures + 1})
        if known.failures == 1 and not isinstance(error, Error):
            log.exception("job %s: the step from %s failed; it will be repeated", job.id, job.state)
        else:
            log.warning("job %s: the step from %s failed %d times: %s", job.id, job.state, known.failures, message)
        for_long = now - known.since >= timedelta(seconds=self._settings.step_failing_for)
        if known.failures >= self._settings.max_step_failures and for_long and self._give_up(job, message):
            return 0.0
        wait_for(self._context, job, known)
        return exponential_backoff(known.failures, self._settings.tracking_retry, _LONGEST_RETRY)

    def _give_up(self, job: JobRow, message: str) -> bool:
        """Ends a job whose step fails again and again, without what failed; whether its state allows that."""
        log.error("job %s: the step from %s is given up: %s", job.id, job.state, message)
        if job.state.is_terminal:
            # What is left of it on the cluster and in MLflow the garbage collector closes.
            ended = self._store.update(job, cleaned_up=True, waiting=None)
            if ended.delete_requested:
                remove_job(self._store, self._context.files, self._context.jobs_dir, self._context.cache_dir, ended)
            return True
        end = State.CANCELLED if job.state == State.CANCELLING else State.FAILED
        if not is_legal(job.state, end):
            return False
        outcome = AttemptOutcome.CANCELLED if end == State.CANCELLED else AttemptOutcome.FAILED
        error: JobChanges = {"error_class": ErrorClass.INTERNAL, "error_message": message}
        self._store.transition(job, end, f"gave up: {message}", leased=True, outcome=outcome, **error)
        return True

    # --- one round

    def tick(self) -> None:
        """One whole round, in the calling thread: every due job takes one step."""
        self.admit()
        for job in self._leases.claim(self._settings.lease_for, limit=1000):
            self._look_after(job)

    def admit(self) -> None:
        """Lets jobs out of the queue, as far as there is room, and fails those that have waited too long."""
        deadline = timedelta(seconds=self._settings.scheduling_deadline)
        waited = f"waited in the queue for longer than {self._settings.scheduling_deadline:g} s"
        for job in self._store.overdue(self._store.now() - deadline):
            self._fail_queued(job, ErrorClass.SCHEDULING_DEADLINE, waited, None)
        if not self._store.has_queue():
            return
        try:
            capacity = self._cluster.recent_capacity()
        except LauncherUnavailable as error:
            log.info("nobody is admitted: %s", error)
            return
        unreadable: list[tuple[JobRow, str]] = []
        broken: list[tuple[JobRow, str]] = []
        found = Plan()

        def choose(placed: list[JobRow], queue: list[JobRow]) -> list[JobRow]:
            nonlocal found
            now = self._store.now()
            found = plan(placed, queue, capacity, self._settings, now, lambda job, why: unreadable.append((job, why)))
            return found.admitted

        admitted = self._store.admit(choose, on_broken=lambda job, why: broken.append((job, why)))
        for job in admitted:
            waited_for = (self._store.now() - job.queued_at).total_seconds()
            self.metrics.queue_seconds.observe(max(0.0, waited_for))
        for job, why in unreadable:
            self._fail_queued(job, ErrorClass.SPEC_UNREADABLE, why)
        for job, why in broken:
            self._fail_queued(job, ErrorClass.INTERNAL, why)
        for preemption in found.preemptions:
            self._preempt(preemption)

    def _preempt(self, preemption: Preemption) -> None:
        """Asks a job to leave for another one; it is still wanted, so that it is queued again once it has left."""
        job, by = preemption.job, preemption.by
        reason = f"makes room for job {by.id} of priority {by.priority}"
        try:
            self._store.transition(job, State.PAUSING, reason)
        except StaleRowError:
            log.debug("job %s has moved on before it could make room", job.id)

    def sweep_disk(self) -> None:
        """Keeps what grows on the disk within its quotas, unless another process is at it."""
        if not self._leases.hold("disk sweep", self._settings.disk_sweep_every):
            return
        for part in self._garbage_collector.disk_parts:
            _guarded("the sweep of the disk", part)

    def sweep(self) -> None:
        """Removes leftovers, unless another process is at it."""
        if not self._leases.hold("sweep", self._settings.sweep_every):
            return
        collector = self._garbage_collector
        for part in (
            collector.stop_orphaned_attempts,
            collector.close_orphaned_runs,
            collector.delete_jobs,
            collector.delete_leftover_files,
            collector.prune_rows,
            collector.correct_times,
        ):
            _guarded(part.__name__, part)

    def _fail_queued(self, job: JobRow, error_class: ErrorClass, message: str, reason: str | None = "") -> None:
        """Fails a job of the queue; whatever comes in the way concerns that job alone.

        Args:
            job: as it was read in the queue.
            error_class: of its error.
            message: of its error.
            reason: of the event; empty: the message; None: the usual reason.
        """
        reason = message if reason == "" else reason
        try:
            self._store.transition(job, State.FAILED, reason, error_class=error_class, error_message=message)
        except StaleRowError:
            log.debug("job %s has left the queue in time", job.id)
        except StoreUnavailableError:
            raise
        except Exception:
            log.exception("job %s can't be failed, and stays in the queue", job.id)


def _message_of(error: Exception) -> str:
    """An error in a line that may be shown to people."""
    text = str(error).partition("\n")[0]
    return (text if isinstance(error, Error) else f"{type(error).__name__}: {text}")[:_LONGEST_MESSAGE]


def _guarded(what: str, act: Callable[[], object]) -> None:
    """A round that fails is logged, and the next one comes."""
    try:
        act()
    except _OUTAGES as error:
        log.warning("%s: %s", what, error)
    except Exception:
        log.exception("%s failed; it will be repeated", what)
