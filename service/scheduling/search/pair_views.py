"""Pairs of a search by eye as clients see them, and their answers, in the job's folder."""

from collections.abc import Mapping

from jobs.directory.layout import JobFolder
from jobs.directory.records import TrialRow
from jobs.preferences.answers import AnswerKeptError, add_answer, read_answers
from jobs.preferences.pairs import missing_answers, next_pairs, trials_of
from jobs.preferences.scores import bradley_terry
from jobs.specs import TuneSpec
from service.db.models import JobRow
from service.errors import AnswerError, ConflictError, TrialNotFoundError
from service.scheduling.search.trial_views import search_spec
from service.schemas.trials import PairPage, PairTrialView, PairView

__all__ = ["answer_pair", "pair_page"]


def pair_page(row: JobRow, folder: JobFolder, limit: int) -> PairPage:
    """Pairs that people may compare now.

    Args:
        row: of the job.
        folder: the job's.
        limit: at most so many.

    Raises:
        TrialNotFoundError: the job is no search by eye, or its spec can't be read.
    """
    spec, rows = _spec(row), folder.trials()
    usable = {number: trial for number, trial in rows.items() if trial.state.has_model}
    answers = read_answers(folder)
    found: list[int] = []
    if not row.state.is_terminal:
        left = spec.most_comparisons - len(answers)
        found = next_pairs(bradley_terry(usable, answers.values()), answers, max(0, min(limit, left)))
    return PairPage(
        items=tuple(_view(row.id, folder, usable, pair) for pair in found),
        answered=len(answers),
        comparisons=spec.most_comparisons,
        missing=0 if row.state.is_terminal else missing_answers(spec, len(rows), len(usable), len(answers)),
    )


def answer_pair(row: JobRow, folder: JobFolder, pair: int, better: int | None, who: str) -> None:
    """Keeps what somebody says of a pair; the same answer again changes nothing.

    Args:
        row: of the job.
        folder: the job's.
        pair: its number.
        better: the better trial; None: they are equally good.
        who: says so.

    Raises:
        TrialNotFoundError: the job is no search by eye, or has no such pair yet.
        AnswerError: the better trial is not one of the pair.
        ConflictError: the pair has another answer, one of its trials has no model, or the search asks for no more.
    """
    spec, rows = _spec(row), folder.trials()
    trials = trials_of(pair)
    if any(trial not in rows for trial in trials):
        raise TrialNotFoundError(f"job {row.id} has no pair {pair} (yet)")
    if better is not None and better not in trials:
        raise AnswerError(f"pair {pair} is of the trials {trials[0]} and {trials[1]}")
    known = read_answers(folder).get(pair)
    if known is None or known.better != better:
        if row.state.is_terminal:
            raise ConflictError(f"job {row.id} has ended ({row.state}) and takes no answers")
        for trial in trials:
            if not rows[trial].state.has_model:
                raise ConflictError(f"trial {trial} is {rows[trial].state} and can't be compared")
    try:
        add_answer(folder, pair, better, who, most=spec.most_comparisons)
    except AnswerKeptError as error:
        raise ConflictError(f"job {row.id}: {error}") from error


def _spec(row: JobRow) -> TuneSpec:
    spec = search_spec(row)
    if not spec.is_by_eye:
        raise TrialNotFoundError(f"job {row.id} is judged by its metrics and has no pairs: see `objective`")
    return spec


def _view(job_id: str, folder: JobFolder, rows: Mapping[int, TrialRow], pair: int) -> PairView:
    one, other = (_trial_view(job_id, folder, rows[trial]) for trial in trials_of(pair))
    return PairView(number=pair, trials=(one, other))


def _trial_view(job_id: str, folder: JobFolder, row: TrialRow) -> PairTrialView:
    steps = [step for attempt in folder.trial(row.trial).attempts() for step in attempt.frame_steps()]
    picture = f"/jobs/{job_id}/trials/{row.trial}/frames/{max(steps)}" if steps else None
    return PairTrialView(number=row.trial, params=row.params, picture=picture)
