"""Check of a search's `warm_start` at submission: whether the earlier search's trials compare with its own."""

from jobs.directory.stored_specs import parse_spec
from jobs.errors import SpecUnreadable
from jobs.specs import AnySpec, TrainSpec, TuneSpec
from service.db.store import Store
from service.errors import FieldProblem, JobNotFoundError

__all__ = ["check"]

_LABELS = {"name", "register_as", "scaling"}
"""Fields of a base that change no trial's result."""


def check(spec: AnySpec, store: Store, sees_only: str | None = None) -> tuple[FieldProblem, ...]:
    """Why a search can't begin with the trials of another one; empty where it can, or does not ask for that.

    Args:
        spec: with its defaults filled in.
        store: the job database.
        sees_only: owner whose jobs alone the asking one may name; None: all.

    Raises:
        StoreUnavailableError: the database does not answer.
    """
    if not isinstance(spec, TuneSpec) or spec.warm_start is None:
        return ()
    try:
        row = store.job(spec.warm_start)
        if sees_only is not None and row.owner != sees_only:
            return (FieldProblem("#/warm_start", "there is no such job here"),)
        earlier = parse_spec(row.spec, row.spec_version)
    except JobNotFoundError:
        return (FieldProblem("#/warm_start", "there is no such job here"),)
    except SpecUnreadable:
        return (FieldProblem("#/warm_start", "the spec of that job can't be read by this release"),)
    if not isinstance(earlier, TuneSpec):
        return (FieldProblem("#/warm_start", "that job is no search"),)
    if _what_counts(earlier.base) != _what_counts(spec.base):
        return (FieldProblem("#/warm_start", "that search has another base or other data: its trials don't compare"),)
    return ()


def _what_counts(base: TrainSpec) -> TrainSpec:
    return base.model_copy(update={name: TrainSpec.model_fields[name].default for name in _LABELS})
