"""Many clients at once against the API as a process: no job is lost, doubled or answered with a server error."""

from collections import Counter
from pathlib import Path

from service.db.store import Store
from tests.benchmarks.api import read_pages, running_api, submit_all

CLIENTS, EACH, ALLOWED = 20, 6, 5


def test_every_job_is_accepted_once_or_refused_with_a_reason(tmp_path: Path, database_url: str) -> None:
    with running_api(tmp_path, database_url, max_jobs_per_owner=ALLOWED) as api:
        answers = submit_all(api, CLIENTS * EACH, CLIENTS)
        listed, pages = read_pages(api, limit=50)
    assert {answer.status for answer in answers} == {201, 429}
    by_key: dict[str, set[str | None]] = {}
    for answer in answers:
        by_key.setdefault(answer.key, set()).add(answer.body.get("id"))
        if answer.status == 429:
            assert answer.body["detail"] == f"you have {ALLOWED} jobs that have not ended, as many as is allowed"
    assert len(answers) > len(by_key) == CLIENTS * EACH, "some were posted twice"
    assert all(len(outcomes) == 1 for outcomes in by_key.values()), "the same key has the same answer"

    accepted = [job for [job] in by_key.values() if job is not None]
    assert len(set(accepted)) == len(accepted) == CLIENTS * ALLOWED
    assert sorted(listed) == sorted(accepted)
    assert len(pages) == 2
    store = Store(database_url)
    owners = Counter(job.owner for job in store.jobs(accepted).values())
    store.close()
    assert set(owners.values()) == {ALLOWED}
    assert len(owners) == CLIENTS
