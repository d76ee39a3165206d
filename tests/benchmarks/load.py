"""Load test of the API, on SQLite and, where it is installed, on PostgreSQL: `python -m tests.benchmarks.load`.

Clients submit all at once, then the list of many jobs is read page by page. Clients and API share the machine.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seqae.compute.machine import machine
from service.db.store import Store
from tests.benchmarks.api import Answer, fill, read_pages, running_api, submit_all
from tests.benchmarks.figures import Figure, table
from tests.postgres import NoPostgresError, running_postgres

PAGES = (50, 200)
"""Rows in a page: the default, and the most."""

GOAL_MS = 50
"""What the slowest page may take, and 99 of 100 submissions of clients that make a pause."""

PAGE_GOAL_MS = 10
"""What half of the pages of 50 may take."""

EVERY = 1.0
"""Seconds from one job of a client to its next, where clients make a pause."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rows", type=int, default=10_000, help="in the list that is read in pages")
    parser.add_argument("--only", choices=("sqlite", "postgresql"))
    given = parser.parse_args()
    described = machine()
    figures: list[Figure] = []
    for name in ("sqlite", "postgresql") if given.only is None else (given.only,):
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            figures += _load(name, given.jobs, given.clients)
            figures += _paced(name, given.jobs // 2, given.clients)
            figures += _pages(name, given.rows)
        except NoPostgresError as error:
            print(f"not measured: {error}")
    print(f"{described['cpu']}, {described['cores']} cores, load {described['load']:.1f}, Python {described['python']}")
    print(table(figures))
    return 0


@contextmanager
def _database(name: str) -> Iterator[tuple[Path, str]]:
    """A folder and the URL of an empty database."""
    with tempfile.TemporaryDirectory(prefix="seqae-load-") as folder:
        if name == "sqlite":
            yield Path(folder), f"sqlite:///{folder}/jobs.db"
            return
        with running_postgres() as server:
            yield Path(folder), server.new_database()


def _load(name: str, jobs: int, clients: int) -> Iterator[Figure]:
    with _database(name) as (home, url), running_api(home, url) as api:
        before = api.settled()
        answers = submit_all(api, jobs, clients)
        after = api.memory()
    part = f"{name}: {jobs} jobs, {clients} clients"
    seconds = [answer.seconds for answer in answers]
    yield Figure(part, "jobs accepted", len({answer.body["id"] for answer in answers if answer.status == 201}), "")
    yield Figure(part, "requests refused with a problem", sum(map(_is_refusal, answers)), "")
    yield Figure(part, "answers 5xx", sum(answer.status >= 500 for answer in answers), "")
    yield Figure(part, "p50", 1000 * statistics.median(seconds), "ms")
    yield Figure(part, "p99", 1000 * _quantile(seconds, 0.99), "ms")
    yield Figure(part, "RSS before", before.rss, "MB")
    yield Figure(part, "RSS after", after.rss, "MB", after.rss / before.rss, "before")
    yield Figure(part, "PSS before", before.pss, "MB")
    yield Figure(part, "PSS after", after.pss, "MB", after.pss / before.pss, "before")


def _paced(name: str, jobs: int, clients: int) -> Iterator[Figure]:
    """Clients that submit now and then, to a service that is warm: nobody waits for a processor that another has."""
    with _database(name) as (home, url), running_api(home, url) as api:
        api.settled()
        submit_all(api, 2 * clients, clients)
        before = api.cpu()
        answers = submit_all(api, jobs, clients, every=EVERY)
        cpu = 1000 * (api.cpu() - before) / len(answers)
    part = f"{name}: {jobs} jobs, {clients} clients, one each {EVERY:g} s"
    seconds = [answer.seconds for answer in answers]
    yield Figure(part, "answers other than 201", sum(answer.status != 201 for answer in answers), "")
    yield Figure(part, "p50", 1000 * statistics.median(seconds), "ms")
    p99 = 1000 * _quantile(seconds, 0.99)
    yield Figure(part, "p99", p99, "ms", p99 / GOAL_MS, f"{GOAL_MS} ms")
    yield Figure(part, "CPU time of the API, a submission", cpu, "ms")


def _is_refusal(answer: Answer) -> bool:
    return 400 <= answer.status < 500 and bool(answer.body.get("detail"))


def _pages(name: str, rows: int) -> Iterator[Figure]:
    with _database(name) as (home, url):
        store = Store(url)
        store.migrate()
        fill(store, rows)
        store.close()
        with running_api(home, url) as api:
            api.settled()
            for limit in PAGES:
                before = api.cpu()
                _, seconds = read_pages(api, limit=limit)
                cpu = 1000 * (api.cpu() - before) / len(seconds)
                part = f"{name}: {rows} jobs listed"
                yield Figure(part, f"CPU time of the API, a page of {limit}", cpu, "ms")
                half = 1000 * statistics.median(seconds)
                goal = (half / PAGE_GOAL_MS, f"{PAGE_GOAL_MS} ms") if limit == PAGES[0] else ()
                yield Figure(part, f"page of {limit}, p50", half, "ms", *goal)
                yield Figure(part, f"page of {limit}, slowest", 1000 * max(seconds), "ms")
                slow = sum(1000 * second > GOAL_MS for second in seconds)
                yield Figure(part, f"pages of {limit} over {GOAL_MS} ms", slow, f"of {len(seconds)}")


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


if __name__ == "__main__":
    sys.exit(main())
