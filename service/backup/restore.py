"""Restore of a backup into an empty home: beside it first, all of it verified, and then one rename."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from stat import S_ISREG

from service.backup.archive import ArchiveReader, Member, shown
from service.backup.moved_paths import move_to
from service.backup.records import FORMAT
from service.db.engine import Database, check_revision
from service.db.snapshots.snapshot import adopt, loaded_into
from service.errors import BackupError
from service.schemas.backup import BackupProgress, BackupSummary
from service.settings import Settings

__all__ = ["restore_backup"]

_FOLDERS = ("control", "jobs", "mlflow")
_JOBS_DB = "control/jobs.db"
_OF_THE_DISK = "lost+found"
"""A file system's own, in a home that is all of a disk."""

_STAGING = ".restoring"


def restore_backup(archive: Path, settings: Settings, by: str, say: Callable[[BackupProgress], None]) -> BackupSummary:
    """Makes a home of an archive. It fails as a whole or not at all: what is left behind is nothing or a home.

    Args:
        archive: as `create_backup` wrote it.
        settings: with the home, which must be empty or not exist; and with an empty PostgreSQL database, where the jobs
            are to be kept in one.
        by: who asks, for the audit log.
        say: told how far it is.

    Raises:
        BackupError: the home is not empty, or the archive is damaged, cut off, hostile, or of a newer release; the text
            names the member.
        NewerDatabaseError: its database is that of a newer release.
        StoreUnavailableError: the database to restore into does not answer.
        OSError: the disk is full, or a file can't be read or written.
    """
    home = settings.home.expanduser().resolve()
    with archive.open("rb") as file, ExitStack() as stack:
        found = os.fstat(file.fileno())
        if not S_ISREG(found.st_mode):
            raise BackupError(f"{archive} is no file")
        reader = ArchiveReader(file, found.st_size)
        _check_release(reader)
        database = stack.enter_context(_other_database(settings))
        staging = stack.enter_context(_staged(home))
        if shutil.disk_usage(staging).free < found.st_size:
            raise BackupError(f"{found.st_size} bytes of room are needed beside {home}")
        unpacked = _unpack(reader, staging, found.st_size, say)
        jobs = _take_over(reader, staging, home, archive, by)
        if database is None:
            _put(staging, home)
        else:
            _put_and_load(staging, home, database)
    return BackupSummary(
        archive=str(archive),
        home=str(home),
        files=unpacked.files,
        bytes=unpacked.bytes,
        jobs=jobs,
        made_at=reader.info.made_at,
        left_out=(),
        data_dir=reader.info.data_dir,
    )


def _check_release(reader: ArchiveReader) -> None:
    info = reader.info
    if info.format > FORMAT:
        raise BackupError(
            f"the backup was made by seqae {info.release} in a newer format ({info.format}; this release, seqae "
            f"{version('seqae')}, reads {FORMAT}): install that release to restore it"
        )
    check_revision(info.revision)


@contextmanager
def _staged(home: Path) -> Iterator[Path]:
    """A new folder on the disk of the home, which is gone afterwards, whatever happens."""
    if home.exists() and not home.is_dir():
        raise BackupError(f"{home} is a file")
    is_disk = os.path.ismount(home)
    taken = [path.name for path in home.iterdir()] if home.exists() else []
    if set(taken) - {_OF_THE_DISK, *((_STAGING,) if is_disk else ())}:
        raise BackupError(f"{home} is not empty: a backup is restored into a new home alone")
    missing = [folder for folder in home.parents if not folder.exists()]
    home.parent.mkdir(parents=True, exist_ok=True)
    # A mounted disk can't be renamed, so the files are beside their places within it.
    staging = home / _STAGING if is_disk else home.with_name(f".{home.name}{_STAGING}")
    staging.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BackupError(f"another restore works in {staging}") from error
        try:
            # What a killed restore has left.
            for path in staging.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            for folder in missing if not home.exists() else ():
                with suppress(OSError):
                    folder.rmdir()
    finally:
        os.close(handle)


def _unpack(reader: ArchiveReader, staging: Path, total: int, say: Callable[[BackupProgress], None]) -> BackupProgress:
    files, size = 0, 0
    for member in reader.members():
        if not _is_known(member.name):
            raise BackupError(f"the member {shown(member.name)} is none that a backup has")
        _write(reader, member, staging / member.name)
        files, size = files + 1, size + member.size
        say(BackupProgress(files=files, bytes=size, total=total))
    if not (staging / _JOBS_DB).is_file():
        raise BackupError(f"the archive has no {_JOBS_DB}")
    for folder in _FOLDERS:
        (staging / folder).mkdir(mode=0o700, exist_ok=True)
    return BackupProgress(files=files, bytes=size, total=total)


def _is_known(name: str) -> bool:
    top, _, rest = name.partition("/")
    if not rest:
        return name.endswith(".token")
    return name == _JOBS_DB or top in ("jobs", "mlflow")


def _write(reader: ArchiveReader, member: Member, path: Path) -> None:
    try:
        _make_folder(path.parent)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except (FileExistsError, NotADirectoryError) as error:
        raise BackupError(f"the member {shown(member.name)} is a file, and a folder as well") from error
    with os.fdopen(handle, "wb") as file:
        for part in reader.content(member):
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def _make_folder(path: Path) -> None:
    """Makes a folder and those above it, each for its owner alone: `Path.mkdir` gives those above to the umask."""
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(mode=0o700)


def _take_over(reader: ArchiveReader, staging: Path, home: Path, archive: Path, by: str) -> int:
    """Makes what was unpacked that of the new home; how many jobs it has."""
    info = reader.info
    move_to(staging, info.home, str(home))
    if info.data_dir is not None:
        # As a stack writes it down; it has no processes yet.
        (staging / "stack.json").write_text(json.dumps({"data_dir": info.data_dir}))
    about = {"archive": archive.name, "made_at": info.made_at.isoformat(), "release": info.release}
    return adopt(staging / _JOBS_DB, info.revision, by, str(home), about)


@contextmanager
def _other_database(settings: Settings) -> Iterator[Database | None]:
    """The database that the jobs are to be kept in, where that is not the home's own file."""
    if not settings.database_url:
        yield None
        return
    database = Database(settings.database)
    try:
        if database.is_sqlite:
            raise BackupError(f"SEQAE_DATABASE_URL names an SQLite file: a restore puts that to {_JOBS_DB} in the home")
        if database.revision() is not None:
            raise BackupError("the database that SEQAE_DATABASE_URL names has tables already; name an empty one")
        yield database
    finally:
        database.close()


def _put_and_load(staging: Path, home: Path, database: Database) -> None:
    """Both or neither: the files get their places before the rows are committed, and are taken back if that fails."""
    is_put = False
    try:
        with loaded_into(database, staging / _JOBS_DB):
            (staging / _JOBS_DB).unlink()
            _put(staging, home)
            is_put = True
    except BaseException:
        if is_put:
            _take_back(home, staging)
        raise


def _put(staging: Path, home: Path) -> None:
    """The last step: the files get their places."""
    if not os.path.ismount(home):
        staging.rename(home)
        return
    moved: list[Path] = []
    try:
        # The job database last: without it there is no home.
        for path in sorted(staging.iterdir(), key=lambda path: path.name == "control"):
            path.rename(home / path.name)
            moved.append(home / path.name)
    except BaseException:
        for path in moved:
            path.rename(staging / path.name)
        raise


def _take_back(home: Path, staging: Path) -> None:
    if not os.path.ismount(home):
        home.rename(staging)
        return
    for path in list(home.iterdir()):
        if path.name not in (_OF_THE_DISK, _STAGING):
            path.rename(staging / path.name)
