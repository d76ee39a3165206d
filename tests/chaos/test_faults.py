"""Faults while a job trains: a suspended attempt, MLflow down, damaged checkpoints, a full disk."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import NoteKind, Outcome, Phase
from service.job_state import State
from tests.chaos.audit import audits, zombies
from tests.chaos.deployment import Component, Deployment, wait_until
from tests.tiny import ON_A_CLUSTER

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

INTERVAL = ON_A_CLUSTER["schedule"]["checkpoint_every"]


def submit(deployment: Deployment, epochs: int) -> str:
    key = uuid4().hex
    spec: dict[str, Any] = ON_A_CLUSTER | {"name": "fault", "schedule": ON_A_CLUSTER["schedule"] | {"epochs": epochs}}
    return str(deployment.ask(lambda client: client.submit(spec, idempotency_key=key)).id)


def iteration(deployment: Deployment, job_id: str) -> int:
    progress = deployment.ask(lambda client: client.get(job_id)).progress
    # While data is made, images are counted.
    return int(progress.iteration) if progress is not None and progress.phase == Phase.TRAINING else 0


def train_to(deployment: Deployment, job_id: str, least: int) -> None:
    wait_until(lambda: iteration(deployment, job_id) >= least, f"{job_id} trains to iteration {least}")


def notes(deployment: Deployment, job_id: str, kind: NoteKind) -> list[str]:
    """Texts of the job's events of a kind, as a client sees them."""
    found = deployment.store.events(job_id=job_id)
    return [event.data["text"] for event in found if event.type == "notice" and event.data["kind"] == kind]


def succeeds(deployment: Deployment, job_id: str, epochs: int, most_repeated: int) -> None:
    wait_until(lambda: deployment.all_ended([job_id]), f"the end of {job_id}")
    (audit,) = audits(deployment, [job_id], range(2, 8 * epochs + 1, 2))
    assert (audit.state, audit.faults) == (State.SUCCEEDED, ()), audit
    assert audit.repeated <= most_repeated
    assert zombies(deployment) == []


def checkpoints(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_stale_attempt_wakes_up_and_changes_nothing(deployment: Deployment) -> None:
    """It sleeps while its cluster dies and a new attempt takes over; then it goes on as if nothing had happened."""
    epochs = 60
    job_id = submit(deployment, epochs)
    train_to(deployment, job_id, 3 * INTERVAL)
    sleepers = [process for process in (deployment.driver(job_id), deployment.worker(job_id)) if process is not None]
    assert len(sleepers) == 2
    for process in sleepers:
        process.suspend()
    spared = {process.pid for process in sleepers}
    deployment.kill_head_but(spared)
    deployment.restart(Component.HEAD)
    first, second = (JobFolder(deployment.jobs_dir / job_id).attempt(number) for number in (1, 2))
    wait_until(lambda: len(second.checkpoint_steps()) > 0, "the second attempt has a checkpoint")
    before = checkpoints(first.checkpoints)
    # The system ends some of a dead head's children; what wakes up is what this is about.
    awake = [process for process in sleepers if process.is_running() and process.status() == psutil.STATUS_STOPPED]
    assert awake, "nothing has slept through it"
    print("awake:", [process.name() for process in awake], flush=True)
    for process in awake:
        process.resume()
    _, alive = psutil.wait_procs(awake, timeout=120)
    assert alive == [], "it ends by itself"
    after = checkpoints(first.checkpoints)
    assert set(after) <= set(before), "it commits nothing more; the newer attempt may have pruned"
    assert all(after[name] == before[name] for name in after)
    succeeds(deployment, job_id, epochs, INTERVAL)


def test_mlflow_is_away_for_a_minute_while_training_goes_on(deployment: Deployment) -> None:
    epochs = 60
    job_id = submit(deployment, epochs)
    train_to(deployment, job_id, 2 * INTERVAL)
    deployment.kill(Component.MLFLOW)
    before, away = iteration(deployment, job_id), time.monotonic()
    wait_until(lambda: time.monotonic() - away > 60, "a minute has passed")
    training = JobFolder(deployment.jobs_dir / job_id).attempt(1).read_progress()
    assert training is not None
    assert training.iteration > before, "training does not wait for MLflow"
    deployment.restart(Component.MLFLOW)
    succeeds(deployment, job_id, epochs, 0)
    assert deployment.rows([job_id])[job_id].attempt == 1


def test_a_job_trains_to_its_end_with_nobody_watching(deployment: Deployment) -> None:
    epochs = 40
    job_id = submit(deployment, epochs)
    train_to(deployment, job_id, INTERVAL)
    deployment.kill(Component.API)
    deployment.kill(Component.MLFLOW)
    wait_until(lambda: deployment.launcher.live() == set(), "its driver has ended")
    result = JobFolder(deployment.jobs_dir / job_id).attempt(1).read_result()
    assert result is not None
    assert result.outcome is Outcome.SUCCEEDED
    deployment.restart(Component.MLFLOW)
    deployment.restart(Component.API)
    succeeds(deployment, job_id, epochs, 0)
    assert deployment.rows([job_id])[job_id].attempt == 1


def truncate(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)


def change_hash(checkpoint: Path) -> None:
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"]["model.safetensors"]["sha256"] = "0" * 64
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("damage", [truncate, change_hash])
def test_a_damaged_checkpoint_is_passed_over(deployment: Deployment, damage: Callable[[Path], None]) -> None:
    epochs = 40
    job_id = submit(deployment, epochs)
    folder = JobFolder(deployment.jobs_dir / job_id)
    train_to(deployment, job_id, 3 * INTERVAL + 2)
    driver = deployment.driver(job_id)
    assert driver is not None
    # The workers outlive their driver by a moment: they must not write another checkpoint after the damage.
    worker = deployment.worker(job_id)
    assert worker is not None
    worker.send_signal(signal.SIGSTOP)
    newest, older = folder.checkpoint_paths()[:2]
    damage(newest)
    driver.kill()
    worker.kill()
    wait_until(lambda: bool(notes(deployment, job_id, NoteKind.CHECKPOINT_DAMAGED)), "an event says so")
    assert str(newest) in notes(deployment, job_id, NoteKind.CHECKPOINT_DAMAGED)[0]
    wait_until(lambda: bool(notes(deployment, job_id, NoteKind.RESUMED)), "it goes on from the one before")
    assert f"iteration {older.name}" in notes(deployment, job_id, NoteKind.RESUMED)[0]
    succeeds(deployment, job_id, epochs, 2 * INTERVAL)


@contextmanager
def full_disk(folder: Path, ballast: int = 64 * 1024) -> Iterator[Path]:
    """Puts a file system of its own under a folder of checkpoints, with room for the newest alone: older ones would be
    removed to make room. Yields the file that fills the rest."""
    newest = max((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    kept = folder.parent / "kept"
    shutil.copytree(newest, kept / newest.name)
    size = sum(path.stat().st_size for path in kept.rglob("*")) + ballast
    options = f"size={size // 1024 + 64}k,mode=0777"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a file system that is small enough to fill")
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        filler = folder / "ballast"
        filler.write_bytes(b"\0" * (shutil.disk_usage(folder).free - 4096))
        yield filler
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_told_and_the_checkpoint_before_is_used(deployment: Deployment) -> None:
    epochs = 60
    job_id = submit(deployment, epochs)
    train_to(deployment, job_id, 2 * INTERVAL + 2)
    worker, number = deployment.worker(job_id), deployment.rows([job_id])[job_id].attempt
    assert worker is not None
    worker.suspend()
    with full_disk(JobFolder(deployment.jobs_dir / job_id).attempt(number).checkpoints) as ballast:
        worker.resume()
        wait_until(lambda: bool(notes(deployment, job_id, NoteKind.CHECKPOINT_FAILED)), "an event says so")
        assert "no space left" in notes(deployment, job_id, NoteKind.CHECKPOINT_FAILED)[0]
        ballast.unlink()
        wait_until(lambda: bool(notes(deployment, job_id, NoteKind.RESUMED)), "it goes on from the one before")
        succeeds(deployment, job_id, epochs, 2 * INTERVAL)
    assert deployment.rows([job_id])[job_id].retries >= 1
