"""A small campaign of `make fuzz`, and that a campaign would find what it looks for."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.calls import Outcome, Verdict, judge
from tests.fuzz.campaign import Result, campaign
from tests.fuzz.image_calls import image_calls
from tests.fuzz.raw_http import raw_requests
from tests.fuzz.server import running_server
from tests.fuzz.spec_calls import spec_calls

CASES = 300
SECONDS = 60.0


def test_odd_requests_are_answered(tmp_path: Path) -> None:
    """Hundreds of cases that nobody would send: no 5xx but a documented 503, no hang, no traceback, no growth."""
    with running_server(tmp_path) as server:
        result = campaign(server, CASES, seed=0, seconds=SECONDS)
        assert result.failures == [], "\n".join(
            f"{kind}: {outcome} {outcome.case}" for kind, outcome in result.failures
        )
        assert result.tracebacks == Counter(), server.log.read_text(errors="replace")[-5000:]
    assert result.survived
    # On a machine that is very busy the time may be over first.
    assert result.cases > CASES / 3
    assert result.growth < 100_000_000
    kinds = Counter[str]()
    for (kind, _), number in result.statuses.items():
        kinds[kind] += number
    assert set(kinds) == {"openapi", "specs", "images", "raw"}
    assert result.statuses["images", 200] > 0
    assert result.last_line.startswith(f"fuzz: {result.cases} cases, 0 server errors, 0 hangs, ")


@pytest.mark.parametrize(
    ("status", "path", "media_type", "verdict"),
    [
        (200, "/jobs", "application/json", Verdict.FINE),
        (422, "/jobs", "application/problem+json", Verdict.FINE),
        (500, "/jobs", "application/problem+json", Verdict.SERVER_ERROR),
        (501, "/jobs", "", Verdict.SERVER_ERROR),
        (503, "/jobs", "application/problem+json", Verdict.FINE),
        (503, "/readyz", "application/json", Verdict.FINE),
        (503, "/jobs", "text/plain", Verdict.SERVER_ERROR),
    ],
)
def test_what_counts_as_a_server_error(status: int, path: str, media_type: str, verdict: Verdict) -> None:
    assert judge(status, path, media_type) is verdict


def test_the_last_line_counts_what_was_found() -> None:
    found = [("raw", Outcome(Verdict.HANG)), ("specs", Outcome(Verdict.SERVER_ERROR)), ("raw", Outcome(Verdict.HANG))]
    result = Result(cases=7, failures=found, memory=[5_000_000, 17_400_000])
    assert result.last_line == "fuzz: 7 cases, 1 server errors, 2 hangs, +12 MB"


def test_a_seed_makes_the_same_cases_again() -> None:
    for make in (image_calls, raw_requests, lambda rng: spec_calls(rng, ["job_1"])):
        first, again, other = (make(Random(seed)) for seed in (5, 5, 6))
        cases = [next(first) for _ in range(50)]
        assert cases == [next(again) for _ in range(50)]
        assert cases != [next(other) for _ in range(50)]
