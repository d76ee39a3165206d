"""Creation of a backup: databases first, then the files that their rows speak of, into one archive, while jobs run.

Rows follow files, so files that are copied after the rows are all there. The order is: the job database, MLflow's
database, MLflow's files, the jobs' folders. Caches that can be built again are left out.
"""

import fcntl
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

from service.backup.archive import ArchiveWriter, is_safe, shown
from service.backup.job_files import CheckpointFiles, JobFiles, plain_files
from service.backup.records import FORMAT, BackupInfo
from service.db.engine import Database
from service.db.snapshots.snapshot import take_snapshot
from service.db.snapshots.sqlite_files import copy_sqlite
from service.disk.sizes import size_of
from service.errors import BackupError
from service.schemas.backup import BackupProgress, BackupSummary
from service.settings import Settings

__all__ = ["PARTIAL", "create_backup"]

PARTIAL = ".partial"
"""What the name of an archive ends with until it is whole."""

_APPENDED = (".jsonl", ".journal", ".log")
"""Endings of files that are appended to in whole lines, or shortened: copied as they are at one moment."""

_IN_MEMORY = 16_000_000

_OWN_FOLDERS = ("control", "jobs", "mlflow")
_NOT_TAKEN = ("data", "models", "logs", "stack.json", "stack.lock", "ray.token")
"""Names in a home that are built again, downloaded again, or of this machine's processes alone."""

_MOST_NAMED = 100
_KEPT_SUFFIX = ".token"
_JOBS_DATABASE = "jobs.db"
_MLFLOW_DATABASE = "mlflow.db"


def create_backup(
    archive: Path,
    settings: Settings,
    data_dir: Path | None,
    say: Callable[[BackupProgress], None],
) -> BackupSummary:
    """Writes the archive of a home, whether its stack runs or not. The home stays as it is.

    Args:
        archive: a new file; it has its name only when it is whole, and is for its owner alone.
        settings: with the home, and with the job database where that is another one.
        data_dir: the user's own data, as the stack was told; written down, and not taken.
        say: told how far it is.

    Raises:
        BackupError: there is nothing to back up, the file exists, or a database can't be read.
        NewerDatabaseError: a newer release made the database.
        StoreUnavailableError: the job database does not answer.
        OSError: the disk is full, or a file can't be read or written.
    """
    home = settings.home.resolve()
    archive = archive.expanduser().absolute()
    _check(archive, home, settings)
    with _partial(archive) as file, tempfile.TemporaryDirectory(prefix=".seqae-", dir=archive.parent) as temporary:
        databases = Path(temporary)
        info = BackupInfo(
            format=FORMAT,
            release=version("seqae"),
            made_at=datetime.now(UTC),
            revision=_copy_databases(settings, home, databases),
            home=str(home),
            data_dir=None if data_dir is None else str(data_dir),
        )
        attempts = _attempts(databases / _JOBS_DATABASE)
        copy = _Copy(ArchiveWriter(file, info), home, _total(home, databases), say)
        copy.databases(databases)
        if settings.storage:
            copy.leave_out("what is in SEQAE_STORAGE: job folders have copies of a part of it alone")
        copy.home_files(attempts)
        copy.writer.close()
        return BackupSummary(
            archive=str(archive),
            home=str(home),
            files=copy.writer.files - 2,  # without what is about the archive itself
            bytes=copy.writer.bytes,
            jobs=len(attempts),
            made_at=info.made_at,
            left_out=tuple(copy.left_out),
            data_dir=info.data_dir,
        )


def _copy_databases(settings: Settings, home: Path, target: Path) -> str:
    """Copies the job database, and then MLflow's, whose rows those of jobs speak of; the revision of the first."""
    database = Database(settings.database)
    try:
        revision = take_snapshot(database, target / _JOBS_DATABASE)
    finally:
        database.close()
    if (mlflow := home / "mlflow" / _MLFLOW_DATABASE).is_file():
        copy_sqlite(mlflow, target / _MLFLOW_DATABASE)
    return revision


class _Copy:
    """Copies files into an archive, and says how far it is."""

    def __init__(self, writer: ArchiveWriter, home: Path, total: int, say: Callable[[BackupProgress], None]) -> None:
        self.writer = writer
        self.left_out = sorted(shown(path.name) for path in home.iterdir() if not _is_taken(path))[:_MOST_NAMED]
        self._home = home
        self._total = total
        self._say = say

    def databases(self, folder: Path) -> None:
        """Copies what `_copy_databases` made."""
        self.file(folder / _JOBS_DATABASE, f"control/{_JOBS_DATABASE}")
        if (folder / _MLFLOW_DATABASE).exists():
            self.file(folder / _MLFLOW_DATABASE, f"mlflow/{_MLFLOW_DATABASE}")
        else:
            self.leave_out(f"MLflow's database: it is not mlflow/{_MLFLOW_DATABASE} in the home")

    def home_files(self, attempts: Mapping[str, int]) -> None:
        """Copies all but the databases.

        Args:
            attempts: number of the newest attempt of each job.
        """
        for path in plain_files(self._home / "mlflow"):
            if not path.name.startswith("mlflow."):
                self.file(path)
        for path in sorted(self._home.iterdir()):
            if path.is_file() and not path.is_symlink() and _is_taken(path):
                self.file(path)
        for job_id, newest in attempts.items():
            try:
                for found in JobFiles(self._home / "jobs" / job_id, newest).in_order():
                    if isinstance(found, Path):
                        self.file(found)
                    else:
                        self.checkpoint(found)
            except PermissionError as error:
                self.leave_out(f"a part of jobs/{job_id}: {error.strerror}")

    def file(self, path: Path, name: str | None = None) -> None:
        """Copies a file as it is now, if it is there."""
        self._together((path,), name)

    def checkpoint(self, files: CheckpointFiles) -> None:
        """Copies the files of a checkpoint, or none of them where it is being removed: open files stay whole."""
        if files and files[0].name == "manifest.json":
            self._together(files[::-1], None)  # as it was written: the manifest last

    def _together(self, paths: tuple[Path, ...], name: str | None) -> None:
        with ExitStack() as stack:
            try:
                opened = [(path, stack.enter_context(_open(path))) for path in paths]
            except FileNotFoundError:
                return
            except OSError as error:
                self.leave_out(f"{shown(name or str(paths[0].relative_to(self._home)))}: {error.strerror}")
                return
            for path, file in opened:
                found = os.fstat(file.fileno())
                member = name or str(path.relative_to(self._home))
                if not is_safe(member):
                    self.leave_out(f"{shown(member)}: its name is no text, or too long")
                    continue
                with _as_of_now(file, found.st_size, path) as (source, size):
                    if not self.writer.add(member, source, size, found.st_mtime):
                        self.leave_out(f"{member}: it was cut while it was read")
                self._say(BackupProgress(files=self.writer.files, bytes=self.writer.bytes, total=self._total))

    def leave_out(self, what: str) -> None:
        """Notes something that the archive does not have."""
        if len(self.left_out) < _MOST_NAMED:
            self.left_out.append(what)


def _check(archive: Path, home: Path, settings: Settings) -> None:
    if not settings.database_url and not (home / "control" / "jobs.db").is_file():
        raise BackupError(
            f"there is no job database in {home}; if the service keeps it elsewhere, SEQAE_DATABASE_URL says where"
        )
    if archive.exists() or archive.is_symlink():
        raise BackupError(f"{archive} exists already")
    if any(archive.parent.resolve().is_relative_to(home / name) for name in _OWN_FOLDERS):
        raise BackupError(f"{archive} would be in what is backed up; choose another folder")


@contextmanager
def _partial(archive: Path) -> Iterator[BinaryIO]:
    """The file under its name for the time being; it gets its own at the end, and is gone when that is not reached."""
    path = archive.with_name(archive.name + PARTIAL)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BackupError(f"{path} can't be written: {error.strerror}") from error
    with os.fdopen(handle, "r+b") as file:
        try:
            # What a killed backup has left is written over; one that another process writes is not.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BackupError(f"{path} is being written by another backup") from error
        try:
            os.fchmod(file.fileno(), 0o600)
            file.truncate(0)
            yield file
            file.flush()
            os.fsync(file.fileno())
            path.rename(archive)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _open(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb")


@contextmanager
def _as_of_now(file: BinaryIO, size: int, path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A file with the size that it had when it was opened; of one that is appended to, its whole lines."""
    if path.suffix not in _APPENDED:
        yield file, size
        return
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spool:
        whole = 0
        while size and (part := file.read(min(1 << 20, size))):
            size -= len(part)
            spool.write(part)
            if (newline := part.rfind(b"\n")) >= 0:
                whole = spool.tell() - len(part) + newline + 1
        spool.seek(0)
        yield spool, whole  # type: ignore[misc]  # typeshed does not call it a BinaryIO


def _attempts(jobs_db: Path) -> dict[str, int]:
    """Number of the newest attempt of each job of a copied database, oldest job first."""
    with closing(sqlite3.connect(jobs_db)) as connection:
        rows = connection.execute("SELECT id, attempt FROM jobs ORDER BY number").fetchall()
    return {job_id: int(attempt) for job_id, attempt in rows if _is_name(job_id) and str(attempt).isdecimal()}


def _is_name(job_id: object) -> bool:
    """Whether a job's id can be that of a folder: a damaged or foreign row leads nowhere else."""
    return isinstance(job_id, str) and job_id.replace("_", "").isalnum() and job_id.isascii()


def _is_taken(path: Path) -> bool:
    """Whether something in the home is part of a backup: what is neither ours nor a token is left out, and named."""
    if path.name in _NOT_TAKEN:
        return False
    return path.name in _OWN_FOLDERS or path.suffix == _KEPT_SUFFIX


def _total(home: Path, databases: Path) -> int:
    """About how many bytes there are to copy."""
    return sum(size_of(folder).bytes for folder in (home / "jobs", home / "mlflow" / "artifacts", databases))
