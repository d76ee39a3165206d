"""Quotas of what grows on the disk, and what the sweep says that it removed."""

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest

from jobs.directory.layout import JobFolder
from jobs.directory.records import Shipped
from seqae.config import MnistScenesConfig
from service.disk.film_strips import chosen
from service.disk.sweep import DiskSweep
from service.job_state import State
from service.settings import ReconcilerSettings
from tests.control_plane import ControlPlane

DAY = 86_400.0


def a_cache(plane: ControlPlane, seed: int, *, days: float, size: int = 1000) -> Path:
    """A built data set of the scenes of a seed, last used so many days ago."""
    folder = plane.jobs_dir.parent / "data" / f"mnist_scenes-{seed:016x}"
    folder.mkdir(parents=True)
    data = MnistScenesConfig(seed=seed).model_dump(mode="json")
    settings = {"data": data, "height": 64, "width": 64, "channels": 1}
    (folder / "train-images.npy").write_bytes(b"\0" * size)
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"settings": settings, "arrays": {}}))
    used = plane.now.timestamp() - days * DAY
    for path in (folder / "train-images.npy", manifest):
        os.utime(path, (used, used))
    return folder


def sweep(plane: ControlPlane, **quotas: float) -> DiskSweep:
    settings = ReconcilerSettings.model_validate(quotas)
    return DiskSweep(plane.store, plane.jobs_dir, plane.jobs_dir.parent / "data", settings)


def test_data_that_nobody_has_used_for_long_goes(plane: ControlPlane, caplog: pytest.LogCaptureFixture) -> None:
    """C7: one cache folder for each seed of the data was kept for ever."""
    caplog.set_level("INFO")
    old, new, live = (a_cache(plane, seed, days=days) for seed, days in ((1, 40), (2, 10), (3, 40)))
    plane.submit({"data": {"seed": 3}})
    removed = sweep(plane).data()
    assert [one.path for one in removed] == [old]
    assert removed[0].age == pytest.approx(40 * DAY)
    assert removed[0].bytes > 0
    assert [path.exists() for path in (old, new, live)] == [False, True, True], "a live job's data stay, however old"
    assert f"removed data cache {old}" in caplog.text
    assert "unused for 40.0 days" in caplog.text


def test_over_the_quota_the_longest_unused_data_go_first(plane: ControlPlane) -> None:
    caches = [a_cache(plane, seed, days=seed, size=1_000_000) for seed in (1, 2, 3)]
    just_used = a_cache(plane, 9, days=0.01, size=1_000_000)
    sweep(plane, data_cache_bytes=2_100_000).data()
    assert [path.exists() for path in caches] == [True, False, False]
    assert just_used.exists()
    sweep(plane, data_cache_bytes=0).data()
    assert just_used.exists(), "a process may be about to open it"


def test_film_strips_are_thinned_out_evenly(plane: ControlPlane) -> None:
    """C7: a frame each iteration."""
    _, driver = plane.running()
    driver.folder.frames.mkdir(parents=True, exist_ok=True)
    for step in range(1, 101):
        (driver.folder.frames / f"{step}.png").write_bytes(b"png")
    settings = {"max_film_strips": 11}
    assert sweep(plane, **settings).film_strips() == [], "MLflow has none of them yet"
    driver.job_folder.write_shipped(Shipped(run_id="r", frames=100))
    [removed] = sweep(plane, **settings).film_strips()
    assert removed.kind == "89 film strips"
    left = driver.folder.frame_steps()
    assert (left[0], left[-1], len(left)) == (1, 100, 11)
    assert max(after - before for before, after in pairwise(left)) <= 11
    assert sweep(plane, **settings).film_strips() == []


@pytest.mark.parametrize(("count", "most"), [(1, 2), (2, 2), (3, 2), (10, 9), (1000, 7)])
def test_the_first_and_the_last_stay(count: int, most: int) -> None:
    steps = list(range(0, count * 10, 10))
    kept = chosen(steps, most)
    assert len(kept) == len(set(kept)) == min(count, most)
    assert kept[0] == steps[0]
    assert kept[-1] == steps[-1]


def test_a_log_that_is_too_long_loses_its_beginning(plane: ControlPlane) -> None:
    _, driver = plane.running()
    driver.print("".join(f"line {number}\n" for number in range(10_000)))
    assert [one.kind for one in sweep(plane, max_log_bytes=50_000).logs()] == ["beginning of a log"]
    lines = driver.folder.log.read_text().splitlines()
    assert lines[0].startswith("[the log was longer")
    assert lines[1].startswith("line ")
    assert lines[-1] == "line 9999"
    assert driver.folder.log.stat().st_size <= 50_000
    assert sweep(plane, max_log_bytes=50_000).logs() == []


def test_one_jobs_folder_does_not_stop_the_others(plane: ControlPlane) -> None:
    _, broken = plane.running({"scaling": {"workers": 1}})
    _, fine = plane.running({"scaling": {"workers": 1}})
    for driver in (broken, fine):
        driver.folder.frames.mkdir(parents=True, exist_ok=True)
        for step in range(10):
            (driver.folder.frames / f"{step}.png").write_bytes(b"png")
        driver.job_folder.write_shipped(Shipped(frames=100))
    (broken.job_folder.path / "shipped.json").write_text("{")
    sweep(plane, max_film_strips=2).film_strips()
    assert len(fine.folder.frame_steps()) == 2


def test_models_over_the_quota_go_but_for_the_newest(plane: ControlPlane) -> None:
    folder = plane.jobs_dir.parent / "models"
    for number in range(6):
        path = folder / f"run{number}-1"
        path.mkdir(parents=True)
        (path / "model.safetensors").write_bytes(b"\0" * 100_000)
        used = plane.now.timestamp() - (10 - number) * DAY
        os.utime(path, (used, used))
    removed = sweep(plane, model_cache_bytes=1).models()
    assert sorted(one.path.name for one in removed) == ["run0-1", "run1-1"]
    assert len(list(folder.iterdir())) == 4


def test_deleting_a_job_frees_the_data_that_only_it_used(plane: ControlPlane) -> None:
    """C7."""
    first, second = plane.submit({"data": {"seed": 1}}), plane.submit({"data": {"seed": 1}})
    cache, other = a_cache(plane, 1, days=0), a_cache(plane, 2, days=0)
    for job_id in (first, second):
        plane.service.cancel(job_id)
        assert plane.state(job_id) == State.CANCELLED
        assert cache.exists()
        plane.service.delete(job_id)
    assert not cache.exists()
    assert other.exists()


def test_the_sweep_of_the_disk_is_one_process_s_work(plane: ControlPlane) -> None:
    cache = a_cache(plane, 1, days=40)
    other = plane.another_reconciler()
    assert other._leases.hold("disk sweep", 600)
    plane.reconciler.sweep_disk()
    assert cache.exists()
    plane.pass_(601)
    plane.reconciler.sweep_disk()
    assert not cache.exists()


def test_the_use_of_the_disk_is_told_by_kind_owner_and_job(plane: ControlPlane) -> None:
    """C7: who uses what."""
    job_id, driver = plane.running(owner="ann")
    driver.checkpoint(10)
    driver.print("hello\n" * 1000)
    a_cache(plane, 1, days=1, size=100_000)
    stranger = JobFolder(plane.jobs_dir / "job_of_another")
    stranger.attempt(1).log.parent.mkdir(parents=True)
    stranger.attempt(1).log.write_text("x")
    view = plane.service.disk()
    parts = {part.kind: part for part in view.parts}
    assert parts["data caches"].bytes >= 100_000
    assert parts["data caches"].quota_bytes == plane.settings.data_cache_bytes
    assert parts["jobs"].bytes > 0
    jobs = {job.id: job for job in view.jobs}
    assert (jobs[job_id].owner, jobs[job_id].state) == ("ann", "RUNNING")
    assert jobs[job_id].checkpoint_bytes > 0
    assert jobs[job_id].log_bytes >= 6000
    assert jobs["job_of_another"].state == ""
    assert {owner.owner: owner.jobs for owner in view.owners} == {"ann": 1, "": 1}
    assert 0 < view.free_bytes < view.total_bytes
    driver.print("more\n" * 100_000)
    assert plane.service.disk() is view, "measured once a minute"
    plane.pass_(60)
    assert plane.service.disk().jobs[0].log_bytes > 500_000
