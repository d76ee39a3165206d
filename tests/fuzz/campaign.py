"""A fuzzing campaign: cases of all kinds against one server, and what came of them."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

from service.api.examples import SPECS
from tests.fuzz.calls import Call, Outcome, Sender, Verdict
from tests.fuzz.image_calls import image_calls
from tests.fuzz.openapi_calls import openapi_calls
from tests.fuzz.raw_http import RawRequest, raw_requests, send_raw
from tests.fuzz.server import ServerProcess
from tests.fuzz.spec_calls import spec_calls
from tests.fuzz.warm_up import warm_up

__all__ = ["Result", "campaign"]

_SHARES = {"openapi": 0.4, "specs": 0.25, "images": 0.2, "raw": 0.15}
_MEGABYTE = 1_000_000


@dataclass
class Result:
    """What a campaign found."""

    cases: int = 0
    statuses: Counter[tuple[str, int | None]] = field(default_factory=Counter)
    """How often each kind of case was answered with each status; None: with a closed connection."""
    failures: list[tuple[str, Outcome]] = field(default_factory=list)
    """Kind of case, and outcome, of every server error and hang."""
    tracebacks: Counter[str] = field(default_factory=Counter)
    """In the server's log, by their last line."""
    memory: list[int] = field(default_factory=list)
    """The server's resident memory in bytes: after the warm-up, after each tenth of the cases, and at the end."""
    slowest: float = 0.0
    """Seconds of the slowest answer."""
    survived: bool = True
    """Whether the server still runs and answers."""

    @property
    def growth(self) -> int:
        """Bytes by which the server's memory grew from the warm-up to the end."""
        return self.memory[-1] - self.memory[0] if self.memory else 0

    def count(self, verdict: Verdict) -> int:
        """How many cases ended so."""
        return sum(outcome.verdict is verdict for _, outcome in self.failures)

    @property
    def last_line(self) -> str:
        """The campaign in one line."""
        errors, hangs = self.count(Verdict.SERVER_ERROR), self.count(Verdict.HANG)
        growth = round(self.growth / _MEGABYTE)
        return f"fuzz: {self.cases} cases, {errors} server errors, {hangs} hangs, {growth:+d} MB"


def campaign(server: ServerProcess, cases: int, seed: int, seconds: float) -> Result:
    """Sends cases, one after the other.

    Args:
        server: that is fuzzed.
        cases: how many.
        seed: makes the same cases again.
        seconds: no case begins later than this after the first.
    """
    result, sender = Result(), Sender(server.url)
    try:
        warm_up(server.url)
        result.memory.append(server.memory())
        deadline = time.monotonic() + seconds
        for kind, case in _cases(server, cases, seed):
            if result.cases >= cases or time.monotonic() > deadline or not server.lives:
                break
            outcome = send_raw(server.port, case) if isinstance(case, RawRequest) else sender.send(case)
            if outcome.verdict is Verdict.NOT_SENT:
                continue
            result.cases += 1
            result.statuses[kind, outcome.status] += 1
            result.slowest = max(result.slowest, outcome.seconds)
            if outcome.verdict is not Verdict.FINE:
                result.failures.append((kind, outcome))
            if result.cases % max(1, cases // 10) == 0 and server.lives:
                result.memory.append(server.memory())
        result.survived = server.lives and _answers(server.url)
        if server.lives:
            result.memory.append(server.memory())
        result.tracebacks = server.tracebacks()
    finally:
        sender.close()
    return result


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=10, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _cases(server: ServerProcess, count: int, seed: int) -> Iterator[tuple[str, Call | RawRequest]]:
    """Endless cases; the first `count` have each kind by its share."""
    jobs = _some_jobs(server.url)
    document = httpx.get(f"{server.url}/openapi.json", timeout=30, trust_env=False).json()
    listed = openapi_calls(document, round(count * _SHARES["openapi"]), seed, jobs)
    endless: dict[str, Iterator[Call | RawRequest]] = {
        "specs": spec_calls(random.Random(seed + 1), jobs),
        "images": image_calls(random.Random(seed + 2)),
        "raw": raw_requests(random.Random(seed + 3)),
    }
    rng = random.Random(seed)
    while True:
        kind = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
        if kind == "openapi" and listed:
            yield kind, listed.pop()
        elif kind != "openapi":
            yield kind, next(endless[kind])


def _some_jobs(url: str) -> list[str]:
    """Ids of jobs that are submitted for the cases to meet."""
    found = []
    with httpx.Client(base_url=url, timeout=10, trust_env=False) as client:
        for spec in [*SPECS.values(), *SPECS.values()]:
            answer = client.post("/jobs", json=spec["value"])
            answer.raise_for_status()
            found.append(str(answer.json()["id"]))
        client.post(f"/jobs/{found[0]}/cancel").raise_for_status()
        client.post(f"/jobs/{found[1]}/pause").raise_for_status()
    return found
