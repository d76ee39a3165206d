"""Which ended jobs retention chooses, in which order."""

from datetime import UTC, datetime, timedelta

import pytest

from service.disk.retention.plan import Action, EndedJob, Limits, choose

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def job(
    name: str, *, days: float, model: bool = False, owner: str = "ada", size: int = 100, spare: int = 0
) -> EndedJob:
    return EndedJob(name, owner, NOW - timedelta(days=days), has_model=model, bytes=size, spare_bytes=spare)


def chosen(jobs: list[EndedJob], limits: Limits, kept: tuple[str, ...] = ()) -> list[str]:
    """Ids of what goes, in order; checkpoints with a star."""
    return [
        removal.job.id + ("*" if removal.action is Action.CHECKPOINTS else "")
        for removal in choose(jobs, kept, limits, NOW)
    ]


JOBS = [
    job("model-old", days=50, model=True),
    job("failed-old", days=40),
    job("model-new", days=2, model=True),
    job("failed-new", days=1),
    job("bobs", days=30, owner="bob"),
]


def test_without_limits_all_stay() -> None:
    assert not Limits().are_set
    assert chosen(JOBS, Limits()) == []


def test_the_old_go() -> None:
    assert chosen(JOBS, Limits(days=35)) == ["failed-old", "model-old"]
    assert chosen(JOBS, Limits(days=50)) == [], "not before the whole time has passed"
    assert chosen(JOBS, Limits(days=35), kept=("model-old",)) == ["failed-old"]


def test_of_too_many_those_without_a_model_go_first_and_then_the_longest_ended() -> None:
    assert chosen(JOBS, Limits(jobs=2)) == ["failed-old", "bobs", "failed-new"]
    assert chosen(JOBS, Limits(jobs=1)) == ["failed-old", "bobs", "failed-new", "model-old"]
    assert chosen(JOBS, Limits(jobs=5)) == []


def test_of_one_owners_too_many_no_others_go() -> None:
    assert chosen(JOBS, Limits(jobs_per_owner=1)) == ["failed-old", "failed-new", "model-old"]
    assert chosen(JOBS, Limits(jobs_per_owner=4)) == []


def test_a_kept_job_counts_and_stays() -> None:
    everything = tuple(each.id for each in JOBS)
    for limits in (
        Limits(days=1),
        Limits(jobs=1),
        Limits(jobs_per_owner=1),
        Limits(bytes=1),
        Limits(bytes_per_owner=1),
    ):
        assert chosen(JOBS, limits, kept=everything) == []
    assert chosen(JOBS, Limits(jobs=1), kept=("failed-old", "bobs")) == ["failed-new", "model-old", "model-new"]


def test_of_too_many_bytes_spare_checkpoints_go_before_any_job() -> None:
    jobs = [job("a", days=3, model=True, spare=60), job("b", days=2, model=True, spare=60), job("c", days=1)]
    assert chosen(jobs, Limits(bytes=300)) == []
    assert chosen(jobs, Limits(bytes=299)) == ["a*"]
    assert chosen(jobs, Limits(bytes=240)) == ["a*"]
    assert chosen(jobs, Limits(bytes=180)) == ["a*", "b*"]
    assert chosen(jobs, Limits(bytes=179)) == ["a*", "b*", "c"], "a job without a model before one with"
    assert chosen(jobs, Limits(bytes=79)) == ["b*", "c", "a"], "what goes as a whole is not thinned before"
    assert chosen(jobs, Limits(bytes=39)) == ["c", "a", "b"]
    assert chosen(jobs, Limits(bytes=239), kept=("a",)) == ["b*", "c"]


def test_bytes_are_counted_by_owner() -> None:
    jobs = [job("a", days=3, spare=10), job("b", days=2), job("x", days=9, owner="bob", size=1000, spare=500)]
    assert chosen(jobs, Limits(bytes_per_owner=190)) == ["a*", "x"]
    assert chosen(jobs, Limits(bytes_per_owner=150)) == ["a", "x"]
    assert chosen(jobs, Limits(bytes_per_owner=500)) == ["x*"]


def test_limits_add_up_and_nothing_goes_twice() -> None:
    found = chosen(JOBS, Limits(days=35, jobs=2, jobs_per_owner=2, bytes=100, bytes_per_owner=100))
    assert len(found) == len(set(found))
    assert found == ["failed-old", "model-old", "failed-new", "bobs"]


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (Limits(days=35), "ended more than 35 days ago"),
        (Limits(jobs=4), "4 jobs in all"),
        (Limits(jobs_per_owner=3), "3 jobs of its owner"),
        (Limits(bytes=450), "450 bytes of all jobs"),
        (Limits(bytes_per_owner=350), "350 bytes of its owner's jobs"),
    ],
)
def test_each_removal_says_why_and_how_much(limits: Limits, why: str) -> None:
    first = choose(JOBS, (), limits, NOW)[0]
    assert (first.job.id, first.why, first.bytes) == ("failed-old", f"over the limit: {why}", 100)
