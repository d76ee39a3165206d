"""Restores of a backup: into a new home that goes on, or not at all."""

import fcntl
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import Outcome
from jobs.specs import job_spec
from seqae.checkpoints.manifest import verify
from seqae.errors import Error
from service.backup.archive import ArchiveReader, ArchiveWriter
from service.backup.create import create_backup
from service.backup.records import BackupInfo
from service.backup.restore import restore_backup
from service.db.access.tokens import Tokens
from service.db.audit import AuditLog
from service.db.engine import Database
from service.db.store import Store
from service.errors import BackupError, NewerDatabaseError
from service.job_state import State
from service.local.home import HomeLayout
from service.local.record import load_record
from service.schemas.backup import BackupProgress
from service.scopes import Scope
from service.settings import Settings
from tests.control_plane import ControlPlane
from tests.unit.service.backup.conftest import Backup, Restore, ignore, plane_of


def test_a_job_that_ran_goes_on_in_another_home(
    lab: ControlPlane, backup: Backup, restore: Restore, tmp_path: Path
) -> None:
    job_id, driver = lab.running()
    driver.beat(40)
    driver.checkpoint(40)
    lab.tick()
    archive = backup()
    summary = restore(archive, tmp_path / "new")
    assert (summary.jobs, summary.home) == (1, str(tmp_path / "new"))
    plane = plane_of(tmp_path / "new")
    plane.now = lab.now
    assert plane.state(job_id) == State.RUNNING
    # Nothing of the old home's processes is there; after the usual wait it is lost, and tried again.
    plane.until(job_id, State.STARTING, ticks=200)
    again = plane.driver(job_id)
    assert again.folder.number == 2
    assert again.job_folder.path == tmp_path / "new" / "jobs" / job_id
    (checkpoint,) = again.job_folder.checkpoint_paths()
    assert verify(checkpoint).iteration == 40
    again.beat(100)
    again.finish()
    plane.until(job_id, State.SUCCEEDED)
    assert plane.store.job(job_id).retries == 0
    plane.store.close()


def test_a_lost_attempt_of_later_does_not_hold_up_the_next(
    lab: ControlPlane, backup: Backup, restore: Restore, tmp_path: Path
) -> None:
    """The old home's control.json may name an attempt that the copied rows do not know."""
    job_id, driver = lab.running()
    driver.job_folder.write_control(driver.control.model_copy(update={"attempt": 7}))
    restore(backup(), tmp_path / "new")
    plane = plane_of(tmp_path / "new")
    plane.now = lab.now
    plane.until(job_id, State.STARTING, ticks=200)
    assert not plane.driver(job_id).control.stops(2)
    plane.store.close()


def test_ended_jobs_tokens_and_the_audit_log_are_kept(
    lab: ControlPlane, backup: Backup, restore: Restore, tmp_path: Path
) -> None:
    job_id, driver = lab.running()
    driver.finish()
    lab.until(job_id, State.SUCCEEDED)
    _, secret = Tokens(lab.store.database, lab.store.now).create("ada", [Scope.ADMIN], name="", days=None, by="ada")
    archive = backup()
    restore(archive, tmp_path / "new")
    store = Store(Settings(home=tmp_path / "new").database)
    assert store.job(job_id).state == State.SUCCEEDED
    result = JobFolder(tmp_path / "new" / "jobs" / job_id).attempt(1).read_result()
    assert result is not None
    assert result.outcome is Outcome.SUCCEEDED
    assert Tokens(store.database, store.now).find(secret) is not None
    newest = AuditLog(store.database, store.now).page(None, 1)[0]
    assert (newest.action, newest.who, newest.changed["archive"]) == ("seqae restore", "ada", archive.name)
    store.close()


def test_all_of_it_is_for_its_owner_alone(lab: ControlPlane, backup: Backup, restore: Restore, tmp_path: Path) -> None:
    lab.running()
    restore(backup(), tmp_path / "new")
    for path in [tmp_path / "new", *(tmp_path / "new").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_paths_below_the_old_home_lead_below_the_new_one(
    lab: ControlPlane, backup: Backup, restore: Restore, home: Path, tmp_path: Path
) -> None:
    trained, _ = lab.running()
    inside, outside = f"{home}/jobs/{trained}/attempts/1/checkpoints/4", f"{home}-elsewhere/x"
    evaluated, other = (
        lab.service.submit(job_spec.validate_python({"kind": "evaluate", "name": "e", "model": model})).id
        for model in (inside, outside)
    )
    for job_id in (evaluated, other):
        lab.until(job_id, State.STARTING)
    restore(backup(), tmp_path / "new")
    store = Store(Settings(home=tmp_path / "new").database)
    moved = f"{tmp_path}/new/jobs/{trained}/attempts/1/checkpoints/4"
    for job_id, model in ((evaluated, moved), (other, outside)):
        assert store.job(job_id).spec["model"] == model
        assert json.loads((tmp_path / "new" / "jobs" / job_id / "spec.json").read_text())["model"] == model
    store.close()


def test_the_users_own_data_is_told_to_the_new_stack(lab: ControlPlane, home: Path, tmp_path: Path) -> None:
    create_backup(tmp_path / "a.tar", Settings(home=home), tmp_path / "mine", ignore)
    summary = restore_backup(tmp_path / "a.tar", Settings(home=tmp_path / "new"), "", ignore)
    record = load_record(HomeLayout.at(tmp_path / "new"))
    assert record.data_dir == tmp_path / "mine"
    assert summary.data_dir == str(tmp_path / "mine")
    assert (record.leaders, record.ports) == ({}, {})


def test_it_is_restored_into_an_empty_home_by_a_link_too(
    lab: ControlPlane, backup: Backup, restore: Restore, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    restore(backup(), tmp_path / "link")
    assert (tmp_path / "empty" / "control" / "jobs.db").is_file()
    assert (tmp_path / "link").is_symlink()


def test_a_whole_disk_as_home_is_filled_in_place(
    lab: ControlPlane, backup: Backup, restore: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    (disk / "lost+found").mkdir(parents=True)
    real = os.path.ismount
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == disk or real(path))
    lab.submit()
    inode = disk.stat().st_ino
    restore(backup(), disk)
    assert disk.stat().st_ino == inode
    assert sorted(path.name for path in disk.iterdir()) == ["control", "jobs", "lost+found", "mlflow"]


# --- into PostgreSQL and back


def test_jobs_move_from_sqlite_to_postgresql_and_back(
    lab: ControlPlane, backup: Backup, tmp_path: Path, postgresql: Any
) -> None:

    job_id, _ = lab.running()
    url = postgresql.new_database()
    there = Settings(home=tmp_path / "new", database_url=url)
    restore_backup(backup(), there, "ada", ignore)
    assert not (tmp_path / "new" / "control" / "jobs.db").exists()
    store = Store(url)
    assert store.job(job_id).state == State.RUNNING
    events = [event.data for event in store.events()]
    with pytest.raises(BackupError, match="has tables already"):
        restore_backup(backup(), there.model_copy(update={"home": tmp_path / "other"}), "", ignore)
    assert not (tmp_path / "other").exists()
    create_backup(tmp_path / "second.tar", there, None, ignore)
    restore_backup(tmp_path / "second.tar", Settings(home=tmp_path / "third"), "", ignore)
    third = Store(Settings(home=tmp_path / "third").database)
    assert third.job(job_id).state == State.RUNNING
    assert [event.data for event in third.events()] == events
    for each in (store, third):
        each.close()


def test_another_sqlite_file_is_refused(lab: ControlPlane, backup: Backup, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new", database_url=f"sqlite:///{tmp_path}/else.db")
    with pytest.raises(BackupError, match="names an SQLite file"):
        restore_backup(backup(), settings, "", ignore)
    assert not (tmp_path / "new").exists()


# --- what is refused, and that nothing is left then


def refused(restore: Restore, archive: Path, home: Path, kind: type[Error] = BackupError) -> str:
    before = sorted(path.name for path in home.parent.iterdir()) if home.parent.exists() else None
    with pytest.raises(kind) as caught:
        restore(archive, home)
    after = sorted(path.name for path in home.parent.iterdir()) if home.parent.exists() else None
    assert after == before
    return str(caught.value)


Change = Callable[[dict[str, bytes]], object]


class Rewrite(Protocol):
    """Makes a whole archive with other members, or another first one."""

    def __call__(self, change: Change = ..., **info: object) -> Path: ...


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a home in which a job runs."""
    root = tmp_path_factory.mktemp("archive")
    (root / "home" / "control").mkdir(parents=True)
    plane = plane_of(root / "home")
    plane.running()
    plane.store.close()
    create_backup(root / "a.tar", Settings(home=root / "home"), None, ignore)
    return root / "a.tar"


@pytest.fixture
def rewritten(archive: Path, tmp_path: Path) -> Rewrite:
    def make(change: Change = len, **info: object) -> Path:
        with archive.open("rb") as file:
            reader = ArchiveReader(file, archive.stat().st_size)
            found = {member.name: b"".join(reader.content(member)) for member in reader.members()}
        change(found)
        made = tmp_path / "rewritten.tar"
        with made.open("wb") as output:
            writer = ArchiveWriter(output, BackupInfo.model_validate(reader.info.model_dump() | info))
            for name, content in found.items():
                writer.add_bytes(name, content)
            writer.close()
        return made

    return make


def test_a_home_that_is_not_empty_is_left_alone(archive: Path, restore: Restore, tmp_path: Path, home: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").write_text("mine")
    assert "is not empty" in refused(restore, archive, tmp_path / "new")
    assert "is not empty" in refused(restore, archive, home)
    assert (tmp_path / "new" / "mine").read_text() == "mine"
    assert "is a file" in refused(restore, archive, tmp_path / "new" / "mine")


def test_folders_above_the_home_are_gone_after_a_failure(
    archive: Path, rewritten: Rewrite, restore: Restore, tmp_path: Path
) -> None:
    bad = rewritten(lambda found: found.pop("control/jobs.db") and None)
    refused(restore, bad, tmp_path / "a" / "b" / "new")
    assert not (tmp_path / "a").exists()
    restore(archive, tmp_path / "a" / "b" / "new")
    assert (tmp_path / "a" / "b" / "new" / "jobs").is_dir()


def test_a_newer_format_is_refused_with_the_release_that_made_it(
    rewritten: Rewrite, restore: Restore, tmp_path: Path
) -> None:
    newer = rewritten(format=2, release="9.9.9")
    said = refused(restore, newer, tmp_path / "new")
    assert "made by seqae 9.9.9 in a newer format (2;" in said
    assert "install that release" in said


def test_tables_of_a_newer_release_are_refused(rewritten: Rewrite, restore: Restore, tmp_path: Path) -> None:
    newer = rewritten(revision="9999")
    assert "'9999'" in refused(restore, newer, tmp_path / "new", NewerDatabaseError)


def test_tables_of_another_revision_are_refused(rewritten: Rewrite, restore: Restore, tmp_path: Path) -> None:
    other = rewritten(revision="0001")
    assert "jobs.db is damaged" in refused(restore, other, tmp_path / "new")


@pytest.mark.parametrize("cut", [10, 600, 20_000, -20_000, -2_000])
def test_an_archive_that_was_cut_off_is_refused(archive: Path, restore: Restore, tmp_path: Path, cut: int) -> None:
    (tmp_path / "cut.tar").write_bytes(archive.read_bytes()[:cut])
    refused(restore, tmp_path / "cut.tar", tmp_path / "new")


def test_a_damaged_member_is_named(archive: Path, restore: Restore, tmp_path: Path) -> None:
    with tarfile.open(archive) as found:
        (spec,) = [member for member in found if member.name.endswith("spec.json")]
    content = bytearray(archive.read_bytes())
    content[spec.offset_data] ^= 1
    (tmp_path / "bad.tar").write_bytes(content)
    assert spec.name in refused(restore, tmp_path / "bad.tar", tmp_path / "new")


@pytest.mark.parametrize("name", ["evil", "logs/api.log", "control/other.db", "stack.json"])
def test_a_member_that_no_backup_has_is_refused(
    rewritten: Rewrite, restore: Restore, tmp_path: Path, name: str
) -> None:
    bad = rewritten(lambda found: found.update({name: b"x"}))
    assert refused(restore, bad, tmp_path / "new") == f"the member {name} is none that a backup has"


def test_a_member_that_is_a_folder_of_another_is_refused(rewritten: Rewrite, restore: Restore, tmp_path: Path) -> None:
    bad = rewritten(lambda found: found.update({"jobs/a": b"", "jobs/a/b": b""}))
    assert "jobs/a/b is a file, and a folder as well" in refused(restore, bad, tmp_path / "new")
    bad = rewritten(lambda found: found.update({"jobs/c/b": b"", "jobs/c": b""}))
    assert "jobs/c is a file, and a folder as well" in refused(restore, bad, tmp_path / "new")


def test_a_link_is_refused_before_anything_is_written_through_it(
    archive: Path, restore: Restore, tmp_path: Path
) -> None:
    content = archive.read_bytes()
    with tarfile.open(archive) as found:
        at = found.getmember("control/jobs.db").offset
    link = tarfile.TarInfo("control")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    (tmp_path / "bad.tar").write_bytes(content[:at] + link.tobuf(tarfile.GNU_FORMAT) + content[at:])
    assert "control is no plain file, but a link" in refused(restore, tmp_path / "bad.tar", tmp_path / "new")
    assert not (tmp_path / "jobs.db").exists()


def test_a_database_that_is_none_is_refused(rewritten: Rewrite, restore: Restore, tmp_path: Path) -> None:
    bad = rewritten(lambda found: found.update({"control/jobs.db": b"secret" * 1000}))
    said = refused(restore, bad, tmp_path / "new")
    assert "jobs.db" in said
    assert "secret" not in said


def test_what_is_no_file_is_refused(restore: Restore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    handle = os.open(tmp_path / "pipe", os.O_RDWR)  # so that opening it does not wait
    assert "is no file" in refused(restore, tmp_path / "pipe", tmp_path / "new")
    os.close(handle)


def test_a_disk_without_room_is_told_before(
    archive: Path, restore: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 10})())
    assert "bytes of room are needed" in refused(restore, archive, tmp_path / "new")


def test_an_interrupted_restore_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    def fail(_progress: BackupProgress) -> None:
        raise KeyboardInterrupt

    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        restore_backup(archive, Settings(home=tmp_path / "new"), "", fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_a_killed_restore_left_is_used_again_and_a_living_one_is_not(
    archive: Path, restore: Restore, tmp_path: Path
) -> None:
    left = tmp_path / ".new.restoring"
    (left / "jobs").mkdir(parents=True)
    (left / "half").write_text("half")
    handle = os.open(left, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert "another restore works" in refused(restore, archive, tmp_path / "new")
    assert (left / "half").exists()
    os.close(handle)
    restore(archive, tmp_path / "new")
    assert not left.exists()
    assert not (tmp_path / "new" / "half").exists()


def test_a_commit_that_fails_takes_the_files_back(archive: Path, tmp_path: Path, postgresql: Any) -> None:
    """Rows and files are restored together or not at all."""
    url = postgresql.new_database()
    database = Database(url)
    with database.write() as session:
        # Deferred, so that it fails at the commit, when the files have their places already.
        session.connection().exec_driver_sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused late'; END $$; "
            "CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF EXISTS (SELECT FROM pg_tables WHERE tablename = 'audit') AND NOT EXISTS "
            "(SELECT FROM pg_trigger WHERE tgname = 'late') THEN CREATE CONSTRAINT TRIGGER late AFTER INSERT ON audit "
            "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse(); END IF; END $$; "
            "CREATE EVENT TRIGGER watching ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION watch()"
        )
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(BackupError, match="refused late"):
        restore_backup(archive, Settings(home=tmp_path / "new", database_url=url), "", ignore)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert database.revision() is None
    database.close()
