"""The verbs `backup` and `restore`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.db.store import Store
from service.local import processes
from service.local.home import DaemonName, HomeLayout
from service.local.record import FolderId, StackRecord, save_record
from service.settings import Settings
from tests.control_plane import ControlPlane
from tests.unit.service.backup.conftest import plane_of


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home in which a job runs."""
    path = tmp_path / "home"
    (path / "control").mkdir(parents=True)
    plane: ControlPlane = plane_of(path)
    plane.running()
    plane.store.close()
    return path


def run(*words: str | Path) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.stdout


def refused(*words: str | Path) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 1
    assert done.exception is not None
    return str(done.exception)


def test_a_home_is_backed_up_and_restored(home: Path, tmp_path: Path) -> None:
    said = run("backup", tmp_path / "a.tar", "--home", home)
    assert "1 jobs" in said
    assert str(home) in said
    said = run("restore", tmp_path / "a.tar", "--home", tmp_path / "new")
    assert f"seqae up --home {tmp_path / 'new'}" in said
    store = Store(Settings(home=tmp_path / "new").database)
    assert len(store.page()[0]) == 1
    store.close()


def test_what_was_done_is_told_as_json(home: Path, tmp_path: Path) -> None:
    save_record(HomeLayout.at(home), StackRecord(data_dir=tmp_path / "mine"))
    made = json.loads(run("backup", tmp_path / "a.tar", "--home", home, "--json"))
    assert (made["jobs"], made["data_dir"]) == (1, str(tmp_path / "mine"))
    done = json.loads(run("restore", tmp_path / "a.tar", "--home", tmp_path / "new", "--json"))
    assert (done["files"], done["made_at"]) == (made["files"], made["made_at"])


def test_what_is_refused_is_told_in_a_line(home: Path, tmp_path: Path) -> None:
    assert "there is no job database" in refused("backup", tmp_path / "a.tar", "--home", tmp_path / "none")
    assert "No such file" in refused("backup", tmp_path / "none" / "a.tar", "--home", home)
    assert "No such file" in refused("restore", tmp_path / "a.tar", "--home", tmp_path / "new")
    run("backup", tmp_path / "a.tar", "--home", home)
    assert "exists already" in refused("backup", tmp_path / "a.tar", "--home", home)
    assert "is not empty" in refused("restore", tmp_path / "a.tar", "--home", home)


def test_nothing_is_restored_under_a_running_stack(home: Path, tmp_path: Path) -> None:
    run("backup", tmp_path / "a.tar", "--home", home)
    layout = HomeLayout.at(home)
    (home / "logs").mkdir()
    mark = layout.mark(DaemonName.API)
    leader = processes.start(("sleep", "60"), dict(os.environ), mark, home / "logs" / "api.log", cwd=home)
    try:
        save_record(layout, StackRecord(leaders={DaemonName.API: leader}, key=layout.key, folder=FolderId.of(home)))
        assert "runs, and a backup is restored into an empty home alone" in refused(
            "restore", tmp_path / "a.tar", "--home", home
        )
    finally:
        processes.end(mark, leader, grace=0.0)


def test_an_interrupted_backup_leaves_nothing(home: Path, tmp_path: Path) -> None:
    """The command line is told to end, and sees to it that its program takes back what it began."""
    driver = next((home / "jobs").iterdir()) / "attempts" / "1"
    with (driver / "large.bin").open("wb") as large:
        large.truncate(3_000_000_000)  # takes no room, and some seconds to copy
    command = [sys.executable, "-m", "service.cli.main", "backup", str(tmp_path / "a.tar"), "--home", str(home)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        deadline = time.monotonic() + 60
        partial = tmp_path / "a.tar.partial"
        while not partial.exists() or partial.stat().st_size < 10_000_000:
            assert time.monotonic() < deadline
            assert program.poll() is None, program.stderr and program.stderr.read()
            time.sleep(0.01)
        program.send_signal(signal.SIGTERM)
        assert program.wait(timeout=60) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
