"""`seqae figure`, without a stack."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from jobs.directory.layout import JobFolder
from jobs.specs import EvaluateSpec, FigureSpec, TrainSpec
from seqae.errors import Error, FigureError
from service.cli.main import app
from service.scheduling import estimates as estimate
from service.scheduling.resources import demand

RECORD = {10: 0.2, 20: 0.1}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A stack's folder in which a job has trained."""
    folder = JobFolder(tmp_path / "home" / "jobs" / "job_1")
    folder.write_spec(TrainSpec(name="one"))
    for step, error in RECORD.items():
        folder.attempt(1).add_metrics(step, {"val/mse": error})
    (folder.attempt(1).checkpoints / "20").mkdir(parents=True)
    return tmp_path / "home"


def run(*arguments: str | Path) -> Result:
    """Runs the verb; errors of ours are raised, as `main` would find them."""
    result = CliRunner().invoke(app, ["figure", *map(str, arguments)])
    if isinstance(result.exception, Error):
        raise result.exception
    return result


@pytest.mark.parametrize("job", ["job_1", "latest", "folder"])
def test_a_jobs_record_is_plotted(job: str, home: Path, tmp_path: Path) -> None:
    named = home / "jobs" / "job_1" if job == "folder" else job
    result = run("5", "--home", home, "--job", named, "-o", tmp_path / "made" / "five.png")
    assert result.exit_code == 0, result.output
    assert "last = 0.1\n" in result.output
    assert result.output.endswith(f"{tmp_path / 'made' / 'five.png'}\n")
    with Image.open(tmp_path / "made" / "five.png") as image:
        assert np.ptp(np.asarray(image)) > 100


def test_readers_need_neither_a_stack_nor_a_model(tmp_path: Path) -> None:
    assert "mse_n42_sigma0.01" in run("4", "--home", tmp_path / "none", "-o", tmp_path / "4.png").output
    assert (tmp_path / "4.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("3", "-o", "a.png"), "no figure '3'"),
        (("4", "-o", "a.jpg"), r"\.png"),
        (("6", "-o", "a.png", "--job", "latest", "--checkpoint", "b"), "not both"),
        (("6", "-o", "a.png", "--job", "latest"), "has a model"),
        (("6", "-o", "a.png", "--job", "job_2"), "no job job_2"),
    ],
)
def test_what_can_not_be_made_is_told(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(Error, match=message):
        run(*arguments, "--home", tmp_path)


def test_what_a_figure_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(FigureError, match="trained model"):
        run("7", "--home", tmp_path, "-o", tmp_path / "7.png")


@pytest.mark.parametrize(
    "spec", [FigureSpec(kind="figure", name="f", figure=6), EvaluateSpec(kind="evaluate", name="f", model="digits/3")]
)
def test_a_figure_or_evaluation_job_asks_for_one_core_and_trains_nothing(spec: FigureSpec | EvaluateSpec) -> None:
    needs = demand(spec)
    assert (needs.workers, needs.cpus, needs.gpus) == (1, 1, 0)
    assert (estimate.images(spec), estimate.iterations(spec), estimate.seconds(spec, needs, ())) == (0, 0, None)
    assert estimate.memory_bytes(spec, needs) == estimate.memory_bytes(
        FigureSpec(kind="figure", name="g", figure=4), needs
    )
