from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.directory.layout import AttemptFolder
from jobs.directory.records import Outcome, Phase, Progress, Result
from service.reconciler.liveness import Observation, Verdict, has_exited, judge, read_records
from service.settings import ReconcilerSettings
from service.upstream.cluster_monitor import ClusterStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = ReconcilerSettings(heartbeat_stale=20, lost_after=65, stall_after=1800, start_deadline=900)
BEAT = Progress(time=0, last_progress_at=0, phase=Phase.TRAINING)


def verdict(word: ClusterStatus, quiet: float, *, beaten: bool = True, still: float = 0, since: float = 0) -> Verdict:
    return judge(
        Observation(None, BEAT if beaten else None, word),
        now=NOW,
        since=NOW - timedelta(seconds=since),
        last_seen_at=NOW - timedelta(seconds=quiet),
        last_progress_at=NOW - timedelta(seconds=still) if beaten else None,
        settings=SETTINGS,
    )


@pytest.mark.parametrize("word", list(ClusterStatus))
def test_a_result_is_believed_before_anything_else(word: ClusterStatus) -> None:
    observation = Observation(Result(outcome=Outcome.SUCCEEDED), BEAT, word)
    long_ago = NOW - timedelta(days=1)
    found = judge(
        observation, now=NOW, since=long_ago, last_seen_at=long_ago, last_progress_at=long_ago, settings=SETTINGS
    )
    assert found == Verdict.DONE


@pytest.mark.parametrize(
    ("word", "quiet", "beaten", "expected"),
    [
        (ClusterStatus.ENDED, 19, True, Verdict.FINE),
        (ClusterStatus.ENDED, 20, True, Verdict.LOST),
        (ClusterStatus.ENDED, 4, False, Verdict.FINE),
        (ClusterStatus.ENDED, 5, False, Verdict.LOST),
        (ClusterStatus.GONE, 64, True, Verdict.FINE),
        (ClusterStatus.GONE, 65, True, Verdict.LOST),
        (ClusterStatus.GONE, 64, False, Verdict.FINE),
        (ClusterStatus.GONE, 65, False, Verdict.LOST),
        (ClusterStatus.ALIVE, 1e6, True, Verdict.FINE),
        (ClusterStatus.UNKNOWN, 1e6, True, Verdict.FINE),
        (ClusterStatus.UNKNOWN, 1e6, False, Verdict.FINE),
    ],
)
def test_a_loss_needs_the_clusters_word_and_a_silence(
    word: ClusterStatus, quiet: float, beaten: bool, expected: Verdict
) -> None:
    assert verdict(word, quiet, beaten=beaten) == expected


def test_a_stall_is_told_from_a_silence() -> None:
    assert verdict(ClusterStatus.ALIVE, 0, still=1799) == Verdict.FINE
    assert verdict(ClusterStatus.ALIVE, 0, still=1800) == Verdict.STALLED
    assert verdict(ClusterStatus.UNKNOWN, 0, still=1800) == Verdict.STALLED, "its heartbeat says enough"
    assert verdict(ClusterStatus.UNKNOWN, 20, still=1800) == Verdict.FINE, "now nothing is known"


def test_what_the_cluster_does_not_start_is_taken_back() -> None:
    assert verdict(ClusterStatus.ALIVE, 0, beaten=False, since=899) == Verdict.FINE
    assert verdict(ClusterStatus.ALIVE, 0, beaten=False, since=900) == Verdict.NOT_STARTED
    assert verdict(ClusterStatus.UNKNOWN, 900, beaten=False, since=900) == Verdict.FINE


@pytest.mark.parametrize(
    ("word", "result", "quiet", "expected"),
    [
        (ClusterStatus.ENDED, False, 0, True),
        (ClusterStatus.ALIVE, True, 99, False),
        (ClusterStatus.GONE, False, 19, False),
        (ClusterStatus.GONE, False, 20, True),
        (ClusterStatus.GONE, True, 0, True),
        (ClusterStatus.UNKNOWN, False, 1e6, False),
        (ClusterStatus.UNKNOWN, True, 0, True),
    ],
)
def test_leaving(word: ClusterStatus, result: bool, quiet: float, expected: bool) -> None:
    observation = Observation(Result(outcome=Outcome.PAUSED) if result else None, None, word)
    assert has_exited(observation, timedelta(seconds=quiet), SETTINGS) is expected


def test_a_damaged_file_counts_as_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    attempt = AttemptFolder(tmp_path, 1)
    attempt.write_progress(BEAT)
    (tmp_path / "result.json").write_text("{")
    assert read_records(attempt) == (None, BEAT)
    assert "result.json" in caplog.text
