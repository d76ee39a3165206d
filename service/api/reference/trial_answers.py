"""Examples of answers about a search's trials, made of the wire models themselves; a test validates each."""

from datetime import UTC, datetime
from typing import Any

from service.schemas.trials import Comparison, PairPage, PairTrialView, PairView, SearchView, TrialPage, TrialView

__all__ = ["trial_answers"]

_AT = datetime(2026, 11, 25, 9, 50, tzinfo=UTC)


def trial_answers() -> dict[str, tuple[str, Any]]:
    """By name: a line that says what it is, and the answer."""
    ended = SearchView(
        best_trial=0,
        front=(0,),
        objectives={"val/objective": "minimize"},
        trials={"stopped": 1, "succeeded": 1},
        importances={"loss.alpha_mseot": 0.7, "model.coder.bottleneck": 0.3},
        why=("Trial 0 of 2 is the best: val/objective 0.1732.", "1 were stopped early by asha."),
        retrained=False,
    )
    begun = SearchView(
        best_trial=None,
        front=(),
        objectives={"val/objective": "minimize"},
        trials={"pending": 8},
        importances={},
        why=(),
        retrained=False,
    )
    first = _trial(0, "succeeded", 0.1732, None)
    second = _trial(1, "stopped", 0.4101, "stopped by asha at epoch 1 with val/objective 0.4101")
    return {
        "trials": ("A search that has ended", TrialPage(items=(first, second), next_after=None, search=ended)),
        "trials_none": ("A search that has just begun", TrialPage(items=(), next_after=None, search=begun)),
        "trial": ("A trial that trained to its end", first.model_copy(update={"frames": (0, 200, 400)})),
        "pairs": ("A pair to compare", PairPage(items=(_pair(),), answered=5, comparisons=24, missing=2)),
        "pairs_none": ("Nothing is to be compared now", PairPage(items=(), answered=24, comparisons=24, missing=0)),
        "better_first": ("Trial 3", Comparison(better=3)),
        "better_second": ("Trial 7", Comparison(better=7)),
        "better_equal": ("No difference", Comparison(better="equal")),
        "trial_stopped": ("A trial that was stopped early", second.model_copy(update={"frames": (0, 200)})),
    }


def _pair() -> PairView:
    def trial(number: int) -> PairTrialView:
        params: dict[str, bool | int | float | str] = {"loss.alpha_mseot": 12.5 + number}
        picture = f"/jobs/job_4f7k2m9q1x3z/trials/{number}/frames/400"
        return PairTrialView(number=number, params=params, picture=picture)

    return PairView(number=24, trials=(trial(3), trial(7)))


def _trial(number: int, state: str, objective: float, reason: str | None) -> TrialView:
    return TrialView(
        number=number,
        state=state,
        params={"loss.alpha_mseot": 12.5 + number, "model.coder.bottleneck": 256},
        metrics={"val/objective": objective, "val/mse": objective / 50, "val/fg_ari": 0.93},
        standard_errors={},
        epoch=4.0 if reason is None else 1.0,
        reason=reason,
        parent=None,
        meets_constraints=True,
        updated_at=_AT,
    )
