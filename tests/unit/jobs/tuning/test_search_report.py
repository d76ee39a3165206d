"""What a search says of its winner, and its figures, on trials without a cluster."""

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.directory.layout import JobFolder
from jobs.directory.records import SearchReport, TrialState
from jobs.search.space import Params
from jobs.specs import TuneSpec
from jobs.tuning.search_report import comparable, importances, write_search_report
from jobs.tuning.study import SearchStudy
from tests.tiny import TINY
from tests.unit.jobs.tuning.fake_driver import drive


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def _spec(**fields: Any) -> TuneSpec:
    space = {
        "alpha_mseot": {"low": 0.1, "high": 10},
        "schedule.learning_rate": {"kind": "loguniform", "low": 1e-4, "high": 1e-2},
        "model.localizer.kind": {"kind": "choice", "values": ["seeker", "small"]},
    }
    return TuneSpec.model_validate({"kind": "tune", "name": "s", "base": TINY, "space": space, "trials": 14} | fields)


def _curve(params: Params, epoch: float) -> float:
    """The learning rate decides nothing, the localizer little."""
    penalty = 0.02 if params["model.localizer.kind"] == "small" else 0
    return abs(float(params["loss.alpha_mseot"]) - 3) / 10 + penalty + 1 / (1 + epoch)


def _report(folder: JobFolder, spec: TuneSpec) -> SearchReport:
    table = drive(spec, folder, _curve)
    best = table.winner()
    assert best is not None
    study = SearchStudy(spec, folder)
    write_search_report(folder.attempt(1), spec, table.rows, best, study)
    report = folder.attempt(1).read_search_report()
    assert report is not None
    return report


def test_the_report_says_by_which_parameters_the_winner_won(tmp_path: Path) -> None:
    folder, spec = JobFolder(tmp_path / "job_1"), _spec()
    report = _report(folder, spec)
    rows = folder.trials()
    best = min((row for row in rows.values() if row.state.has_model), key=lambda row: row.metrics["val/objective"])
    assert (report.best_trial, report.front) == (best.trial, [best.trial])
    assert next(iter(report.importances)) == "loss.alpha_mseot"
    assert report.importances["loss.alpha_mseot"] > 0.5
    assert sum(report.importances.values()) == pytest.approx(1)
    told = " ".join(report.why)
    assert f"Trial {best.trial} of 14 is the best: val/objective {best.metrics['val/objective']:.4g}." in told
    stopped = sum(row.state is TrialState.STOPPED for row in rows.values())
    assert f"{stopped} were stopped early by asha." in told
    assert f"loss.alpha_mseot = {best.params['loss.alpha_mseot']:.4g} explains" in told
    assert "Compared at epoch 1, which all 14 reached:" in told
    for name in ("best-so-far", "parallel-coordinates", "importance", "slices"):
        with Image.open(folder.attempt(1).artifacts / f"search-{name}.png") as image:
            assert min(image.size) > 300
    assert folder.attempt(1).notes() == []


def test_trials_are_compared_at_an_epoch_that_all_have_reached(tmp_path: Path) -> None:
    folder, spec = JobFolder(tmp_path / "job_1"), _spec()
    table = drive(spec, folder, _curve)
    assert {row.epoch for row in table.rows.values()} == {1.0, 3.0}
    compared = comparable(spec, table.rows, SearchStudy(spec, folder)).get_trials()
    for trial, row in zip(compared, table.rows.values(), strict=True):
        assert trial.values == pytest.approx([_curve(row.params, 1.0)])


def test_a_front_is_drawn_and_its_knee_explained(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job_1")
    report = _report(folder, _spec(objectives=["val/mse", "val/fg_ari"], trials=6))
    assert report.best_trial in report.front
    assert "is the knee of the front" in report.why[0]
    assert (folder.attempt(1).artifacts / "search-pareto-front.png").is_file()


def test_too_few_trials_say_little_and_fail_nothing(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path / "job_1")
    report = _report(folder, _spec(trials=1, constraints=["val/miou >= 0.5"]))
    assert report.importances == {}
    assert "No trial meets all constraints." in report.why
    assert report.why[-1] == "There are too few trials to say by which parameters."
    notes = [note.text for note in folder.attempt(1).notes()]
    assert len(notes) == 3
    assert all("too few trials" in text for text in notes)


def test_equal_trials_have_no_importance(tmp_path: Path) -> None:
    folder, spec = JobFolder(tmp_path / "job_1"), _spec(trials=5, scheduler="none")
    table = drive(spec, folder, lambda _params, _epoch: 0.5)
    found = importances(comparable(spec, table.rows, SearchStudy(spec, folder)))
    assert all(share == share for share in found.values())
