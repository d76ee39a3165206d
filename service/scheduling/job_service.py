"""The job service: everything that a client can do with jobs. Methods block; routes call them from a thread."""

import hashlib
import json
import logging
from collections.abc import Callable, Collection
from pathlib import Path

from jobs.directory.layout import JobFolder
from jobs.directory.stored_specs import SPEC_VERSION, parse_spec
from jobs.errors import LauncherUnavailable, SpecUnreadable
from jobs.interfaces import Capacity, Tracking
from jobs.specs import AnySpec, JobSpec, TrainSpec, TuneSpec
from jobs.storage.job_files import JobFiles, SharedJobFiles
from service.db.models import JobRow
from service.db.store import Store, new_job_id
from service.disk.removal import remove_job
from service.disk.usage import DiskUsage
from service.errors import (
    ConflictError,
    FieldProblem,
    JobNotFoundError,
    QuotaError,
    SpecRefusedError,
    StaleRowError,
)
from service.job_state import Desired, State
from service.scheduling import model_selectors
from service.scheduling.dry_run import dry_run, refusals
from service.scheduling.job_views import attempt_view, event_view, job_view
from service.scheduling.log_reader import LogEnd, after, last_lines, tail
from service.scheduling.queue_places import QueuePlaces
from service.scheduling.search import warm_starts
from service.scheduling.search.pair_views import answer_pair, pair_page
from service.scheduling.search.trial_models import TrialModel, trial_model
from service.scheduling.search.trial_views import trial_page, trial_view
from service.schemas.disk import DiskView
from service.schemas.jobs import AttemptView, Event, JobView, Page, ProblemView, Validation
from service.schemas.trials import PairPage, TrialPage, TrialView
from service.settings import ReconcilerSettings
from service.upstream.cluster_monitor import ClusterMonitor

__all__ = ["JobService"]

log = logging.getLogger(__name__)

# Where a request moves a job at once; from other states the reconciler brings it there when it can.
_ON_CANCEL = {
    State.QUEUED: State.CANCELLED,
    State.RETRY_WAIT: State.CANCELLED,
    State.PAUSED: State.CANCELLED,
    State.SUBMITTING: State.CANCELLING,
    State.STARTING: State.CANCELLING,
    State.RUNNING: State.CANCELLING,
    State.PAUSING: State.CANCELLING,
}
_ON_PAUSE = {
    State.QUEUED: State.PAUSED,
    State.RETRY_WAIT: State.PAUSED,
    State.SUBMITTING: State.PAUSING,
    State.STARTING: State.PAUSING,
    State.RUNNING: State.PAUSING,
}


class JobService:
    """Submits, lists, changes and deletes jobs.

    Every method raises StoreUnavailableError when the database does not answer, and JobNotFoundError for an unknown id.

    Args:
        store: the job database.
        cluster: asked for its size and for logs; it may be unreachable.
        jobs_dir: folder with a folder for each job.
        limits: of the queue.
        model_name: registered model of specs that name none; empty: by the kind of data.
        cache_dir: built data sets; None: beside the jobs' folder.
        data_dir: the data folder of this stack, if it has one.
        files: where jobs' files are; None: in `jobs_dir`, which drivers share.
        registry: asked for the models that specs name; it may be unreachable.
    """

    def __init__(
        self,
        store: Store,
        cluster: ClusterMonitor,
        jobs_dir: Path,
        limits: ReconcilerSettings | None = None,
        model_name: str = "",
        *,
        cache_dir: Path | None = None,
        data_dir: Path | None = None,
        files: JobFiles | None = None,
        registry: Tracking | None = None,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._jobs_dir = jobs_dir
        self._limits = limits or ReconcilerSettings()
        self._queue_places = QueuePlaces(store, cluster, self._limits)
        self._model_name = model_name
        self._cache_dir = cache_dir or jobs_dir.parent / "data"
        self._data_dir = data_dir
        self.files = files or SharedJobFiles(jobs_dir)
        self._registry = registry
        self._disk = DiskUsage(store, jobs_dir, self._cache_dir, self._limits)

    # --- submitting

    def submit(
        self,
        spec: JobSpec,
        *,
        idempotency_key: str | None = None,
        owner: str = "",
        priority: int = 0,
        sees_only: str | None = None,
    ) -> JobView:
        """Accepts a job into the queue.

        Args:
            spec: what to run.
            idempotency_key: with the same key and spec, the same owner gets the same job again.
            owner: who asks; quotas count by it.
            priority: higher goes first.
            sees_only: owner whose jobs alone the spec may name; None: all.

        Raises:
            SpecRefusedError: the cluster can never run it. An unreachable cluster refuses nothing.
            ConflictError: the key was used for another spec.
            QuotaError: too many jobs have not ended.
        """
        spec = self._named(spec)
        job = _new_job(spec, owner, priority)
        job.idempotency_key = idempotency_key
        job.body_hash = _hash(spec, priority)
        known = self._store.known(job)
        if known is not None:
            return job_view(known)
        found, _ = refusals(spec, self._capacity(), self._data_dir)
        found = (*found, *self._problems_of_names(spec, sees_only))
        if found:
            raise SpecRefusedError(found)
        added, _ = self._store.add(job, self._check_quota)
        return job_view(added)

    def validate(self, spec: JobSpec, sees_only: str | None = None) -> Validation:
        """What `submit` would do with a spec, and about what it would cost. Changes nothing."""
        found = dry_run(spec, self._capacity(), self._store.page((State.SUCCEEDED,), limit=200)[0], self._data_dir)
        more = tuple(
            ProblemView(pointer=one.pointer, detail=one.detail) for one in self._problems_of_names(spec, sees_only)
        )
        if not more:
            return found
        return found.model_copy(update={"accepted": False, "problems": (*found.problems, *more)})

    def _problems_of_names(self, spec: JobSpec, sees_only: str | None) -> tuple[FieldProblem, ...]:
        """What is wrong with the jobs and models that a spec names."""
        models = model_selectors.check(spec, self._store, self._registry, sees_only)
        if isinstance(spec, TuneSpec) and spec.is_by_eye and not self.files.is_shared:
            what = "answers of people reach a search through a folder that all machines see, not through SEQAE_STORAGE"
            return (FieldProblem("#/objective", what),)
        return (*warm_starts.check(spec, self._store, sees_only), *models)

    def _named(self, spec: JobSpec) -> JobSpec:
        """The spec with this installation's name for models, where it has one and the spec has none."""
        if not self._model_name or not isinstance(spec, TrainSpec | TuneSpec) or spec.register_as is not None:
            return spec
        return spec.model_copy(update={"register_as": self._model_name})

    # --- reading

    def get(self, job_id: str) -> JobView:
        """A job as it is now."""
        return self._view(self._store.job(job_id))

    def list(
        self,
        states: Collection[State] = (),
        cursor: str | None = None,
        limit: int = 50,
        owner: str | None = None,
    ) -> Page:
        """Jobs, newest first. Raises: CursorError."""
        rows, following = self._store.page(states, owner, cursor, limit)
        return Page(items=tuple(self._view(row) for row in rows), next_cursor=following)

    def _view(self, row: JobRow) -> JobView:
        return job_view(row, self._queue_places.waiting(row))

    def attempts(self, job_id: str) -> tuple[AttemptView, ...]:
        """Oldest first."""
        self._store.job(job_id)
        return tuple(attempt_view(row) for row in self._store.attempts(job_id))

    def events(self, after_id: int = 0, job_id: str | None = None, limit: int = 500) -> tuple[Event, ...]:
        """Events after one, in order; of one job or of all. Events outlive their job."""
        return tuple(event_view(row) for row in self._store.events(after_id, job_id, limit))

    def logs(self, job_id: str, attempt: int | None = None, lines: int | None = None) -> LogEnd:
        """What an attempt's driver printed last: the newest attempt's, or the one asked for.

        Args:
            job_id: of the job.
            attempt: its number.
            lines: at most so many; in any case no more than `service.scheduling.log_reader.MOST_BYTES`.

        Raises:
            LauncherUnavailable: the driver has printed nothing yet, and the cluster does not say why.
        """
        job = self._store.job(job_id)
        number = job.attempt if attempt is None else attempt
        if number == 0:
            return LogEnd(b"", 0, 0)
        row = self._store.attempt(job_id, number)
        try:
            content, end = tail(self.folder(job_id).attempt(number).log, lines)
        except FileNotFoundError:
            # Before the driver: what the cluster says of its preparations.
            content, end = last_lines(self._cluster.logs(row.submission_id).encode(), lines), 0
        return LogEnd(content, number, end)

    def log_after(self, job_id: str, attempt: int, start: int) -> bytes:
        """What an attempt's driver printed from byte `start` on, a piece of it; empty where there is no more yet."""
        return after(self.folder(job_id).attempt(attempt).log, start)

    def trials(self, job_id: str, after: int = -1, limit: int = 200) -> TrialPage:
        """Trials of a search with numbers above `after`, and the search as a whole. Raises: TrialNotFoundError."""
        return trial_page(self._store.job(job_id), self.folder(job_id), after, limit)

    def trial(self, job_id: str, number: int) -> TrialView:
        """One trial of a search. Raises: TrialNotFoundError."""
        return trial_view(self._store.job(job_id), self.folder(job_id), number)

    def trial_model(self, job_id: str, number: int) -> TrialModel:
        """The model of a trial of a search that has ended. Raises: TrialNotFoundError, ConflictError."""
        self.files.fetch_whole(job_id)
        return trial_model(self._store.job(job_id), self.folder(job_id), number)

    def pairs(self, job_id: str, limit: int = 1) -> PairPage:
        """Pairs of a search by eye that people may compare now. Raises: TrialNotFoundError."""
        return pair_page(self._store.job(job_id), self.folder(job_id), limit)

    def answer(self, job_id: str, pair: int, better: int | None, who: str) -> None:
        """Keeps which trial of a pair somebody finds better; None: both are equally good.

        Raises:
            TrialNotFoundError: the job is no search by eye, or has no such pair.
            AnswerError: the trial is not one of the pair.
            ConflictError: the pair is not open.
        """
        answer_pair(self._store.job(job_id), self.folder(job_id), pair, better, who)

    def folder(self, job_id: str) -> JobFolder:
        """Where a job's files are; it may not exist yet. Files from a storage are copied there first."""
        self.files.fetch_to_read(job_id)
        return JobFolder(self._jobs_dir / job_id)

    # --- changing

    def cancel(self, job_id: str) -> JobView:
        """Ends a job; one that runs is asked to leave, and stopped by force after a while.

        Raises:
            ConflictError: it has ended in another way.
        """

        def step(job: JobRow) -> JobRow:
            if job.desired == Desired.CANCEL and job.state not in (State.SUCCEEDED, State.FAILED):
                return job
            self._refuse_ended(job, "cancelled")
            if job.state in _ON_CANCEL:
                return self._store.transition(job, _ON_CANCEL[job.state], desired=Desired.CANCEL)
            return self._store.set_desired(job, desired=Desired.CANCEL)

        return self._change(job_id, step)

    def pause(self, job_id: str) -> JobView:
        """Takes a job off the cluster, with a checkpoint, until it is resumed.

        Raises:
            ConflictError: it has ended, is being cancelled, or has trained to the end.
        """

        def step(job: JobRow) -> JobRow:
            self._refuse_ended(job, "paused")
            if job.desired == Desired.CANCEL or job.state in (State.CANCELLING, State.FINALIZING):
                raise ConflictError(f"job {job.id} is {job.state} and can't be paused")
            if job.desired == Desired.PAUSE:
                return job
            if job.state in _ON_PAUSE:
                return self._store.transition(job, _ON_PAUSE[job.state], desired=Desired.PAUSE)
            return self._store.set_desired(job, desired=Desired.PAUSE)

        return self._change(job_id, step)

    def resume(self, job_id: str) -> JobView:
        """Puts a paused job back into the queue; it goes on from its newest checkpoint.

        Raises:
            ConflictError: it has ended or is being cancelled.
        """

        def step(job: JobRow) -> JobRow:
            self._refuse_ended(job, "resumed")
            if job.desired == Desired.CANCEL or job.state == State.CANCELLING:
                raise ConflictError(f"job {job.id} is being cancelled and can't be resumed")
            if job.state == State.PAUSED:
                now = self._store.now()
                return self._store.transition(job, State.QUEUED, desired=Desired.RUN, queued_at=now)
            if job.desired == Desired.RUN:
                return job
            return self._store.set_desired(job, desired=Desired.RUN)

        return self._change(job_id, step)

    def retry(self, job_id: str) -> JobView:
        """Tries a job again.

        One that waits for its next attempt goes at once. One that failed or was cancelled gets a new job, which goes on
        from its newest checkpoint; a second call gives the same new job.

        Raises:
            ConflictError: it has succeeded.
            QuotaError: too many jobs have not ended.
        """
        job = self._store.job(job_id)
        if job.state == State.SUCCEEDED:
            raise ConflictError(f"job {job_id} has succeeded")
        if job.state.is_terminal:
            return self._repeat(job)

        def step(job: JobRow) -> JobRow:
            if job.state == State.RETRY_WAIT:
                return self._store.transition(job, State.QUEUED, "tried again at once by request")
            return job

        return self._change(job_id, step)

    def set_priority(self, job_id: str, priority: int) -> JobView:
        """Raises: ConflictError: it has ended."""

        def step(job: JobRow) -> JobRow:
            self._refuse_ended(job, "moved in the queue")
            return job if job.priority == priority else self._store.set_desired(job, priority=priority)

        return self._change(job_id, step)

    def delete(self, job_id: str) -> bool:
        """Removes an ended job with its files and the data that only it used. Its events and its model stay.

        Where what it left on the cluster and in MLflow is still being closed, it goes as soon as that is done. A
        repeated call changes nothing.

        Returns:
            Whether it is gone already.

        Raises:
            ConflictError: it has not ended.
        """
        for _ in range(20):
            try:
                job = self._store.job(job_id)
                if not job.state.is_terminal:
                    raise ConflictError(f"job {job_id} is {job.state}: cancel it first")
                if not job.cleaned_up:
                    self._store.request_deletion(job)
                    return False
                remove_job(self._store, self.files, self._jobs_dir, self._cache_dir, job)
            except StaleRowError:
                log.debug("job %s changed meanwhile: reading it again", job_id)
            except JobNotFoundError:
                if not self._store.was_deleted(job_id):
                    raise
                return True
            else:
                return True
        raise ConflictError(f"job {job_id} keeps changing: try again")

    def disk(self) -> DiskView:
        """What the stack keeps on its disk, and whose it is; an answer a minute old will do."""
        return self._disk.view()

    # --- helpers

    def _change(self, job_id: str, step: Callable[[JobRow], JobRow]) -> JobView:
        """Repeats a step until nobody has changed the row in between."""
        for _ in range(20):
            try:
                return job_view(step(self._store.job(job_id)))
            except StaleRowError:
                log.debug("job %s changed meanwhile: reading it again", job_id)
        raise ConflictError(f"job {job_id} keeps changing: try again")

    def _refuse_ended(self, job: JobRow, done: str) -> None:
        if job.state.is_terminal:
            raise ConflictError(f"job {job.id} has ended ({job.state}) and can't be {done}")

    def _capacity(self) -> Capacity | None:
        """None: the cluster does not answer, and nothing is refused."""
        try:
            return self._cluster.recent_capacity()
        except LauncherUnavailable as error:
            log.info("the size of the cluster is not known: %s", error)
            return None

    def _check_quota(self, of_owner: int, of_all: int) -> None:
        if of_owner >= self._limits.max_jobs_per_owner:
            raise QuotaError(f"you have {of_owner} jobs that have not ended, as many as is allowed")
        if of_all >= self._limits.max_jobs:
            raise QuotaError(f"the queue is full: {of_all} jobs have not ended")

    def _repeat(self, job: JobRow) -> JobView:
        try:
            spec = parse_spec(job.spec, job.spec_version)
        except SpecUnreadable as error:
            raise ConflictError(f"the spec of job {job.id} can't be read by this release: {error}") from error
        again = _new_job(spec, job.owner, job.priority)
        again.retry_of = job.id
        again.idempotency_key = f"retry of {job.id}"
        again.body_hash = _hash(spec, job.priority)
        added, _ = self._store.add(again, self._check_quota)
        return job_view(added)


def _new_job(spec: AnySpec, owner: str, priority: int) -> JobRow:
    return JobRow(
        id=new_job_id(),
        name=spec.name,
        kind=spec.kind,
        owner=owner,
        spec=spec.model_dump(mode="json"),
        spec_version=SPEC_VERSION,
        priority=priority,
        state=State.QUEUED,
        desired=Desired.RUN,
    )


def _hash(spec: AnySpec, priority: int) -> str:
    body = {"spec": spec.model_dump(mode="json"), "priority": priority}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
