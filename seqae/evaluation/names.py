"""Names of metrics outside this package: each has the split that it was measured on before it, as in `val/mse`.

Of the scores of segments, the one after looking again, which is what is served, has the name alone: `fg_ari`. The one
before that, by the writes, is `fg_ari_writes`. A standard error is `fg_ari_se` or `fg_ari_writes_se`.

Needs nothing: whatever reads rows, results and manifests of an older release uses `modern`.
"""

import re
from collections.abc import Mapping

from seqae.data.splits import Split
from seqae.evaluation.objective import objective

__all__ = ["before_looks", "is_main", "modern", "modern_row", "of_split", "standard_error_of", "with_split"]

_BEFORE_LOOKS, _STANDARD_ERROR = "_writes", "_se"

_OLD_NAME = re.compile(
    r"test_mse|empty_mse|mse_step_\d+|fg_ari|miou|count_accuracy|purity|completeness|active_share", re.ASCII
)


def modern(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics with the names that they have now, whichever release wrote them.

    Older releases evaluated on `test` alone and left that out: `test_mse` and `fg_ari` become `test/mse` and
    `test/fg_ari`. A name with a split before it stays, and so does one that never was an evaluation's, such as
    `best_trial`. Where both an old and a new name are given, the new one counts.
    """
    renamed = {_modern_name(name): value for name, value in metrics.items()}
    return renamed | {name: value for name, value in metrics.items() if name in renamed}


def modern_row(metrics: Mapping[str, float]) -> dict[str, float]:
    """A row of a record of training, whichever release wrote it, as one of today.

    Older releases evaluated on `test` while they trained, and chose by that. So did whoever reads on: such a row, known
    by its `test/epoch`, becomes one of `val`, with the objective. All other rows stay.
    """
    if "test/epoch" not in metrics:
        return dict(metrics)
    others = {name: value for name, value in metrics.items() if not name.startswith("test/")}
    chosen_by = of_split(metrics, "test")
    if chosen_by.keys() >= {"mse", "empty_mse"}:
        chosen_by["objective"] = objective(chosen_by)
    return others | with_split(chosen_by, "val")


def with_split(metrics: Mapping[str, float], split: Split) -> dict[str, float]:
    """Bare names with their split before them: `mse` as `val/mse`."""
    return {f"{split}/{name}": value for name, value in metrics.items()}


def before_looks(name: str) -> str:
    """The name of a score by the writes alone: `fg_ari` as `fg_ari_writes`."""
    return name + _BEFORE_LOOKS


def standard_error_of(name: str) -> str:
    """The name of a score's standard error: `fg_ari` as `fg_ari_se`."""
    return name + _STANDARD_ERROR


def is_main(name: str) -> bool:
    """Whether this names a score of what is served: neither one before the looks nor a standard error."""
    return not name.endswith((_BEFORE_LOOKS, _STANDARD_ERROR))


def of_split(metrics: Mapping[str, float], split: Split) -> dict[str, float]:
    """Metrics of one split under their bare names: `val/mse` as `mse`. Those of other splits are left out."""
    start = f"{split}/"
    return {name.removeprefix(start): value for name, value in metrics.items() if name.startswith(start)}


def _modern_name(name: str) -> str:
    return f"test/{name.removeprefix('test_')}" if _OLD_NAME.fullmatch(name) else name
