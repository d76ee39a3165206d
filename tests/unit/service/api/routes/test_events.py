"""The stream of what happens to a job."""

import json
import threading
from collections.abc import Iterator

import httpx
import pytest

from service.api.routes import events
from service.db.store import NewEvent, Store
from service.job_state import EventType, State


class Stream:
    """A client's side of server-sent events, read line by line as the specification says."""

    def __init__(self, answer: httpx.Response) -> None:
        self.lines = answer.iter_lines()

    def __iter__(self) -> Iterator[dict[str, str]]:
        event: dict[str, str] = {}
        for line in self.lines:
            if not line:
                if event:
                    yield event
                event = {}
            elif line.startswith(":"):
                yield {"comment": line[1:].strip()}
            else:
                name, _, value = line.partition(": ")
                event[name] = value


def submit(client: httpx.Client) -> str:
    return str(client.post("/jobs", json={"name": "digits"}).json()["id"])


def progress(store: Store, job: str, *iterations: int) -> None:
    happened = [NewEvent(EventType.PROGRESS, {"iteration": iteration}) for iteration in iterations]
    store.update(store.job(job), happened)


def read(client: httpx.Client, job: str, last: str | None = None) -> list[dict[str, str]]:
    headers = {} if last is None else {"last-event-id": last}
    with client.stream("GET", f"/jobs/{job}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(Stream(answer))


def test_what_has_happened_is_told_from_the_start_to_the_end(client: httpx.Client, store: Store) -> None:
    job = submit(client)
    progress(store, job, 1, 2)
    client.post(f"/jobs/{job}/cancel")
    found = read(client, job)
    assert [event["event"] for event in found] == ["transition", "progress", "progress", "transition", "end"]
    ids = [int(event["id"]) for event in found[:-1]]
    assert ids == sorted(ids)
    assert json.loads(found[1]["data"])["data"] == {"iteration": 1}
    assert json.loads(found[3]["data"])["data"]["to"] == "CANCELLED"
    assert json.loads(found[-1]["data"]) == {"state": "CANCELLED"}


def test_news_come_as_they_happen_and_a_client_that_returns_misses_nothing(client: httpx.Client, store: Store) -> None:
    job = submit(client)
    seen: list[str] = []
    first = threading.Event()

    def listen() -> None:
        with client.stream("GET", f"/jobs/{job}/events") as answer:
            for event in Stream(answer):
                seen.append(event["id"])
                first.set()
                if len(seen) == 3:
                    return

    listener = threading.Thread(target=listen)
    listener.start()
    assert first.wait(10)
    progress(store, job, 1, 2)
    listener.join(10)
    assert len(seen) == 3
    # While the client is away.
    progress(store, job, 3, 4)
    client.post(f"/jobs/{job}/cancel")
    rest = read(client, job, last=seen[-1])
    assert [json.loads(event["data"])["data"].get("iteration") for event in rest[:2]] == [3, 4]
    assert [event["event"] for event in rest] == ["progress", "progress", "transition", "end"]


def test_more_events_than_a_page(client: httpx.Client, store: Store) -> None:
    job = submit(client)
    progress(store, job, *range(events._PAGE * 2 + 10))
    client.post(f"/jobs/{job}/cancel")
    found = [event for event in read(client, job) if event["event"] == "progress"]
    assert [json.loads(event["data"])["data"]["iteration"] for event in found] == list(range(events._PAGE * 2 + 10))


def test_another_jobs_events_stay_out(client: httpx.Client, store: Store) -> None:
    job, other = submit(client), submit(client)
    progress(store, other, 5)
    client.post(f"/jobs/{job}/cancel")
    assert {json.loads(event["data"])["job_id"] for event in read(client, job)[:-1]} == {job}


def test_a_browser_that_returns_after_the_end_is_told_to_stop(client: httpx.Client) -> None:
    job = submit(client)
    client.post(f"/jobs/{job}/cancel")
    last = read(client, job)[-2]["id"]
    assert client.get(f"/jobs/{job}/events", headers={"last-event-id": last}).status_code == 204
    assert client.get(f"/jobs/{job}/events", params={"after": last}).status_code == 204


def test_the_stream_of_a_deleted_job_ends(client: httpx.Client, store: Store) -> None:
    job = submit(client)
    seen: list[dict[str, str]] = []
    first = threading.Event()

    def listen() -> None:
        with client.stream("GET", f"/jobs/{job}/events") as answer:
            for event in Stream(answer):
                seen.append(event)
                first.set()

    listener = threading.Thread(target=listen)
    listener.start()
    assert first.wait(10)
    store.delete(store.transition(store.job(job), State.CANCELLED))
    listener.join(10)
    assert not listener.is_alive()
    assert [event["event"] for event in seen] == ["transition", "transition", "deleted", "end"]


def test_silence_is_broken_by_comments(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_PING_SECONDS", 0.0)
    job = submit(client)
    with client.stream("GET", f"/jobs/{job}/events") as answer:
        assert any("comment" in event for event in Stream(answer))


def test_streams_end_when_the_server_stops(client: httpx.Client) -> None:
    # The fixture that stops the server fails if this stream holds it up.
    answer = client.send(client.build_request("GET", f"/jobs/{submit(client)}/events"), stream=True)
    assert next(iter(Stream(answer)))["event"] == "transition"
