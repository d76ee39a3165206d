"""Which job is meant by what somebody types."""

import httpx
import pytest

from seqae.errors import Error
from service.cli.options import complete_jobs, resolve_job, resolve_model, user_name
from service.client import Client
from service.errors import ApiError
from tests.unit.service.cli.conftest import FakeService, make_job


@pytest.fixture
def client(service: FakeService) -> Client:
    service.jobs = [make_job(number) for number in range(0x3F0, 0x3F0 + 450)]
    return Client("http://service.test")


def test_a_whole_id_costs_one_question(client: Client, service: FakeService) -> None:
    job = service.jobs[7].id
    assert resolve_job(client, job) == job
    assert service.asked == [f"GET /jobs/{job}"]


@pytest.mark.parametrize("text", ["job_3f7", "3f7", "job_3f70123"])
def test_the_beginning_of_an_id_will_do(client: Client, text: str) -> None:
    """F2: with or without `job_`, on whichever page the job is."""
    assert resolve_job(client, text) == make_job(0x3F7).id
    assert resolve_job(client, "5a5") == make_job(0x5A5).id


def test_several_are_listed_whole(client: Client) -> None:
    """F2."""
    with pytest.raises(Error) as refused:
        resolve_job(client, "3f")
    first, *lines = str(refused.value).splitlines()
    assert first == "16 jobs' ids begin with 3f:"
    assert lines[0].split() == [make_job(0x3F0).id, "QUEUED", "small"]
    assert lines[-1] == "  and 6 more"
    assert len(lines) == 11


def test_what_there_is_not_is_named(client: Client, service: FakeService) -> None:
    with pytest.raises(ApiError, match="no /jobs/zzz"):
        resolve_job(client, "zzz")
    for text in ("../models", "a b", "", "x" * 101, "jöb", "job\n"):
        service.requests.clear()
        with pytest.raises(Error, match="is no job's id"):
            resolve_job(client, text)
        assert service.asked == []


def test_the_latest(client: Client, service: FakeService) -> None:
    assert resolve_job(client, "latest") == service.jobs[0].id
    service.jobs = []
    with pytest.raises(Error, match="no jobs yet"):
        resolve_job(client, "latest")


def test_a_model_may_be_named_by_a_job(client: Client, service: FakeService) -> None:
    assert resolve_model(client, "seqae/3") == "seqae/3"
    assert service.asked == []
    assert resolve_model(client, "job_3f7") == make_job(0x3F7).id
    assert resolve_model(client, "latest") == service.jobs[0].id


def test_the_shell_completes_ids(client: Client, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.local.stack.api_url", lambda _: "http://service.test")
    assert complete_jobs("job_3f1") == [(make_job(0x3F1).id, "QUEUED small")]
    assert complete_jobs("la") == [("latest", "the newest")]
    service.answers["GET /jobs"] = lambda _: as_nothing()
    assert complete_jobs("job_") == []


def as_nothing() -> httpx.Response:
    return httpx.Response(503)


def test_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_name("ann") == "ann"
    monkeypatch.setattr("getpass.getuser", lambda: "bob")
    assert user_name("") == "bob"
    monkeypatch.setattr("getpass.getuser", lambda: "jürgen")
    assert user_name("") == ""

    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert user_name("") == ""
