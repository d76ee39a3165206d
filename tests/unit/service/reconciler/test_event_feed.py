"""What an attempt writes becomes events, once."""

from jobs.directory.records import NoteKind
from tests.control_plane import ControlPlane


def test_progress_evaluations_frames_and_notes_become_events_once(plane: ControlPlane) -> None:
    job_id, driver = plane.running()
    driver.beat(10, loss=0.5)
    driver.folder.add_metrics(10, {"train/loss": 0.5})
    driver.folder.add_metrics(10, {"val/mse": 0.02})
    driver.folder.frames.mkdir()
    (driver.folder.frames / "10.png").write_bytes(b"png")
    driver.folder.add_note(NoteKind.WORKERS_LOST, "worker 1 died")
    plane.tick(3)
    plane.reconciler = plane.another_reconciler()
    driver.beat(11)
    plane.tick(5)
    events = plane.store.events(job_id=job_id)
    told = [(event.type, event.data.get("step")) for event in events if event.type in ("metrics", "frame")]
    assert told == [("metrics", 10), ("frame", 10)]
    assert [event.data["text"] for event in events if event.type == "notice"] == ["worker 1 died"]
    progress = [event.data["iteration"] for event in events if event.type == "progress"]
    assert progress == sorted(set(progress))
    assert progress[-1] == 11
