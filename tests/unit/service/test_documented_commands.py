"""What pages print is run as it is printed: specs, requests with curl, and Python."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import httpx
import matplotlib
import pytest
import yaml
from pydantic import ValidationError

from jobs.backends.fakes import FakeTracking
from jobs.specs import job_spec
from seqae.checkpoints import checkpoint
from seqae.config import TrainConfig
from seqae.model import SequentialAutoEncoder
from service.client import Client
from service.inference.model_pool import ModelPool
from service.schemas.jobs import JobView
from service.settings import Settings
from tests.reports import make_report
from tests.settings_page import PAGE, page
from tests.unit.service.conftest import MakeApp, Serve
from tests.untrained import with_random_writes

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SERVICE = "http://127.0.0.1:8400"


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def curls() -> list[tuple[str, list[str]]]:
    """Calls of curl in indented blocks and in spans, each with its page."""
    texts = {path.name: path.read_text().replace("\\\n", " ") for path in PAGES}
    return [
        (name, shlex.split(in_block or in_span, comments=True))
        for name, text in texts.items()
        for in_block, in_span in re.findall(r"^ {4,}(curl .*)$|`(curl [^`]+)`", text, re.MULTILINE)
    ]


SPECS = [(path.name, text) for path in PAGES for text in blocks(path, "yaml")]


@pytest.mark.parametrize(("name", "text"), SPECS, ids=[name for name, _ in SPECS])
def test_a_spec_on_a_page_is_valid(name: str, text: str) -> None:
    job_spec.validate_python(yaml.safe_load(text))


def test_a_wrong_spec_on_a_page_would_be_found() -> None:
    with pytest.raises(ValidationError):
        job_spec.validate_python(yaml.safe_load("name: a\nmodle: {}"))


@pytest.mark.parametrize(("name", "words"), curls(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_request_on_a_page_is_one_of_the_api(client: httpx.Client, name: str, words: list[str]) -> None:
    """Sent to a service of ours, with JOB as an unknown job: neither path, method, nor body may be at fault."""
    url = next(word for word in words if word.startswith("localhost:8400"))
    method = words[words.index("-X") + 1] if "-X" in words else "POST" if "-d" in words or "-F" in words else "GET"
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    path = url.removeprefix("localhost:8400").replace("JOB", "job_000000000000")
    if "-F" in words:
        field, _, file = words[words.index("-F") + 1].partition("=@")
        answer = client.post(path, headers=headers, files={field: (ROOT / file).read_bytes()})
        assert answer.status_code == 503, answer.text  # there is no model yet; the picture is fine
        assert answer.json()["type"].endswith("no-model")
        return
    body = words[words.index("-d") + 1] if "-d" in words else None
    answer = client.request(method, path, headers=headers, content=body)
    if body is not None:
        assert answer.status_code in (200, 201), answer.text
    else:
        assert answer.status_code == 200 or "job-not-found" in answer.text, answer.text


def test_files_that_commands_read_are_there() -> None:
    text = "\n".join(path.read_text() for path in PAGES)
    for name in re.findall(r"(?:seqae reconstruct |=@)(\S+)", text):
        assert name.isupper() or (ROOT / name).is_file(), name  # IMAGE stands for a file of the reader's


def test_the_page_of_settings_is_what_the_code_says() -> None:
    """After a change of settings or of options: `make docs`."""
    assert PAGE.read_text() == page()


def test_every_setting_is_on_its_page() -> None:
    text = PAGE.read_text()
    assert [name for name in Settings.model_fields if f"| `SEQAE_{name.upper()}` |" not in text] == []


# --- python.md


@pytest.fixture
def served(make_app: MakeApp, serve: Serve, tracking: FakeTracking, settings: Settings, tmp_path: Path) -> httpx.Client:
    """A service with a model."""
    config = TrainConfig.model_validate(
        {
            "model": {"height": 16, "width": 16, "steps": 2, "attention": {"kernel_size": 8}},
            "data": {"min_scale": 0.5, "max_scale": 0.5},
        }
    )
    path, run = tmp_path / "served", tracking.create_run("job_000000000001", "digits", "train", {})
    checkpoint.save(path, with_random_writes(SequentialAutoEncoder(config.model)), config, iteration=1, metrics={})
    tracking.register("job_000000000001", run.run_id, "digits", path, {}, make_report(0.1))
    inference = ModelPool(tracking, settings)
    found = serve(make_app(inference))
    while inference.champion is None:
        assert inference.wait_for_round(60), inference.detail
    return found


def test_python_on_its_page_runs_from_top_to_bottom(
    served: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    # On a fake cluster no job ends.
    monkeypatch.setattr(Client, "wait", Client.get)
    names: dict[str, Any] = {}
    for text in blocks(ROOT / "docs/python.md", "python"):
        exec(compile(text.replace(SERVICE, str(served.base_url)), "python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "iteration 8 of 8" in printed
    assert "looked at" in printed
    assert "model/steps" in printed
    assert isinstance(names["job"], JobView)
    assert {"strip.png", "frames.gif", "served.gif"} <= {path.name for path in tmp_path.iterdir()}
    assert json.loads((tmp_path / "model/manifest.json").read_text())
