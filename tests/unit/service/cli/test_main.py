"""The command line as a person uses it: a process with arguments, output and an exit status."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image


class Seqae:
    """Runs `seqae` in a folder of its own, against a service that has no model."""

    def __init__(self, url: str, cwd: Path) -> None:
        self._url = url
        self._cwd = cwd

    def __call__(self, *arguments: str, typed: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "service.cli.main", *arguments],
            cwd=self._cwd,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self._cwd), "SEQAE_URL": self._url, **environment},
            input=typed,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def seqae(client: httpx.Client, tmp_path: Path) -> Seqae:
    return Seqae(str(client.base_url), tmp_path)


def test_a_job_from_submission_to_its_end(seqae: Seqae, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("name: from a file\nseed: 3\n")
    submitted = seqae("submit", "spec.yaml", "--priority", "2")
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.strip()
    assert job.startswith("job_")
    assert job in seqae("jobs").stdout
    shown = json.loads(seqae("show", "latest").stdout)
    assert (shown["id"], shown["spec"]["seed"], shown["priority"]) == (job, 3, 2)
    assert seqae("logs", job).stdout == ""
    assert seqae("logs", job, "--tail", "5").stdout == ""
    for _ in range(2):
        assert seqae("cancel", job).stdout == f"{job} CANCELLED\n"
    unknown = seqae("cancel", "job_000000000000")
    assert unknown.returncode == 1
    assert "job_000000000000" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_a_spec_from_standard_input_may_be_json(seqae: Seqae) -> None:
    assert seqae("submit", "-", typed='{"name": "typed"}').returncode == 0
    assert "typed" in seqae("jobs", "--state", "queued").stdout
    assert "typed" not in seqae("jobs", "--state", "failed").stdout


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: x\nmodel: {steps: -1}", "#/model/steps"),
        ("name: x\nstepz: 1", "#/stepz"),
        ("- a list", "no job spec"),
        ("{broken", "neither YAML nor JSON"),
        ("", "no job spec"),
    ],
)
def test_a_bad_spec_is_told_in_words(seqae: Seqae, text: str, told: str) -> None:
    refused = seqae("submit", "-", typed=text)
    assert refused.returncode == 1
    assert told.removeprefix("#/") in refused.stderr
    assert "Traceback" not in refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize("arguments", [["submit", "missing.yaml"], ["show", "job_000000000000"], ["show", "latest"]])
def test_what_does_not_exist_is_named(seqae: Seqae, arguments: list[str]) -> None:
    refused = seqae(*arguments)
    assert refused.returncode == 1
    assert refused.stderr.startswith("seqae: ")
    assert "Traceback" not in refused.stderr


def test_reconstruct_without_a_model_says_how_to_get_one(seqae: Seqae, tmp_path: Path) -> None:
    Image.new("L", (40, 30), 128).save(tmp_path / "grey.png")
    refused = seqae("reconstruct", "grey.png", "-o", "out.gif")
    assert refused.returncode == 1
    assert "model" in refused.stderr
    assert not (tmp_path / "out.gif").exists()
    assert "out.tiff" in seqae("reconstruct", "grey.png", "-o", "out.tiff").stderr


def test_without_a_stack_it_says_how_to_start_one(tmp_path: Path) -> None:
    lost = Seqae("", tmp_path)
    assert "seqae up" in lost("jobs").stderr
    status = lost("status")
    assert (status.returncode, "seqae up" in status.stdout) == (1, True)
    assert lost("down").returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_verb_or_option_is_a_usage_error(seqae: Seqae) -> None:
    assert seqae("frobnicate").returncode == 2
    assert seqae("jobs", "--frobnicate").returncode == 2


@pytest.mark.parametrize("verb", ["up", "down", "status", "jobs"])
def test_an_empty_home_is_refused(verb: str, tmp_path: Path) -> None:
    """B10: it would be the current folder, and `up` would start a stack in it."""
    command = [sys.executable, "-m", "service.cli.main", verb, "--home", ""]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "seqae: --home is empty; name a folder, or leave it out\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("port", ["0", "99999", "-5"])
def test_a_port_that_is_none_is_refused(port: str, tmp_path: Path) -> None:
    """B4: in a line; `--port 0` was once ignored."""
    command = [sys.executable, "-m", "service.cli.main", "up", "--home", "home", f"--port={port}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "1<=x<=65535" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
