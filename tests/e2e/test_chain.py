"""End-to-end test of the embedded stack over HTTP, with the real Ray, MLflow and database.

The tests share one stack and run in order; the last one ends it.
"""

import io
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image

from jobs.directory.layout import JobFolder
from jobs.specs import ScalingConfig, TrainSpec
from seqae.config import AttentionConfig, CoderConfig, MnistScenesConfig, ModelConfig, ScheduleConfig
from service.client import Client
from service.errors import ApiError
from service.job_state import State
from service.local.home import DaemonName
from service.local.ports import PREFERRED_PORTS, PortName, free_port
from service.local.stack import Stack, api_url
from service.schemas.models import MediaType
from tests.daemons import RayDashboard, wait_until

pytestmark = pytest.mark.timeout(900)

STEPS = 2
SPEC = TrainSpec(
    name="tiny",
    data=MnistScenesConfig(train_scenes=60, test_scenes=20, max_digits=2),
    model=ModelConfig(
        height=64, width=64, steps=STEPS, attention=AttentionConfig(kernel_size=12), coder=CoderConfig(bottleneck=16)
    ),
    schedule=ScheduleConfig(batch_size=10, epochs=2, evaluate_every=6, checkpoint_every=6, evaluate_scenes=20),
    scaling=ScalingConfig(workers=2),
)
TIMEOUT = 400.0
_wait_until = partial(wait_until, seconds=TIMEOUT)


def _spec(name: str, epochs: float) -> TrainSpec:
    return SPEC.model_copy(
        update={"name": name, "schedule": SPEC.schedule.model_copy(update={"epochs": epochs})},
    )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    ports: dict[PortName, int] = {}
    for name in PREFERRED_PORTS:
        ports[name] = free_port(None, set(ports.values()))
    stack = Stack(tmp_path_factory.mktemp("chain"), ports=ports)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[Client]:
    with Client(api_url(stack.layout.home)) as client:
        yield client


@pytest.fixture(scope="module")
def tracking(stack: Stack) -> Iterator[httpx.Client]:
    """MLflow's REST API."""
    url = {part.name: part.url for part in stack.status()}[DaemonName.MLFLOW]
    with httpx.Client(base_url=f"{url}/api/2.0/mlflow", timeout=60, trust_env=False) as http:
        yield http


def _answer(http: httpx.Client, address: str, **params: str) -> Any:
    response = http.get(address, params=params)
    response.raise_for_status()
    return response.json()


def _run_id(mlflow_url: str | None) -> str:
    assert mlflow_url is not None
    return mlflow_url.rpartition("/")[2].partition("?")[0]


def _pid(stack: Stack, name: DaemonName) -> int:
    pid = {part.name: part.pid for part in stack.status()}[name]
    assert pid is not None
    return pid


def _alive_actors(stack: Stack) -> list[str]:
    url = {part.name: part.url for part in stack.status()}[DaemonName.RAY]
    ray = RayDashboard(url, {"Authorization": f"Bearer {stack.layout.token.read_text().strip()}"})
    return [str(actor["class_name"]) for actor in ray.actors(supervisors=True)]


def test_a_job_becomes_a_model(client: Client, tracking: httpx.Client) -> None:
    job = client.submit(SPEC)
    assert job.state is State.QUEUED
    job = client.wait(job.id, timeout=TIMEOUT)
    assert (job.state, job.error) == (State.SUCCEEDED, None), "".join(client.logs(job.id))
    assert job.metrics is not None
    assert 0 < job.metrics["test/mse"] < 1
    assert job.model is not None

    run_id = _run_id(job.mlflow_url)
    run = _answer(tracking, "/runs/get", run_id=run_id)["run"]
    assert run["info"]["status"] == "FINISHED"
    params = {param["key"]: param["value"] for param in run["data"]["params"]}
    assert params["model.attention.kernel_size"] == "12"
    assert params["scaling.workers"] == "2"
    metrics = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
    assert metrics["test/mse"] == pytest.approx(job.metrics["test/mse"])
    history = _answer(tracking, "/metrics/get-history", run_id=run_id, metric_key="val/mse")["metrics"]
    assert [point["step"] for point in history] == sorted({point["step"] for point in history})
    assert history[-1]["step"] == 12  # 2 epochs of 60 scenes in batches of 10
    files = [file["path"] for file in _artifacts(tracking, run_id)]
    assert any(name.endswith(".png") for name in files), files

    champion = _answer(tracking, "/registered-models/alias", name=job.model.name, alias="champion")["model_version"]
    assert (champion["version"], champion["run_id"]) == (job.model.version, run_id)


def _artifacts(tracking: httpx.Client, run_id: str, path: str = "") -> list[dict[str, Any]]:
    found = _answer(tracking, "/artifacts/list", run_id=run_id, path=path).get("files", [])
    below = [file for folder in found if folder["is_dir"] for file in _artifacts(tracking, run_id, folder["path"])]
    return [file for file in found if not file["is_dir"]] + below


def test_the_model_rebuilds_a_picture(client: Client, stack: Stack) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (120, 90), (200, 30, 60)).save(picture, "PNG")
    job = client.list(["SUCCEEDED"]).items[0]
    by_job = client.reconstruct(picture.getvalue(), model=job.id)
    assert len(by_job.frames) == STEPS + 1
    assert len(by_job.steps) == STEPS
    _wait_until(lambda: client.models().champion is not None, "the champion is served")
    champion = client.reconstruct(picture.getvalue())
    assert champion == by_job
    assert job.model is not None
    assert champion.model.version == job.model.version
    film = Image.open(io.BytesIO(client.render(picture.getvalue(), MediaType.GIF)))
    assert getattr(film, "n_frames", 1) == STEPS + 1


def test_bad_input_leaves_nothing_behind(client: Client, tracking: httpx.Client) -> None:
    before = [job.id for job in client.list().items]
    plain = SPEC.model_dump(mode="json")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({**plain, "stepz": 1}, "#/stepz"),
        ({**plain, "seed": "many"}, "#/seed"),
        ({**plain, "model": {"height": -64}}, "#/model/height"),
        ({**plain, "model": {"height": 32, "width": 32, "attention": {"kernel_size": 33}}}, "kernel_size"),
        ({**plain, "scaling": {"workers": 500}}, "workers"),
        ({**plain, "scaling": {"cpus_per_worker": 500}}, "cpus_per_worker"),
    ]
    for spec, place in wrong:
        with pytest.raises(ApiError) as refused:
            client.submit(spec)
        assert refused.value.status == 422, spec
        assert place.rpartition("/")[2] in str(refused.value)
    for content in (b"not an image", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"):
        with pytest.raises(ApiError) as refused:
            client.reconstruct(content)
        assert refused.value.status == 422
    with pytest.raises(ApiError) as refused:
        client.reconstruct(bytes(50_000_000))
    assert refused.value.status == 413
    with pytest.raises(ApiError) as refused:
        client.cancel(before[0])
    assert refused.value.status == 409
    assert [job.id for job in client.list().items] == before
    runs = tracking.post("/runs/search", json={"experiment_ids": ["0", "1"], "max_results": 100}).json()["runs"]
    assert len(runs) == len(before)


def test_a_cancelled_job_leaves_no_actor_and_a_closed_run(client: Client, stack: Stack, tracking: httpx.Client) -> None:
    job = client.submit(_spec("endless", epochs=100_000))
    client.wait(job.id, timeout=TIMEOUT, until=lambda view: view.progress is not None and view.progress.iteration > 0)
    client.cancel(job.id)
    job = client.wait(job.id, timeout=TIMEOUT)
    assert job.state is State.CANCELLED
    assert job.model is None
    _wait_until(lambda: not _alive_actors(stack), "its actors are gone")
    run_id = _run_id(job.mlflow_url)
    _wait_until(lambda: _answer(tracking, "/runs/get", run_id=run_id)["run"]["info"]["end_time"], "its run is closed")
    assert _answer(tracking, "/runs/get", run_id=run_id)["run"]["info"]["status"] == "KILLED"


def test_a_job_outlives_the_control_plane(client: Client, stack: Stack, tracking: httpx.Client) -> None:
    job = client.submit(_spec("outlives", epochs=5))
    client.wait(job.id, timeout=TIMEOUT, until=lambda view: view.state is State.RUNNING)
    os.kill(_pid(stack, DaemonName.API), signal.SIGKILL)
    attempt = JobFolder(stack.layout.home / "jobs" / job.id).attempt(1)
    _wait_until(lambda: attempt.read_result() is not None, "it ends on its own")
    others = {name: _pid(stack, name) for name in (DaemonName.RAY, DaemonName.MLFLOW)}
    assert stack.up() == ("api",)
    assert {name: _pid(stack, name) for name in others} == others
    job = client.wait(job.id, timeout=TIMEOUT)
    assert (job.state, job.attempt) == (State.SUCCEEDED, 1)
    assert job.metrics is not None
    assert 0 < job.metrics["test/mse"] < 1
    assert _answer(tracking, "/runs/get", run_id=_run_id(job.mlflow_url))["run"]["info"]["status"] == "FINISHED"


def test_killed_servers_come_back_where_they_were(client: Client, stack: Stack) -> None:
    urls = {part.name: part.url for part in stack.status()}
    api = _pid(stack, DaemonName.API)
    for name in (DaemonName.RAY, DaemonName.MLFLOW):
        os.kill(_pid(stack, name), signal.SIGKILL)
    assert stack.up() == (DaemonName.RAY, DaemonName.MLFLOW)
    assert {part.name: part.url for part in stack.status()} == urls
    assert all(part.ready for part in stack.status())
    assert _pid(stack, DaemonName.API) == api
    job = client.wait(client.submit(SPEC).id, timeout=TIMEOUT)
    assert job.state is State.SUCCEEDED


def test_down_leaves_no_process(stack: Stack) -> None:
    traces = (str(stack.layout.home), str(stack.layout.ray_temp))
    assert _processes_with(traces)
    stack.down()
    assert _processes_with(traces) == []
    assert not Path(stack.layout.ray_temp).exists()


def _processes_with(traces: tuple[str, ...]) -> list[str]:
    """Processes that name one of the stack's folders, in their command line or environment: found without its marks."""
    found = []
    for process in psutil.process_iter():
        try:
            words = " ".join([*process.cmdline(), *process.environ().values()])
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(trace in words for trace in traces):
            found.append(words[:200])
    return found
