"""Submitting, looking at and changing jobs over HTTP."""

import threading
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from jobs.backends.fakes import FakeLauncher
from jobs.directory.layout import JobFolder
from service.api.examples import SPECS
from service.db.store import Store
from service.job_state import State
from service.settings import Settings


def submit(client: httpx.Client, name: str = "digits", **query: int) -> str:
    answer = client.post("/jobs", json={"name": name}, params=query)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def move(store: Store, job_id: str, *states: State) -> None:
    for state in states:
        store.transition(store.job(job_id), state)


def admit(store: Store) -> None:
    store.admit(lambda _placed, queue: queue)


def test_a_new_job(client: httpx.Client) -> None:
    answer = client.post("/jobs", json={"name": "digits", "model": {"steps": 3}}, headers={"seqae-owner": "ada"})
    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert job["state"] == "QUEUED"
    assert job["owner"] == "ada"
    assert job["spec"]["model"]["steps"] == 3
    assert client.get(answer.headers["location"]).json() == job


@pytest.mark.parametrize("name", SPECS)
def test_every_example_of_the_documentation_is_accepted(client: httpx.Client, name: str) -> None:
    spec = SPECS[name]["value"]
    checked = client.post("/jobs:validate", json=spec)
    assert checked.status_code == 200, checked.text
    assert checked.json()["accepted"] is True
    assert client.get("/jobs").json()["items"] == []
    assert client.post("/jobs", json=spec).status_code == 201


def test_validate_says_why_a_job_would_be_refused(client: httpx.Client) -> None:
    answer = client.post("/jobs:validate", json={"name": "a", "scaling": {"workers": 24}})
    assert answer.status_code == 200
    assert answer.json()["accepted"] is False
    problem = {"pointer": "#/scaling/workers", "detail": "asks for 24 workers; the cluster has room for 2 of this size"}
    assert answer.json()["problems"] == [problem]


def test_the_list_comes_in_pages_newest_first(client: httpx.Client) -> None:
    made = [submit(client, f"job {number}") for number in range(5)]
    seen: list[str] = []
    cursor = None
    for _ in range(3):
        page = client.get("/jobs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
    assert seen == made[::-1]
    assert cursor is None


def test_the_list_by_state(client: httpx.Client) -> None:
    kept, ended = submit(client), submit(client)
    client.post(f"/jobs/{ended}/cancel")

    def ids(query: str) -> list[str]:
        return [job["id"] for job in client.get(f"/jobs?{query}").json()["items"]]

    assert ids("state=QUEUED") == [kept]
    assert ids("state=CANCELLED") == [ended]
    assert ids("state=CANCELLED&state=QUEUED") == [ended, kept]


def test_pause_resume_priority_and_retry(client: httpx.Client) -> None:
    job = submit(client)
    assert client.post(f"/jobs/{job}/pause").json()["state"] == "PAUSED"
    assert client.post(f"/jobs/{job}/pause").status_code == 200
    assert client.post(f"/jobs/{job}/resume").json()["state"] == "QUEUED"
    assert client.patch(f"/jobs/{job}", json={"priority": 7}).json()["priority"] == 7
    client.post(f"/jobs/{job}/cancel")
    again = client.post(f"/jobs/{job}/retry").json()
    assert again["retry_of"] == job
    assert client.post(f"/jobs/{job}/retry").json()["id"] == again["id"]


def test_delete_needs_an_ended_job(client: httpx.Client, store: Store) -> None:
    job = submit(client)
    assert client.delete(f"/jobs/{job}").status_code == 409
    client.post(f"/jobs/{job}/cancel")
    store.update(store.job(job), cleaned_up=True)
    assert client.delete(f"/jobs/{job}").status_code == 204
    assert client.get(f"/jobs/{job}").status_code == 404


def test_a_job_that_is_being_cleaned_up_goes_when_that_is_done(client: httpx.Client, store: Store) -> None:
    """F11: 409 for twelve seconds after the end."""
    job = submit(client)
    admit(store)
    move(store, job, State.STARTING, State.FAILED)
    for _ in range(2):
        answer = client.delete(f"/jobs/{job}")
        assert (answer.status_code, answer.content) == (202, b"")
    assert client.get(f"/jobs/{job}").json()["deleting"] is True
    store.update(store.job(job), cleaned_up=True)
    assert [client.delete(f"/jobs/{job}").status_code for _ in range(2)] == [204, 204]
    assert client.get(f"/jobs/{job}").status_code == 404
    assert client.delete("/jobs/job_000000000000").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/{job}/logs?attempt=9223372036854775808",
        f"/jobs/{{job}}/logs?attempt={'9' * 400}",
        f"/jobs/{{job}}/logs?tail={'9' * 400}",
        f"/jobs?limit={'9' * 400}",
        "/jobs?owner=%00",
        f"/jobs/{{job}}/events?after={'9' * 400}",
    ],
)
def test_a_parameter_beyond_its_bounds_is_refused(client: httpx.Client, path: str) -> None:
    """C5: an attempt of 2^63 was answered with 500."""
    assert client.get(path.format(job=submit(client))).status_code == 422


@pytest.mark.parametrize(
    "spec",
    [
        '{"name": "a", "data": {"kind": "images", "path": "x", "train_images": 1' + "0" * 400 + "}}",
        '{"name": "a", "scaling": {"cpus_per_worker": 5e-324}}',
        '{"name": "a", "scaling": {"cpus_per_worker": 1' + "0" * 400 + "}}",
        '{"name": "a", "schedule": {"epochs": 1e999}}',
        '{"name": "a", "model": {"attention": {"delta_min": 1e300}}}',
        '{"name": "a", "seed": true}',
        '{"name": "a", "data": {"kind": "images", "path": "nul\\u0000"}}',
    ],
)
@pytest.mark.parametrize("path", ["/jobs", "/jobs:validate"])
def test_numbers_beyond_all_measure_are_refused(client: httpx.Client, spec: str, path: str) -> None:
    """C2, C5: each is the client's mistake, and no error of ours."""
    answer = client.post(path, content=spec, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"].startswith("#/")


def test_a_spec_of_the_future_is_listed_and_answered(client: httpx.Client, store: Store) -> None:
    """C1: it answered 500 to everybody."""
    strange, fine = submit(client), submit(client)
    stored = '{"name": "a", "of_tomorrow": [1e999, "\\ud800"]}'
    with store.database.write() as session:
        session.execute(text("UPDATE jobs SET spec = :spec WHERE id = :id"), {"spec": stored, "id": strange})
    listed = {job["id"]: job for job in client.get("/jobs").json()["items"]}
    assert listed[strange]["spec"] == {"name": "a", "of_tomorrow": [None, "?"]}
    assert "of_tomorrow" in listed[strange]["note"]
    assert listed[fine]["note"] is None


def test_the_use_of_the_disk(client: httpx.Client, settings: Settings) -> None:
    """C7."""
    (settings.jobs_dir / "job_x").mkdir(parents=True)
    (settings.jobs_dir / "job_x" / "spec.json").write_text("{}")
    view = client.get("/disk").json()
    assert view["home"] == str(settings.home)
    assert {part["kind"] for part in view["parts"]} >= {"jobs", "control"}
    assert [job["id"] for job in view["jobs"]] == ["job_x"]


def test_a_bad_priority_is_told(client: httpx.Client) -> None:
    job = submit(client)
    for body in ({"priority": 10**9}, {"priority": False}, {"priority": "high"}, {}, {"priority": 1, "name": "x"}):
        assert client.patch(f"/jobs/{job}", json=body).status_code == 422
    assert client.post("/jobs", json={"name": "a"}, params={"priority": 10**9}).status_code == 422


def test_logs_of_a_job_that_has_not_started_are_empty(client: httpx.Client) -> None:
    answer = client.get(f"/jobs/{submit(client)}/logs")
    assert (answer.status_code, answer.text) == (200, "")
    assert answer.headers["content-type"].startswith("text/plain")


def test_logs_are_followed_to_the_end(client: httpx.Client, store: Store, settings: Settings) -> None:
    job = submit(client)
    admit(store)
    log = JobFolder(settings.jobs_dir / job).attempt(1).log
    log.parent.mkdir(parents=True)
    log.write_text("zero\none\n")
    assert client.get(f"/jobs/{job}/logs").text == "zero\none\n"
    assert client.get(f"/jobs/{job}/logs?tail=1").text == "one\n"
    assert client.get(f"/jobs/{job}/logs?tail=0").status_code == 422
    seen: list[str] = []
    begun = threading.Event()

    def read() -> None:
        with client.stream("GET", f"/jobs/{job}/logs?follow=true&tail=1") as answer:
            for text in answer.iter_text():
                seen.append(text)
                begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(10)
    with log.open("a") as file:
        file.write("two\n" * 300_000)
    move(store, job, State.STARTING, State.FAILED)
    reader.join(10)
    assert not reader.is_alive()
    assert "".join(seen) == "one\n" + "two\n" * 300_000, "more than is read at once"


def test_lines_that_a_driver_wrote_as_json_are_read_as_text(
    client: httpx.Client, store: Store, settings: Settings
) -> None:
    job = submit(client)
    admit(store)
    log = JobFolder(settings.jobs_dir / job).attempt(1).log
    log.parent.mkdir(parents=True)
    line = '{"time":"t","level":"INFO","logger":"jobs.driver","message":"iteration %d"}'
    log.write_text(f"plain\n{line % 1}\n{line % 2}")
    assert client.get(f"/jobs/{job}/logs").text == (
        "plain\nt INFO jobs.driver: iteration 1\nt INFO jobs.driver: iteration 2"
    )
    assert client.get(f"/jobs/{job}/logs?tail=1").text == "t INFO jobs.driver: iteration 2"
    move(store, job, State.STARTING, State.FAILED)
    assert client.get(f"/jobs/{job}/logs?follow=true&tail=1").text == "t INFO jobs.driver: iteration 2"


def test_what_the_cluster_said_is_told_once_to_who_follows(
    client: httpx.Client, store: Store, launcher: FakeLauncher, settings: Settings
) -> None:
    job = submit(client)
    admit(store)
    launcher.print(f"{job}-1", "no such image\n")
    log = JobFolder(settings.jobs_dir / job).attempt(1).log

    def keep_log() -> None:
        log.parent.mkdir(parents=True)
        log.write_text("no such image\n")

    threading.Timer(0.5, keep_log).start()
    threading.Timer(1.0, lambda: move(store, job, State.STARTING, State.FAILED)).start()
    assert client.get(f"/jobs/{job}/logs?follow=true").text == "no such image\n"


def test_film_strips(client: httpx.Client, store: Store, settings: Settings) -> None:
    job = submit(client)
    assert client.get(f"/jobs/{job}/frames").json() == {"steps": []}
    assert client.get(f"/jobs/{job}/frames/latest").status_code == 404
    folder = JobFolder(settings.jobs_dir / job)
    write(folder, 1, 200, b"old")
    write(folder, 2, 200, b"new")
    write(folder, 2, 1000, b"last")
    assert client.get(f"/jobs/{job}/frames").json() == {"steps": [200, 1000]}
    assert client.get(f"/jobs/{job}/frames/200").content == b"new"
    latest = client.get(f"/jobs/{job}/frames/latest")
    assert (latest.content, latest.headers["content-type"]) == (b"last", "image/png")
    for step in ("201", "-1", "x", "..%2f..%2fspec.json", "9" * 5000):
        assert client.get(f"/jobs/{job}/frames/{step}").status_code == 404


def write(folder: JobFolder, attempt: int, step: int, content: bytes) -> Path:
    path = folder.attempt(attempt).frames / f"{step}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
