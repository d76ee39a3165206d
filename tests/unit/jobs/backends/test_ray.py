"""The Jobs API as Ray 2.60 was seen to answer it, by a transport in place of the network."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from jobs.backends.ray import MALLOC, RayLauncher
from jobs.errors import LauncherUnavailable, SubmissionRefused
from jobs.interfaces import NodeCapacity, ProcessState, Submission

SUBMISSION = Submission("job_a", 2, "tune", Path("/jobs/with space"), {"SEQAE_RUN_ID": "r1"})

Handler = Callable[[httpx.Request], httpx.Response]
Connect = Callable[[Handler], RayLauncher]


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    token = tmp_path / "token"
    token.write_text("secret\n")
    made: list[RayLauncher] = []

    def launcher(handler: Handler) -> RayLauncher:
        made.append(RayLauncher("http://ray", token, python="/venv/python", transport=httpx.MockTransport(handler)))
        return made[-1]

    yield launcher
    for each in made:
        each.close()


def _answer(status: int, content: object) -> Handler:
    text = content if isinstance(content, str) else json.dumps(content)
    return lambda _: httpx.Response(status, text=text)


def test_a_submission_says_what_to_run_and_how(connect: Connect) -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"submission_id": "job_a-2"})

    connect(handler).submit(SUBMISSION)
    (request,) = seen
    assert request.headers["Authorization"] == "Bearer secret"
    assert (request.method, request.url.path) == ("POST", "/api/jobs/")
    body = json.loads(request.content)
    assert body["submission_id"] == "job_a-2"
    assert body["entrypoint"] == (
        "mkdir -p '/jobs/with space/attempts/2'"
        " && exec /venv/python -m jobs.tune --job-dir '/jobs/with space' --attempt 2"
        " >> '/jobs/with space/attempts/2/driver.log' 2>&1"
    )
    environment = body["runtime_env"]["env_vars"]
    # F3: what a driver prints has no colours, comes at once, and all of it.
    plain = {"NO_COLOR": "1", "RAY_COLOR_PREFIX": "0", "RAY_DEDUP_LOGS": "0", "PYTHONUNBUFFERED": "1"}
    assert environment.items() >= plain.items()
    assert environment["SEQAE_RUN_ID"] == "r1"
    assert environment["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "0.2"
    assert environment.items() >= MALLOC.items()
    assert environment["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] == "1", "G7: GPUs are hidden from jobs that asked for none"


@pytest.mark.parametrize("path", ["/data/$HOME/x", "/a$b", "/${home}", "/100%/$$", "/plain"])
def test_ray_hands_a_value_on_as_it_is_whatever_signs_it_has(connect: Connect, path: str) -> None:
    """B8: Ray takes $NAME in a value for a variable of the cluster's machine."""
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={})

    connect(handler).submit(replace(SUBMISSION, environment={"SEQAE_DATA_DIR": path}))
    variables = json.dumps(json.loads(seen[0].content)["runtime_env"]["env_vars"])
    code = (
        "import json, os, sys; from ray._private.utils import update_envs; update_envs(json.loads(sys.argv[1])); "
        "print(os.environ['SEQAE_DATA_DIR'])"
    )
    answer = subprocess.run([sys.executable, "-c", code, variables], capture_output=True, text=True, check=True)
    assert answer.stdout.rstrip("\n") == path


def test_a_value_that_ray_would_cut_is_refused(connect: Connect) -> None:
    """B8: said, rather than another folder's data."""
    with pytest.raises(SubmissionRefused, match="SEQAE_DATA_DIR has a part like"):
        connect(_answer(200, "{}")).submit(replace(SUBMISSION, environment={"SEQAE_DATA_DIR": "/a${HOME}/b"}))


FAULTS = """
import resource

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [bytearray(b"1") * 2**22 for _ in range(20)]  # 4 MiB each, 20,480 pages in all
    del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print([faults() for _ in range(3)][-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_memory_that_a_step_has_freed_is_there_for_the_next() -> None:
    bare = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    faults = [
        int(subprocess.check_output([sys.executable, "-c", FAULTS], env=environment, text=True, timeout=60))
        for environment in (bare, bare | MALLOC)
    ]
    assert faults[1] < faults[0] / 10


def test_one_that_exists_counts_as_started(connect: Connect) -> None:
    trace = (
        "Traceback (most recent call last):\nValueError: Job with submission_id job_a-2 already exists. Please use "
        "a different submission_id.\n"
    )
    connect(_answer(500, trace)).submit(SUBMISSION)


def test_a_refusal_is_told_by_the_last_line_of_the_trace(connect: Connect) -> None:
    trace = "Traceback (most recent call last):\n  ...\nTypeError: an unexpected keyword\n.\n"
    with pytest.raises(SubmissionRefused, match=r"the job: TypeError: an unexpected keyword$"):
        connect(_answer(400, trace)).submit(SUBMISSION)


@pytest.mark.parametrize("status", [401, 403, 500, 502, 503])
def test_anything_else_says_nothing_about_the_job(connect: Connect, status: int) -> None:
    launcher = connect(_answer(status, "No available agent to submit job"))
    with pytest.raises(LauncherUnavailable, match=f"{status}: No available agent"):
        launcher.submit(SUBMISSION)
    for call in (launcher.state, launcher.stop, launcher.logs):
        with pytest.raises(LauncherUnavailable):
            call("job_a-2")


@pytest.mark.parametrize("error", [httpx.ReadTimeout("slow"), httpx.ConnectError("refused")])
def test_no_answer_in_time_is_not_a_failed_job(connect: Connect, error: Exception) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise error

    with pytest.raises(LauncherUnavailable, match="does not answer"):
        connect(handler).live()


def test_a_head_that_answers_garbage_is_unavailable(connect: Connect) -> None:
    with pytest.raises(LauncherUnavailable, match="not JSON"):
        connect(_answer(200, "<html>")).cluster_id()


def test_unknown_submissions(connect: Connect) -> None:
    launcher = connect(_answer(404, "Job job_a-2 does not exist"))
    assert launcher.state("job_a-2") is None
    assert launcher.logs("job_a-2") == ""
    launcher.stop("job_a-2")


def test_a_wrong_address_is_not_an_unknown_submission(connect: Connect) -> None:
    with pytest.raises(LauncherUnavailable):
        connect(_answer(404, "404: Not Found")).state("job_a-2")


def test_a_known_submission(connect: Connect) -> None:
    assert connect(_answer(200, {"status": "RUNNING"})).state("job_a-2") is ProcessState.RUNNING
    assert connect(_answer(200, {"logs": "line\n"})).logs("job_a-2") == "line\n"
    connect(_answer(200, {"stopped": True})).stop("job_a-2")


def test_the_living_are_submissions_that_have_not_ended(connect: Connect) -> None:
    jobs = [
        {"type": "SUBMISSION", "submission_id": "a-1", "status": "RUNNING"},
        {"type": "SUBMISSION", "submission_id": "b-1", "status": "PENDING"},
        {"type": "SUBMISSION", "submission_id": "c-1", "status": "FAILED"},
        {"type": "DRIVER", "submission_id": None, "status": "RUNNING"},
    ]
    assert connect(_answer(200, jobs)).live() == {"a-1", "b-1"}


def _nodes(*nodes: Mapping[str, object]) -> dict[str, object]:
    return {"result": True, "data": {"result": {"result": list(nodes)}}}


def test_capacity_counts_machines_that_are_alive(connect: Connect) -> None:
    alive = {"state": "ALIVE", "resources_total": {"CPU": 4.0, "GPU": 1.0, "memory": 1e9, "trial_driver": 16}}
    dead = {"state": "DEAD", "resources_total": {"CPU": 64.0}}
    capacity = connect(_answer(200, _nodes(alive, dead))).capacity()
    assert capacity.nodes == (NodeCapacity(cpus=4, gpus=1, memory_bytes=1e9),)


def test_a_head_without_machines_is_still_starting(connect: Connect) -> None:
    with pytest.raises(LauncherUnavailable, match="no machine"):
        connect(_answer(200, _nodes())).capacity()


def test_another_session_is_another_cluster(connect: Connect) -> None:
    assert connect(_answer(200, {"session_name": "session_1"})).cluster_id() == "session_1"


def test_a_token_that_is_gone_is_an_error(tmp_path: Path) -> None:
    transport = httpx.MockTransport(_answer(200, {}))
    with (
        RayLauncher("http://ray", tmp_path / "none", transport=transport) as launcher,
        pytest.raises(LauncherUnavailable, match="token"),
    ):
        launcher.live()


def test_without_a_token_file_none_is_sent() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        assert "Authorization" not in request.headers
        return httpx.Response(200, json=[])

    with RayLauncher("http://ray", transport=httpx.MockTransport(handler)) as launcher:
        assert launcher.live() == set()
