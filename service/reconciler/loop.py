"""The reconciliation loop: moves the state of every job towards what is wanted of it.

It remembers nothing: each round starts from the database, so it may be stopped, killed, or run by several processes at
any moment.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from secrets import token_hex

from jobs.errors import ErrorClass, LauncherUnavailable, TrackingUnavailable
from jobs.interfaces import Tracking
from jobs.periodic_thread import PeriodicThread
from service.db.leases import Leases
from service.db.models import JobRow
from service.db.store import Store
from service.errors import StaleRowError, StoreUnavailableError
from service.job_state import State
from service.reconciler import finalization, recovery, running, stopping, submission
from service.reconciler.context import Delay, ReconcilerContext
from service.reconciler.garbage_collector import GarbageCollector
from service.scheduling.admission import choose
from service.settings import ReconcilerSettings
from service.upstream.cluster_monitor import ClusterMonitor

__all__ = ["Reconciler"]

log = logging.getLogger(__name__)

_OUTAGES = (LauncherUnavailable, TrackingUnavailable, StoreUnavailableError)
"""The cluster, MLflow or the database does not answer: a round that meets one is repeated."""

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
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._settings = settings or ReconcilerSettings()
        self._context = ReconcilerContext(store, cluster, tracking, jobs_dir, self._settings, environment or {})
        self._garbage_collector = GarbageCollector(self._context)
        self._leases = Leases(store, name or token_hex(8))
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
        for number in range(settings.reconcile_threads):
            self._run_every(settings.reconcile_every, self._work, f"work-{number}")

    def stop(self, timeout: float = 10.0) -> None:
        """Stops after the steps in progress. What takes longer than `timeout` seconds is left to its lease's end."""
        self._stopping.set()
        PeriodicThread.stop_all(self._threads, timeout)

    def _run_every(self, seconds: float, act: Callable[[], object], name: str) -> None:
        thread = PeriodicThread(f"reconciler-{name}", seconds, act, expected_errors=_OUTAGES)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        """Looks after one job after the other until none is due."""
        while not self._stopping.is_set() and (jobs := self._leases.claim(self._settings.lease_for, limit=1)):
            self._look_after(jobs[0])

    def _look_after(self, job: JobRow) -> None:
        """One step of a job whose lease is held; whatever happens, the lease is given back."""
        again = self._settings.tracking_retry
        try:
            again = _STEPS[job.state](self._context, job) or 0.0
        except LauncherUnavailable as error:
            log.info("job %s stays %s: %s", job.id, job.state, error)
            again = self._settings.cluster_poll
        except TrackingUnavailable as error:
            log.info("job %s stays %s: %s", job.id, job.state, error)
        except StaleRowError as error:
            log.debug("job %s: %s", job.id, error)
            again = 0.0
        except StoreUnavailableError as error:
            log.warning("job %s stays %s: %s", job.id, job.state, error)
        except Exception:
            # A bug or a full disk must not take the other jobs with it.
            log.exception("job %s: the step from %s failed; it will be repeated", job.id, job.state)
        self._leases.release(job, again)

    # --- one round

    def tick(self) -> None:
        """One whole round, in the calling thread: every due job takes one step."""
        self.admit()
        for job in self._leases.claim(self._settings.lease_for, limit=1000):
            self._look_after(job)

    def admit(self) -> None:
        """Lets jobs out of the queue, as far as there is room, and fails those that have waited too long."""
        deadline = timedelta(seconds=self._settings.scheduling_deadline)
        for job in self._store.overdue(self._store.now() - deadline):
            self._expire(job)
        if not self._store.has_queue():
            return
        try:
            capacity = self._cluster.recent_capacity()
        except LauncherUnavailable as error:
            log.info("nobody is admitted: %s", error)
            return
        self._store.admit(lambda placed, queue: choose(placed, queue, capacity, self._settings))

    def sweep(self) -> None:
        """Removes leftovers, unless another process is at it."""
        if not self._leases.hold("sweep", self._settings.sweep_every):
            return
        collector = self._garbage_collector
        for part in (
            collector.stop_orphaned_attempts,
            collector.close_orphaned_runs,
            collector.delete_leftover_files,
            collector.prune_rows,
        ):
            _guarded(part.__name__, part)

    def _expire(self, job: JobRow) -> None:
        message = f"waited in the queue for longer than {self._settings.scheduling_deadline:g} s"
        try:
            self._store.transition(job, State.FAILED, error_class=ErrorClass.SCHEDULING_DEADLINE, error_message=message)
        except StaleRowError:
            log.debug("job %s has left the queue in time", job.id)


def _guarded(what: str, act: Callable[[], object]) -> None:
    """A round that fails is logged, and the next one comes."""
    try:
        act()
    except _OUTAGES as error:
        log.warning("%s: %s", what, error)
    except Exception:
        log.exception("%s failed; it will be repeated", what)
