"""The scoreboard: its files, its table, and its pictures."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from seqae.config import TrainConfig
from seqae.data.scenes import Scenes
from seqae.errors import Error
from seqae.evaluation.scores import Score
from seqae.peers import scoreboard
from seqae.peers.pictures import Shown, draw_curves, draw_segments
from seqae.peers.runs import Budget, Point, Result
from seqae.peers.scoreboard import HEADER, Places, Selection, fill, table, table_row
from seqae.peers.settings import MethodName, SceneSet, config_of
from seqae.rendering.panels import STEP_COLOURS


def _result(method: MethodName = MethodName.OURS, failed: str | None = None) -> Result:
    result = Result(SceneSet.MNIST, method, 0, "digits", Budget(), iterations=1200, minutes=2.0, failed=failed)
    result.points = [Point(10, 0.25, 0.5, 0.1), Point(100, 1.25, 0.96, 0.1), Point(1200, 2.0, 0.955, 0.1)]
    if failed is None:
        result.scores = {name: Score(0.954, 0.002) for name in ("fg_ari", "miou", "mbo", "counts")}
        result.mse = 0.01234
    return result


def test_a_row_has_the_scores_with_their_errors() -> None:
    ours = table_row(_result())
    assert ours == (
        "| mnist | ours | 1,200 | 2.0 | 0.954 +- 0.002 | 0.960 | 1.2 | 0.954 +- 0.002 | 0.954 +- 0.002 "
        "| 0.954 +- 0.002 | 0.0123 |"
    )
    assert HEADER.count("|") == 2 * ours.count("|")
    assert table([_result()]) == f"{HEADER}\n{ours}"


def test_a_failed_method_has_its_reason_and_no_scores() -> None:
    assert table_row(_result(failed="DivergedError: nan")) == (
        "| mnist | ours (**failed**: DivergedError: nan) | 1,200 | 2.0 | - | 0.960 | 1.2 | - | - | - | - |"
    )


def test_what_learns_nothing_has_no_minutes() -> None:
    assert table_row(_result(MethodName.KMEANS)).startswith("| mnist | kmeans | - | - | 0.954 +- 0.002 | 0.960 | - |")


def test_segments_are_shown_in_their_colours() -> None:
    masks = np.zeros((2, 8, 8), np.uint8)
    masks[:, 2:6, 2:6] = 1
    scenes = Scenes(np.zeros((2, 1, 8, 8), np.uint8), masks, masks > 1, counts=np.ones(2, np.int64))
    one = np.asarray(draw_segments(Shown(scenes, {MethodName.OURS: masks * 2})))
    two = draw_segments(Shown(scenes, {MethodName.OURS: masks * 2, MethodName.AIR: masks}))
    colours = {tuple(colour) for colour in one.reshape(-1, 3).tolist()}
    wanted = [tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5)) for colour in STEP_COLOURS]
    assert {wanted[0], wanted[1]} <= colours
    assert two.width > one.shape[1]
    with pytest.raises(ValueError, match="no masks"):
        draw_segments(Shown(Scenes(scenes.images), {}))


def test_curves_are_drawn_of_whatever_was_reached() -> None:
    failed = _result(failed="at once")
    failed.points = []
    empty = np.asarray(draw_curves([failed]))
    drawn = np.asarray(draw_curves([_result(), _result(MethodName.KMEANS), failed]))
    assert drawn.shape == empty.shape
    assert (drawn != empty).any()


@pytest.mark.parametrize("learner", [MethodName.DRAW])
def test_results_are_kept_line_by_line_beside_pictures(
    learner: MethodName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoreboard, "set_threads", lambda _: None)  # the tests' own number stays
    _few_scenes(monkeypatch)
    budget = Budget(iterations=2, evaluations=1, val_scenes=4, test_scenes=5)
    selection = Selection((SceneSet.AIR_SETTING,), (learner, MethodName.COMPONENTS), budget, digits="bundled")
    said: list[str] = []
    places = Places(tmp_path / "out", tmp_path / "cache")
    results = fill(selection, places, said.append)
    fill(selection, places, said.append)
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["method"] for line in lines] == ["draw", "components"] * 2, "later results are appended"
    assert lines[0]["iterations"] == 2
    assert lines[0]["machine"]["cpu"]
    assert lines[0]["scores"]["fg_ari"]["mean"] == pytest.approx(results[0].scores["fg_ari"].mean)
    assert any(line.startswith("air-setting, draw: 2 iterations") for line in said)
    for name in ("segments", "curves"):
        with Image.open(tmp_path / "out" / f"air-setting-{name}.png") as image:
            assert np.ptp(np.asarray(image)) > 100


def _few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(
        scenes: SceneSet, method: MethodName, seed: int, digits: Literal["mnist", "bundled"] = "mnist"
    ) -> TrainConfig:
        config = config_of(scenes, method, seed, digits)
        data = config.data.model_copy(update={"train_scenes": 30, "val_scenes": 6, "test_scenes": 6})
        return config.model_copy(update={"data": data})

    monkeypatch.setattr(scoreboard, "config_of", few)


def test_a_folder_that_can_not_be_written_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoreboard, "set_threads", lambda _: None)
    (tmp_path / "file").write_text("")
    with pytest.raises(Error, match="file"):
        fill(Selection((), (), Budget()), Places(tmp_path / "file", tmp_path), print)
