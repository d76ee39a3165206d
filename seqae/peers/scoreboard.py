"""Scoreboard: every method on every set of scenes, as a table, lines of JSON, and pictures."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from seqae.compute.cpu_threads import set_threads
from seqae.data.cache import Dataset, load_data
from seqae.errors import Error
from seqae.evaluation.scores import Score
from seqae.peers.pictures import Shown, draw_curves, draw_segments
from seqae.peers.runs import GOOD_ARI, Budget, Point, Result, Run
from seqae.peers.settings import MethodName, SceneSet, config_of, make_method

__all__ = ["HEADER", "Places", "Selection", "fill", "table", "table_row"]

_COLUMNS = (
    *("scenes", "method", "iterations", "minutes", "FG-ARI", "best on val", f"min. to {GOOD_ARI}"),
    *("mIoU", "mBO", "counts", "MSE"),
)
HEADER = f"| {' | '.join(_COLUMNS)} |\n|{' --- |' * len(_COLUMNS)}"
"""Head of the table in Markdown."""

_PICTURED = 4  # scenes


@dataclass(frozen=True)
class Selection:
    """What is compared, and how."""

    scenes: tuple[SceneSet, ...]
    methods: tuple[MethodName, ...]
    budget: Budget
    seed: int = 0
    threads: int = 1
    digits: Literal["mnist", "bundled"] = "mnist"


@dataclass(frozen=True)
class Places:
    """Folders."""

    out: Path
    """results.jsonl, and for each set of scenes NAME-segments.png and NAME-curves.png."""
    cache_dir: Path
    data_dir: Path | None = None


def fill(selection: Selection, places: Places, report: Callable[[str], None]) -> list[Result]:
    """Runs all methods on all scenes, one after the other, and writes each result as soon as it is known.

    Args:
        selection: what is compared.
        places: where data is found and results go.
        report: called with a line for each evaluation and each result.

    Raises:
        DataError: scenes can't be made.
        Error: the folder of results can't be written.
    """
    set_threads(selection.threads)
    try:
        places.out.mkdir(parents=True, exist_ok=True)
        log = (places.out / "results.jsonl").open("a")
    except OSError as error:
        raise Error(f"{error.filename}: {error.strerror}") from error
    results = []
    with log:
        for scenes in selection.scenes:
            found, shown = _compare_on(scenes, selection, places, report, partial(print, file=log, flush=True))
            results += found
            draw_curves(found).save(places.out / f"{scenes}-curves.png")
            if shown is not None:
                draw_segments(shown).save(places.out / f"{scenes}-segments.png")
    return results


def _compare_on(
    scenes: SceneSet,
    selection: Selection,
    places: Places,
    report: Callable[[str], None],
    write: Callable[[str], None],
) -> tuple[list[Result], Shown | None]:
    """All methods on one set of scenes, and what they make of the first scenes of `test`."""
    config = config_of(scenes, MethodName.OURS, selection.seed, selection.digits)
    data: Dataset = load_data(config.data, config.model, places.cache_dir, places.data_dir)
    some = data.test.first(_PICTURED)
    results: list[Result] = []
    shown = Shown(some, {})
    for name in selection.methods:
        own = config_of(scenes, name, selection.seed, selection.digits)
        run = Run(name, scenes, own, data, partial(make_method, name, own, data), selection.budget)
        result = run.perform(partial(_report_point, report, scenes, name))
        if run.method is not None and result.failed is None:
            shown.owners[name] = run.method.segment(some.images).owners
        write(json.dumps(result.line()))
        report(table_row(result))
        results.append(result)
    return results, shown if shown.owners else None


def _report_point(report: Callable[[str], None], scenes: SceneSet, name: MethodName, point: Point) -> None:
    report(f"{scenes}, {name}: {point.iteration:,} iterations, {point.minutes:.2f} min, FG-ARI {point.fg_ari:.3f}")


def table(results: Sequence[Result]) -> str:
    """The scoreboard in Markdown."""
    return "\n".join([HEADER, *map(table_row, results)])


def table_row(result: Result) -> str:
    """One row; a method that failed has its reason in place of scores."""
    name = f"{result.method} (**failed**: {result.failed})" if result.failed else str(result.method)
    trained = result.method.learns
    scores = [_cell(result.scores.get(each)) for each in ("fg_ari", "miou", "mbo", "counts")]
    cells = [
        result.scenes,
        name,
        f"{result.iterations:,}" if trained else "-",
        f"{result.minutes:.1f}" if trained else "-",
        scores[0],
        "-" if result.best is None else f"{result.best:.3f}",
        _until(result.minutes_to_good) if trained else "-",
        *scores[1:],
        "-" if result.mse is None else f"{result.mse:.4f}",
    ]
    return f"| {' | '.join(cells)} |"


def _until(minutes: float | None) -> str:
    return "never" if minutes is None else f"{minutes:.1f}"


def _cell(score: Score | None) -> str:
    if score is None:
        return "-"
    return f"{score.mean:.3f}" + ("" if score.standard_error is None else f" +- {score.standard_error:.3f}")
