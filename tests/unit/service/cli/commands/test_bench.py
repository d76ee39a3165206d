"""`seqae bench`, without a stack."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from seqae.errors import Error
from seqae.peers import scoreboard
from seqae.peers.runs import Result as Row
from seqae.peers.scoreboard import Places, Selection
from seqae.peers.settings import MethodName, SceneSet
from service.cli.main import app


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Selection, Places]]:
    """What the scoreboard was asked for; nothing is trained."""
    calls: list[tuple[Selection, Places]] = []

    def fill(selection: Selection, places: Places, report: object) -> list[Row]:
        calls.append((selection, places))
        return [Row(scenes, MethodName.OURS, 0, "", selection.budget) for scenes in selection.scenes]

    monkeypatch.setattr(scoreboard, "fill", fill)
    return calls


def run(*arguments: str | Path) -> Result:
    """Runs the verb; errors of ours are raised, as `main` would find them."""
    result = CliRunner().invoke(app, ["bench", *map(str, arguments)])
    if isinstance(result.exception, Error):
        raise result.exception
    return result


def test_all_methods_are_compared_on_five_sets_of_scenes(asked: list[tuple[Selection, Places]]) -> None:
    assert run().exit_code == 0
    selection, places = asked[0]
    assert selection.methods == tuple(MethodName)
    assert selection.scenes == tuple(scenes for scenes in SceneSet if scenes is not SceneSet.AIR_SETTING)
    assert (selection.budget.minutes, selection.budget.iterations, selection.threads) == (30, None, 1)
    assert (selection.digits, places.out) == ("mnist", Path("bench"))


def test_options_choose_what_is_compared(asked: list[tuple[Selection, Places]], tmp_path: Path) -> None:
    given = ("--on", "air-setting, mnist", "--methods", "air,ours,air", "--iterations", "5", "--digits", "bundled")
    result = run(*given, "--home", tmp_path / "home", "--data-dir", tmp_path, "-o", tmp_path / "out", "--seed", "2")
    assert "| air-setting | ours |" in result.output
    assert str(tmp_path / "out" / "results.jsonl") in result.output
    selection, places = asked[0]
    assert selection.scenes == (SceneSet.AIR_SETTING, SceneSet.MNIST)
    assert selection.methods == (MethodName.AIR, MethodName.OURS)
    assert (selection.budget.iterations, selection.seed, selection.digits) == (5, 2, "bundled")
    assert places == Places(tmp_path / "out", tmp_path / "home" / "data", tmp_path)


def test_results_as_json(asked: list[tuple[Selection, Places]]) -> None:
    rows = json.loads(run("--on", "seven", "--json").output)
    assert [(row["scenes"], row["method"], row["best_val_fg_ari"]) for row in rows] == [("seven", "ours", None)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--on", "mnist,moon"), "--on: there is no 'moon'; there are mnist, overlap"),
        (("--methods", "mind"), "--methods: there is no 'mind'"),
        (("--on", ","), "--on: there is no 'name'"),
    ],
)
def test_unknown_names_are_refused(
    arguments: tuple[str, ...], message: str, asked: list[tuple[Selection, Places]]
) -> None:
    with pytest.raises(Error, match=message):
        run(*arguments)
    assert asked == []
