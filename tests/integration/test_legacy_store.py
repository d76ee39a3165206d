"""An MLflow store that an older release wrote to is taken up by this one, on a real MLflow server.

The tests share the server and run in order: first what is there is read, then it is written on.
"""

from collections.abc import Iterator

import httpx
import pytest

from jobs.backends.mlflow import MlflowTracking
from jobs.directory.layout import JobFolder
from jobs.directory.records import CrossEvaluation
from jobs.interfaces import RunStatus
from jobs.specs import job_spec
from seqae.checkpoints.manifest import verify
from seqae.evaluation.names import modern
from seqae.reconstructor import Reconstructor
from service.job_state import State
from service.local.home import HomeLayout
from service.reconciler.loop import Reconciler
from service.settings import ReconcilerSettings
from tests.control_plane import ControlPlane
from tests.daemons import Daemons
from tests.legacy import LegacyHome, unpack
from tests.reports import make_report, make_scores

pytestmark = pytest.mark.timeout(540)


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> LegacyHome:
    return unpack(tmp_path_factory.mktemp("legacy"))


@pytest.fixture(scope="module")
def server(legacy: LegacyHome) -> Iterator[str]:
    """URL of an MLflow server on the old store."""
    daemons = Daemons(HomeLayout(legacy.home))
    try:
        daemons.start(daemons.mlflow)
        daemons.wait(daemons.mlflow)
        yield daemons.mlflow.url
    finally:
        daemons.end()


@pytest.fixture(scope="module")
def tracking(server: str, legacy: LegacyHome) -> MlflowTracking:
    return MlflowTracking(server, legacy.home / "models")


@pytest.fixture(scope="module")
def rest(server: str) -> Iterator[httpx.Client]:
    """MLflow's REST API."""
    with httpx.Client(base_url=f"{server}/api/2.0/mlflow", timeout=60, trust_env=False) as client:
        yield client


def curve(rest: httpx.Client, run_id: str, name: str) -> list[int]:
    """Steps of a metric, as MLflow has them."""
    answer = rest.get("/metrics/get-history", params={"run_id": run_id, "metric_key": name})
    return [metric["step"] for metric in answer.raise_for_status().json().get("metrics", [])]


def frames(rest: httpx.Client, run_id: str) -> list[int]:
    """Steps of the film strips, as MLflow has them."""
    answer = rest.get("/artifacts/list", params={"run_id": run_id, "path": "images"})
    names = [file["path"] for file in answer.raise_for_status().json().get("files", [])]
    return sorted(int(name.split("+")[2]) for name in names if name.endswith(".png"))


def run_status(rest: httpx.Client, run_id: str) -> str:
    return str(rest.get("/runs/get", params={"run_id": run_id}).raise_for_status().json()["run"]["info"]["status"])


def test_models_are_resolved_as_before(tracking: MlflowTracking, legacy: LegacyHome) -> None:
    for selector, said in legacy.models.items():
        for asked in (selector, said.job_id):
            found = tracking.resolve(asked)
            assert (found.version, found.job_id, found.metrics) == (said.version, said.job_id, modern(said.metrics))
            assert verify(found.path).metrics["test_mse"] == said.metrics["test_mse"]
    assert [tracking.resolve(version).is_champion for version in ("1", "2", "3")] == [False, True, False]


def test_the_champion_serves(tracking: MlflowTracking) -> None:
    reconstructor = Reconstructor.from_checkpoint(tracking.resolve("champion").path)
    assert (reconstructor.config.model.height, reconstructor.config.model.steps) == (32, 2)


def test_open_runs_are_found(tracking: MlflowTracking, legacy: LegacyHome) -> None:
    assert sorted(run.job_id for run in tracking.open_runs()) == sorted(legacy.open_runs)


def test_a_jobs_run_is_found_and_not_made_again(tracking: MlflowTracking, legacy: LegacyHome) -> None:
    for job in legacy.jobs:
        if job["mlflow_url"] is not None:
            spec = job_spec.validate_python(job["spec"])
            run = tracking.create_run(job["id"], spec.name, spec.kind, {})
            assert run.run_id == legacy.run_of(spec.name)


def test_the_rest_of_a_curve_is_shipped_and_nothing_twice(
    tracking: MlflowTracking, legacy: LegacyHome, rest: httpx.Client
) -> None:
    """Attempt 1 wrote steps 1 to 5, attempt 2 steps 4 to 8, of which the last was not shipped."""
    run_id, folder = legacy.run_of("runs again"), legacy.jobs_dir / legacy.id_of("runs again")
    assert curve(rest, run_id, "train/loss") == list(range(1, 8))
    assert frames(rest, run_id) == [4]
    tracking.ship(folder, run_id)
    tracking.ship(folder, run_id)
    assert curve(rest, run_id, "train/loss") == list(range(1, 9))
    assert curve(rest, run_id, "test/mse") == [4], "shipped by that release, which evaluated on `test` while it trained"
    assert curve(rest, run_id, "val/mse") == [4, 8]
    assert frames(rest, run_id) == [4, 8]


def test_a_searchs_trials_keep_their_runs(tracking: MlflowTracking, legacy: LegacyHome, rest: httpx.Client) -> None:
    run_id, folder = legacy.run_of("search"), JobFolder(legacy.jobs_dir / legacy.id_of("search"))
    for trial, row in folder.trials().items():
        own = folder.trial(trial)
        known = own.read_shipped().run_id
        assert known is not None
        assert tracking.create_trial_run(run_id, trial, row.params).run_id == known
        assert run_status(rest, known) == "FINISHED"
        assert curve(rest, known, "test/mse") == [4, 8, 12]
    tracking.ship(folder.path, run_id)
    query = {"experiment_ids": ["1"], "filter": f"tags.`mlflow.parentRunId` = '{run_id}'"}
    runs = rest.post("/runs/search", json=query).raise_for_status().json()["runs"]
    assert len(runs) == 2


def test_a_job_that_the_old_release_could_not_finish_is_registered(
    tracking: MlflowTracking, legacy: LegacyHome, rest: httpx.Client
) -> None:
    """Its result was there when MLflow went away. Its model is worse than the champion, which stays."""
    job_id, run_id = legacy.id_of("finalizing"), legacy.run_of("finalizing")
    plane = ControlPlane(legacy.home, legacy.database_url, ReconcilerSettings(), now=legacy.now)
    plane.reconciler = Reconciler(
        plane.store, plane.another_cluster_monitor(), tracking, plane.jobs_dir, plane.settings
    )
    plane.until(job_id, State.SUCCEEDED)
    job = plane.service.get(job_id)
    plane.store.close()
    assert job.model is not None
    assert (job.model.name, job.model.version) == ("seqae-mnist_scenes", "1")
    assert job.promotion is not None
    assert job.promotion.promoted, "the first of this name"
    assert run_status(rest, run_id) == "FINISHED"
    assert tracking.resolve(job_id).metrics == job.metrics
    assert tracking.resolve("seqae").version == legacy.models["champion"].version


def test_a_better_model_becomes_the_champion(tracking: MlflowTracking, legacy: LegacyHome) -> None:
    before = tracking.resolve("seqae")
    attempt = JobFolder(legacy.jobs_dir / legacy.id_of("trained")).attempt(2)
    result = attempt.read_result()
    assert result is not None
    run = tracking.create_run("job_new", "new", "train", {})
    metrics = {**before.metrics, "test/mse": before.metrics["test/mse"] / 2}
    against = CrossEvaluation(
        name="seqae", version=before.version, run_id=before.run_id, champion=make_scores(metrics["test/mse"] * 2)
    )
    report = make_report(metrics["test/mse"], model="seqae").model_copy(update={"against": against})
    checkpoint = attempt.checkpoints / "9"
    made = tracking.register("job_new", run.run_id, "seqae", checkpoint, metrics, report).version
    tracking.close_run(run.run_id, RunStatus.FINISHED)
    assert (made.version, made.is_champion) == ("4", True)
    assert tracking.resolve("seqae").job_id == tracking.resolve("champion").job_id == "job_new"
    assert not tracking.resolve(f"seqae/{before.version}").is_champion
    again = tracking.register(legacy.id_of("first"), legacy.run_of("first"), "seqae", before.path, before.metrics, None)
    assert again.version.version == "1"
