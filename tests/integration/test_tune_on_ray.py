"""Searches on a real cluster, undisturbed and with the driver killed."""

import os
import signal
from typing import Any

import psutil
import pytest

from jobs.directory.records import Outcome, TrialRow
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
def test_a_search_whose_driver_is_killed_goes_on_where_it_was(services: Services, tiny: dict[str, Any]) -> None:
    base = tiny | {"schedule": tiny["schedule"] | {"epochs": 40}}
    space = {"alpha_mseot": {"low": 0.1, "high": 100}}
    spec = {"kind": "tune", "name": "search", "base": base, "space": space, "trials": 4, "grace_epochs": 5}
    job = services.job("job_search_killed", spec)
    job.start()

    def rows() -> list[TrialRow]:
        return list(job.folder.trials().values())

    job.wait_for(lambda: any(row.is_over for row in rows()) and any(row.state == "running" for row in rows()))
    over = {row.trial: row for row in rows() if row.is_over}
    os.kill(_driver_of(job.id).pid, signal.SIGKILL)
    job.wait()
    assert job.folder.attempt(1).read_result() is None
    job.start(attempt=2)
    job.wait(attempt=2)
    result = job.folder.attempt(2).read_result()
    assert result is not None, job.log(attempt=2)
    assert result.outcome is Outcome.SUCCEEDED, result.error
    assert all(row.is_over for row in rows())
    for trial, row in over.items():
        # It was over: it did not train again.
        assert job.folder.trials()[trial].epoch == row.epoch
        assert [attempt.number for attempt in job.folder.trial(trial).attempts()] == [1]
    services.tracking.ship(job.folder.path, job.run.run_id)
    curves = _trial_curves(services, job.run.run_id)
    assert sorted(curves) == [f"trial {trial}" for trial in range(4)]
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
    assert _trial_curves(services, job.run.run_id) == {"trial 0": [20, 40], "trial 1": [20, 40]}
    assert services.actors() == []
