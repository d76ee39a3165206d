"""The commands of docs/operations.md are run as they stand there, in a home of the test's own."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.db.store import Store
from service.settings import Settings
from tests.unit.service.backup.conftest import plane_of
from tests.unit.service.conftest import MakeApp, Serve

PAGE = Path(__file__).parents[3] / "docs/operations.md"
ON_DISK = ("backup", "restore")
OVER_HTTP = ("retention",)


def commands(*verbs: str) -> list[list[str]]:
    """Words of the page's commands of some verbs, in their order."""
    lines = re.findall(r"^ {4}(?:/opt/seqae/bin/)?seqae (.*)$", PAGE.read_text(), re.MULTILINE)
    return [words for words in map(shlex.split, lines) if words[0] in verbs]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "lab"
    (path / "control").mkdir(parents=True)
    (tmp_path / "backups").mkdir()
    plane = plane_of(path)
    plane.running()
    plane.store.close()
    return path


def run(words: list[str]) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.stdout


def test_the_page_has_the_commands() -> None:
    assert [words[0] for words in commands(*ON_DISK)] == ["backup", "backup", "restore"]
    assert commands(*OVER_HTTP) == [["retention"], ["retention", "--apply"]]
    assert {words[0] for words in commands("up", "down", "status")} == {"up", "down", "status"}


def test_a_backup_and_its_restore(home: Path, tmp_path: Path) -> None:
    for words in commands(*ON_DISK):
        moved = [word.replace("/srv/", f"{tmp_path}/").replace("/backups/", f"{tmp_path}/backups/") for word in words]
        run(moved)
    store = Store(Settings(home=tmp_path / "lab2").database)
    assert len(store.page()[0]) == 1
    store.close()


@pytest.fixture
def url(make_app: MakeApp, serve: Serve) -> str:
    """Of a service that keeps one ended job."""
    client = serve(make_app(max_ended_jobs=1))
    for _ in range(3):
        job_id = client.post("/jobs", json={"name": "digits"}).json()["id"]
        client.post(f"/jobs/{job_id}/cancel").raise_for_status()
    return str(client.base_url)


def test_retention_is_shown_and_carried_out(url: str, store: Store) -> None:
    shown, done = (run([*words, "--url", url]) for words in commands(*OVER_HTTP))
    assert "would be removed: 2 jobs" in shown
    assert "removed: 2 jobs" in done
    assert len(store.page()[0]) == 1
