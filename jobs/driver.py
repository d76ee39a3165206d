"""Frame of every driver: heartbeat, stopping, shipping of metrics, and the result file, which is written last."""

import argparse
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import NoReturn

from jobs.backends.loopback import loopback_unproxied
from jobs.backends.mlflow import MlflowTracking
from jobs.directory.layout import AttemptFolder, JobFolder
from jobs.directory.records import Failure, NoteKind, Outcome, Phase, Progress, Result
from jobs.error_classes import classify
from jobs.errors import ErrorClass, FencedError, FolderError, NoRun, TrackingRefused, TrackingUnavailable
from jobs.interfaces import Tracking
from jobs.periodic_thread import PeriodicThread
from jobs.storage.driver_storage import DriverStorage
from jobs.storage.locations import STORAGE_VARIABLE, open_storage
from jobs.telemetry.json_output import print_as_json
from jobs.telemetry.log_records import FORMAT_VARIABLE, JOB_VARIABLE, LogFormat, configure_logging, format_named
from jobs.telemetry.tracing import TRACEPARENT_VARIABLE, Tracing, tracing_of_job
from seqae.errors import Error

__all__ = ["DriverContext", "connect", "drive"]

logger = logging.getLogger(__name__)

_BEAT_INTERVAL = 1.0
_BEAT_STALE_AFTER = 3.0
_SHIP_INTERVAL = 5.0

_FLUSH_SECONDS = 600.0
"""So long a storage that does not answer is asked to take the result."""

_SIGTERM_SECONDS = 2.0
"""Of the three that are left after SIGTERM."""

_STOP_GRACE = 15.0
"""Seconds that workers which train get to stop by themselves."""


@dataclass(frozen=True)
class DriverContext:
    """Folders and tracking server of the attempt that a driver runs."""

    folder: JobFolder
    """Of the job."""
    attempt: AttemptFolder
    cache_dir: Path
    """Built data sets, shared by all jobs."""
    data_dir: Path | None
    """The user's own data."""
    tracking: Tracking | None
    """None where no run was given: then the control plane alone ships."""
    run_id: str | None
    """Of the job, on the tracking server."""
    storage: DriverStorage | None = None
    """Object storage behind the folder; None: the control plane sees the folder itself."""
    tracing: Tracing = field(default_factory=Tracing)
    """Spans of this process."""

    def fetch_job(self, job_id: str) -> None:
        """Copies another job's folder to beside this job's, where it is not there already.

        Raises:
            StorageUnavailable, StorageRefused: the storage does not answer.
        """
        if self.storage is not None:
            self.storage.fetch_job(job_id)

    def is_fenced(self) -> bool:
        """Whether a newer attempt exists: then this one commits nothing more."""
        return self.folder.read_control().fences(self.attempt.number)


def drive(work: Callable[[DriverContext], Result], argv: Sequence[str] | None = None) -> int:
    """Runs an attempt to its result file, whatever happens short of SIGKILL.

    Args:
        work: does the attempt and returns its result.
        argv: --job-dir and --attempt; the process's own when left out.

    Returns:
        The exit status: 0 whenever the result file tells the rest.
    """
    _set_up_logging()
    os.environ.update(loopback_unproxied(os.environ))
    context = replace(_parse_context(argv), tracing=_make_tracing())
    _handle_sigterm()
    if context.storage is None:
        _drive(context, work)
        return 0
    try:
        context.storage.begin()
    except FencedError as error:
        logger.warning("%s", error)
        return 0
    context.storage.start()
    if context.storage.finish(_drive(context, work)):
        context.storage.remove_copies()
    return 0


def _drive(context: DriverContext, work: Callable[[DriverContext], Result]) -> float:
    """Runs an attempt to its result file; how many seconds are left then until the process is killed."""
    background = _BackgroundTasks(context)
    background.start()
    try:
        result = _traced(work, context)
    except FencedError as error:
        background.stop(ship=False)
        logger.warning("%s", error)
        context.attempt.add_note(NoteKind.FENCED, str(error))
        return _SIGTERM_SECONDS
    except SystemExit:
        # SIGTERM: three seconds are left, and the metrics can be shipped by the control plane.
        background.stop(ship=False)
        result = _result_of_sigterm(context)
        _write_result(context, result)
        logger.info("attempt %d: stopped, %s", context.attempt.number, result.outcome.value)
        return _SIGTERM_SECONDS
    except Exception as error:
        logger.exception("the attempt failed")
        result = Result(outcome=Outcome.FAILED, error=classify(error))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        context.tracing.stop()
    background.stop(ship=True)
    _write_result(context, result)
    logger.info("attempt %d: %s", context.attempt.number, result.outcome.value)
    return _FLUSH_SECONDS


def _traced(work: Callable[[DriverContext], Result], context: DriverContext) -> Result:
    """The attempt's result, with a span around the work."""
    attributes: dict[str, str | int] = {
        "seqae.job.id": context.folder.path.name,
        "seqae.attempt": context.attempt.number,
    }
    parent = os.environ.get(TRACEPARENT_VARIABLE)
    with context.tracing.span("attempt", attributes, parent=parent) as span:
        result = work(context)
        span.set("seqae.outcome", result.outcome.value)
        return result


def _make_tracing() -> Tracing:
    try:
        return tracing_of_job("driver")
    except Error as error:
        # The service has its packages, this machine has not: no reason to lose the attempt.
        logger.warning("no traces: %s", error)
        return Tracing()


def _set_up_logging() -> None:
    log_format, job_id = format_named(os.environ.get(FORMAT_VARIABLE)), os.environ.get(JOB_VARIABLE)
    configure_logging(log_format, job_id)
    if log_format is LogFormat.JSON:
        print_as_json(job_id)


def connect() -> None:
    """Connects this process to the Ray cluster that runs it."""
    import ray

    # The address is in the driver's own environment only; Train's helpers look for it in theirs, and would find
    # whatever other cluster is on the machine.
    address = {"RAY_ADDRESS": os.environ["RAY_ADDRESS"]}
    ray.init(runtime_env={"env_vars": address}, logging_level=logging.WARNING)
    _handle_sigterm()


def _handle_sigterm() -> None:
    """Makes SIGTERM raise SystemExit in the main thread; ray.init sets a handler of its own, so again after that."""

    def leave(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def _parse_context(argv: Sequence[str] | None) -> DriverContext:
    parser = argparse.ArgumentParser(description="Runs one attempt of a job on the cluster.")
    parser.add_argument("--job-dir", type=Path, required=True, help="the job's folder, absolute")
    parser.add_argument("--attempt", type=int, required=True)
    given = parser.parse_args(argv)
    folder = JobFolder(given.job_dir)
    cache_dir = Path(os.environ.get("SEQAE_CACHE_DIR") or given.job_dir.parent.parent / "data")
    data_dir = os.environ.get("SEQAE_DATA_DIR")
    url, run_id = os.environ.get("MLFLOW_TRACKING_URI"), os.environ.get("SEQAE_RUN_ID")
    tracking = MlflowTracking(url, cache_dir / "models") if url and run_id else None
    attempt = folder.attempt(given.attempt)
    attempt.path.mkdir(parents=True, exist_ok=True)
    url = os.environ.get(STORAGE_VARIABLE)
    storage = DriverStorage(open_storage(url), folder, given.attempt) if url else None
    return DriverContext(folder, attempt, cache_dir, Path(data_dir) if data_dir else None, tracking, run_id, storage)


class _BackgroundTasks:
    """Threads beside the work: one for the heartbeat and for control.json, one that ships metrics."""

    def __init__(self, context: DriverContext) -> None:
        self._context = context
        self._stop_seen_at: float | None = None
        self._liveness = PeriodicThread(
            "heartbeat",
            _BEAT_INTERVAL,
            self._beat_and_obey,
            initial_delay=_BEAT_INTERVAL,
            # A full disk, or a file just being replaced.
            expected_errors=(OSError, FolderError),
        )
        self._shipper = PeriodicThread("ship-metrics", _SHIP_INTERVAL, self._ship, initial_delay=_SHIP_INTERVAL)

    def start(self) -> None:
        now = time.time()
        self._context.attempt.write_progress(Progress(time=now, last_progress_at=now, phase=Phase.STARTING))
        self._liveness.start()
        self._shipper.start()

    def stop(self, ship: bool) -> None:
        """Ends both threads; with `ship` what is new is shipped once more."""
        self._liveness.request_stop()
        self._shipper.request_stop()
        if ship:
            # A server that is down answers within its time-out; what is left then the control plane ships.
            self._shipper.join(timeout=30)
            self._ship()

    def _beat_and_obey(self) -> None:
        self._beat()
        self._obey_control()

    def _beat(self) -> None:
        """Renews a heartbeat that the workers don't: they start, load data, or are being replaced."""
        progress = self._context.attempt.read_progress()
        if progress is not None and time.time() - progress.time > _BEAT_STALE_AFTER:
            progress.time = time.time()
            self._context.attempt.write_progress(progress)

    def _obey_control(self) -> None:
        """Ends this process where control.json asks for it and no worker will."""
        control = self._context.folder.read_control()
        if not control.stops(self._context.attempt.number):
            return
        if self._stop_seen_at is None:
            self._stop_seen_at = time.monotonic()
        progress = self._context.attempt.read_progress()
        is_training = progress is not None and progress.phase in (Phase.TRAINING, Phase.FINALIZING)
        # Workers that train stop by themselves, with a checkpoint; before that there is nothing to wait for.
        if not is_training or time.monotonic() - self._stop_seen_at > _STOP_GRACE:
            self._liveness.request_stop()
            self._shipper.request_stop()
            os.kill(os.getpid(), signal.SIGTERM)

    def _ship(self) -> None:
        tracking, run_id = self._context.tracking, self._context.run_id
        if tracking is None or run_id is None or self._context.is_fenced():
            return
        try:
            tracking.ship(self._context.folder.path, run_id)
        except (TrackingUnavailable, TrackingRefused, NoRun, FolderError, OSError) as error:
            logger.warning("metrics are kept for later: %s", error)


def _result_of_sigterm(context: DriverContext) -> Result:
    """The result of an attempt that SIGTERM ended: as it was asked for, or else the cluster's doing."""
    outcome = context.folder.read_control().want.outcome
    if outcome is None:
        error = Failure(error_class=ErrorClass.INFRASTRUCTURE, message="stopped from outside (SIGTERM)")
        return Result(outcome=Outcome.FAILED, error=error)
    return Result(outcome=outcome)


def _write_result(context: DriverContext, result: Result) -> None:
    if context.is_fenced():
        return
    try:
        context.attempt.write_result(result)
    except OSError:
        # The disk is full: drafts and film strips of this attempt make room for the few bytes that matter.
        for frame in context.attempt.frames.glob("*.png"):
            with suppress(OSError):
                frame.unlink()
        context.attempt.write_result(result)
