"""Retraining of a search's winner: its settings, its folder, and how it ends; the workers are the test's."""

from pathlib import Path

import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import Control, Outcome, Phase, Result, TrialRow, TrialState, Want
from jobs.driver import DriverContext
from jobs.search.settings import Retrain
from jobs.specs import ScalingConfig, TrainSpec, TuneSpec
from jobs.training.worker import DistributedContext, TrainingTask, train
from jobs.tuning import retraining
from jobs.tuning.retraining import retrain, retrained_folder, retrained_spec

BEST = TrialRow(trial=2, state=TrialState.STOPPED, params={"loss.alpha_mseot": 2.5, "model.coder.bottleneck": 8})


@pytest.fixture
def search(tune_spec: TuneSpec) -> TuneSpec:
    return tune_spec.model_copy(update={"retrain": Retrain(epochs=2, seed=7)})


@pytest.fixture
def context(folder: JobFolder, cache_dir: Path) -> DriverContext:
    return DriverContext(folder, folder.attempt(1), cache_dir, None, None, None)


def _fit_here(task: TrainingTask, scaling: ScalingConfig) -> Result:
    assert scaling == ScalingConfig()
    return train(task, DistributedContext())


def test_it_has_the_winners_settings_and_a_budget_of_its_own(search: TuneSpec) -> None:
    spec = retrained_spec(search, BEST)
    assert (spec.loss.alpha_mseot, spec.model.coder.bottleneck) == (2.5, 8)
    assert (spec.schedule.epochs, spec.seed) == (2, 7)
    same_seed = search.model_copy(update={"retrain": Retrain(epochs=2)})
    assert retrained_spec(same_seed, BEST).seed == search.base.seed
    with pytest.raises(ValueError, match="no retraining"):
        retrained_spec(search.model_copy(update={"retrain": None}), BEST)


def test_the_winner_is_trained_from_its_start_in_a_folder_of_its_own(
    context: DriverContext, search: TuneSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retraining, "fit", _fit_here)
    phases: list[Phase] = []
    assert retrain(context, search, BEST, phases.append) is None
    folder = retrained_folder(context.folder)
    spec = folder.read_spec()
    assert isinstance(spec, TrainSpec)
    assert spec == retrained_spec(search, BEST)
    # 32 images in batches of 8, twice.
    assert folder.attempt(1).checkpoint_steps()[-1] == 8
    assert set(phases) <= {Phase.FINALIZING}
    assert [(note.kind, note.text) for note in context.attempt.notes()] == [
        ("retraining", "the settings of trial 2, for 2 epochs")
    ]


@pytest.mark.parametrize(("want", "outcome"), [(Want.PAUSE, Outcome.PAUSED), (Want.CANCEL, Outcome.CANCELLED)])
def test_it_obeys_the_search(
    context: DriverContext, search: TuneSpec, monkeypatch: pytest.MonkeyPatch, want: Want, outcome: Outcome
) -> None:
    monkeypatch.setattr(retraining, "fit", _fit_here)
    context.folder.write_control(Control(attempt=1, want=want))
    assert retrain(context, search, BEST, lambda _: None) is outcome
    if want is Want.PAUSE:
        # And goes on from there.
        context.folder.write_control(Control(attempt=1))
        assert retrain(context, search, BEST, lambda _: None) is None
        notes = [note.text for note in retrained_folder(context.folder).attempt(1).notes() if note.kind == "resumed"]
        assert notes == ["from iteration 1 of 8"]
