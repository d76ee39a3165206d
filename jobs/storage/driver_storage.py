"""Link between a driver's folder and the object storage: fetched at the start, kept in step, and flushed at the end."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from jobs.directory.fencing import issue_control
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control
from jobs.errors import FencedError, FolderError, StorageRefused, StorageUnavailable
from jobs.periodic_thread import PeriodicThread
from jobs.storage.attempt_claim import AttemptClaim, read_stored_control
from jobs.storage.copying.copies import make_private, remove_copies, remove_old_copies
from jobs.storage.copying.download import JobDownloader
from jobs.storage.copying.retries import retry_until
from jobs.storage.copying.upload import JobUploader
from jobs.storage.job_objects import (
    DRIVER_FILES,
    DRIVER_MARK,
    NOTES,
    PROGRESS,
    WORKER_NOTES,
    FileKind,
    job_prefix,
    kind_of,
    writer_name,
)
from jobs.storage.objects import ObjectInfo, ObjectStore, is_safe_key

__all__ = ["DriverStorage"]

logger = logging.getLogger(__name__)

_OUTAGES = (StorageUnavailable, StorageRefused, FolderError, OSError)

_BEAT_INTERVAL = 1.0
_UPLOAD_INTERVAL = 2.0


class DriverStorage:
    """Keeps a driver's node-local job folder and the job's objects in step.

    The driver and its workers know the folder alone: control.json appears in it as if the control plane had written it.

    Args:
        store: the storage.
        folder: of the job, on this machine; for this attempt alone.
        attempt: its number.
        start_timeout: seconds for which a storage that does not answer is asked at the start.
    """

    def __init__(self, store: ObjectStore, folder: JobFolder, attempt: int, start_timeout: float = 120.0) -> None:
        self._store = store
        self._folder = folder
        self._attempt = attempt
        self._start_timeout = start_timeout
        self._prefix = job_prefix(folder.path.name)
        self._claim = AttemptClaim(store, self._prefix, attempt)
        self._uploader = JobUploader(store, self._prefix, folder.path, self._claim.check)
        self._own = f"attempts/{attempt}/"
        self._is_elsewhere: bool | None = None
        """Whether rank 0 works on another machine; None: it has not begun."""
        self._taken_notes = 0
        """Bytes of rank 0's notes that are among the driver's."""
        self._pull = JobDownloader(store, self._prefix, folder.path, self._is_workers)
        self._upload_lock = threading.Lock()
        self._beats = PeriodicThread("storage-heartbeat", _BEAT_INTERVAL, self._exchange, expected_errors=_OUTAGES)
        self._uploads = PeriodicThread("storage-upload", _UPLOAD_INTERVAL, self._upload, expected_errors=_OUTAGES)

    def begin(self) -> None:
        """Claims the attempt, and copies into the folder what those before have left.

        Raises:
            FencedError: this attempt is not the newest, or runs elsewhere.
            StorageUnavailable, StorageRefused: there was no answer for too long.
            FolderError: the folder of this machine's copies is another user's.
            OSError: the folder can't be written.
        """
        deadline = time.monotonic() + self._start_timeout
        retry_until(deadline, self._claim.take)
        self._folder.path.mkdir(parents=True, exist_ok=True)
        make_private(self._folder.path, self._attempt)
        remove_old_copies(self._folder.path, self._attempt)
        retry_until(deadline, self._download)
        # Workers that find it are on this machine, and write into this folder.
        (self._folder.path / DRIVER_MARK).write_text(self._claim.token)

    def start(self) -> None:
        """Starts to keep folder and storage in step, in threads of its own."""
        self._beats.start()
        self._uploads.start()

    def finish(self, timeout: float) -> bool:
        """Uploads the rest, the result last.

        Args:
            timeout: seconds for which it is tried.

        Returns:
            Whether nothing is left to upload: it is all there, or a newer attempt has made it worthless. Where not, the
            attempt counts as lost, and the next one goes on from the newest checkpoint in the storage.
        """
        deadline = time.monotonic() + timeout
        if not self._uploads.stop(timeout):
            logger.error("the rest is not in the storage: an upload takes longer than %g s", timeout)
            return False
        try:
            retry_until(deadline, self._flush)
            retry_until(deadline, self._exchange)
        except FencedError as error:
            logger.warning("%s", error)
        except _OUTAGES as error:
            logger.error("the rest is not in the storage: %s", error)
            return False
        finally:
            self._beats.request_stop()
        return True

    def fetch_job(self, job_id: str) -> None:
        """Copies another job's folder to beside this one's, where the storage has such a job.

        Raises:
            StorageUnavailable, StorageRefused: no answer.
        """
        if is_safe_key(job_id) and "/" not in job_id and job_id != self._folder.path.name:
            self._downloader(job_id, _is_for_other_jobs).download()

    def remove_copies(self) -> None:
        """Removes the copies of an attempt whose files are all in the storage."""
        remove_copies(self._folder.path, self._attempt)

    def take_over(self) -> None:
        """Takes the files of workers that have ended, where these worked on another machine.

        Raises:
            StorageUnavailable, StorageRefused: no answer for too long.
        """
        with self._upload_lock:
            deadline = time.monotonic() + self._start_timeout
            retry_until(deadline, self._find_writer)
            if not self._is_elsewhere:
                return
            retry_until(deadline, self._fetch_from_workers)
            listed = retry_until(deadline, self._fetch_all)
            self._uploader.hand_over(lambda _: True)
            self._uploader.adopt(listed)
            self._is_elsewhere = False

    def _flush(self) -> None:
        with self._upload_lock:
            if self._is_elsewhere:
                self._fetch_from_workers()
            self._uploader.upload()

    def _download(self) -> None:
        listed = self._downloader(self._folder.path.name, lambda path: not path.startswith(self._own)).download()
        self._exchange_control()
        self._uploader.adopt(listed)
        self._uploader.remove_unfinished(listed)

    def _downloader(self, job_id: str, wants: Callable[[str], bool]) -> JobDownloader:
        return JobDownloader(self._store, job_prefix(job_id), self._folder.path.parent / job_id, wants)

    def _exchange(self) -> None:
        """Takes over what the control plane wants, and hands on the heartbeat."""
        self._exchange_control()
        if not self._is_elsewhere:
            self._uploader.upload_file(f"{self._own}{PROGRESS}")

    def _exchange_control(self) -> None:
        control = read_stored_control(self._store, self._prefix)
        if control is not None and control != self._folder.read_control():
            issue_control(self._folder, control)

    def _upload(self) -> None:
        try:
            with self._upload_lock:
                self._find_writer()
                if self._is_elsewhere:
                    self._fetch_from_workers()
                self._uploader.upload()
        except FencedError as error:
            # The workers look at control.json; the storage's may not say it, where another process claimed the job.
            logger.warning("%s", error)
            issue_control(self._folder, Control(attempt=self._attempt + 1))

    def _find_writer(self) -> None:
        """Finds out, once, where rank 0 works."""
        if self._is_elsewhere is None and (found := self._store.get(f"{self._prefix}/{writer_name(self._attempt)}")):
            self._is_elsewhere = found.content != self._claim.token.encode()
            if self._is_elsewhere:
                self._uploader.hand_over(lambda path: not path.startswith(self._own) or self._is_drivers(path))

    def _is_drivers(self, path: str) -> bool:
        return path.removeprefix(self._own) in DRIVER_FILES

    def _is_workers(self, path: str) -> bool:
        """What is wanted of rank 0's files while it works: not its checkpoints, which are large."""
        return path.startswith(self._own) and not self._is_drivers(path) and kind_of(path) is not FileKind.CHECKPOINT

    def _fetch_from_workers(self) -> None:
        self._pull.download()
        attempt = self._folder.path / self._own
        notes = attempt / WORKER_NOTES
        if notes.is_file() and (new := notes.read_bytes()[self._taken_notes :]):
            with (attempt / NOTES).open("ab") as file:
                file.write(new)
            self._taken_notes += len(new)

    def _fetch_all(self) -> list[ObjectInfo]:
        wants = self._downloader(
            self._folder.path.name, lambda path: path.startswith(self._own) and not self._is_drivers(path)
        )
        return wants.download()


def _is_for_other_jobs(path: str) -> bool:
    """What is read of other jobs: their curves, their trials, their models."""
    return kind_of(path) is not FileKind.WHOLE or Path(path).suffix == ".json"
