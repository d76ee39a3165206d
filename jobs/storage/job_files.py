"""Files of jobs as the control plane uses them (`JobFiles`): in a folder that drivers share, or behind a storage."""

import logging
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Protocol

from jobs.directory.fencing import issue_control
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control
from jobs.errors import StorageRefused, StorageUnavailable
from jobs.interfaces import submission_id
from jobs.storage.attempt_claim import issue_stored_control
from jobs.storage.copying.download import JobDownloader
from jobs.storage.copying.upload import JobUploader
from jobs.storage.job_objects import CHECKPOINT_MANIFEST, FileKind, job_prefix, kind_of
from jobs.storage.locations import STORAGE_VARIABLE
from jobs.storage.objects import ObjectStore, is_safe_key

__all__ = ["JobFiles", "SharedJobFiles", "StoredJobFiles"]

logger = logging.getLogger(__name__)

_MOST_JOBS = 512
"""Of so many jobs it is remembered which objects have been copied; others' small ones are copied again."""

_FRESH = 2.0
"""Readers of pages take what was copied so many seconds ago."""

_OPTUNA = "optuna.journal"


class JobFiles(Protocol):
    """Where the control plane finds jobs' files, and drivers theirs.

    Methods that ask the storage may raise StorageUnavailable and StorageRefused; nothing was decided then.
    """

    @property
    def is_shared(self) -> bool:
        """Whether drivers work in the control plane's own folders."""

    def fetch(self, job_id: str) -> None:
        """Brings a job's folder up to date, without its checkpoints."""

    def fetch_to_read(self, job_id: str) -> None:
        """Brings a job's folder up to date for a page: a moment old is fine, and so is what was there before."""

    def fetch_whole(self, job_id: str) -> None:
        """Brings a job's folder up to date, with its checkpoints."""

    def fetch_checkpoint(self, job_id: str, checkpoint: str) -> None:
        """Fetches one checkpoint, by its folder's path relative to the job's."""

    def publish(self, job_id: str, *, carried_over: bool) -> None:
        """Makes a job's spec known to drivers.

        Args:
            job_id: of the job.
            carried_over: also what was carried over from another job, before its first attempt.
        """

    def issue_control(self, job_id: str, control: Control) -> None:
        """Writes control.json, unless it names a newer attempt already. Raises: OSError."""

    def drop_checkpoints(self, job_id: str) -> None:
        """Removes the control plane's own copies of a job's checkpoints; a drivers' folder is left alone."""

    def remove(self, job_id: str) -> None:
        """Removes what drivers have of a job; the control plane's own folder is for its caller to remove."""

    def driver_folder(self, job_id: str, attempt: int) -> Path:
        """The job's folder on the machine of the driver; absolute."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that drivers need for it. No keys are in them."""


class SharedJobFiles:
    """Files of jobs in a folder that is the same on every machine. See `JobFiles` for the methods.

    Args:
        jobs_dir: folder with a folder for each job; absolute.
    """

    is_shared = True
    environment: Mapping[str, str] = {}

    def __init__(self, jobs_dir: Path) -> None:
        self._jobs_dir = jobs_dir

    def fetch(self, job_id: str) -> None:
        """Nothing is to be done: it is there."""

    fetch_to_read = fetch_whole = drop_checkpoints = remove = fetch

    def publish(self, job_id: str, *, carried_over: bool) -> None:
        """Nothing is to be done: drivers see it."""

    def fetch_checkpoint(self, job_id: str, checkpoint: str) -> None:
        """Nothing is to be done: it is there."""

    def issue_control(self, job_id: str, control: Control) -> None:
        """Writes control.json under its lock."""
        issue_control(JobFolder(self._jobs_dir / job_id), control)

    def driver_folder(self, job_id: str, attempt: int) -> Path:  # noqa: ARG002 -- all attempts have the same
        """The control plane's own."""
        return self._jobs_dir / job_id


class StoredJobFiles:
    """Files of jobs behind an object storage, with copies in the control plane's folder. See `JobFiles`.

    Args:
        jobs_dir: folder with a folder for each job, of this machine.
        store: the storage.
        url: its address, for drivers.
        node_dir: folder on the drivers' machines for their copies; absolute.
    """

    is_shared = False

    def __init__(self, jobs_dir: Path, store: ObjectStore, url: str, node_dir: Path) -> None:
        self._jobs_dir = jobs_dir
        self._store = store
        self._node_dir = node_dir
        self._known: OrderedDict[str, _KnownJob] = OrderedDict()
        self._lock = Lock()
        self.environment: Mapping[str, str] = {
            STORAGE_VARIABLE: url,
            "SEQAE_CACHE_DIR": str(node_dir / "data"),
        }

    def fetch(self, job_id: str) -> None:
        """Copies what is new; of a job that nothing is known of yet, nothing."""
        known = self._job(job_id)
        known.downloader.download()
        known.fetched_at = time.monotonic()

    def fetch_to_read(self, job_id: str) -> None:
        """Copies what is new, unless that was just done; where the storage does not answer, what is there must do."""
        if not is_safe_key(job_id) or "/" in job_id:
            return
        known = self._job(job_id)
        if time.monotonic() - known.fetched_at < _FRESH:
            return
        known.fetched_at = time.monotonic()
        try:
            self.fetch(job_id)
        except (StorageUnavailable, StorageRefused) as error:
            logger.warning("job %s is shown as it was: %s", job_id, error)

    def fetch_whole(self, job_id: str) -> None:
        """Copies everything."""
        self._downloader(job_id, lambda _: True).download()

    def fetch_checkpoint(self, job_id: str, checkpoint: str) -> None:
        """Copies one checkpoint; where there is none that is whole, nothing."""
        manifest = f"{checkpoint.rstrip('/')}/{CHECKPOINT_MANIFEST}"
        self._downloader(job_id, lambda path: path == manifest).download()

    def publish(self, job_id: str, *, carried_over: bool) -> None:
        """Uploads the spec, and what was carried over. A repeated call goes on where one ended."""
        prefix = job_prefix(job_id)
        uploader = JobUploader(self._store, prefix, self._jobs_dir / job_id, lambda: None)
        if carried_over:
            uploader.adopt(self._store.list(prefix))
            uploader.upload()
        uploader.upload_file("spec.json")

    def issue_control(self, job_id: str, control: Control) -> None:
        """Writes control.json in the storage under a condition, then the copy."""
        newest = issue_stored_control(self._store, job_prefix(job_id), control)
        issue_control(JobFolder(self._jobs_dir / job_id), newest)

    def drop_checkpoints(self, job_id: str) -> None:
        """Removes the copies of checkpoints: what became a model is in the registry, and all are in the storage."""
        for folder in (self._jobs_dir / job_id).glob("**/attempts/*/checkpoints"):
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self, job_id: str) -> None:
        """Removes the job's objects, the spec and the claim first: then no driver begins or commits."""
        keys = [info.key for info in self._store.list(job_prefix(job_id))]
        self._store.delete(sorted(keys, key=lambda key: key.count("/")))
        with self._lock:
            self._known.pop(job_id, None)

    def driver_folder(self, job_id: str, attempt: int) -> Path:
        """A folder of its own for each attempt: nothing of an earlier one lies in it."""
        return self._node_dir / "jobs" / submission_id(job_id, attempt) / job_id

    def _job(self, job_id: str) -> "_KnownJob":
        with self._lock:
            known = self._known.get(job_id)
            if known is None:
                known = self._known[job_id] = _KnownJob(self._downloader(job_id, _is_for_control_plane))
            self._known.move_to_end(job_id)
            while len(self._known) > _MOST_JOBS:
                self._known.popitem(last=False)
            return known

    def _downloader(self, job_id: str, wants: Callable[[str], bool]) -> JobDownloader:
        return JobDownloader(self._store, job_prefix(job_id), self._jobs_dir / job_id, wants)


class _KnownJob:
    """Which objects of a job have been copied, and when it was last looked."""

    def __init__(self, downloader: JobDownloader) -> None:
        self.downloader = downloader
        self.fetched_at = float("-inf")


def _is_for_control_plane(path: str) -> bool:
    """Checkpoints are large, and only those are fetched that become models."""
    return kind_of(path) is not FileKind.CHECKPOINT and path != _OPTUNA
