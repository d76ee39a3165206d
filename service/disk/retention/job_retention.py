"""Retention of ended jobs, carried out: looks at database, folders and registry, and removes what was chosen."""

import json
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import ValidationError

from jobs.directory.layout import JobFolder
from jobs.errors import FolderError
from jobs.interfaces import Tracking
from jobs.storage.job_files import JobFiles
from service.db.audit import Actor, current_actor
from service.db.models import EventRow, JobRow
from service.db.store import NewEvent, Store
from service.disk.removal import remove_job
from service.disk.retention.plan import Action, EndedJob, Limits, Removal, choose
from service.disk.sizes import size_of
from service.errors import JobNotFoundError, StaleRowError
from service.job_state import EventType, State
from service.schemas.disk import RetentionLimits, RetentionRemoval, RetentionReport, RetentionView
from service.settings import ReconcilerSettings

__all__ = ["JobRetention", "limits_of"]

log = logging.getLogger(__name__)

_MOST_NAMED = 200
"""Removals that an event names; it counts all."""

_REPORTS = 20

_JOB_ID = re.compile(r"job_[0-9a-z]+")


def limits_of(settings: ReconcilerSettings) -> Limits:
    """The limits that the settings name."""
    return Limits(
        days=settings.ended_job_days,
        jobs=settings.max_ended_jobs,
        jobs_per_owner=settings.max_ended_jobs_per_owner,
        bytes=settings.ended_job_bytes,
        bytes_per_owner=settings.ended_job_bytes_per_owner,
    )


class JobRetention:
    """Keeps ended jobs within their limits.

    Args:
        store: the job database.
        files: where drivers' files of jobs are.
        jobs_dir: folder with a folder for each job.
        cache_dir: built data sets; those that only a removed job used go with it.
        tracking: asked which versions have an alias.
        settings: the limits.
    """

    def __init__(
        self,
        store: Store,
        files: JobFiles,
        jobs_dir: Path,
        cache_dir: Path,
        tracking: Tracking,
        settings: ReconcilerSettings,
    ) -> None:
        self._store = store
        self._files = files
        self._jobs_dir = jobs_dir
        self._cache_dir = cache_dir
        self._tracking = tracking
        self.limits = limits_of(settings)

    def plan(self) -> list[Removal]:
        """What would be removed now, in its order; nothing is changed.

        Raises:
            TrackingUnavailable: which versions have an alias is not known, so nothing may be removed.
            StoreUnavailableError: the database does not answer.
        """
        if not self.limits.are_set:
            return []
        kept = self._with_alias() | self._needed_by_live_jobs()
        ended = [self._ended(row) for row in self._store.ended()]
        return choose(ended, kept, self.limits, self._store.now())

    def apply(self) -> list[Removal]:
        """Removes what is over the limits now, and writes an event of it; what was removed.

        A job that somebody else changes or removes meanwhile is left to them. A repeated call removes nothing more.

        Raises:
            TrackingUnavailable: as `plan`; nothing was removed.
        StorageUnavailable, StorageRefused: files of a job are in a storage that does not answer; it is not removed.
            StoreUnavailableError: the database does not answer.
        """
        done: list[Removal] = []
        try:
            done.extend(removal for removal in self.plan() if self._remove(removal))
        finally:
            if done:
                self._store.add_event("", NewEvent(EventType.RETENTION, _report(done)))
        return done

    def reports(self) -> tuple[RetentionReport, ...]:
        """What was removed before, newest first; of an event that another release wrote, what can be read."""
        found = self._store.newest_events(EventType.RETENTION, _REPORTS)
        return tuple(report for event in found if (report := _as_report(event)) is not None)

    def view(self, removals: Sequence[Removal]) -> RetentionView:
        """Removals, planned or done, for clients."""
        return RetentionView(
            limits=RetentionLimits.model_validate(asdict(self.limits)),
            removals=tuple(_removal_view(removal) for removal in removals),
            jobs=sum(removal.action is Action.JOB for removal in removals),
            bytes=sum(removal.bytes for removal in removals),
            reports=self.reports(),
        )

    def _with_alias(self) -> set[str]:
        """Jobs whose version is the champion, or has another alias."""
        versions = [version for model in self._tracking.models() for version in model.versions]
        return {version.job_id for version in versions if version.aliases and version.job_id is not None}

    def _needed_by_live_jobs(self) -> set[str]:
        """Jobs that one which has not ended names: it repeats them, goes on from them, or looks at their model."""
        named: set[str] = set()
        for row in self._store.specs(live_only=True):
            named.update(_JOB_ID.findall(json.dumps(row.spec)))
            if row.retry_of is not None:
                named.add(row.retry_of)
        return named

    def _ended(self, row: JobRow) -> EndedJob:
        size, spare = 0, 0
        if self.limits.ask_for_sizes:
            folder = JobFolder(self._jobs_dir / row.id)
            size = size_of(folder.path).bytes
            spare = sum(size_of(path).bytes for path in _spare_checkpoints(folder, row.state))
        return EndedJob(
            id=row.id,
            owner=row.owner,
            ended_at=row.finished_at or row.updated_at,
            has_model=row.model_version is not None,
            bytes=size,
            spare_bytes=spare,
        )

    def _remove(self, removal: Removal) -> bool:
        """Removes what was chosen; whether it was still there to be removed."""
        job_id = removal.job.id
        actor = current_actor.get()
        token = current_actor.set(actor or Actor("control plane", "retention", f"/jobs/{job_id}"))
        try:
            row = self._store.job(job_id)
            if not (row.state.is_terminal and row.cleaned_up):
                return False
            if removal.action is Action.JOB:
                remove_job(self._store, self._files, self._jobs_dir, self._cache_dir, row)
            else:
                for path in _spare_checkpoints(JobFolder(self._jobs_dir / job_id), row.state):
                    shutil.rmtree(path, ignore_errors=True)
        except (JobNotFoundError, StaleRowError) as error:
            log.info("retention leaves job %s alone: %s", job_id, error)
            return False
        finally:
            current_actor.reset(token)
        what = "all" if removal.action is Action.JOB else "checkpoints"
        log.info("retention removed %s of job %s, %d bytes: %s", what, job_id, removal.bytes, removal.why)
        return True


def _spare_checkpoints(folder: JobFolder, state: State) -> Iterator[Path]:
    """Checkpoints of a job beside its best one. Of a job without a model all are kept: a retry goes on from there."""
    if state is not State.SUCCEEDED:
        return
    try:
        results = [attempt.read_result() for attempt in folder.attempts()]
    except (FolderError, OSError) as error:
        log.warning("%s is left as it is: %s", folder.path, error)
        return
    best = next((found.checkpoint for found in reversed(results) if found is not None and found.checkpoint), None)
    if best is None or not (folder.path / best).is_dir():
        return
    for path in sorted(folder.path.glob("**/checkpoints/*")):
        if path.is_dir() and not path.is_symlink() and path != folder.path / best:
            yield path


def _removal_view(removal: Removal) -> RetentionRemoval:
    return RetentionRemoval(
        job=removal.job.id,
        owner=removal.job.owner,
        removed=removal.action,
        bytes=removal.bytes,
        why=removal.why,
    )


def _report(done: Sequence[Removal]) -> dict[str, object]:
    """The data of the event."""
    return {
        "jobs": sum(removal.action is Action.JOB for removal in done),
        "bytes": sum(removal.bytes for removal in done),
        "removals": [_removal_view(removal).model_dump(mode="json") for removal in done[:_MOST_NAMED]],
    }


def _as_report(event: EventRow) -> RetentionReport | None:
    try:
        return RetentionReport.model_validate({**event.data, "at": event.at})
    except ValidationError:
        return None
