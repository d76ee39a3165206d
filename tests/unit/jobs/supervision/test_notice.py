"""Notices that a worker must go; with real processes over gloo, of which one is told to go by SIGTERM."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Outcome
from jobs.error_classes import classify
from jobs.errors import ErrorClass, PreemptedError
from jobs.specs import TrainSpec
from jobs.supervision.notice import Notice, install_sigterm_handler, sigterm_notice, watch_notices
from jobs.training.worker import DistributedContext, TrainingTask, train

LIMIT = 60.0


def test_the_first_notice_is_told_once() -> None:
    told: list[str | None] = []
    asked: list[str] = []
    notice = Notice()
    seen = threading.Event()

    def second() -> str | None:
        asked.append("second")
        return "drained" if len(asked) == 3 else None

    def on_notice() -> None:
        told.append(notice.reason)
        seen.set()

    watch = watch_notices([lambda: None, second], on_notice, notice, interval=0.001)
    watch.start()
    assert seen.wait(LIMIT)
    time.sleep(0.02)
    watch.stop(LIMIT)
    assert told == ["drained"]
    assert len(asked) == 3


def test_a_source_that_fails_is_asked_again() -> None:
    answers = iter([RuntimeError("the cluster does not answer"), None, "drained"])
    seen = threading.Event()

    def source() -> str | None:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    watch = watch_notices([source], seen.set, Notice(), interval=0.001)
    watch.start()
    assert seen.wait(LIMIT)
    watch.stop(LIMIT)


def test_sigterm_is_a_notice_and_a_second_one_what_it_was() -> None:
    usual = signal.getsignal(signal.SIGTERM)
    second: list[int] = []
    try:
        signal.signal(signal.SIGTERM, lambda number, _: second.append(number))
        install_sigterm_handler()
        assert sigterm_notice() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert (sigterm_notice(), second) == ("SIGTERM", [])
        os.kill(os.getpid(), signal.SIGTERM)
        assert second == [signal.SIGTERM]
        install_sigterm_handler()
        assert sigterm_notice() is None, "a process may train again"
    finally:
        signal.signal(signal.SIGTERM, usual)


def _train_in_a_process(task: TrainingTask, rank: int, world: int, store: Path, results: Path) -> None:
    """One rank: writes how it ended."""
    install_sigterm_handler()
    dist.init_process_group("gloo", init_method=store.as_uri(), rank=rank, world_size=world)
    try:
        outcome: str = train(task, DistributedContext(rank, world), notices=[sigterm_notice]).outcome
    except PreemptedError as error:
        outcome = f"{classify(error).error_class} {error}"
    (results / str(rank)).write_text(outcome)
    dist.destroy_process_group()


@pytest.mark.timeout(240)
def test_sigterm_to_one_of_three_processes_loses_no_iteration(
    folder: JobFolder, make_task: Callable[[int], TrainingTask], make_spec: Callable[..., TrainSpec], tmp_path: Path
) -> None:
    """The curve is the one of a worker that trains alone and undisturbed."""
    spec = make_spec(epochs=25, checkpoint_every=1000, evaluate_every=1000, learning_rate=1e-4)
    alone = {"alpha_separation": 0.0, "alpha_location": 0.0}  # nothing for a rounding to move by a whole pixel
    spec = TrainSpec.model_validate(spec.model_dump(mode="json") | {"loss": alone})
    folder.write_spec(spec)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_train_in_a_process, args=(make_task(1), rank, 3, tmp_path / "store", tmp_path))
        for rank in range(3)
    ]
    for process in processes:
        process.start()
    attempt = folder.attempt(1)
    deadline = time.monotonic() + 120
    while (progress := attempt.read_progress()) is None or progress.iteration < 3:
        assert time.monotonic() < deadline
        assert all(process.is_alive() for process in processes)
        time.sleep(0.01)
    pid = processes[2].pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    for process in processes:
        process.join(LIMIT)
    ends = [(tmp_path / str(rank)).read_text() for rank in range(3)]
    step = attempt.checkpoint_steps()[-1]
    assert 3 <= step < 100
    assert set(ends) == {f"{ErrorClass.PREEMPTED} left at iteration {step} with a checkpoint: SIGTERM"}
    assert max(row.step for row in folder.history()) <= step, "nothing has to be repeated"

    folder.write_control(Control(attempt=2))
    assert train(make_task(2), DistributedContext()).outcome is Outcome.SUCCEEDED
    other = JobFolder(tmp_path / "undisturbed")
    other.write_spec(spec)
    train(TrainingTask(other.path, other.path, 1, make_task(1).cache_dir, None), DistributedContext())
    curves = [
        {row.step: row.metrics["train/loss"] for row in one.history() if "train/loss" in row.metrics}
        for one in (folder, other)
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)
