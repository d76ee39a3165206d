"""Figures of a search: best value so far, parallel coordinates, importance of parameters, slices, Pareto front."""

import io
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import optuna

from jobs.directory.files import write_atomically
from jobs.directory.layout import AttemptFolder
from jobs.directory.records import TrialRow
from jobs.specs import TuneSpec

__all__ = ["write_figures"]

logger = logging.getLogger(__name__)

_DPI = 120
_FEWEST = 2
"""Trials that a figure needs."""

_FAILURES = (ValueError, TypeError, RuntimeError, LookupError, ArithmeticError, OSError, AttributeError)
"""What few, equal or odd trials make a plot fail with."""


def write_figures(
    attempt: AttemptFolder, spec: TuneSpec, rows: Mapping[int, TrialRow], compared: optuna.Study
) -> dict[str, str]:
    """Writes the figures as PNG files among the attempt's artifacts.

    Args:
        attempt: of the search.
        spec: the search.
        rows: its trials.
        compared: trials of one budget, see `jobs.tuning.search_report.comparable`.

    Returns:
        Those that could not be made, and why.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as plots

    first = next(iter(spec.goals))
    about: dict[str, Any] = {"target": lambda trial: trial.values[0], "target_name": first}
    makers: dict[str, Callable[[], Any]] = {
        "best-so-far": lambda: _best_so_far(spec, rows),
        "parallel-coordinates": lambda: plots.plot_parallel_coordinate(compared, **about),
        "importance": lambda: _importance(plots, compared, about),
        "slices": lambda: plots.plot_slice(compared, **about),
    }
    if spec.is_by_eye:
        # All scores change with each answer, so none was ever the best so far.
        del makers["best-so-far"]
    if len(spec.goals) in (2, 3):
        makers["pareto-front"] = lambda: plots.plot_pareto_front(compared, target_names=list(spec.goals))
    left_out: dict[str, str] = {}
    for name, make in makers.items():
        if name != "best-so-far" and len(compared.get_trials(deepcopy=False)) < _FEWEST:
            left_out[name] = "too few trials"
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                axes = make()
                figure = (axes.flat[0] if hasattr(axes, "flat") else axes).figure
                stream = io.BytesIO()
                figure.savefig(stream, format="png", dpi=_DPI, bbox_inches="tight")
            write_atomically(attempt.artifacts / f"search-{name}.png", stream.getvalue())
        except _FAILURES as error:
            logger.warning("the figure %s is left out: %s", name, error)
            left_out[name] = f"{type(error).__name__}: {error}"[:300]
        finally:
            pyplot.close("all")
    return left_out


def _importance(plots: Any, compared: optuna.Study, about: dict[str, Any]) -> Any:
    from optuna.importance import FanovaImportanceEvaluator

    return plots.plot_param_importances(compared, evaluator=FanovaImportanceEvaluator(seed=0), **about)


def _best_so_far(spec: TuneSpec, rows: Mapping[int, TrialRow]) -> Any:
    """The best value by the time of a trial's end, and every trial's own."""
    from matplotlib import pyplot

    (name, higher) = next(iter(spec.goals.items()))
    timed = [row for row in rows.values() if row.time is not None and name in row.metrics]
    ended = sorted((row.time or 0.0, row.metrics[name]) for row in timed)
    if not ended:
        raise ValueError("no trial has ended with a value")
    start = min(time for time, _ in ended)
    minutes = [(time - start) / 60 for time, _ in ended]
    values = [value for _, value in ended]
    best = [(max if higher else min)(values[: at + 1]) for at in range(len(values))]
    _, axes = pyplot.subplots(figsize=(6.4, 4.0))
    axes.plot(minutes, values, "o", markersize=4, alpha=0.5, label="trials, at their last evaluation")
    axes.step(minutes, best, where="post", label="best so far")
    axes.set_xlabel("minutes after the end of the first trial")
    axes.set_ylabel(name)
    axes.legend()
    return axes
