"""Link between a driver's folder and the object storage: fetched at the start, kept in step, and flushed at the end."""

import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from jobs.directory.fencing import issue_control
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control
from jobs.errors import FencedError, FolderError, StorageRefused, StorageUnavailable
from jobs.interfaces import submission_id
from jobs.periodic_thread import PeriodicThread
from jobs.storage.attempt_claim import AttemptClaim, read_stored_control
from jobs.storage.download import JobDownloader
from jobs.storage.job_objects import PROGRESS, FileKind, job_prefix, kind_of
from jobs.storage.objects import ObjectStore, is_safe_key
from jobs.storage.upload import JobUploader

__all__ = ["DriverStorage"]

logger = logging.getLogger(__name__)

_OUTAGES = (StorageUnavailable, StorageRefused, FolderError, OSError)

_BEAT_INTERVAL = 1.0
_UPLOAD_INTERVAL = 2.0
_RETRY = 2.0

_COPIES_KEPT = 7 * 24 * 3600.0
"""Copies that nothing was written to for so many seconds are of a driver that is gone."""


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
        self._beats = PeriodicThread("storage-heartbeat", _BEAT_INTERVAL, self._exchange, expected_errors=_OUTAGES)
        self._uploads = PeriodicThread("storage-upload", _UPLOAD_INTERVAL, self._upload, expected_errors=_OUTAGES)

    def begin(self) -> None:
        """Claims the attempt, and copies into the folder what those before have left.

        Raises:
            FencedError: this attempt is not the newest, or runs elsewhere.
            StorageUnavailable, StorageRefused: there was no answer for too long.
            OSError: the folder can't be written.
        """
        deadline = time.monotonic() + self._start_timeout
        self._until(deadline, self._claim.take)
        self._remove_old_copies()
        self._until(deadline, self._download)

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
            self._until(deadline, self._uploader.upload)
            self._until(deadline, self._exchange)
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
        if self._has_own_copies():
            shutil.rmtree(self._folder.path.parent, ignore_errors=True)

    def _has_own_copies(self) -> bool:
        """Whether the folder lies in one for this attempt alone; another layout is not ours to remove."""
        return self._folder.path.parent.name == submission_id(self._folder.path.name, self._attempt)

    def _remove_old_copies(self) -> None:
        """Removes what killed drivers have left on this machine: this job's older attempts, and whatever is old."""
        if not self._has_own_copies():
            return
        oldest = time.time() - _COPIES_KEPT
        for copies in self._folder.path.parent.parent.iterdir():
            job_id, _, number = copies.name.rpartition("-")
            is_older = job_id == self._folder.path.name and number.isdecimal() and int(number) < self._attempt
            if copies != self._folder.path.parent and (is_older or _newest_change(copies) < oldest):
                logger.info("removing the copies of %s", copies.name)
                shutil.rmtree(copies, ignore_errors=True)

    def _download(self) -> None:
        own = f"attempts/{self._attempt}/"
        listed = self._downloader(self._folder.path.name, lambda path: not path.startswith(own)).download()
        self._exchange_control()
        self._uploader.adopt(listed)
        self._uploader.remove_unfinished(listed)

    def _downloader(self, job_id: str, wants: Callable[[str], bool]) -> JobDownloader:
        return JobDownloader(self._store, job_prefix(job_id), self._folder.path.parent / job_id, wants)

    def _exchange(self) -> None:
        """Takes over what the control plane wants, and hands on the heartbeat."""
        self._exchange_control()
        self._uploader.upload_file(f"attempts/{self._attempt}/{PROGRESS}")

    def _exchange_control(self) -> None:
        control = read_stored_control(self._store, self._prefix)
        if control is not None and control != self._folder.read_control():
            issue_control(self._folder, control)

    def _upload(self) -> None:
        try:
            self._uploader.upload()
        except FencedError as error:
            # The workers look at control.json; the storage's may not say it, where another process claimed the job.
            logger.warning("%s", error)
            issue_control(self._folder, Control(attempt=self._attempt + 1))

    def _until(self, deadline: float, act: Callable[[], None]) -> None:
        """Repeats what the storage did not answer, until a time of the monotonic clock."""
        while True:
            try:
                act()
            except StorageUnavailable as error:
                if time.monotonic() + _RETRY > deadline:
                    raise
                logger.warning("%s", error)
                time.sleep(_RETRY)
            else:
                return


def _newest_change(folder: Path) -> float:
    """When something in a folder was written last, seconds since 1970."""
    times = [folder.lstat().st_mtime]
    for below, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # removed meanwhile
                times.append((Path(below) / name).lstat().st_mtime)
    return max(times)


def _is_for_other_jobs(path: str) -> bool:
    """What is read of other jobs: their curves, their trials, their models."""
    return kind_of(path) is not FileKind.WHOLE or Path(path).suffix == ".json"
