"""The client against the real API on real HTTP (with a fake cluster), and against services that misbehave."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from jobs.backends.fakes import FakeLauncher
from jobs.specs import TrainSpec
from service.client import Client
from service.errors import ApiError
from service.job_state import State
from service.schemas.models import MediaType


@pytest.fixture
def api(client: httpx.Client) -> Iterator[Client]:
    with Client(str(client.base_url)) as found:
        yield found


def _answering(answer: Callable[[httpx.Request], httpx.Response]) -> Client:
    return Client("http://service.test", transport=httpx.MockTransport(answer))


def test_a_submitted_job_is_found_again(api: Client) -> None:
    job = api.submit(TrainSpec(name="first", seed=7), owner="ann", priority=3)
    again = api.get(job.id)
    assert (again.name, again.owner, again.priority, again.state) == ("first", "ann", 3, State.QUEUED)
    assert isinstance(again.spec, TrainSpec)
    assert again.spec.seed == 7


def test_a_spec_may_be_plain_data(api: Client) -> None:
    assert api.submit({"name": "plain"}).name == "plain"


def test_the_same_key_gives_the_same_job(api: Client) -> None:
    first = api.submit({"name": "once"}, idempotency_key="k")
    assert api.submit({"name": "once"}, idempotency_key="k").id == first.id
    with pytest.raises(ApiError) as refused:
        api.submit({"name": "another"}, idempotency_key="k")
    assert refused.value.status == 409


def test_jobs_come_in_pages_and_by_state(api: Client) -> None:
    ids = [api.submit({"name": f"job {number}"}).id for number in range(3)]
    api.cancel(ids[0])
    page = api.list(limit=2)
    assert [job.id for job in page.items] == [ids[2], ids[1]]
    rest = api.list(limit=2, cursor=page.next_cursor)
    assert [job.id for job in rest.items] == [ids[0]]
    assert [job.id for job in api.list(["CANCELLED"]).items] == [ids[0]]


def test_every_field_at_fault_is_named(api: Client) -> None:
    with pytest.raises(ApiError) as refused:
        api.submit({"name": "x", "seed": -1, "model": {"stepz": 3}})
    assert refused.value.status == 422
    assert "#/seed" in str(refused.value)
    assert "#/model/stepz" in str(refused.value)
    assert api.list().items == ()


def test_one_field_at_fault_is_named_once(api: Client) -> None:
    with pytest.raises(ApiError) as refused:
        api.submit({"name": "x", "seed": -1})
    assert str(refused.value).count("seed") == 1


def test_a_field_that_the_detail_does_not_name_is_pointed_at(api: Client) -> None:
    with pytest.raises(ApiError, match=r"one worker.*\n  #/scaling/cpus_per_worker: ") as refused:
        api.submit({"name": "x", "scaling": {"cpus_per_worker": 500}})
    assert refused.value.status == 422


def test_an_unknown_job_and_an_ended_one(api: Client) -> None:
    with pytest.raises(ApiError, match="job_000000000000") as unknown:
        api.get("job_000000000000")
    assert unknown.value.status == 404
    job = api.submit({"name": "short"})
    assert api.cancel(job.id).state is State.CANCELLED
    with pytest.raises(ApiError) as ended:
        api.pause(job.id)
    assert ended.value.status == 409


def test_what_would_run(api: Client, launcher: FakeLauncher) -> None:
    found = api.validate({"name": "x", "scaling": {"workers": 2}})
    assert found.accepted
    assert found.workers == 2
    refused = api.validate({"name": "x", "scaling": {"workers": 24}})
    assert not refused.accepted
    assert not launcher.submitted


def test_waiting_ends_with_the_job(api: Client) -> None:
    job = api.submit({"name": "cancelled soon"})
    seen: list[State] = []
    api.cancel(job.id)
    ended = api.wait(job.id, on_poll=lambda view: seen.append(view.state), timeout=20, poll=0.01)
    assert ended.state is State.CANCELLED
    assert seen[-1] is State.CANCELLED


def test_waiting_can_stop_earlier_or_give_up(api: Client) -> None:
    job = api.submit({"name": "queued for ever"})
    assert api.wait(job.id, until=lambda view: view.state is State.QUEUED).id == job.id
    with pytest.raises(ApiError, match="has not got there"):
        api.wait(job.id, timeout=0.05, poll=0.01)


def test_events_tell_the_life_of_a_job_to_its_end(api: Client) -> None:
    job = api.submit({"name": "watched"})
    api.cancel(job.id)
    events = list(api.events(job.id))
    assert [event.job_id for event in events] == [job.id] * len(events)
    assert events[-1].type == "transition"
    assert "CANCELLED" in str(events[-1].data)
    assert list(api.events(job.id, after=events[-1].id)) == []


def test_a_stream_of_events_may_pause_come_in_pieces_and_break_off() -> None:
    event = '{"id": 7, "job_id": "j", "at": "2026-01-01T00:00:00Z", "type": "notice", "data": {"text": "a: b"}}'

    def pieces() -> Iterator[bytes]:
        for text in (": keep-alive\n\n", "event: not", f"ice\nid: 7\ndata: {event}\n", "\n: keep-alive\n\n"):
            yield text.encode()
        raise httpx.ReadError("the connection was reset")

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=pieces())

    with _answering(answer) as api:
        events = api.events("j")
        first = next(events)
        assert (first.id, first.type, first.data) == (7, "notice", {"text": "a: b"})
        with pytest.raises(ApiError, match="was reset"):
            next(events)


def test_a_page_in_place_of_a_stream_of_events_is_an_error() -> None:
    with (
        pytest.raises(ApiError, match="text/html"),
        _answering(lambda _: httpx.Response(200, html="<p>sign in</p>")) as api,
    ):
        next(api.events("j"))


def test_logs_of_a_job_that_has_not_run_are_empty_and_of_an_unknown_one_an_error(api: Client) -> None:
    job = api.submit({"name": "silent"})
    assert "".join(api.logs(job.id)) == ""
    with pytest.raises(ApiError) as unknown:
        "".join(api.logs("job_000000000000", follow=True))
    assert unknown.value.status == 404


def test_no_model_yet_says_how_to_get_one(api: Client, tmp_path: Path) -> None:
    image = tmp_path / "grey.png"
    Image.new("L", (40, 30), 128).save(image)
    with pytest.raises(ApiError, match="POST a job to /jobs") as refused:
        api.reconstruct(image)
    assert refused.value.status == 503
    assert api.models().champion is None


def test_what_is_no_image_is_refused(api: Client) -> None:
    with pytest.raises(ApiError) as refused:
        api.render(b"not an image", MediaType.GIF)
    assert refused.value.status == 422


def test_a_proxy_from_the_environment_is_for_services_elsewhere(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Client(str(client.base_url)) as here:
        assert here.list().items == ()
    monkeypatch.setenv("http_proxy", str(client.base_url))
    with pytest.raises(ApiError) as answered, Client("http://elsewhere.invalid") as there:
        there.list()
    assert answered.value.status is not None, "the proxy answered"


def test_nobody_there() -> None:
    with pytest.raises(ApiError, match="seqae up") as nobody, Client("http://127.0.0.1:9", timeout=2) as api:
        api.get("job_000000000000")
    assert nobody.value.status is None


def test_an_answer_that_is_no_problem_is_quoted() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(502, text="<html>bad gateway</html>")

    with pytest.raises(ApiError, match="bad gateway") as refused, _answering(answer) as api:
        api.list()
    assert refused.value.status == 502


def test_an_answer_of_another_version_is_an_error() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"identifier": 1})

    with pytest.raises(ApiError, match="this version"), _answering(answer) as api:
        api.get("job_000000000000")


def test_waiting_outlasts_a_restart_of_the_service(api: Client) -> None:
    job = api.cancel(api.submit({"name": "x"}).id)
    answers: Iterator[httpx.Response | Exception] = iter(
        [
            httpx.ConnectError("refused"),
            httpx.Response(503, json={"detail": "starting"}),
            httpx.Response(200, content=job.model_dump_json(by_alias=True)),
        ]
    )

    def answer(_: httpx.Request) -> httpx.Response:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    with _answering(answer) as restarting:
        assert restarting.wait(job.id, poll=0).state is State.CANCELLED


def test_waiting_for_an_unknown_job_fails_at_once(api: Client) -> None:
    with pytest.raises(ApiError) as unknown:
        api.wait("job_000000000000")
    assert unknown.value.status == 404


def test_a_proxy_that_can_not_be_used_is_said_and_not_needed_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """B9: a service on this machine is never reached through one."""
    monkeypatch.setenv("ALL_PROXY", "strange://127.0.0.1:9")
    Client("http://127.0.0.1:8400").close()
    with pytest.raises(ApiError, match="proxy can't be used"):
        Client("http://elsewhere.example:8400")


def test_the_rest_of_a_jobs_life(api: Client) -> None:
    """F11: what the API offers, the client offers."""
    job = api.submit({"name": "x"}, owner="ann")
    assert api.attempts(job.id) == ()
    assert api.set_priority(job.id, 7).priority == 7
    assert api.pause(job.id).state is State.PAUSED
    assert api.resume(job.id).state is State.QUEUED
    assert [one.id for one in api.list(owner="ann").items] == [job.id]
    assert api.list(owner="bob").items == ()
    api.cancel(job.id)
    assert api.retry(job.id).retry_of == job.id
    api.delete(job.id)


def test_a_service_that_is_not_ready_says_of_which_part() -> None:
    parts = {"cluster": {"ok": False, "detail": "no machine"}}

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(503, json={"ready": False, "parts": parts})

    with _answering(answer) as api:
        found = api.readiness()
    assert not found.ready
    assert found.parts["cluster"].detail == "no machine"


def test_champions_are_moved_with_who_and_why() -> None:
    asked: list[tuple[str, str, bytes]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.raw_path.decode(), request.headers.get("seqae-owner", ""), request.content))
        empty: dict[str, object] = {
            "champion": "2",
            "challenger": None,
            "previous": None,
            "versions": [],
            "history": [],
        }
        return httpx.Response(200, json={"name": "m", **empty})

    with _answering(answer) as api:
        assert api.promote("m", "2", why="better", owner="ann").champion == "2"
        api.rollback("m")
        api.model("a/b c")
    assert asked == [
        ("/models/m/versions/2:promote", "ann", b'{"why":"better"}'),
        ("/models/m:rollback", "", b'{"why":""}'),
        ("/models/a%2Fb%20c", "", b""),
    ]


def test_use_of_the_disk() -> None:
    view = {
        "home": "/h",
        "total_bytes": 10,
        "free_bytes": 5,
        "parts": [],
        "owners": [],
        "jobs": [],
        "measured_at": "2026-01-01T00:00:00Z",
        "of_a_later_release": 1,
    }
    with _answering(lambda _: httpx.Response(200, json=view)) as api:
        assert api.disk().free_bytes == 5


BAD_URLS = [
    *("", "localhost:8400", "127.0.0.1:8400", "ftp://host", "http://", "//host", "http://host:99999", "http://host:0"),
    *(
        "http://host:port",
        "http://[::1",
        "http://a b",
        "http://a\nb",
        "http://xn--a",
        f"http://{'a' * 300}",
        "http://\xad",
    ),
    *("http://host/?x=1", "http://host/#top", "http://" + "é" * 70_000),
]


@pytest.mark.parametrize("url", BAD_URLS, ids=[url[:16] for url in BAD_URLS])
def test_what_is_no_url_is_told_in_a_line(url: str) -> None:
    """F4: no scheme, a port that can't be, a name that no socket takes."""
    with pytest.raises(ApiError) as refused:
        Client(url)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize(
    "url", ["http://host", "https://münchen.de/seqae/", " http://[::1]:80 ", "http://my_service:8400"]
)
def test_addresses_of_services(url: str) -> None:
    """A service may be behind a path, and have a name with an umlaut, which sockets take in another form."""
    seen: list[httpx.URL] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url)
        return httpx.Response(200, json={"items": [], "next_cursor": None})

    with Client(url, transport=httpx.MockTransport(answer)) as api:
        api.list()
    assert seen[0].path.endswith("/jobs")
    assert seen[0].path.startswith("/seqae") is ("seqae/" in url)


def test_a_password_in_the_url_is_not_shown() -> None:
    with (
        pytest.raises(ApiError) as refused,
        Client("http://ann:secret@127.0.0.1:9", timeout=1) as api,
    ):
        api.list()
    assert "127.0.0.1:9" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "secret" not in api.url


@pytest.mark.parametrize("value", ["ü", "a\nb", " ", "a\t", "x" * 300])
def test_what_no_header_can_have_is_told_before_it_is_sent(value: str) -> None:
    """F4: a key with an umlaut ended in a traceback, and one with a line break could add a header."""

    def answer(_: httpx.Request) -> httpx.Response:
        pytest.fail("nothing may be sent")

    with _answering(answer) as api:
        with pytest.raises(ApiError, match="idempotency key"):
            api.submit({"name": "x"}, idempotency_key=value)
        with pytest.raises(ApiError, match="the owner"):
            api.submit({"name": "x"}, owner=value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "\ud800", object(), {1, 2}])
def test_what_json_can_not_hold_is_told(bad: object) -> None:
    """F4."""
    with _answering(lambda _: httpx.Response(200)) as api, pytest.raises(ApiError, match="can't be sent"):
        api.submit({"name": bad})


@pytest.mark.parametrize("job", ["../models", "a/b", "?x", "a b", "ü", "%2e", "#"])
def test_an_id_stays_one_segment_of_the_path(job: str) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(404, json={})

    with _answering(answer) as api:
        with pytest.raises(ApiError):
            api.get(job)
        for nothing in ("", ".", ".."):
            with pytest.raises(ApiError, match="names nothing"):
                api.get(nothing)
    (path,) = seen
    assert path.startswith("/jobs/")
    assert path.count("/") == 2
    assert not set("?# ") & set(path)


def test_an_answer_of_another_version_names_the_field_and_quotes_nothing() -> None:
    answer = httpx.Response(200, json={"items": [{"id": "secret"}], "next_cursor": None})
    with _answering(lambda _: answer) as api, pytest.raises(ApiError) as refused:
        api.list()
    assert "items/0/name" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)
