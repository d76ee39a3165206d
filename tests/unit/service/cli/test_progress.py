"""What is shown of a job while it is watched."""

import io
import re
from datetime import UTC, datetime

import pytest
import typer
from rich.console import Console

from service.cli.progress import PipeConsole, describe, describe_state, detachable, follow
from service.client import Client
from service.job_state import State
from service.schemas.jobs import ProgressView, WaitingView
from tests.unit.service.cli.conftest import FakeService, as_json, make_job, succeeded, waiting

TRAINING = ProgressView(
    phase="training",
    iteration=50,
    iterations=100,
    epoch=1.5,
    epochs=3,
    loss=0.12345,
    val_mse=0.00678,
    images_per_second=321.4,
    eta_seconds=75,
    workers=2,
)


def test_numbers_have_the_names_that_they_have_everywhere() -> None:
    """F11: one number, one name."""
    running = make_job(1, State.RUNNING, progress=TRAINING)
    assert describe(running) == "epoch 1.5/3  train/loss 0.1235  val/mse 0.00678  321 images/s  ETA 1:15"
    assert describe(succeeded(1, promoted=True)) == "test/mse 0.00412  test/fg_ari 0.954"
    assert describe(make_job(1)) == ""
    trials = TRAINING.model_copy(update={"trials": {"running": 2, "pending": 0}, "eta_seconds": None})
    assert describe(make_job(1, State.RUNNING, progress=trials)) == "trials: 2 running  ETA -"
    leads = trials.model_copy(update={"best_trial": 3, "best_metrics": {"val/objective": 0.51234}})
    told = describe(make_job(1, State.RUNNING, progress=leads))
    assert told == "trials: 2 running  best 3: val/objective 0.5123  ETA -"
    data = TRAINING.model_copy(update={"phase": "data", "iteration": 0})
    assert describe(make_job(1, State.RUNNING, progress=data)) == "data"


def test_a_job_that_waits_says_for_what() -> None:
    """F12: a node is lost while a job needs two."""
    assert describe_state(waiting(1)) == "WAITING FOR WORKERS"
    assert describe(waiting(1)) == "1 of 2 workers has a place"
    assert describe_state(make_job(1, State.RUNNING)) == "RUNNING"


def test_a_job_in_the_queue_says_its_place_and_when_its_turn_may_come() -> None:
    place = WaitingView(
        reason="place", missing="2 CPUs", since=datetime(2026, 1, 1, tzinfo=UTC), position=3, starts_in_seconds=75
    )
    queued = make_job(1, waiting=place)
    assert describe_state(queued) == "QUEUED"
    assert describe(queued) == "place 3, perhaps in 1:15: waits for 2 CPUs"
    unknown = make_job(1, waiting=place.model_copy(update={"starts_in_seconds": None}))
    assert describe(unknown) == "place 3: waits for 2 CPUs"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_last_line_stays_and_has_the_result(terminal: bool, service: FakeService) -> None:
    """F6: the bar vanished without the result."""
    job = succeeded(1, promoted=True)
    seen = iter([make_job(1), make_job(1, State.RUNNING, progress=TRAINING)])
    service.answers[f"GET /jobs/{job.id}"] = lambda _: as_json(next(seen, job))
    printed = io.StringIO()
    console = Console(file=printed, force_terminal=terminal, width=120, color_system=None)
    assert follow(Client("http://service.test"), job.id, console).state is State.SUCCEEDED
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed.getvalue()).rstrip().splitlines()[-1]
    assert "succeeded" in last
    assert "test/mse 0.00412" in last


def test_ctrl_c_says_that_the_job_goes_on_and_how_to_come_back(capsys: pytest.CaptureFixture[str]) -> None:
    """F6."""
    with pytest.raises(typer.Exit) as left, detachable("job_1"):
        raise KeyboardInterrupt
    assert left.value.exit_code == 130
    told = capsys.readouterr().err
    assert "job_1 goes on" in told
    assert "seqae attach job_1" in told


def test_a_closed_pipe_is_left_to_the_caller() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        PipeConsole(file=Closed()).print("x")
