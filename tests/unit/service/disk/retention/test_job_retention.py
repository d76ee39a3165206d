"""Retention of ended jobs on a database, folders and a registry: what is removed, and what never is."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.directory.records import Outcome, Result
from jobs.errors import TrackingUnavailable
from jobs.interfaces import CHAMPION
from jobs.specs import job_spec
from service.db.audit import AuditLog
from service.disk.retention.job_retention import JobRetention
from service.disk.retention.plan import Action
from service.errors import JobNotFoundError
from service.job_state import EventType, State
from service.settings import ReconcilerSettings
from tests.control_plane import ControlPlane


def retention(plane: ControlPlane, **limits: float) -> JobRetention:
    settings = ReconcilerSettings.model_validate(limits)
    folders = (plane.service.files, plane.jobs_dir, plane.jobs_dir.parent / "data")
    return JobRetention(plane.store, *folders, plane.tracking, settings)


def succeeded(plane: ControlPlane, mse: float, *, owner: str = "", checkpoints: tuple[int, ...] = ()) -> str:
    job_id, driver = plane.running(owner=owner)
    for step in checkpoints:
        (driver.checkpoint(step) / "large").write_bytes(b"x" * 100_000)
    driver.finish(mse=mse)
    plane.until(job_id, State.SUCCEEDED)
    plane.tick(30)
    assert plane.store.job(job_id).cleaned_up
    return job_id


def failed(plane: ControlPlane, *, owner: str = "") -> str:
    job_id, driver = plane.running(owner=owner)
    (driver.checkpoint(4) / "large").write_bytes(b"x" * 100_000)
    driver.fail()
    plane.until(job_id, State.FAILED)
    plane.tick(30)
    return job_id


def exists(plane: ControlPlane, job_id: str) -> bool:
    try:
        plane.store.job(job_id)
    except JobNotFoundError:
        assert not (plane.jobs_dir / job_id).exists()
        return False
    assert (plane.jobs_dir / job_id).is_dir()
    return True


def test_the_old_go_and_the_champion_stays(plane: ControlPlane) -> None:
    champion, worse, lost = succeeded(plane, 0.01), succeeded(plane, 0.5), failed(plane)
    newest = succeeded(plane, 0.6)
    plane.pass_(40 * 86_400)
    plan = retention(plane, ended_job_days=30).plan()
    assert {removal.job.id for removal in plan} == {worse, lost}, "the newest is the challenger, which is an alias too"
    assert all(exists(plane, job_id) for job_id in (champion, worse, lost, newest)), "a plan changes nothing"
    done = retention(plane, ended_job_days=30).apply()
    assert done == plan
    assert [exists(plane, job_id) for job_id in (champion, worse, lost, newest)] == [True, False, False, True]
    assert retention(plane, ended_job_days=30).apply() == []


def test_what_was_removed_is_an_event_and_in_the_audit_log(plane: ControlPlane) -> None:
    job_id = failed(plane, owner="ada")
    succeeded(plane, 0.01)
    assert retention(plane, max_ended_jobs=1).apply()[0].bytes == 0, "no limit asks for sizes"
    (event,) = [event for event in plane.store.events() if event.type == EventType.RETENTION]
    assert event.job_id == ""
    assert event.data["jobs"] == 1
    assert event.data["removals"] == [
        {"job": job_id, "owner": "ada", "removed": "job", "bytes": 0, "why": "over the limit: 1 jobs in all"}
    ]
    (report,) = retention(plane).reports()
    assert (report.jobs, report.removals[0].job, report.at) == (1, job_id, event.at)
    newest = AuditLog(plane.store.database, plane.store.now).page(None, 1)[0]
    assert (newest.address, newest.action, newest.target) == ("control plane", "retention", f"/jobs/{job_id}")
    assert newest.changed == {"job": job_id, "deleted": True}


def test_a_sweep_that_removes_nothing_writes_nothing(plane: ControlPlane) -> None:
    succeeded(plane, 0.01)
    before = len(plane.store.events())
    assert retention(plane, max_ended_jobs=1).apply() == []
    assert len(plane.store.events()) == before


def test_without_limits_the_registry_is_not_even_asked(plane: ControlPlane) -> None:
    failed(plane)
    plane.tracking.unreachable = True
    assert retention(plane).apply() == []


def test_while_the_registry_is_away_nothing_is_removed(plane: ControlPlane) -> None:
    """Which job has the champion is not known then."""
    job_id = failed(plane)
    plane.pass_(86_400)
    plane.tracking.unreachable = True
    with pytest.raises(TrackingUnavailable):
        retention(plane, ended_job_days=0.5).apply()
    assert exists(plane, job_id)


def test_live_jobs_and_those_that_are_being_cleaned_up_stay(plane: ControlPlane) -> None:
    ending = failed(plane)
    running, _ = plane.running()
    plane.pass_(86_400)
    with plane.store.database.write() as session:
        session.connection().exec_driver_sql(f"UPDATE jobs SET cleaned_up = 0 WHERE id = '{ending}'")
    assert retention(plane, ended_job_days=0.01, max_ended_jobs=1, ended_job_bytes=1).apply() == []
    assert exists(plane, running)
    assert exists(plane, ending)


def test_a_job_that_a_live_one_needs_stays(plane: ControlPlane) -> None:
    repeated, evaluated, other = failed(plane), failed(plane), failed(plane)
    plane.launcher.unreachable = True  # so that what comes now stays in the queue
    plane.service.retry(repeated)
    spec: dict[str, Any] = {"kind": "evaluate", "name": "e", "model": f"{evaluated}/attempts/1/checkpoints/4"}
    plane.service.submit(job_spec.validate_python(spec))
    plane.pass_(86_400)
    removed = {removal.job.id for removal in retention(plane, ended_job_days=0.5).apply()}
    assert removed == {other}


def checkpoint_steps(plane: ControlPlane, job_id: str) -> list[str]:
    return sorted(path.parent.name for path in (plane.jobs_dir / job_id).rglob("manifest.json"))


def test_of_too_many_bytes_only_the_best_checkpoint_is_kept_first(plane: ControlPlane) -> None:
    champion = succeeded(plane, 0.01, checkpoints=(1, 2))
    worse = succeeded(plane, 0.5, checkpoints=(1, 2))
    challenger = succeeded(plane, 0.6, checkpoints=(1, 2))
    lost = failed(plane)
    sizes = {removal.job.id for removal in retention(plane, ended_job_bytes=1).plan()}
    assert sizes == {worse, lost}
    total = sum(job.bytes for job in map(retention(plane, ended_job_bytes=1)._ended, plane.store.ended()))
    [removal] = retention(plane, ended_job_bytes=total - 1).apply()
    assert (removal.action, removal.job.id) == (Action.CHECKPOINTS, worse)
    assert removal.bytes >= 200_000
    assert checkpoint_steps(plane, worse) == ["100"], "the one that it ended with"
    for kept in (champion, challenger):
        assert checkpoint_steps(plane, kept) == ["1", "100", "2"]
    assert checkpoint_steps(plane, lost) == ["4"], "a retry goes on from there"
    assert {one.job.id for one in retention(plane, ended_job_bytes=1).apply()} == {worse, lost}
    assert exists(plane, champion)


def test_a_result_that_names_no_checkpoint_of_its_own_thins_nothing(plane: ControlPlane) -> None:
    job_id = succeeded(plane, 0.01, checkpoints=(1,))
    plane.tracking.aliases.clear()
    attempt = plane.driver(job_id).folder
    for named in ("attempts/1/checkpoints/77", None):
        attempt.write_result(Result(outcome=Outcome.SUCCEEDED, checkpoint=named))
        (ended,) = map(retention(plane, ended_job_bytes=1)._ended, plane.store.ended())
        assert ended.spare_bytes == 0
    (attempt.path / "result.json").write_text("{damaged")
    (ended,) = map(retention(plane, ended_job_bytes=1)._ended, plane.store.ended())
    assert ended.spare_bytes == 0


def test_a_search_keeps_what_it_ended_with(plane: ControlPlane, tmp_path: Path) -> None:
    job_id = succeeded(plane, 0.01)
    plane.tracking.aliases.clear()
    folder = plane.driver(job_id).job_folder
    best = folder.trial(1).attempt(1).checkpoints / "8"
    for path in (best, folder.trial(0).attempt(1).checkpoints / "8", folder.trial(1).path / "seeds/1/checkpoints/4"):
        path.mkdir(parents=True)
        (path / "manifest.json").write_text("{}")
        (path / "large").write_bytes(b"x" * 50_000)
    plane.driver(job_id).folder.write_result(
        Result(outcome=Outcome.SUCCEEDED, checkpoint=str(best.relative_to(folder.path)))
    )
    total = sum(job.bytes for job in map(retention(plane, ended_job_bytes=1)._ended, plane.store.ended()))
    retention(plane, ended_job_bytes=total - 1).apply()
    assert list(folder.path.rglob("checkpoints/*")) == [best]


def test_a_job_that_somebody_else_removes_meanwhile_is_no_error(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = failed(plane), failed(plane)
    plane.pass_(86_400)
    made = retention(plane, ended_job_days=0.5)
    plan = made.plan()
    plane.service.delete(first)
    monkeypatch.setattr(made, "plan", lambda: plan)
    assert [removal.job.id for removal in made.apply()] == [second]


def test_the_reconcilers_sweep_does_it(plane: ControlPlane, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    champion, lost = succeeded(plane, 0.01), failed(plane)
    plane.pass_(86_400)
    plane.settings = plane.settings.model_copy(update={"ended_job_days": 0.5})
    plane.another_reconciler().sweep_disk()
    assert [exists(plane, champion), exists(plane, lost)] == [True, False]
    assert f"retention removed all of job {lost}" in caplog.text
    assert plane.tracking.resolve(CHAMPION).job_id == champion


def test_a_years_old_database_is_taken_as_it_is(plane: ControlPlane) -> None:
    """Rows of the first release have no time of their end."""
    job_id = failed(plane)
    with plane.store.database.write() as session:
        session.connection().exec_driver_sql("UPDATE jobs SET finished_at = NULL")
    plane.now += timedelta(days=2)
    assert [one.job.id for one in retention(plane, ended_job_days=1).apply()] == [job_id]
