"""Proposals to Ray Tune, and what it is told, with the cluster left out."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Outcome, Result, TrialState, Want
from jobs.driver import DriverContext
from jobs.specs import TrainSpec, TuneSpec
from jobs.tuning import tune_adapters
from jobs.tuning.trials import trial_spec
from jobs.tuning.tune_adapters import Proposals, control_stopper, scheduler, searcher, table_callback
from tests.unit.jobs.tuning.fake_driver import evaluate, table_of


@pytest.fixture
def context(folder: JobFolder, cache_dir: Path) -> DriverContext:
    return DriverContext(folder, folder.attempt(1), cache_dir, None, None, None)


def _proposals(context: DriverContext, spec: TuneSpec) -> Proposals:
    return Proposals(context, spec, table_of(spec, context.folder))


def test_each_trial_is_proposed_once_with_its_folder(context: DriverContext, tune_spec: TuneSpec) -> None:
    spec = tune_spec.model_copy(update={"seeds": 2})
    proposals = _proposals(context, spec)
    runs = [proposals.next() for _ in range(3)]
    assert proposals.next() is None
    for trial, run in enumerate(runs):
        assert run is not None
        assert (run.task.folder, run.seeds, run.task.tests) == (context.folder.trial(trial).path, 2, False)
        first = context.folder.trial(trial).read_spec()
        second = JobFolder(context.folder.trial(trial).path / "seeds" / "1").read_spec()
        assert isinstance(first, TrainSpec)
        assert isinstance(second, TrainSpec)
        assert (first.seed, second.seed) == (spec.base.seed, spec.base.seed + 1)
        assert first.loss.alpha_mseot == proposals.table.rows[trial].params["loss.alpha_mseot"]
    # What an attempt left open comes first in the next one.
    context.folder.trial(1).attempt(1).write_result(Result(outcome=Outcome.PAUSED))
    again = _proposals(context, spec)
    assert [int(run.task.folder.name) for _ in range(3) if (run := again.next())] == [0, 1, 2]


@pytest.mark.parametrize("control", [Control(attempt=1, want=Want.PAUSE), Control(attempt=2)])
def test_nothing_is_proposed_once_the_search_is_to_stop(
    context: DriverContext, tune_spec: TuneSpec, control: Control
) -> None:
    proposals = _proposals(context, tune_spec)
    context.folder.write_control(control)
    assert proposals.next() is None
    assert len(proposals.table.rows) == 0


def test_values_that_the_config_refuses_end_their_trial_alone(
    context: DriverContext, tune_spec: TuneSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trial_spec
    calls: list[int] = []

    def refuse_first(spec: TuneSpec, params: Any) -> TrainSpec:
        calls.append(1)
        return made(spec, params | {"loss.alpha_mseot": -1.0} if len(calls) == 1 else params)

    monkeypatch.setattr(tune_adapters, "trial_spec", refuse_first)
    proposals = _proposals(context, tune_spec)
    run = proposals.next()
    assert run is not None
    assert run.task.folder.name == "1"
    row = proposals.table.rows[0]
    assert row.state is TrialState.FAILED
    assert str(row.message).startswith("the config refuses these values together: ")


def _checkpoint(folder: JobFolder) -> None:
    evaluate(JobFolder(folder.path.parent.parent), int(folder.path.name), 1.0, 0.1)
    path = folder.attempt(1).checkpoints / "4"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_text("weights")


def test_a_copy_begins_with_its_parents_model(context: DriverContext, tune_spec: TuneSpec) -> None:
    fields = tune_spec.model_dump(mode="json") | {
        "scheduler": "pbt",
        "space": {"alpha_mseot": {"low": 1, "high": 9}},
        "population": 2,
    }
    spec = TuneSpec.model_validate(fields)
    proposals = _proposals(context, spec)
    for value, trial in ((0.1, 0), (0.9, 1)):
        run = proposals.next()
        assert run is not None
        assert run.task.other_settings
        if trial == 0:
            _checkpoint(context.folder.trial(0))
        else:
            evaluate(context.folder, 1, 1.0, value)
    # There is no copy to make yet.
    assert proposals.next() is None
    stops = scheduler(proposals.table)
    told = [stops.on_trial_result(None, _tune_trial(context, trial), {}) for trial in (0, 1)]
    assert told == [FIFOScheduler.CONTINUE, FIFOScheduler.STOP]
    copy = proposals.next()
    assert copy is not None
    folder = context.folder.trial(2)
    assert (folder.attempt(0).checkpoints / "4" / "model.safetensors").read_text() == "weights"
    assert proposals.table.rows[2].parent == 0


def _tune_trial(context: DriverContext, trial: int) -> Any:
    task = SimpleNamespace(folder=context.folder.trial(trial).path)
    return SimpleNamespace(config={"run": SimpleNamespace(task=task)})


def test_tune_is_told_when_there_is_nothing_left(context: DriverContext, tune_spec: TuneSpec, tmp_path: Path) -> None:
    proposals = _proposals(context, tune_spec)
    asked = searcher(proposals)
    assert asked.set_search_properties(None, None, {})
    runs = [asked.suggest(f"id{number}")["run"] for number in range(3)]
    assert [run.task.folder.name for run in runs] == ["0", "1", "2"]
    assert asked.suggest("id3") == Searcher.FINISHED
    ends = table_callback(proposals.table)
    evaluate(context.folder, 0, 3.0, 0.5)
    ends.on_trial_complete(trial=_tune_trial(context, 0))
    ends.on_trial_error(trial=_tune_trial(context, 1))
    assert [proposals.table.rows[trial].state for trial in (0, 1)] == [TrialState.SUCCEEDED, TrialState.FAILED]
    assert proposals.table.rows[1].message == "the trial lost its process too often"
    # Tune saves its own state; of ours there is nothing in it.
    stops = control_stopper(context, proposals.table)
    for each in (asked, scheduler(proposals.table), ends, stops):
        assert pickle.loads(pickle.dumps(each)) == {}
    asked.save(str(tmp_path / "state"))
    assert (tmp_path / "state").read_bytes() == b""
    assert not stops.stop_all()
    context.folder.write_control(Control(attempt=1, want=Want.CANCEL))
    assert not stops.stop_all(), "trial 2 still runs"
    ends.on_trial_complete(trial=_tune_trial(context, 2))
    assert stops.stop_all()
