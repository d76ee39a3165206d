"""Reader of trials.jsonl that parses only the last row of each trial: of a long search there are thousands of rows."""

import re
from pathlib import Path

from pydantic import ValidationError

from jobs.directory.records import TrialRow

__all__ = ["newest_trials"]

_NUMBER = re.compile(rb'\{"trial":\s*([0-9]{1,9})\b')


def newest_trials(path: Path) -> dict[int, TrialRow]:
    """The last whole row of each trial, by number, in the order in which the trials appear.

    A line that is torn or damaged is left out, and the one before it counts.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    lines: dict[bytes, list[bytes]] = {}
    for line in content.split(b"\n")[:-1]:
        found = _NUMBER.match(line)
        if found is not None:
            lines.setdefault(found[1], []).append(line)
    rows = (_last_whole(reversed_lines[::-1]) for reversed_lines in lines.values())
    return {row.trial: row for row in rows if row is not None}


def _last_whole(newest_first: list[bytes]) -> TrialRow | None:
    for line in newest_first:
        try:
            return TrialRow.model_validate_json(line)
        except ValidationError:
            continue
    return None
