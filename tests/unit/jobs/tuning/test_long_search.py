"""A search of many trials: what the driver keeps in memory must not grow with them."""

import os
from pathlib import Path

import psutil
import pytest

from jobs.directory.layout import JobFolder
from jobs.search.space import Params
from jobs.specs import TuneSpec
from tests.unit.jobs.tuning.fake_driver import drive


@pytest.mark.slow
def test_the_drivers_memory_is_flat_over_two_hundred_trials(
    tmp_path: Path, tune_spec: TuneSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    sizes: list[float] = []

    def curve(params: Params, epoch: float) -> float:
        if epoch == 1:
            sizes.append(psutil.Process().memory_info().rss / 1e6)
        return float(params["loss.alpha_mseot"]) + 1 / epoch

    table = drive(tune_spec.model_copy(update={"trials": 200}), JobFolder(tmp_path / "job"), curve, at_once=4)
    assert table.is_whole()
    assert len(sizes) == 200
    # The journal of 200 trials itself takes one or two.
    assert sizes[-1] - sizes[50] < 15
