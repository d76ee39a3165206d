"""A job database and job folders that an older release made are taken up by this one."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from jobs.backends.fakes import FakeRun
from jobs.directory.layout import JobFolder
from jobs.directory.records import NoteKind, Outcome, TrialState
from jobs.directory.stored_specs import parse_spec
from jobs.interfaces import Capacity, NodeCapacity, RunStatus, Submission
from jobs.specs import JobSpec, TrainSpec, TuneSpec, job_spec
from jobs.training.checkpoints import CheckpointManager
from jobs.training.worker import DistributedContext, TrainingTask, train
from jobs.tuning.study import SearchStudy
from jobs.tuning.trial_table import TrialTable
from seqae.checkpoints.manifest import FORMAT_VERSION, verify
from seqae.data.cache import load_data
from seqae.evaluation.names import modern
from seqae.reconstructor import Reconstructor
from service.db.outbox import Outbox
from service.errors import ConflictError
from service.job_state import ENDED, State, is_legal
from service.settings import ReconcilerSettings
from service.webhook_sender import WebhookSender
from tests.control_plane import ControlPlane
from tests.legacy import LegacyHome, unpack

SETTINGS = ReconcilerSettings(max_concurrent_jobs=30, max_running_per_owner=30)


@pytest.fixture
def legacy(tmp_path: Path) -> LegacyHome:
    return unpack(tmp_path)


@pytest.fixture
def plane(legacy: LegacyHome) -> Iterator[ControlPlane]:
    """This release's control plane on the old database and folders, with the same cluster and the same MLflow runs."""
    made = ControlPlane(legacy.home, legacy.database_url, SETTINGS, now=legacy.now)
    made.launcher.set_capacity(Capacity((NodeCapacity(cpus=64, gpus=0, memory_bytes=64e9),)))
    for name, state in legacy.processes.items():
        job_id, _, number = name.rpartition("-")
        kind = readable_spec(made, job_id).kind
        made.launcher.submit(Submission(job_id, int(number), kind, made.jobs_dir / job_id))
        made.launcher.finish(name, state)
    made.launcher.submitted.clear()
    for job in legacy.jobs:
        if job["mlflow_url"] is not None:
            status = None if job["id"] in legacy.open_runs else RunStatus.FINISHED
            run = FakeRun(job["id"], job["name"], job["kind"], {}, status)
            made.tracking.runs[legacy.run_of(job["name"])] = run
    yield made
    made.store.close()


def readable_spec(plane: ControlPlane, job_id: str) -> JobSpec:
    """A job's spec, which this release must be able to read."""
    spec = plane.service.get(job_id).spec
    assert not isinstance(spec, dict)
    return spec


def obey(plane: ControlPlane, job_id: str) -> None:
    """The newest attempt, if the cluster runs it, does what is wanted of it; a model is made where it succeeds."""
    driver = plane.driver(job_id)
    if driver.process is None or driver.process.is_terminal():
        return
    if driver.control.attempt == driver.folder.number:
        driver.beat(100)
        driver.finish(driver.control.want.outcome or Outcome.SUCCEEDED)


def bring_to_ends(plane: ControlPlane, ids: list[str]) -> None:
    """Everything answers, attempts obey, and people resume what is paused, until all jobs have ended."""
    for _ in range(60):
        for job_id in ids:
            if plane.state(job_id) == State.PAUSED:
                plane.service.resume(job_id)
            elif plane.state(job_id) not in ENDED:
                obey(plane, job_id)
        plane.tick(seconds=20)
        if all(plane.state(job_id) in ENDED for job_id in ids):
            plane.tick(2, seconds=20)
            return
    raise AssertionError({job_id: plane.state(job_id) for job_id in ids if plane.state(job_id) not in ENDED})


def transitions(plane: ControlPlane, job_id: str) -> list[tuple[str | None, str]]:
    events = plane.service.events(job_id=job_id, limit=1000)
    return [(event.data["from"], event.data["to"]) for event in events if event.type == "transition"]


def _as_now(job: dict[str, Any]) -> dict[str, Any]:
    """JSON of a job as the older release said it, with what has been added and renamed since."""
    expected = job | {"promotion": None, "waiting": None, "deleting": False, "note": None}
    expected["spec"] = parse_spec(job["spec"], None).model_dump(mode="json")
    assert _is_within(job["spec"], expected["spec"]), "nothing that was asked for is changed"
    if job["metrics"] is not None:
        expected["metrics"] = modern(job["metrics"])
    if job["progress"] is not None:
        progress = {_PROGRESS.get(name, name): value for name, value in job["progress"].items()}
        expected["progress"] = progress | {"best_trial": None, "best_metrics": None, "comparisons_missing": None}
    return expected


_PROGRESS = {"test_mse": "val_mse"}
_METRICS = {"test_mse": "val/mse", "fg_ari": "val/fg_ari"}
"""What a search is for, by the older release's name and by today's."""


def _is_within(part: Any, whole: Any) -> bool:
    """Whether all of one JSON document is in another, which may have more fields."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(name in whole and _is_within(value, whole[name]) for name, value in part.items())
    return bool(part == whole or _METRICS.get(str(part)) == whole)


def test_every_job_attempt_and_event_is_answered_as_before(plane: ControlPlane, legacy: LegacyHome) -> None:
    jobs = plane.service.list(limit=500).items
    assert [job.model_dump(mode="json", by_alias=True) for job in jobs] == [_as_now(job) for job in legacy.jobs]
    assert {job.state for job in jobs} == set(State) - {State.UNKNOWN}
    for job in jobs:
        attempts = plane.service.attempts(job.id)
        assert [attempt.model_dump(mode="json", by_alias=True) for attempt in attempts] == legacy.attempts[job.id]
    events = plane.service.events(limit=10_000)
    assert [event.model_dump(mode="json") for event in events] == legacy.events


def test_a_second_start_migrates_nothing(plane: ControlPlane, legacy: LegacyHome) -> None:
    plane.store.migrate()
    assert [job.id for job in plane.service.list(limit=500).items] == [job["id"] for job in legacy.jobs]


def test_a_running_job_goes_on_telling_where_the_old_release_stopped(plane: ControlPlane, legacy: LegacyHome) -> None:
    """It has written one row and one film strip that the old release did not look at any more."""
    job_id, last = legacy.id_of("runs again"), legacy.events[-1]["id"]
    plane.tick(3)
    new = plane.service.events(after_id=last, job_id=job_id)
    assert [event.id for event in new] == sorted(event.id for event in new)
    assert [event.data["step"] for event in new if event.type == "metrics"] == [8]
    assert [event.data["step"] for event in new if event.type == "frame"] == [8]
    assert [event.data["iteration"] for event in new if event.type == "progress"] == [8]
    assert [event.type for event in new if event.type == "transition"] == []
    assert plane.state(job_id) == State.RUNNING
    every = plane.service.events(job_id=job_id, limit=1000)
    told = [(event.data["attempt"], event.data["step"]) for event in every if event.type == "metrics"]
    assert told == [(1, 4), (2, 4), (2, 8)]


def test_silence_is_counted_from_the_sign_of_life_that_the_old_release_saw(
    plane: ControlPlane, legacy: LegacyHome
) -> None:
    """It saw one 1 s before it stopped; an attempt that the cluster forgot is lost after 65 s without any."""
    job_id = legacy.id_of("runs")
    plane.launcher.replace_cluster()
    plane.tick(6, seconds=10)
    assert plane.state(job_id) == State.RUNNING
    plane.tick(seconds=10)
    assert plane.state(job_id) == State.LOST


def test_a_stall_is_counted_from_the_progress_that_the_old_release_saw(plane: ControlPlane, legacy: LegacyHome) -> None:
    """It saw the last one 34 s before it stopped."""
    plane.reconciler = plane.another_reconciler(stall_after=60.0)
    job_id = legacy.id_of("runs")
    plane.until(job_id, State.LOST, ticks=30, driver=plane.driver(job_id))
    assert "no further" in plane.error(job_id).message


def test_a_back_off_goes_on_and_may_be_cut_short(plane: ControlPlane, legacy: LegacyHome) -> None:
    """The old release let it wait for about 600 s."""
    job_id = legacy.id_of("waits")
    plane.tick(3, seconds=10)
    assert plane.state(job_id) == State.RETRY_WAIT
    plane.service.retry(job_id)
    plane.until(job_id, State.STARTING, ticks=2)
    assert plane.launcher.submitted[-1] == f"{job_id}-2"


@pytest.mark.parametrize("everything_else", ["same", "replaced"])
def test_every_live_job_reaches_its_end(plane: ControlPlane, legacy: LegacyHome, everything_else: str) -> None:
    """Also when the cluster was replaced meanwhile, and MLflow has lost its runs."""
    ids = [job["id"] for job in legacy.jobs]
    before = {job.id: job for job in plane.service.list(limit=500).items}
    if everything_else == "replaced":
        plane.launcher.replace_cluster()
        plane.tracking.forget_runs()
    bring_to_ends(plane, ids)
    for job in plane.service.list(limit=500).items:
        old = before[job.id]
        steps = transitions(plane, job.id)
        assert all(before is None or is_legal(State(before), State(after)) for before, after in steps)
        assert all(one[1] == other[0] for one, other in pairwise(steps))
        if old.state in ENDED:
            assert job == old
        elif old.name == "cancelling":
            assert job.state == State.CANCELLED
        else:
            assert (job.state, job.error) == (State.SUCCEEDED, None)
            assert job.model is not None
        numbers = [attempt.number for attempt in plane.service.attempts(job.id)]
        assert numbers == list(range(1, job.attempt + 1))
    assert len(plane.launcher.submitted) == len(set(plane.launcher.submitted))
    assert not set(plane.launcher.submitted) & set(legacy.processes)
    assert plane.launcher.live() == set()
    assert plane.tracking.open_runs() == []
    ids_seen = [event.id for event in plane.service.events(limit=10_000)]
    assert ids_seen == sorted(set(ids_seen))


def test_on_the_same_cluster_no_attempt_is_repeated(plane: ControlPlane, legacy: LegacyHome) -> None:
    names = ("submitting and asked", "starting", "runs", "runs again", "finalizing", "cancelling", "search that runs")
    before = {name: plane.service.get(legacy.id_of(name)).attempt for name in names}
    bring_to_ends(plane, [legacy.id_of(name) for name in names])
    assert {name: plane.service.get(legacy.id_of(name)).attempt for name in names} == before


def test_ends_that_were_not_cleaned_up_are(plane: ControlPlane, legacy: LegacyHome) -> None:
    """The old release could not close these jobs' runs, since MLflow did not answer."""
    ends = {"failed": RunStatus.FAILED, "given up": RunStatus.KILLED}
    for name in ends:
        assert not plane.store.job(legacy.id_of(name)).cleaned_up
    plane.tick(3, seconds=10)
    for name, status in ends.items():
        job_id = legacy.id_of(name)
        run = plane.tracking.runs[legacy.run_of(name)]
        assert run.status is status
        assert run.shipped == [plane.jobs_dir / job_id]
        assert plane.service.delete(job_id)
        assert not (plane.jobs_dir / job_id).exists()


def test_a_deleted_jobs_events_are_kept(plane: ControlPlane, legacy: LegacyHome) -> None:
    (deleted,) = (event["job_id"] for event in legacy.events if event["type"] == "deleted")
    assert transitions(plane, deleted) == [(None, "QUEUED"), ("QUEUED", "CANCELLED")]


def test_an_idempotency_key_still_names_its_job(plane: ControlPlane, legacy: LegacyHome) -> None:
    job_id = legacy.id_of("queued")
    spec = readable_spec(plane, job_id)
    again = plane.service.submit(spec, idempotency_key="the key", owner="bob", priority=5)
    assert again.id == job_id
    other = job_spec.validate_python(spec.model_dump(mode="json") | {"name": "other"})
    with pytest.raises(ConflictError):
        plane.service.submit(other, idempotency_key="the key", owner="bob", priority=5)


def test_deliveries_that_were_due_arrive(plane: ControlPlane, legacy: LegacyHome) -> None:
    """Those that the receiver refused once, when their wait is over, and those that were never tried; each once."""
    received: list[int] = []

    def receive(request: httpx.Request) -> httpx.Response:
        assert (request.headers["Host"], request.url.path) == ("receiver.invalid", "/hook")
        received.append(json.loads(request.content)["id"])
        return httpx.Response(204)

    plane.pass_(3600)
    sender = WebhookSender(
        Outbox(plane.store.database, plane.store.now),
        "secret",
        transport=httpx.MockTransport(receive),
        resolve=lambda _host, _port: ["93.184.216.34"],
    )
    while sender.send_due():
        pass
    sender.stop()
    assert received == legacy.undelivered


def test_a_trained_run_resumes_from_its_checkpoint(plane: ControlPlane, legacy: LegacyHome, tmp_path: Path) -> None:
    """Two attempts of the old release, then one of this: the curve is whole, and the model is registered."""
    job_id = legacy.id_of("trained")
    assert plane.service.resume(job_id).state == State.QUEUED
    plane.until(job_id, State.STARTING)
    folder = JobFolder(plane.jobs_dir / job_id)
    plane.launcher.run(f"{job_id}-3")
    result = train(TrainingTask(folder.path, folder.path, 3, tmp_path / "cache", None), DistributedContext())
    assert (result.outcome, result.iterations) == (Outcome.SUCCEEDED, 12)
    notes = {note.kind: note.text for note in folder.attempt(3).notes()}
    assert notes[NoteKind.RESUMED] == "from iteration 9 of 12"
    assert NoteKind.CHECKPOINT_DAMAGED not in notes
    assert [row.step for row in folder.history() if "train/loss" in row.metrics] == list(range(1, 13))
    assert plane.tracking.runs[legacy.run_of("trained")].status is None
    folder.attempt(3).write_result(result)
    plane.launcher.finish(f"{job_id}-3")
    plane.until(job_id, State.SUCCEEDED)
    assert plane.tracking.runs[legacy.run_of("trained")].status is RunStatus.FINISHED
    assert plane.service.get(job_id).metrics == result.metrics
    spec = folder.read_spec()
    assert isinstance(spec, TrainSpec)
    # That release's was of the training scenes too, by which no two models compare.
    assert result.evaluation_set == load_data(spec.data, spec.model, tmp_path / "cache").test_checksum


def test_an_old_checkpoint_serves(legacy: LegacyHome) -> None:
    path = legacy.jobs_dir / legacy.id_of("trained") / "attempts" / "2" / "checkpoints" / "9"
    manifest = verify(path)
    assert (manifest.format_version, manifest.iteration) == (FORMAT_VERSION, 9)
    reconstructor = Reconstructor.from_checkpoint(path)
    assert reconstructor.config.model.steps == 2
    (made,) = reconstructor.reconstruct([Image.fromarray(np.full((40, 40), 200, np.uint8))])
    assert made.frames.shape == (3, 32, 32, 1)
    assert len(made.steps) == 2


def test_an_old_searchs_trials_are_read(legacy: LegacyHome) -> None:
    """The first trial has ended, and won; the second was paused, and is to be trained on."""
    folder = JobFolder(legacy.jobs_dir / legacy.id_of("paused search"))
    spec = folder.read_spec()
    assert isinstance(spec, TuneSpec)
    assert [row.state for row in folder.trials().values()] == [TrialState.SUCCEEDED, TrialState.PENDING]
    table = TrialTable(spec, folder, folder.attempt(2), SearchStudy(spec, folder))
    assert table.open() == [1]
    assert table.is_whole() is False
    first, second = table.rows.values()
    assert (first.state, first.epoch) == (TrialState.SUCCEEDED, 6.0)
    assert first.metrics["val/mse"] == folder.trials()[0].metrics["val/mse"] == pytest.approx(1 / 12)
    assert (second.state, second.epoch, second.metrics["val/mse"]) == (TrialState.PENDING, 2.0, 0.5)
    assert first.params != second.params
    assert table.winner() == first
    best = CheckpointManager(folder.trial(0), folder.trial(0).attempt(2), spec.metric).best()
    assert best is not None
    assert Reconstructor.from_checkpoint(best).config.loss.alpha_mseot == first.params["loss.alpha_mseot"]
