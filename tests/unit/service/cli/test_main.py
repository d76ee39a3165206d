"""The command line as a person uses it: a process with arguments, output and an exit status."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
from PIL import Image

from service.cli.main import main

ROOT = Path(__file__).parents[4]


class Seqae:
    """Runs `seqae` in a folder of its own, against a service that has no model."""

    def __init__(self, url: str, cwd: Path) -> None:
        self._cwd = cwd
        self._environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "HOME": str(cwd),
            "SEQAE_URL": url,
        }

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        """Runs a script of bash, with the same environment."""
        return subprocess.run(
            ["bash", "-c", script],
            cwd=self._cwd,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def __call__(self, *arguments: str, typed: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "service.cli.main", *arguments],
            cwd=self._cwd,
            env=self._environment | environment,
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


SPECS: dict[str, bytes] = {
    "alias.yaml": b"name: &a [*a]",
    "infinite.yaml": b"name: x\nschedule: {epochs: .inf}",
    "date.yaml": b"name: 2024-13-45\nseed: -1",
    "deep.json": b'{"a":' * 100_000,
    "binary.yaml": bytes(range(256)),
    "twice.yaml": b"name: a\nname: b",
    "number.yaml": b"1: 2",
    "large.yaml": b"#" * 300_000,
    "digits.yaml": b"name: x\nseed: " + b"9" * 400,
}


class Main:
    """Runs `main` in this process, which is faster; the exit status, and what was printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr("sys.argv", ["seqae", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        printed = self._capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, printed.out, printed.err


@pytest.fixture
def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], client: httpx.Client, tmp_path: Path
) -> Iterator[Main]:
    """Against a service that has no model, in a folder of its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("SEQAE_URL", str(client.base_url))
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    yield Main(monkeypatch, capsys)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", SPECS)
def test_no_spec_ends_in_a_traceback(name: str, run_main: Main) -> None:
    """F4: one message on standard error, and exit status 1."""
    Path(name).write_bytes(SPECS[name])
    status, out, error = run_main("submit", name)
    assert (status, out) == (1, "")
    assert error.startswith("seqae: ")
    assert len(error.splitlines()) == 1
    assert "Traceback" not in error


def test_tabs_in_json_and_exponents_are_taken(seqae: Seqae, tmp_path: Path) -> None:
    """F5."""
    (tmp_path / "tabs.json").write_text('{\n\t"name": "tabs",\n\t"seed": 2e2\n}')
    job = seqae("submit", "tabs.json").stdout.strip()
    assert json.loads(seqae("show", job).stdout)["spec"]["seed"] == 200


@pytest.mark.parametrize(
    ("arguments", "environment", "status"),
    [
        (("jobs", "--url", "localhost:8400"), {}, 1),
        (("jobs", "--url", "http://h:99999"), {}, 1),
        (("jobs", "--url", "http://xn--a"), {}, 1),
        (("jobs", "--url", ""), {}, 1),
        (("submit", "spec.yaml", "--key", "schlüssel"), {}, 1),
        (("submit", "."), {}, 1),
        (("submit", "spec.yaml/x"), {}, 1),
        (("reconstruct", "spec.yaml", "-o", "folder.gif"), {}, 1),
        (("up", "--home", "spec.yaml"), {}, 1),
        (("status", "--home", "spec.yaml"), {}, 1),
        (("jobs", "--home", "spec.yaml"), {"SEQAE_URL": ""}, 1),
        (("up", "--home", ""), {}, 1),
        (("up",), {"SEQAE_MAX_RETRIES": "x", "SEQAE_HOME": "none"}, 1),
        (("up",), {"SEQAE_PORT": "x"}, 2),
        (("up", "--port", "99999"), {}, 2),
        (("jobs", "--limit", "many"), {}, 2),
        (("show", "../jobs"), {}, 1),
    ],
    ids=str,
)
def test_no_bad_option_ends_in_a_traceback(
    arguments: tuple[str, ...],
    environment: dict[str, str],
    status: int,
    run_main: Main,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F4, B4, B10: one line that says what is wrong, and nothing is started or written."""
    Path("spec.yaml").write_text("name: x")
    Path("folder.gif").mkdir()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found, out, error = run_main(*arguments)
    assert (found, out) == (status, "")
    assert error.startswith("seqae: ")
    assert len(error.splitlines()) == 1
    assert "Traceback" not in error
    assert sorted(path.name for path in Path().iterdir()) == ["folder.gif", "spec.yaml"]


def test_an_unexpected_error_is_a_line_and_its_trace_can_be_asked_for(seqae: Seqae, tmp_path: Path) -> None:
    """F4: even what nobody thought of."""
    (tmp_path / "yaml.py").write_text("raise RuntimeError('broken')")
    failed = seqae("submit", "-", typed="name: x", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert failed.returncode == 1
    assert failed.stderr == "seqae: unexpected RuntimeError: broken (SEQAE_TRACEBACK=1 shows where)\n"
    shown = seqae("submit", "-", typed="name: x", PYTHONPATH=f"{tmp_path}:{ROOT}", SEQAE_TRACEBACK="1")
    assert "Traceback" in shown.stderr


@pytest.mark.parametrize("verb", ["jobs", "spec"])
def test_a_reader_that_leaves_is_no_error(verb: str, seqae: Seqae) -> None:
    """F4: `seqae jobs | head -1`; what the reader did not want is dropped without a word."""
    script = f'"{sys.executable}" -m service.cli.main {verb} | true; echo "${{PIPESTATUS[0]}}"'
    done = seqae.shell(script)
    assert done.stderr == ""
    # 0: the reader left only after everything was written.
    assert done.stdout.strip() in ("141", "0")
    assert seqae.shell(f'"{sys.executable}" -m service.cli.main --help | true').stderr == ""


def test_output_that_goes_nowhere_is_told_or_ignored(seqae: Seqae) -> None:
    """F4: a closed standard output, and a full disk."""
    command = f'"{sys.executable}" -m service.cli.main spec'
    closed = seqae.shell(f"{command} >&-")
    assert (closed.returncode, closed.stderr) == (0, "")
    full = seqae.shell(f"{command} > /dev/full")
    assert full.returncode == 1
    assert full.stderr == "seqae: No space left on device\n"


def test_ids_are_whole_in_a_pipe_and_their_beginning_is_accepted(seqae: Seqae) -> None:
    """F2: at 80 columns `seqae jobs` cut the ids, which no verb accepted."""
    jobs = [seqae("submit", "-", typed=f"name: a name that is rather long {number}").stdout.strip() for number in "123"]
    listed = seqae("jobs", COLUMNS="80").stdout
    assert all(job in listed.split() for job in jobs)
    assert "long 3" in listed
    assert json.loads(seqae("show", jobs[0][:-1]).stdout)["id"] == jobs[0]
    ambiguous = seqae("cancel", "job_")
    assert ambiguous.returncode == 1
    assert all(job in ambiguous.stderr for job in jobs)
    assert [job["id"] for job in json.loads(seqae("jobs", "--json").stdout)["items"]] == jobs[::-1]


def test_the_version_and_the_shells_completion(seqae: Seqae) -> None:
    """F11."""
    assert seqae("--version").stdout == f"seqae {version('seqae')}\n"
    shown = seqae("--show-completion", "bash")
    assert (
        "complete"
        in shown.stdout + seqae.shell(f'_SEQAE_COMPLETE=source_bash "{sys.executable}" -m service.cli.main').stdout
    )


def test_verbs_of_a_jobs_life(run_main: Main) -> None:
    """F11: the command line lacked pause, resume, retry, delete, validate."""
    Path("spec.yaml").write_text("name: x")
    assert "it would be accepted" in run_main("validate", "spec.yaml")[1]
    job = run_main("submit", "spec.yaml")[1].strip()
    assert run_main("pause", job)[1] == f"{job} PAUSED\n"
    assert run_main("resume", job)[1] == f"{job} QUEUED\n"
    assert run_main("priority", job, "5")[1] == f"{job} QUEUED, priority 5\n"
    assert run_main("attempts", job)[1].split() == ["attempt", "outcome", "started", "ended", "error"]
    assert run_main("cancel", job)[0] == 0
    assert run_main("attach", job)[0] == 3
    assert "CANCELLED" in run_main("events", job)[1]
    again = run_main("retry", job)[1].split()[0]
    assert again != job
    assert run_main("delete", job)[1] == f"{job} deleted\n"


def test_without_a_stack_it_says_how_to_start_one(tmp_path: Path) -> None:
    lost = Seqae("", tmp_path)
    home = str(tmp_path / "home")
    assert "seqae up" in lost("jobs", SEQAE_HOME=home).stderr
    status = lost("status", SEQAE_HOME=home)
    assert (status.returncode, "seqae up" in status.stdout) == (1, True)
    assert lost("down", SEQAE_HOME=home).returncode == 0
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
    assert "'--port' (env var: 'SEQAE_PORT'): Input should be " in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
