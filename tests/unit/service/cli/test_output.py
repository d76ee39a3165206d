from datetime import UTC, datetime

import pytest

from service.cli.output import (
    EXIT_STATUSES,
    ExitStatus,
    format_bytes,
    format_duration,
    format_metric,
    format_table,
    format_time,
    summarize,
)
from service.job_state import State
from tests.unit.service.cli.conftest import make_job, succeeded


def test_a_table_cuts_nothing_but_its_last_column() -> None:
    """F2: ids are whole, at 80 columns and in a pipe."""
    rows = [("job_0123456789ab", "RUNNING", "a name that goes on and on"), ("job_1", "-", "\x1b[31mred\n")]
    assert list(format_table(("id", "state", "name"), rows)) == [
        "id                state    name",
        "job_0123456789ab  RUNNING  a name that goes on and on",
        "job_1             -         [31mred",
    ]
    narrow = list(format_table(("id", "state", "name"), rows, width=40))
    assert narrow[1] == "job_0123456789ab  RUNNING  a name that …"
    assert list(format_table(("id", "state", "name"), rows, width=5))[1].startswith("job_0123456789ab  RUNNING  a name")


def test_times_have_a_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """F2."""
    shown = format_time(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    assert datetime.fromisoformat(shown) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert shown[-6] in "+-"
    assert format_time(None) == "-"


def test_numbers() -> None:
    assert [format_duration(seconds) for seconds in (0, 42.4, 725, 10810)] == ["0:00", "0:42", "12:05", "3:00:10"]
    metrics = {"test/mse": 0.0041234, "test/fg_ari": 0.98765}
    assert format_metric(metrics, "test/mse") == "0.00412"
    assert format_metric(metrics, "test/fg_ari") == "0.988"
    assert format_metric(metrics, "test/none") == format_metric(None, "test/mse") == "-"


def test_every_exit_status_is_explained() -> None:
    """Section 3: exit statuses are documented."""
    assert EXIT_STATUSES.keys() == set(ExitStatus)
    assert [int(status) for status in ExitStatus] == [0, 1, 2, 3, 130, 141]


def test_the_end_of_a_job_says_all_that_one_asks_next() -> None:
    """F6: error, FG-ARI, counts, version, champion or why not, and the next command."""
    assert list(summarize(succeeded(1, promoted=True))) == [
        "job_10123456789a SUCCEEDED after 4:00",
        "  test/mse 0.00412  test/fg_ari 0.954  test/count_accuracy 0.910",
        "  model seqae/2, the champion: 0.1 better than seqae/1",
        "  next: seqae reconstruct picture.png -o frames.gif --model seqae/2",
    ]
    assert (
        list(summarize(succeeded(1, promoted=False)))[2] == "  model seqae/2, not the champion: not better than seqae/1"
    )


def test_the_end_of_a_job_that_failed_says_why_and_what_to_do() -> None:
    failed = make_job(1, State.FAILED, error={"class": "data", "message": "no digits"}, finished_at=None)
    assert list(summarize(failed)) == [
        "job_10123456789a FAILED: no digits (data)",
        "  next: seqae logs job_10123456789a",
        "  next: seqae retry job_10123456789a",
    ]


def test_sizes() -> None:
    assert [format_bytes(number) for number in (0, 999, 1000, 2_500_000, 3 * 10**9, 4 * 10**12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "2.5 MB",
        "3.0 GB",
        "4.0 TB",
    ]
