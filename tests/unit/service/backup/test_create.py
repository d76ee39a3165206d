"""Backups of a home: what is in them, what is not, and what is left of one that failed."""

import fcntl
import json
import os
import tarfile
from pathlib import Path

import pytest

from jobs.directory.layout import JobFolder
from jobs.specs import job_spec
from service.backup.create import create_backup
from service.errors import BackupError, NewerDatabaseError
from service.job_state import State
from service.schemas.backup import BackupProgress
from service.settings import Settings
from tests.control_plane import ControlPlane
from tests.unit.service.backup.conftest import Backup, ignore


def names(archive: Path) -> list[str]:
    with tarfile.open(archive) as found:
        return found.getnames()


def content(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as found:
        file = found.extractfile(name)
        assert file is not None
        return file.read()


def test_a_running_jobs_files_are_in_it_once_each(lab: ControlPlane, backup: Backup, home: Path) -> None:
    job_id, driver = lab.running()
    driver.folder.add_metrics(1, {"train/loss": 1.0}, now=0)
    driver.checkpoint(4)
    (driver.folder.path / "artifacts").mkdir()
    (driver.folder.path / "artifacts" / "table.csv").write_text("a,b")
    found = names(backup())
    attempt = f"jobs/{job_id}/attempts/1"
    assert found[:2] == ["backup.json", "control/jobs.db"]
    assert found[-1] == "checksums.json"
    assert sorted(name for name in found if name.startswith("jobs/")) == [
        f"{attempt}/artifacts/table.csv",
        f"{attempt}/checkpoints/4/manifest.json",
        f"{attempt}/checkpoints/4/model.safetensors",
        f"{attempt}/metrics.jsonl",
        f"{attempt}/progress.json",
        f"jobs/{job_id}/spec.json",
    ]
    assert len(set(found)) == len(found)


def test_it_says_what_it_is_of(lab: ControlPlane, home: Path, tmp_path: Path) -> None:
    lab.submit()
    (home / "notes.txt").write_text("mine")
    (home / "data").mkdir()
    (home / "admin.token").write_text("secret")
    summary = create_backup(tmp_path / "a.tar", Settings(home=home), tmp_path / "mine", ignore)
    info = json.loads(content(tmp_path / "a.tar", "backup.json"))
    assert (info["format"], info["revision"]) == (1, lab.store.database.revision())
    assert (info["home"], info["data_dir"]) == (str(home), str(tmp_path / "mine"))
    assert summary.jobs == 1
    assert summary.files == len(names(tmp_path / "a.tar")) - 2
    assert summary.left_out == ("data", "notes.txt", "MLflow's database: it is not mlflow/mlflow.db in the home")
    assert content(tmp_path / "a.tar", "admin.token") == b"secret"
    assert (tmp_path / "a.tar").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_appended_to_ends_with_a_whole_line(lab: ControlPlane, backup: Backup) -> None:
    job_id, driver = lab.running()
    driver.folder.add_metrics(1, {"train/loss": 1.0}, now=0)
    whole = (driver.folder.path / "metrics.jsonl").read_bytes()
    (driver.folder.path / "metrics.jsonl").write_bytes(whole + b'{"time": 0, "st')
    assert content(backup(), f"jobs/{job_id}/attempts/1/metrics.jsonl") == whole


def test_attempts_that_the_database_does_not_know_yet_are_left_out(lab: ControlPlane, backup: Backup) -> None:
    job_id, driver = lab.running()
    JobFolder(driver.job_folder.path).attempt(2).add_metrics(1, {"train/loss": 1.0}, now=0)
    (lab.jobs_dir / "job_ffffffffffff").mkdir()
    (lab.jobs_dir / "job_ffffffffffff" / "spec.json").write_text("{}")
    found = names(backup())
    assert f"jobs/{job_id}/attempts/1/progress.json" in found
    assert not any("attempts/2" in name or "ffff" in name for name in found)


def test_a_checkpoint_is_in_it_whole_or_not_at_all(lab: ControlPlane, backup: Backup) -> None:
    job_id, driver = lab.running()
    driver.checkpoint(4)
    (driver.checkpoint(8) / "manifest.json").unlink()
    draft = driver.folder.checkpoints / ".12.1.tmp"
    draft.mkdir()
    (draft / "model.safetensors").write_text("half")
    found = [name for name in names(backup()) if "checkpoints" in name]
    folder = f"jobs/{job_id}/attempts/1/checkpoints"
    assert found == [f"{folder}/4/model.safetensors", f"{folder}/4/manifest.json"], "the manifest last"


def test_results_come_first_and_metrics_after_the_checkpoints(lab: ControlPlane, backup: Backup) -> None:
    """What is written last is copied first: what it speaks of is there by then."""
    job_id, driver = lab.running()
    driver.folder.add_metrics(100, {"train/loss": 1.0}, now=0)
    driver.finish()
    found = names(backup())
    order = [
        found.index(f"jobs/{job_id}/attempts/1/{name}") for name in ("result.json", "checkpoints/100/manifest.json")
    ]
    assert order[0] < order[1] < found.index(f"jobs/{job_id}/attempts/1/metrics.jsonl")


def test_a_searchs_journal_comes_before_its_trials(lab: ControlPlane, backup: Backup) -> None:
    search = {"kind": "tune", "name": "s", "space": {"bottleneck": [8]}, "trials": 2, "base": {"name": "b"}}
    job_id = lab.service.submit(job_spec.validate_python(search)).id
    lab.until(job_id, State.STARTING)
    driver = lab.driver(job_id)
    driver.beat()
    folder = driver.job_folder
    (folder.path / "optuna.journal").write_text('{"op_code": 4}\n{"op_c')
    folder.answers.write_text('{"trial": 1}\n')
    for number in (0, 1):
        folder.trial(number).attempt(1).add_metrics(1, {"train/loss": 1.0}, now=0)
        folder.trial(number).attempt(2).add_metrics(1, {"train/loss": 1.0}, now=0)
    seed = JobFolder(folder.trial(1).path / "seeds" / "1")
    seed.attempt(1).add_metrics(1, {"train/loss": 1.0}, now=0)
    JobFolder(folder.path / "retrained").attempt(1).add_metrics(1, {"train/loss": 1.0}, now=0)
    (driver.folder.path / "tune").mkdir()
    (driver.folder.path / "tune" / "state.pkl").write_bytes(b"Ray's")
    archive = backup()
    found = [name.removeprefix(f"jobs/{job_id}/") for name in names(archive)]
    assert content(archive, f"jobs/{job_id}/optuna.journal") == b'{"op_code": 4}\n'
    assert [name for name in found if "metrics" in name or "journal" in name or "comparisons" in name] == [
        "comparisons.jsonl",
        "optuna.journal",
        "trials/0/attempts/1/metrics.jsonl",
        "trials/1/seeds/1/attempts/1/metrics.jsonl",
        "trials/1/attempts/1/metrics.jsonl",
        "retrained/attempts/1/metrics.jsonl",
    ]
    assert not any("pkl" in name for name in found)


def test_that_weights_to_start_from_are_there_is_copied_before_them(lab: ControlPlane, backup: Backup) -> None:
    _, driver = lab.running()
    driver.job_folder.start.mkdir()
    (driver.job_folder.start / "model.safetensors").write_text("weights")
    (driver.job_folder.path / "start.json").write_text("{}")
    found = [name.rpartition("/")[2] for name in names(backup())]
    assert found.index("start.json") < found.index("model.safetensors")


def test_links_and_files_of_others_are_not_followed(lab: ControlPlane, backup: Backup, tmp_path: Path) -> None:
    _, driver = lab.running()
    (tmp_path / "secret").write_text("secret")
    (driver.job_folder.path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(driver.job_folder.path / "pipe")
    assert not any(name.endswith(("link", "pipe")) for name in names(backup()))


def test_a_name_that_is_no_text_is_left_out_and_named(lab: ControlPlane, home: Path, tmp_path: Path) -> None:
    _, driver = lab.running()
    (driver.folder.path / "artifacts").mkdir()
    (driver.folder.path / "artifacts" / os.fsdecode(b"\xff.csv")).write_text("a")
    summary = create_backup(tmp_path / "a.tar", Settings(home=home), None, ignore)
    assert "?.csv: its name is no text, or too long" in summary.left_out[-1]


def test_progress_is_told(lab: ControlPlane, home: Path, tmp_path: Path) -> None:
    lab.running()
    told: list[BackupProgress] = []
    summary = create_backup(tmp_path / "a.tar", Settings(home=home), None, told.append)
    assert [step.files for step in told] == list(range(2, summary.files + 2))
    assert told[-1].bytes <= summary.bytes
    assert all(step.total > 0 for step in told)


# --- what is refused, and what is left then


def refused(archive: Path, home: Path) -> str:
    with pytest.raises(BackupError) as caught:
        create_backup(archive, Settings(home=home), None, ignore)
    return str(caught.value)


def test_a_home_without_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "SEQAE_DATABASE_URL" in refused(tmp_path / "a.tar", tmp_path / "empty")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_an_archive_that_exists_is_not_written_over(lab: ControlPlane, home: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("mine")
    assert "exists already" in refused(tmp_path / "a.tar", home)
    assert (tmp_path / "a.tar").read_text() == "mine"


def test_an_archive_within_what_is_backed_up_is_refused(lab: ControlPlane, home: Path) -> None:
    assert "choose another folder" in refused(home / "control" / "a.tar", home)


def test_two_backups_into_one_file_do_not_mix(lab: ControlPlane, home: Path, tmp_path: Path, backup: Backup) -> None:
    with (tmp_path / "a.tar.partial").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert "another backup" in refused(tmp_path / "a.tar", home)
    assert (tmp_path / "a.tar.partial").exists()
    # One that was killed has left it: it is written over.
    (tmp_path / "a.tar.partial").write_bytes(b"half" * 100_000)
    create_backup(tmp_path / "a.tar", Settings(home=home), None, ignore)
    assert names(tmp_path / "a.tar")[-1] == "checksums.json"


def test_a_link_in_the_archives_place_is_not_followed(lab: ControlPlane, home: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "a.tar.partial").symlink_to(tmp_path / "mine")
    assert "can't be written" in refused(tmp_path / "a.tar", home)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_backup_that_fails_leaves_nothing(lab: ControlPlane, home: Path, tmp_path: Path) -> None:
    lab.running()

    def fail(_progress: BackupProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create_backup(tmp_path / "a.tar", Settings(home=home), None, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["old home"]


def test_a_database_of_a_newer_release_is_refused(lab: ControlPlane, home: Path, tmp_path: Path) -> None:
    with lab.store.database.write() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(NewerDatabaseError, match="newer release"):
        create_backup(tmp_path / "a.tar", Settings(home=home), None, ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["old home"]


def test_a_jobs_folder_that_is_gone_harms_nobody(lab: ControlPlane, backup: Backup, home: Path) -> None:
    gone, _ = lab.running()
    job_id, _ = lab.running()
    (home / "jobs" / gone).rename(home / "jobs" / ".elsewhere")
    found = names(backup())
    assert any(job_id in name for name in found)
    assert not any(gone in name or "elsewhere" in name for name in found)
