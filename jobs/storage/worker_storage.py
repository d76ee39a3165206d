"""Link between the storage and a worker's machine, where that is not the driver's.

Of one attempt, one machine writes the files of the training: that on which rank 0 starts first. `writer.json` names its
folder. Where a restarted rank 0 comes to another machine, the attempt ends as lost, and the next goes on elsewhere.
"""

import logging
import os
import time
from pathlib import Path

from filelock import FileLock

from jobs.directory.fencing import issue_control
from jobs.directory.files import write_atomically
from jobs.directory.layout import JobFolder
from jobs.directory.records import Control
from jobs.errors import FencedError, FolderError, StorageRefused, StorageUnavailable, WorkersLostError
from jobs.periodic_thread import PeriodicThread
from jobs.storage.attempt_claim import AttemptClaim, read_stored_control
from jobs.storage.copying.copies import make_private, remove_old_copies
from jobs.storage.copying.download import JobDownloader
from jobs.storage.copying.retries import retry_until
from jobs.storage.copying.upload import JobUploader
from jobs.storage.job_objects import (
    DRIVER_FILES,
    DRIVER_MARK,
    NOTES,
    PROGRESS,
    WORKER_MARK,
    WORKER_NOTES,
    FileKind,
    job_prefix,
    kind_of,
    writer_name,
)
from jobs.storage.locations import STORAGE_VARIABLE, open_storage
from jobs.storage.objects import ObjectStore

__all__ = ["WorkerStorage"]

logger = logging.getLogger(__name__)

_OUTAGES = (StorageUnavailable, StorageRefused, FolderError, OSError)

_INTERVAL = 1.0
_FLUSH_SECONDS = 600.0
_FETCH_SECONDS = 120.0
_START_SECONDS = 120.0


class WorkerStorage:
    """Keeps the job folder of a worker's machine in step with the storage.

    Args:
        store: the storage.
        folder: of the job, on this machine; for this attempt alone.
        attempt: its number.
    """

    def __init__(self, store: ObjectStore, folder: Path, attempt: int) -> None:
        self._store = store
        self._folder = folder
        self._attempt = attempt
        self._prefix = job_prefix(folder.name)
        self._own = f"attempts/{attempt}/"
        self._claim = AttemptClaim(store, self._prefix, attempt)
        self._uploader = JobUploader(store, self._prefix, folder, self._claim.check, self._owns)
        self._uploader.rename = {self._own + NOTES: self._own + WORKER_NOTES}
        # A large checkpoint on its way must not hold up the heartbeat.
        self._beats = PeriodicThread("storage-heartbeat", _INTERVAL, self._exchange, expected_errors=_OUTAGES)
        self._uploads = PeriodicThread("storage-upload", _INTERVAL, self._upload, expected_errors=_OUTAGES)

    @classmethod
    def of_environment(cls, folder: Path, attempt: int) -> "WorkerStorage | None":
        """The link of this process; None where its environment names no storage.

        Args:
            folder: of the job.
            attempt: its number.

        Raises:
            StorageRefused: the address of the storage can't be understood.
        """
        url = os.environ.get(STORAGE_VARIABLE)
        return cls(open_storage(url), folder, attempt) if url else None

    @property
    def is_at_driver(self) -> bool:
        """Whether the driver works in the same folder, and ships it."""
        return (self._folder / DRIVER_MARK).exists()

    def claim_writing(self) -> None:
        """Writes down that rank 0 writes into this folder.

        Raises:
            WorkersLostError: it has written into another one before.
            StorageUnavailable, StorageRefused: no answer for too long.
        """
        key, mark = f"{self._prefix}/{writer_name(self._attempt)}", self._mark()
        if not retry_until(time.monotonic() + _START_SECONDS, lambda: self._store.put_if_absent(key, mark)):
            raise WorkersLostError("rank 0 has come to another machine: its files are on the one before")

    def begin(self, *, writes: bool) -> None:
        """Copies into the folder what is in the storage, and with rank 0 begins to ship what it writes.

        Args:
            writes: whether this is rank 0's process.

        Raises:
            FencedError: a newer attempt exists.
            WorkersLostError: another machine has written this attempt's files.
            StorageUnavailable, StorageRefused: no answer for too long.
        """
        deadline = time.monotonic() + _START_SECONDS
        retry_until(deadline, self._claim.join)
        self._folder.mkdir(parents=True, exist_ok=True)
        make_private(self._folder, self._attempt)
        remove_old_copies(self._folder, self._attempt)
        with FileLock(self._folder / ".begin.lock"):
            if writes:
                self.claim_writing()
            retry_until(deadline, self._download)
            retry_until(deadline, self._exchange_control)
        if writes:
            self._beats.start()
            self._uploads.start()

    def fetch(self, path: Path) -> None:
        """Waits until a checkpoint that rank 0 has on its machine, or a file of the driver, is on this one.

        Args:
            path: of the checkpoint's folder or of the file, which is named the same on every machine.

        Raises:
            WorkersLostError: it does not come.
        """
        deadline = time.monotonic() + _FETCH_SECONDS
        while not path.exists():
            if time.monotonic() > deadline:
                raise WorkersLostError(f"{path} does not come through the storage")
            time.sleep(_INTERVAL)
            with FileLock(self._folder / ".begin.lock"):
                self._download()

    def finish(self, seconds: float = _FLUSH_SECONDS) -> None:
        """Ships the rest of what rank 0 has written.

        Args:
            seconds: for which a storage that does not answer is asked.

        Raises:
            FencedError: a newer attempt exists.
            StorageUnavailable, StorageRefused: the rest is not in the storage.
        """
        deadline = time.monotonic() + seconds
        self._beats.request_stop()
        if not self._uploads.stop(seconds):
            raise StorageUnavailable(f"an upload takes longer than {seconds:g} s")
        retry_until(deadline, self._uploader.upload)

    def _owns(self, path: str) -> bool:
        """Whether rank 0 writes a file: those of this attempt that are not the driver's; and it prunes checkpoints."""
        if path.startswith(self._own):
            # Its notes go by another name.
            return path in self._uploader.rename or path.removeprefix(self._own) not in DRIVER_FILES
        return kind_of(path) is FileKind.CHECKPOINT

    def _mark(self) -> bytes:
        """Names this folder: whoever starts again in it goes on with its files."""
        if self.is_at_driver:
            return (self._folder / DRIVER_MARK).read_bytes()
        mark = self._folder / WORKER_MARK
        if not mark.exists():
            write_atomically(mark, os.urandom(16).hex())
        return mark.read_bytes()

    def _download(self) -> None:
        # What rank 0 writes on this machine is newer here than there.
        is_writer = (self._folder / WORKER_MARK).exists()
        wants_all = JobDownloader(
            self._store,
            self._prefix,
            self._folder,
            lambda path: not (is_writer and path.startswith(self._own)),
        )
        self._uploader.adopt(wants_all.download())

    def _exchange(self) -> None:
        self._exchange_control()
        self._uploader.upload_file(f"{self._own}{PROGRESS}")

    def _upload(self) -> None:
        try:
            self._uploader.upload()
        except FencedError as error:
            # The workers look at control.json.
            logger.warning("%s", error)
            issue_control(JobFolder(self._folder), Control(attempt=self._attempt + 1))

    def _exchange_control(self) -> None:
        control = read_stored_control(self._store, self._prefix)
        folder = JobFolder(self._folder)
        if control is not None and control != folder.read_control():
            issue_control(folder, control)
