"""Promotion rule: whether a new version of a registered model becomes its champion.

One objective decides, the same that a search minimises: the error share (mean squared error / that of an empty canvas)
plus 1 - FG-ARI, after looking again, where the images have masks. Both models are scored on the same test images by the
same rule, image by image, and the challenger must be better by more than the standard error of the difference.
"""

import math
from collections.abc import Mapping
from statistics import fmean, stdev

from pydantic import ConfigDict, Field

from jobs.directory.records import EvaluationReport, PerImageScores
from seqae.config import Config
from seqae.evaluation.names import is_main

__all__ = ["Champion", "Promotion", "decide"]

_FEWEST_IMAGES = 2
_FIRST = "the first version of this model"
_BY_HAND = "`seqae promote` makes it the champion by hand"
_BETTER_BY = "by more than the standard error of the difference between images"


class Champion(Config):
    """The present champion, as far as it is known to the rule."""

    name: str
    version: str
    run_id: str
    report: EvaluationReport | None = None
    """Its own evaluation; None where it was registered by an older release."""

    @property
    def label(self) -> str:
        """Name and version, as people write them."""
        return f"{self.name}/{self.version}"


class Promotion(Config):
    """The decision on a new version, and why."""

    model_config = ConfigDict(extra="ignore")

    promoted: bool
    reason: str
    against: str | None = None
    """The champion that it was compared with, as NAME/VERSION."""
    scores: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Test metrics of `challenger` and `champion` on the same images; on the champion's own images too, where they
    differ, as `challenger_on_its_images` and `champion_on_its_images`; `difference` has the mean and its standard
    error."""


def decide(challenger: EvaluationReport | None, champion: Champion | None) -> Promotion:
    """Applies the rule, also where people chose the challenger among others; then the reason says so.

    Args:
        challenger: the report of the run that ends; None where an older release ended it.
        champion: the version that has the alias now; None where there is none, or none of ours.
    """
    decision = _decide(challenger, champion)
    if challenger is None or challenger.chosen_by is None:
        return decision
    return decision.model_copy(update={"reason": f"{decision.reason}; chosen among trials by {challenger.chosen_by}"})


def _decide(challenger: EvaluationReport | None, champion: Champion | None) -> Promotion:
    if challenger is None:
        if champion is None:
            return Promotion(promoted=True, reason=_FIRST)
        reason = f"not compared with {champion.label}: an older release ended the job, without a test; {_BY_HAND}"
        return Promotion(promoted=False, reason=reason, against=champion.label)
    own = challenger.scores
    if champion is None:
        return Promotion(promoted=True, reason=_FIRST, scores={"challenger": _main_scores(own.metrics)})
    other, missing = _scores_of(challenger, champion)
    scores = {"challenger": _main_scores(own.metrics)} | _on_its_images(challenger, champion)
    if other is None:
        reason = f"not compared with {champion.label}: {missing}; {_BY_HAND}"
        return Promotion(promoted=False, reason=reason, against=champion.label, scores=scores)
    gained, error = _mean_and_standard_error(_differences(own, other))
    scores |= {"champion": _main_scores(other.metrics), "difference": {"mean": gained, "standard_error": error}}
    promoted = gained > error
    words = "better than" if promoted else "not better than"
    way = "lower" if gained >= 0 else "higher"
    reason = f"{words} {champion.label} {_BETTER_BY}: objective {way} by {abs(gained):.4g} +- {error:.2g}"
    return Promotion(promoted=promoted, reason=reason, against=champion.label, scores=scores)


def _scores_of(challenger: EvaluationReport, champion: Champion) -> tuple[PerImageScores | None, str]:
    """The champion's scores on the challenger's test images, by the same rule, or why there are none."""
    if len(challenger.scores.mse) < _FEWEST_IMAGES:
        return None, "one test image says nothing about the error of the difference"
    known = champion.report
    if known is not None and known.is_comparable(challenger):
        same = len(known.scores.mse) == len(challenger.scores.mse)
        return (known.scores, "") if same else (None, "another number of these images was used")
    against = challenger.against
    if against is None:
        how = "on other images" if _other_images(challenger, known) else "by the rule of another release"
        return None, f"it was tested {how}, and the registry did not answer when the job ended"
    if (against.name, against.version, against.run_id) != (champion.name, champion.version, champion.run_id):
        return None, "it became the champion while the job ended"
    return against.champion, against.note or "it could not be evaluated on these images"


def _other_images(challenger: EvaluationReport, known: EvaluationReport | None) -> bool:
    return known is None or known.test_checksum != challenger.test_checksum


def _on_its_images(challenger: EvaluationReport, champion: Champion) -> dict[str, dict[str, float]]:
    against = challenger.against
    if against is None or against.run_id != champion.run_id:
        return {}
    return {f"{who}_on_its_images": _main_scores(metrics) for who, metrics in against.on_its_images.items()}


def _main_scores(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that a decision is kept with: a version's tag has no room for all."""
    return {name: value for name, value in metrics.items() if is_main(name)}


def _differences(challenger: PerImageScores, champion: PerImageScores) -> list[float]:
    """By how much the champion's objective is higher, image by image; their mean is the difference of the objectives.

    FG-ARI is a mean over the images that have one, so it counts for more in each of these.
    """
    empty = max(challenger.metrics["test/empty_mse"], 1e-12)
    pairs = list(zip(challenger.fg_ari, champion.fg_ari, strict=True))
    weight = len(pairs) / max(1, sum(None not in pair for pair in pairs))
    gains = [0.0 if own is None or other is None else weight * (own - other) for own, other in pairs]
    shares = [(other - own) / empty for own, other in zip(challenger.mse, champion.mse, strict=True)]
    return [share + gain for share, gain in zip(shares, gains, strict=True)]


def _mean_and_standard_error(values: list[float]) -> tuple[float, float]:
    return fmean(values), stdev(values) / math.sqrt(len(values))
