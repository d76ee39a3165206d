"""A home with jobs on fakes, its backup, and what to restore it with."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.interfaces import Capacity, NodeCapacity
from service.backup.create import create_backup
from service.backup.restore import restore_backup
from service.schemas.backup import BackupProgress, BackupSummary
from service.settings import ReconcilerSettings, Settings
from tests.control_plane import ControlPlane

Backup = Callable[[], Path]
Restore = Callable[[Path, Path], BackupSummary]


def ignore(_progress: BackupProgress) -> None:
    """Nobody is told how far it is."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "old home"
    (path / "control").mkdir(parents=True)
    return path


@pytest.fixture
def lab(home: Path) -> Iterator[ControlPlane]:
    """A control plane on fakes whose files are in the home."""
    made = plane_of(home)
    yield made
    made.store.close()


def plane_of(home: Path) -> ControlPlane:
    made = ControlPlane(home, Settings(home=home).database, ReconcilerSettings(retry_wait=1.0))
    made.launcher.set_capacity(Capacity((NodeCapacity(cpus=64, gpus=0, memory_bytes=64e9),)))
    return made


@pytest.fixture
def backup(home: Path, tmp_path: Path) -> Backup:
    """Makes an archive of the home."""

    def make() -> Path:
        archive = tmp_path / f"{len(list(tmp_path.iterdir()))}.tar"
        create_backup(archive, Settings(home=home), None, ignore)
        return archive

    return make


@pytest.fixture
def restore() -> Restore:
    """Restores an archive into a home."""
    return lambda archive, home: restore_backup(archive, Settings(home=home), "ada", ignore)
