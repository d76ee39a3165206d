"""Trials of a search as clients see them, read from the job's folder."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

from jobs.directory.layout import JobFolder
from jobs.directory.records import SearchReport, TrialRow, TrialState
from jobs.directory.stored_specs import parse_spec
from jobs.errors import FolderError, SpecUnreadable
from jobs.preferences.scores import scored
from jobs.specs import TuneSpec
from jobs.tuning.trials import front, is_feasible, knee
from service.db.models import JobRow
from service.errors import TrialNotFoundError
from service.schemas.trials import SearchView, TrialPage, TrialView

__all__ = ["search_report", "search_spec", "trial_page", "trial_view"]


def trial_page(row: JobRow, folder: JobFolder, after: int, limit: int) -> TrialPage:
    """Trials of a search, by number.

    Args:
        row: of the job.
        folder: the job's.
        after: trials with larger numbers are given.
        limit: at most so many.

    Raises:
        TrialNotFoundError: the job is no search, or its spec can't be read.
    """
    spec = search_spec(row)
    rows = scored(spec, folder, folder.trials())
    chosen = [number for number in rows if number > after]
    items = tuple(_view(spec, rows[number]) for number in chosen[:limit])
    following = items[-1].number if len(chosen) > limit else None
    return TrialPage(items=items, next_after=following, search=_search_view(spec, rows, search_report(folder)))


def trial_view(row: JobRow, folder: JobFolder, number: int) -> TrialView:
    """One trial of a search, with its film strips.

    Args:
        row: of the job.
        folder: the job's.
        number: of the trial.

    Raises:
        TrialNotFoundError: the job is no search, or has no such trial yet.
    """
    spec = search_spec(row)
    rows = scored(spec, folder, folder.trials())
    if number not in rows:
        raise TrialNotFoundError(f"job {row.id} has no trial {number} (yet)")
    steps = {step for attempt in folder.trial(number).attempts() for step in attempt.frame_steps()}
    return _view(spec, rows[number]).model_copy(update={"frames": tuple(sorted(steps))})


def search_spec(row: JobRow) -> TuneSpec:
    """The spec of a search. Raises: TrialNotFoundError: the job is none, or its spec can't be read."""
    try:
        spec = parse_spec(row.spec, row.spec_version)
    except SpecUnreadable as error:
        raise TrialNotFoundError(f"the spec of job {row.id} can't be read by this release: {error}") from error
    if not isinstance(spec, TuneSpec):
        raise TrialNotFoundError(f"job {row.id} is no search and has no trials")
    return spec


def _view(spec: TuneSpec, row: TrialRow) -> TrialView:
    return TrialView(
        number=row.trial,
        state=row.state.value,
        params=row.params,
        metrics=row.metrics,
        standard_errors=row.standard_errors,
        epoch=row.epoch,
        reason=row.message,
        parent=row.parent,
        meets_constraints=is_feasible(spec, row),
        updated_at=None if row.time is None else datetime.fromtimestamp(row.time, UTC),
    )


def _search_view(spec: TuneSpec, rows: Mapping[int, TrialRow], report: SearchReport | None) -> SearchView:
    best = front(spec, rows)
    counts = Counter(row.state.value for row in rows.values())
    counts[TrialState.PENDING.value] += max(0, spec.most_trials - len(rows))
    return SearchView(
        best_trial=knee(spec, best).trial if best else None,
        front=tuple(row.trial for row in best),
        objectives={name: "maximize" if higher else "minimize" for name, higher in spec.goals.items()},
        trials={state: count for state, count in sorted(counts.items()) if count},
        importances=report.importances if report else {},
        why=tuple(report.why) if report else (),
        retrained=report.retrained if report else False,
    )


def search_report(folder: JobFolder) -> SearchReport | None:
    """The report of a search, of the newest attempt that has one; a damaged one counts as none."""
    for attempt in reversed(folder.attempts()):
        try:
            report = attempt.read_search_report()
        except FolderError:
            continue
        if report is not None:
            return report
    return None
