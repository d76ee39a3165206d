"""Searches on a real cluster, undisturbed and with the driver killed."""

import os
import signal
import time
from random import Random
from typing import Any

import psutil
import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import Outcome
from jobs.specs import TuneSpec
from jobs.tuning.study import SearchStudy
from jobs.tuning.trials import evaluations
from seqae.checkpoints import checkpoint
from service.client import Client
from service.job_state import State
from tests.daemons import wait_until
from tests.services import Services, run_id_of, trial_runs

pytestmark = pytest.mark.timeout(540)


def test_two_trials(services: Services, tiny: dict[str, Any]) -> None:
    space = {"alpha_mseot": {"low": 0.1, "high": 100}, "bottleneck": [4, 8]}
    spec = {"kind": "tune", "name": "search", "base": tiny, "space": space, "trials": 2, "grace_epochs": 5}
    job = services.job("job_search", spec)
    job.start()
    job.wait()
    result = job.folder.attempt(1).read_result()
    assert result is not None, job.log()
    assert result.outcome is Outcome.SUCCEEDED, result.error

    rows = job.folder.trials()
    assert [row.state for row in rows.values()] == ["succeeded", "succeeded"]
    best = min(rows.values(), key=lambda row: row.metrics["val/objective"])
    assert result.metrics["best_trial"] == best.trial
    assert result.metrics["val/objective"] <= best.metrics["val/objective"]
    assert result.metrics["test/mse"] > 0
    assert not any("test/mse" in row.metrics for trial in rows for row in job.folder.trial(trial).history())
    assert result.checkpoint is not None
    assert result.checkpoint.startswith(f"trials/{best.trial}/attempts/1/checkpoints/")
    config = checkpoint.read_config(job.folder.path / result.checkpoint)
    assert config.loss.alpha_mseot == best.params["loss.alpha_mseot"]
    progress = job.folder.attempt(1).read_progress()
    assert progress is not None
    assert progress.trials == {"succeeded": 2}

    services.tracking.ship(job.folder.path, job.run.run_id)
    services.tracking.ship(job.folder.path, job.run.run_id)
    children = trial_runs(services.tracking, job.run.run_id)
    assert sorted(child.data.params["loss.alpha_mseot"] for child in children) == sorted(
        str(row.params["loss.alpha_mseot"]) for row in rows.values()
    )
    for child in children:
        assert child.info.status == "FINISHED"
        history = services.tracking._client.get_metric_history(child.info.run_id, "val/mse")
        assert [metric.step for metric in history] == [20, 40]
    assert services.actors() == []


def _trial_curves(services: Services, run_id: str) -> dict[str, list[int]]:
    """Evaluated steps of each trial's run, by the run's name."""
    client = services.tracking._client
    children = trial_runs(services.tracking, run_id)
    assert all(child.info.status in ("FINISHED", "KILLED") for child in children)
    names = [child.info.run_name for child in children]
    assert len(set(names)) == len(names)
    return {
        child.info.run_name: [metric.step for metric in client.get_metric_history(child.info.run_id, "val/mse")]
        for child in children
    }


def _driver_of(job_id: str) -> psutil.Process:
    """The driver's own process, not a shell around it."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if any(argument.endswith(f"/{job_id}") for argument in command) and "-m" in command:
            found.append(process)
    return found[-1]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_search_whose_driver_is_killed_five_times_loses_and_doubles_nothing(
    services: Services, tiny: dict[str, Any]
) -> None:
    base = tiny | {"schedule": tiny["schedule"] | {"epochs": 20}}
    space = {"alpha_mseot": {"low": 0.1, "high": 100}}
    spec = {"kind": "tune", "name": "search", "base": base, "space": space, "trials": 8, "grace_epochs": 5}
    job = services.job("job_search_killed", spec)
    random, over, attempt = Random(0), dict[int, float](), 1
    job.start()
    for attempt in range(1, 6):
        running, newest = len(job.folder.trials()), job.folder.attempt(attempt)
        wait_until(lambda: "running" in [row.state for row in newest.trials().values()], "a trial runs")  # noqa: B023
        time.sleep(random.uniform(0, 15))
        assert job.folder.attempt(attempt).read_result() is None, "it was killed before its end"
        os.kill(_driver_of(job.id).pid, signal.SIGKILL)
        job.wait(attempt=attempt)
        assert len(job.folder.trials()) >= running
        over |= {trial: row.epoch for trial, row in job.folder.trials().items() if row.is_over}
        job.start(attempt=attempt + 1)
    wait_until(lambda: job.folder.attempt(6).read_result() is not None, "the search ends", 900)
    job.wait(attempt=6)
    result = job.folder.attempt(6).read_result()
    assert result is not None, job.log(attempt=6)
    assert result.outcome is Outcome.SUCCEEDED, result.error
    rows = job.folder.trials()
    assert list(rows) == list(range(8))
    assert all(row.is_over for row in rows.values())
    for trial, epoch in over.items():
        # It was over: it did not train again.
        assert rows[trial].epoch == epoch
    with_journal = SearchStudy(TuneSpec.model_validate(spec), job.folder)
    assert [trial.number for trial in with_journal.study.get_trials()] == list(range(8))
    for trial, row in rows.items():
        assert (with_journal.params(trial), with_journal.ended(trial)) == (row.params, (row.state, row.message))
    services.tracking.ship(job.folder.path, job.run.run_id)
    curves = _trial_curves(services, job.run.run_id)
    assert sorted(name.partition(":")[0] for name in curves) == [f"trial {trial}" for trial in range(8)]
    for steps in curves.values():
        assert steps == list(range(20, max(steps) + 1, 20))


@pytest.mark.slow
def test_a_retry_of_a_search_keeps_its_finished_trials(
    services: Services, control_plane: Client, tiny: dict[str, Any]
) -> None:
    base = tiny | {"schedule": tiny["schedule"] | {"epochs": 40}}
    space = {"alpha_mseot": {"low": 0.1, "high": 100}}
    spec = {"kind": "tune", "name": "search", "base": base, "space": space, "trials": 4, "grace_epochs": 5}
    first = control_plane.submit(spec)
    before = services.folder(first.id)

    def is_half_done() -> bool:
        states = {row.state for row in before.trials().values()}
        return bool(states & {"succeeded", "stopped"}) and "running" in states

    wait_until(is_half_done, "some of its trials are done and others are not")
    control_plane.cancel(first.id)
    assert control_plane.wait(first.id, timeout=120).state is State.CANCELLED
    done = {number: row for number, row in before.trials().items() if row.state in ("succeeded", "stopped")}
    assert 0 < len(done) < 4

    again = control_plane.retry(first.id)
    assert again.retry_of == first.id
    ended = control_plane.wait(again.id, timeout=400)
    assert ended.state is State.SUCCEEDED, "".join(control_plane.logs(again.id))
    folder = services.folder(again.id)
    rows = folder.trials()
    assert all(row.state in ("succeeded", "stopped") for row in rows.values())
    attempts = {number: [attempt.number for attempt in folder.trial(number).attempts()] for number in range(4)}
    for number, row in done.items():
        assert (rows[number].state, rows[number].epoch) == (row.state, row.epoch)
        assert attempts[number] == [0], "what it inherited, and no training of its own"
    for number in rows.keys() - done.keys():
        assert attempts[number][-1] == 1, "it trained here"
        assert rows[number].epoch > 0
    run_id = run_id_of(ended.mlflow_url)
    for steps in _trial_curves(services, run_id).values():
        assert steps == list(range(20, max(steps) + 1, 20))


@pytest.mark.slow
def test_trials_of_two_workers_each(services: Services, tiny: dict[str, Any]) -> None:
    space = {"bottleneck": [4, 8]}
    base = tiny | {"scaling": {"workers": 2}}
    spec = {"kind": "tune", "name": "search", "base": base, "space": space, "trials": 2, "grace_epochs": 5}
    job = services.job("job_search_nested", spec)
    job.start()
    job.wait()
    result = job.folder.attempt(1).read_result()
    assert result is not None, job.log()
    assert result.outcome is Outcome.SUCCEEDED, result.error
    assert [row.state for row in job.folder.trials().values()] == ["succeeded", "succeeded"]
    services.tracking.ship(job.folder.path, job.run.run_id)
    curves = _trial_curves(services, job.run.run_id)
    assert {name.partition(":")[0]: steps for name, steps in curves.items()} == {
        "trial 0": [20, 40],
        "trial 1": [20, 40],
    }
    assert services.actors() == []


@pytest.mark.slow
def test_trials_of_two_seeds_and_a_winner_that_is_trained_once_more(services: Services, tiny: dict[str, Any]) -> None:
    spec = {
        "kind": "tune",
        "name": "search",
        "base": tiny,
        "space": {"loss.alpha_mseot": {"kind": "loguniform", "low": 0.1, "high": 100}},
        "trials": 2,
        "seeds": 2,
        "scheduler": "none",
        "retrain": {"epochs": 10, "seed": 5},
    }
    job = services.job("job_search_retrained", spec)
    job.start()
    job.wait()
    result = job.folder.attempt(1).read_result()
    assert result is not None, job.log()
    assert result.outcome is Outcome.SUCCEEDED, result.error
    for trial, row in job.folder.trials().items():
        assert row.state == "succeeded"
        seeds = [job.folder.trial(trial), JobFolder(job.folder.trial(trial).path / "seeds" / "1")]
        # Not the last row, which a checkpoint may have written.
        values = [list(evaluations(seed).values())[-1]["val/objective"] for seed in seeds]
        assert row.metrics["val/objective"] == pytest.approx(sum(values) / 2)
        assert row.standard_errors["val/objective"] == pytest.approx(abs(values[0] - values[1]) / 2)
    assert result.checkpoint == "retrained/attempts/1/checkpoints/80"
    report = job.folder.attempt(1).read_search_report()
    assert report is not None
    assert report.retrained
    config = checkpoint.read_config(job.folder.path / result.checkpoint)
    assert (config.schedule.epochs, config.seed) == (10, 5)
    assert config.loss.alpha_mseot == job.folder.trials()[report.best_trial].params["loss.alpha_mseot"]
    assert (job.folder.attempt(1).artifacts / "search-best-so-far.png").is_file()
    assert services.actors() == []


@pytest.mark.slow
def test_population_based_training_goes_on_from_other_trials_models(services: Services, tiny: dict[str, Any]) -> None:
    spec = {
        "kind": "tune",
        "name": "search",
        "base": tiny | {"schedule": tiny["schedule"] | {"epochs": 20}},
        "space": {"schedule.learning_rate": {"kind": "loguniform", "low": 1e-6, "high": 1e-2}},
        "trials": 4,
        "scheduler": "pbt",
        "population": 2,
        "grace_epochs": 5,
    }
    job = services.job("job_search_population", spec)
    job.start()
    job.wait()
    result = job.folder.attempt(1).read_result()
    assert result is not None, job.log()
    assert result.outcome is Outcome.SUCCEEDED, result.error
    rows = job.folder.trials()
    copies = {trial: row for trial, row in rows.items() if row.parent is not None}
    assert copies, {trial: (row.state, row.message) for trial, row in rows.items()}
    for trial, row in copies.items():
        assert row.state in ("succeeded", "stopped"), row.message
        notes = [note.text for note in job.folder.trial(trial).attempt(1).notes() if note.kind == "resumed"]
        assert notes
        assert "from iteration 0" not in notes[0]
        assert str(rows[trial].params) != str(rows[row.parent or 0].params)


@pytest.mark.slow
def test_a_search_by_eye_waits_for_people_and_goes_on_with_their_answers(
    services: Services, control_plane: Client, tiny: dict[str, Any]
) -> None:
    space = {"loss.alpha_mseot": {"kind": "loguniform", "low": 0.1, "high": 100}}
    plain = {"kind": "tune", "name": "by eye", "base": tiny, "space": space}
    job = control_plane.submit(plain | {"objective": "human", "trials": 4, "comparisons": 4})

    def waits() -> bool:
        found = control_plane.get(job.id)
        assert not found.state.is_terminal, "".join(control_plane.logs(job.id))
        return found.waiting is not None and found.waiting.reason == "comparisons"

    wait_until(waits, "the search waits for people")
    assert {row.state for row in services.folder(job.id).trials().values()} == {"succeeded"}
    assert services.actors() == [], "it holds no place while it waits"
    control_plane.pause(job.id)
    wait_until(lambda: control_plane.get(job.id).state is State.PAUSED, "it is paused")
    (pair,) = control_plane.pairs(job.id).items
    assert [trial.number for trial in pair.trials] == [0, 1]
    assert all(trial.picture for trial in pair.trials)
    control_plane.answer_pair(job.id, pair.number, 1, owner="ada")
    control_plane.resume(job.id)

    def has_ended() -> bool:
        page = control_plane.pairs(job.id)
        while page.missing and page.items:
            pair = page.items[0]
            page = control_plane.answer_pair(job.id, pair.number, pair.trials[1].number)
        return control_plane.get(job.id).state.is_terminal

    wait_until(has_ended, "the search ends", 400)
    ended = control_plane.get(job.id)
    assert ended.state is State.SUCCEEDED, "".join(control_plane.logs(job.id))
    rows = services.folder(job.id).trials()
    assert list(rows) == list(range(4))
    scores = {trial: row.metrics["human/score"] for trial, row in rows.items()}
    best = max(scores, key=lambda trial: scores[trial])
    assert best != 0, "the newer one was always the better one"
    assert ended.metrics is not None
    assert (ended.metrics["best_trial"], ended.metrics["human/score"]) == (best, scores[best])
    assert ended.promotion is not None
    assert ended.promotion.reason.endswith("chosen among trials by people, in 4 comparisons of film strips")
    children = trial_runs(services.tracking, run_id_of(ended.mlflow_url))
    assert sorted(child.data.metrics["human/score"] for child in children) == sorted(scores.values())
    promoted = control_plane.promote_trial(job.id, 0, why="it is smoother", owner="ada")
    assert promoted.versions[0].job_id == job.id
    assert promoted.champion == promoted.versions[0].version
