"""Verbs of jobs, against a service that is a function."""

import json

import httpx
import pytest

from seqae.errors import Error
from service.job_state import State
from service.schemas.jobs import Validation
from tests.unit.service.cli.conftest import FakeService, Run, as_json, make_job, succeeded, waiting

JOB = make_job(1)
SPEC = "name: small"


def test_jobs_are_listed_with_whole_ids_and_times_with_a_zone(run: Run, service: FakeService) -> None:
    """F2, F11, F12."""
    service.jobs = [waiting(3), succeeded(2, promoted=True), make_job(1, name="a name " * 10)]
    titles, *lines = run("jobs").stdout.splitlines()
    assert titles.split() == ["id", "state", "kind", "created", "progress", "test/mse", "name"]
    assert [line.split()[0] for line in lines] == [job.id for job in service.jobs]
    assert "WAITING FOR WORKERS" in lines[0]
    assert "0.00412" in lines[1]
    assert lines[2].endswith("a name a name")
    assert all(line.split()[4 if "WAITING" not in line else 6][-6] in "+-" for line in lines)
    plain = json.loads(run("jobs", "--json", "--limit", "2", "--owner", "ann", "--state", "running").stdout)
    assert [job["id"] for job in plain["items"]] == [job.id for job in service.jobs[:2]]
    assert dict(service.requests[-1].url.params) == {"state": "RUNNING", "limit": "2", "owner": "ann"}
    assert run("jobs", "--limit", "2").stdout.splitlines()[-1] == "... and older ones: --limit 4"


def test_a_job_is_submitted_with_key_owner_and_priority(run: Run, service: FakeService) -> None:
    service.answers["POST /jobs"] = lambda _: as_json(JOB, 201)
    done = run("submit", "-", "--key", "k 1", "--owner", "ann", "--priority", "3", typed="name: small\nseed: 2e2")
    assert done.stdout == f"{JOB.id}\n"
    request = service.requests[-1]
    assert json.loads(request.content) == {"name": "small", "seed": 200}
    assert (request.headers["idempotency-key"], request.headers["seqae-owner"]) == ("k 1", "ann")
    assert request.url.params["priority"] == "3"
    assert json.loads(run("submit", "-", "--json", typed=SPEC).stdout)["id"] == JOB.id


@pytest.mark.parametrize("key", ["kß", "a\nb", "", " a", "x" * 256, "\x7f"])
def test_a_key_that_no_header_can_have_is_told_before_anything_is_sent(
    key: str, run: Run, service: FakeService
) -> None:
    """F4."""
    error = run("submit", "-", "--key", key, typed=SPEC).exception
    assert isinstance(error, Error)
    assert "idempotency key" in str(error)
    assert service.asked == []


@pytest.mark.parametrize("promoted", [True, False])
def test_waiting_ends_with_the_result(promoted: bool, run: Run, service: FakeService) -> None:
    """F6: and the same of a job that is attached to."""
    job = succeeded(1, promoted=promoted)
    service.jobs = [job]
    service.answers["POST /jobs"] = lambda _: as_json(make_job(1), 201)
    done = run("submit", "-", "--wait", typed=SPEC)
    assert done.exit_code == 0
    first, *rest = done.stdout.splitlines()
    assert first == job.id
    text = "\n".join(rest)
    assert f"{job.id} SUCCEEDED" in text
    assert ("the champion" if promoted else "not the champion") in text
    assert "next: seqae reconstruct" in text
    assert run("attach", "1").stdout == "\n".join(rest) + "\n"
    plain = run("submit", "-", "--wait", "--json", typed=SPEC)
    assert json.loads(plain.stdout)["promotion"]["promoted"] is promoted
    assert "succeeded" in plain.stderr


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED])
def test_a_job_that_fails_has_an_exit_status_of_its_own(state: State, run: Run, service: FakeService) -> None:
    service.jobs = [make_job(1, state)]
    done = run("attach", "latest")
    assert done.exit_code == 3
    assert f"next: seqae logs {JOB.id}" in done.stdout


def test_ctrl_c_leaves_the_job_alone(run: Run, service: FakeService) -> None:
    """F6."""

    def interrupt(_: httpx.Request) -> httpx.Response:
        raise KeyboardInterrupt

    service.answers["POST /jobs"] = lambda _: as_json(JOB, 201)
    service.answers[f"GET /jobs/{JOB.id}"] = interrupt
    left = run("submit", "-", "--wait", typed=SPEC)
    assert left.exit_code == 130
    assert f"{JOB.id} goes on; `seqae attach {JOB.id}`" in left.stderr
    assert service.asked == ["POST /jobs", f"GET /jobs/{JOB.id}"]


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume", "retry"])
def test_each_change_of_state(verb: str, run: Run, service: FakeService) -> None:
    """F11: the command line had only `cancel`."""
    service.jobs = [JOB]
    service.answers[f"POST /jobs/{JOB.id}/{verb}"] = lambda _: as_json(make_job(1, State.CANCELLED))
    assert run(verb, "job_1").stdout == f"{JOB.id} CANCELLED\n"
    assert json.loads(run(verb, "1", "--json").stdout)["state"] == "CANCELLED"


def test_a_jobs_priority(run: Run, service: FakeService) -> None:
    service.jobs = [JOB]
    service.answers[f"PATCH /jobs/{JOB.id}"] = lambda request: as_json(
        make_job(1, priority=json.loads(request.content)["priority"])
    )
    assert run("priority", "1", "7").stdout == f"{JOB.id} QUEUED, priority 7\n"
    assert json.loads(run("priority", "--json", "1", "--", "-7").stdout)["priority"] == -7
    assert run("priority", "1", "5000").exit_code == 2


def test_several_jobs_are_deleted_or_none(run: Run, service: FakeService) -> None:
    """What is misspelt is found before the first job is gone."""
    service.jobs = [make_job(2), JOB]
    for job in service.jobs:
        service.answers[f"DELETE /jobs/{job.id}"] = lambda _: httpx.Response(204)
    assert isinstance(run("delete", "1", "3").exception, Error)
    assert not any(request.method == "DELETE" for request in service.requests)
    assert run("delete", "1", "2").stdout == f"{JOB.id} deleted\n{make_job(2).id} deleted\n"
    assert json.loads(run("delete", "1", "--json").stdout) == {"deleted": [JOB.id]}


def test_attempts(run: Run, service: FakeService) -> None:
    service.jobs = [JOB]
    attempt = {"number": 1, "created_at": "2026-01-01T00:00:00Z", "started_at": None, "ended_at": None}
    lost = attempt | {"outcome": "lost", "error": {"class": "infrastructure", "message": "a node\nis gone"}}
    service.answers[f"GET /jobs/{JOB.id}/attempts"] = lambda _: as_json(
        [lost, attempt | {"number": 2, "outcome": None, "error": None}]
    )
    _, first, second = run("attempts", "1").stdout.splitlines()
    assert first.split("  ")[-1] == "a node is gone (infrastructure)"
    assert "open" in second
    assert [one["number"] for one in json.loads(run("attempts", "1", "--json").stdout)] == [1, 2]


@pytest.mark.parametrize("accepted", [True, False])
def test_a_spec_is_validated(accepted: bool, run: Run, service: FakeService) -> None:
    found = Validation.model_validate(
        {
            "accepted": accepted,
            "problems": () if accepted else [{"pointer": "#/scaling", "detail": "too many"}],
            "warnings": ["the cluster does not answer"],
            "spec": {"name": "small"},
            "workers": 2,
            "cpus": 2.5,
            "gpus": 0,
            "iterations": 100,
            "seconds": None,
            "memory_bytes": 123_000_000,
        }
    )
    service.answers["POST /jobs:validate"] = lambda _: as_json(found)
    done = run("validate", "-", typed=SPEC)
    assert done.exit_code == (0 if accepted else 1)
    assert ("#/scaling: too many" in done.stdout) is not accepted
    assert "the cluster does not answer" in done.stdout
    assert "123 MB" in done.stdout
    plain = run("validate", "-", "--json", typed=SPEC)
    assert (json.loads(plain.stdout)["accepted"], plain.exit_code) == (accepted, done.exit_code)


def test_show_is_json_with_or_without_the_option(run: Run, service: FakeService) -> None:
    service.jobs = [JOB]
    assert json.loads(run("show", "1").stdout) == json.loads(run("show", "1", "--json").stdout)
