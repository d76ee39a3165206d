"""What is kept of events and deliveries."""

from datetime import timedelta

from service.db.retention import Retention
from service.db.store import NewEvent
from service.job_state import EventType, State
from tests.control_plane import ControlPlane


def test_of_many_evaluations_the_newest_are_kept_and_every_transition(plane: ControlPlane) -> None:
    """C7: an event each iteration."""
    job_id, _ = plane.running()
    for step in range(300):
        plane.store.add_event(job_id, NewEvent(EventType.METRICS, {"step": step}))
    before = plane.path_of(job_id)
    assert Retention(plane.store.database).limit_events(100) >= 200
    steps = [event.data["step"] for event in plane.store.events(job_id=job_id) if event.type == "metrics"]
    assert steps == list(range(200, 300))
    assert plane.path_of(job_id) == before
    assert Retention(plane.store.database).limit_events(100) == 0


def test_events_of_deleted_jobs_are_forgotten_after_a_while(plane: ControlPlane) -> None:
    deleted, kept = plane.submit(), plane.submit()
    for job_id in (deleted, kept):
        plane.service.cancel(job_id)
    plane.service.delete(deleted)
    retention = Retention(plane.store.database)
    assert retention.forget_deleted_jobs(plane.now - timedelta(days=1)) == 0
    plane.pass_(2 * 86_400)
    assert retention.forget_deleted_jobs(plane.now - timedelta(days=1)) == 3
    assert plane.store.events(job_id=deleted) == []
    assert plane.path_of(kept) == [State.QUEUED, State.CANCELLED]
