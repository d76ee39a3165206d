"""Turns what an attempt writes into events: progress, evaluations, film strips, notes."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jobs.directory.layout import AttemptFolder
from jobs.directory.records import MetricRow, Progress
from service.db.models import JobRow
from service.db.store import NewEvent

__all__ = ["news"]

_MOST_AT_ONCE = 1000
"""Evaluations taken into one transaction; the rest come with the next look."""

# Their own clocks; that they change is no news.
_CLOCKS = {"time", "last_progress_at"}


def news(
    job: JobRow, attempt: AttemptFolder, progress: Progress | None, now: datetime, every: float
) -> tuple[list[NewEvent], dict[str, Any]]:
    """What has happened since the last look.

    Args:
        job: its row; `told` says how far the last look came.
        attempt: the folder of its newest attempt.
        progress: the attempt's heartbeat.
        now: the time.
        every: progress becomes an event at most so often, in seconds.

    Returns:
        The events, and the new value of `told`. Both must be written in one transaction, so that nothing is told twice
        or forgotten.
    """
    told: dict[str, Any] = {"rows": 0, "frame": -1, "notes": 0, "progress": None, "at": None} | (job.told or {})
    happenings: list[NewEvent] = []
    about = {"attempt": attempt.number}
    rows, told["rows"] = _evaluations(attempt.path / "metrics.jsonl", told["rows"])
    happenings += [NewEvent("metrics", {**about, "step": row.step, "metrics": row.metrics}) for row in rows]
    for step in attempt.frame_steps():
        if step > told["frame"]:
            happenings.append(NewEvent("frame", {**about, "step": step}))
            told["frame"] = step
    notes = attempt.notes()
    for note in notes[told["notes"] :]:
        happenings.append(NewEvent("notice", {**about, "kind": note.kind, "text": note.text}))
    told["notes"] = max(told["notes"], len(notes))
    if progress is not None:
        seen = progress.model_dump(mode="json", exclude=_CLOCKS)
        if seen != told["progress"] and _is_time(told["at"], now, every):
            happenings.append(NewEvent("progress", {**about, **seen}))
            told |= {"progress": seen, "at": now.isoformat()}
    return happenings, told


def _is_time(last: str | None, now: datetime, every: float) -> bool:
    return last is None or now - datetime.fromisoformat(last) >= timedelta(seconds=every)


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
            row = _row(line)
            if row is not None and _is_evaluation(row.metrics):
                found.append(row)
    return found, start


def _row(line: bytes) -> MetricRow | None:
    try:
        return MetricRow.model_validate_json(line)
    except ValidationError:
        # Torn by a killed writer: what it said was never committed.
        return None


def _is_evaluation(metrics: Mapping[str, float]) -> bool:
    return any(name.startswith("test/") for name in metrics)
