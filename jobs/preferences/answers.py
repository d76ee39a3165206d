"""Answers of people to pairs of trials, in comparisons.jsonl of the search's folder.

The control plane appends to it, and the driver reads it; neither keeps anything of it elsewhere, so an answer outlives
both. The first answer to a pair counts.
"""

import time
from collections.abc import Mapping

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field

from jobs.directory.files import append_record, read_records
from jobs.directory.layout import JobFolder
from jobs.preferences.pairs import most_pairs, trials_of

__all__ = ["Answer", "AnswerKeptError", "add_answer", "read_answers"]

_MOST_TRIALS = 10_000
"""More than a search may have."""


class AnswerKeptError(Exception):
    """A pair has another answer already."""


class Answer(BaseModel):
    """A line of comparisons.jsonl: which of two trials somebody found better."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    pair: int = Field(ge=0, lt=most_pairs(_MOST_TRIALS))
    """Number of the pair, see `jobs.preferences.pairs`."""
    better: int | None
    """Number of the better trial; None: they are equally good."""
    who: str = ""
    """Who said so, where that is known."""
    time: float
    """When, seconds since 1970."""

    @property
    def trials(self) -> tuple[int, int]:
        """The two trials, the lower number first."""
        return trials_of(self.pair)

    @property
    def names_its_own(self) -> bool:
        """Whether the better trial is one of the pair."""
        return self.better is None or self.better in self.trials


def read_answers(folder: JobFolder) -> dict[int, Answer]:
    """The answers to a search's pairs, by number of the pair, in the order in which they were given.

    Lines that are torn, or name a trial that is not in their pair, are left out.

    Args:
        folder: the search's.
    """
    found: dict[int, Answer] = {}
    for answer in read_records(folder.answers, Answer):
        if answer.names_its_own:
            found.setdefault(answer.pair, answer)
    return found


def add_answer(folder: JobFolder, pair: int, better: int | None, who: str, *, most: int) -> Mapping[int, Answer]:
    """Keeps an answer on the disk before it returns; the same one again changes nothing.

    Args:
        folder: the search's.
        pair: number of the pair.
        better: number of the better trial, one of the pair's; None: equally good.
        who: says so.
        most: answers that the search takes.

    Returns:
        All answers.

    Raises:
        AnswerKeptError: the pair has another answer, or the search has all that it takes.
        OSError: the disk is full or the folder can't be written.
    """
    # Two people may answer at the same moment.
    with FileLock(folder.path / "comparisons.lock"):
        known = read_answers(folder)
        if pair in known:
            if known[pair].better != better:
                raise AnswerKeptError(f"pair {pair} was answered otherwise")
            return known
        if len(known) >= most:
            raise AnswerKeptError(f"the search has all of its {most} comparisons")
        answer = Answer(pair=pair, better=better, who=who, time=time.time())
        append_record(folder.answers, answer, durable=True)
        return {**known, pair: answer}
