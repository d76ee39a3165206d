"""Events of an attempt: its progress, evaluations, film strips and notes, read from its files as they appear."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from jobs.directory.layout import AttemptFolder
from jobs.directory.records import MetricRow, Progress
from service.clock import is_over
from service.db.models import EventCursor, JobRow
from service.db.store import NewEvent
from service.job_state import EventType

__all__ = ["collect_events"]

_MOST_AT_ONCE = 1000
"""Evaluations taken into one transaction; the rest come with the next look."""

# That these change is no news.
_TIMES = {"time", "last_progress_at"}


def collect_events(
    job: JobRow, attempt: AttemptFolder, progress: Progress | None, now: datetime, every: float
) -> tuple[list[NewEvent], EventCursor]:
    """What has happened since the last look.

    Args:
        job: its row, whose `event_cursor` says how far the last look came.
        attempt: the folder of its newest attempt.
        progress: the attempt's heartbeat.
        now: the time.
        every: progress becomes an event at most so often, in seconds.

    Returns:
        The events, and the new cursor. Both must be written in one transaction, so that nothing is told twice or
        forgotten.
    """
    cursor = job.event_cursor or EventCursor()
    about = {"attempt": attempt.number}
    rows, offset = _evaluations(attempt.path / "metrics.jsonl", cursor.metrics_offset)
    events = [NewEvent(EventType.METRICS, {**about, "step": row.step, "metrics": row.metrics}) for row in rows]
    frames = [step for step in attempt.frame_steps() if step > cursor.last_frame]
    events += [NewEvent(EventType.FRAME, {**about, "step": step}) for step in frames]
    notes = attempt.notes()
    for note in notes[cursor.notes :]:
        events.append(NewEvent(EventType.NOTICE, {**about, "kind": note.kind, "text": note.text}))
    shown, shown_at = cursor.progress, cursor.progress_at
    if progress is not None:
        seen = progress.model_dump(mode="json", exclude=_TIMES)
        if seen != shown and _is_due(shown_at, now, every):
            events.append(NewEvent(EventType.PROGRESS, {**about, **seen}))
            shown, shown_at = seen, now
    return events, EventCursor(
        metrics_offset=offset,
        last_frame=max(frames, default=cursor.last_frame),
        notes=max(cursor.notes, len(notes)),
        progress=shown,
        progress_at=shown_at,
    )


def _is_due(last: datetime | None, now: datetime, every: float) -> bool:
    wait = timedelta(seconds=every)
    return last is None or is_over(last + wait, now, wait)


def _evaluations(path: Path, start: int) -> tuple[list[MetricRow], int]:
    """Evaluations among the whole lines from byte `start` on, and the byte to go on from."""
    if not path.exists():
        return [], start
    found: list[MetricRow] = []
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n") or len(found) >= _MOST_AT_ONCE:
                break
            start += len(line)
            row = _parse_row(line)
            if row is not None and _is_evaluation(row.metrics):
                found.append(row)
    return found, start


def _parse_row(line: bytes) -> MetricRow | None:
    try:
        return MetricRow.model_validate_json(line)
    except ValidationError:
        # Torn by a killed writer: what it said was never committed.
        return None


def _is_evaluation(metrics: Mapping[str, float]) -> bool:
    # Older releases evaluated on `test` alone.
    return any(name.startswith(("val/", "test/")) for name in metrics)
