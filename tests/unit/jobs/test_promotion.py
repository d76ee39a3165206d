"""The promotion rule, by hand."""

import math

import pytest

from jobs.directory.records import CrossEvaluation, EvaluationReport
from jobs.promotion import Champion, decide
from tests.reports import make_report, make_scores


def _champion(report: EvaluationReport | None, version: str = "1", run_id: str = "run_1") -> Champion:
    return Champion(name="digits", version=version, run_id=run_id, report=report)


def test_the_first_version_is_promoted() -> None:
    decision = decide(make_report(0.5), None)
    assert (decision.promoted, decision.against) == (True, None)


@pytest.mark.parametrize(
    ("challenger", "champion", "promoted"),
    [
        ([0.1, 0.2, 0.3, 0.4], [0.2, 0.3, 0.4, 0.5], True),
        ([0.2, 0.3, 0.4, 0.5], [0.1, 0.2, 0.3, 0.4], False),
        ([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4], False),
        # Better by 0.025 on average, with a standard error of 0.175.
        ([0.5, 0.1, 0.5, 0.1], [0.1, 0.5, 0.2, 0.5], False),
    ],
)
def test_it_must_be_better_by_more_than_the_standard_error(
    challenger: list[float], champion: list[float], promoted: bool
) -> None:
    decision = decide(make_report(challenger), _champion(make_report(champion)))
    assert decision.promoted is promoted
    assert decision.against == "digits/1"
    assert decision.scores["challenger"]["test/mse"] == pytest.approx(sum(challenger) / 4)
    assert decision.scores["champion"]["test/mse"] == pytest.approx(sum(champion) / 4)


@pytest.mark.parametrize("champion", [None, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]])
def test_the_rule_decides_on_what_people_chose_and_says_that_they_did(champion: list[float] | None) -> None:
    report = make_report([0.2, 0.3, 0.4])
    before = None if champion is None else _champion(make_report(champion))
    plain, chosen = decide(report, before), decide(report.model_copy(update={"chosen_by": "people"}), before)
    assert chosen.promoted == plain.promoted == (champion != [0.1, 0.2, 0.3])
    assert chosen.reason == f"{plain.reason}; chosen among trials by people"


def test_the_difference_and_its_error_are_those_of_pairs() -> None:
    decision = decide(make_report([0.1, 0.2, 0.4]), _champion(make_report([0.3, 0.3, 0.4])))
    assert decision.scores["difference"]["mean"] == pytest.approx(0.1)
    assert decision.scores["difference"]["standard_error"] == pytest.approx(0.1 / math.sqrt(3))


def test_a_lower_error_that_is_less_object_wise_does_not_win() -> None:
    """F1: by the error alone a larger bottleneck wins, which writes two digits at once."""
    assert not decide(make_report(0.01, fg_ari=0.5), _champion(make_report(0.02, fg_ari=0.9))).promoted
    assert decide(make_report(0.02, fg_ari=0.95), _champion(make_report(0.01, fg_ari=0.9))).promoted


def test_images_without_an_index_count_by_their_error_alone() -> None:
    challenger, champion = make_report([0.1, 0.1]), make_report([0.1, 0.1])
    challenger.scores.fg_ari[:] = [None, 0.9]
    champion.scores.fg_ari[:] = [None, 0.7]
    decision = decide(challenger, _champion(champion))
    assert decision.scores["difference"]["mean"] == pytest.approx(0.2), "the mean over the images that have one"


def test_one_image_says_nothing() -> None:
    assert not decide(make_report([0.1]), _champion(make_report([0.9]))).promoted


def test_another_number_of_training_images_does_not_matter() -> None:
    """F1: what compares is the checksum of the test images alone."""
    assert decide(make_report(0.1, test_checksum="t"), _champion(make_report(0.2, test_checksum="t"))).promoted


def test_on_other_test_images_what_the_job_measured_decides() -> None:
    challenger = make_report(0.3, test_checksum="mine")
    champion = _champion(make_report(0.1, test_checksum="its"))
    assert "registry did not answer" in decide(challenger, champion).reason
    against = CrossEvaluation(
        name="digits",
        version="1",
        run_id="run_1",
        champion=make_scores(0.4),
        on_its_images={"champion": {"test/mse": 0.1}, "challenger": {"test/mse": 0.2}},
    )
    decision = decide(challenger.model_copy(update={"against": against}), champion)
    assert decision.promoted
    assert decision.scores["champion"]["test/mse"] == pytest.approx(0.4)
    assert decision.scores["champion_on_its_images"] == {"test/mse": 0.1}
    assert decision.scores["challenger_on_its_images"] == {"test/mse": 0.2}


@pytest.mark.parametrize(("mine", "its"), [(2, 1), (1, 2)])
def test_scores_by_another_releases_rule_are_not_compared(mine: int, its: int) -> None:
    """The images are the same, but FG-ARI of one means something else than of the other."""
    challenger, champion = make_report(0.3, 0.99, scoring_version=mine), make_report(0.4, 0.9, scoring_version=its)
    decision = decide(challenger, _champion(champion))
    assert not decision.promoted
    assert "by the rule of another release" in decision.reason
    against = CrossEvaluation(name="digits", version="1", run_id="run_1", champion=make_scores(0.4, 0.98))
    again = decide(challenger.model_copy(update={"against": against}), _champion(champion))
    assert again.promoted
    assert again.scores["difference"]["mean"] == pytest.approx(0.1 + 0.01), "of what the job measured, not of 0.9"


def test_a_report_without_a_rule_is_of_the_first_one() -> None:
    written = make_report(0.3, scoring_version=2).model_dump(mode="json")
    del written["scoring_version"]
    assert EvaluationReport.model_validate(written).scoring_version == 1


def test_a_decision_is_kept_with_what_is_served_alone() -> None:
    """A tag of the registry has room for some 4,500 characters."""
    challenger = make_report(0.3)
    challenger.scores.metrics.update({"test/fg_ari_se": 0.1, "test/fg_ari_writes": 0.2, "test/miou": 0.3})
    for champion in (None, _champion(make_report(0.4))):
        kept = decide(challenger, champion).scores["challenger"]
        assert set(kept) == {"test/mse", "test/empty_mse", "test/miou"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"champion": None, "note": "other size"}, "other size"),
        ({"run_id": "run_0"}, "became the champion while"),
        ({"version": "2"}, "became the champion while"),
    ],
)
def test_what_was_not_compared_is_not_promoted(change: dict[str, object], word: str) -> None:
    against = CrossEvaluation(name="digits", version="1", run_id="run_1", champion=make_scores(0.9))
    challenger = make_report(0.3, test_checksum="mine").model_copy(
        update={"against": against.model_copy(update=change)}
    )
    decision = decide(challenger, _champion(make_report(0.1, test_checksum="its")))
    assert not decision.promoted
    assert word in decision.reason
    assert "seqae promote" in decision.reason


def test_another_number_of_the_same_images_is_not_compared() -> None:
    assert "another number" in decide(make_report([0.1, 0.2]), _champion(make_report([0.3]))).reason


def test_a_champion_of_an_older_release_is_beaten_by_what_the_job_measured() -> None:
    against = CrossEvaluation(name="digits", version="1", run_id="run_1", champion=make_scores(0.4))
    challenger = make_report(0.3).model_copy(update={"against": against})
    assert decide(challenger, _champion(None)).promoted


def test_a_result_without_a_test_is_the_champion_only_of_nobody() -> None:
    assert decide(None, None).promoted
    assert not decide(None, _champion(make_report(0.9))).promoted
