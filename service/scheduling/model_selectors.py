"""Check of the models that a spec names, at submission: whether they are there, may be used, and fit."""

import json
import logging
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from jobs.directory.stored_specs import parse_spec
from jobs.errors import NoModel, SpecUnreadable, TrackingRefused, TrackingUnavailable
from jobs.interfaces import Tracking
from jobs.specs import AnySpec, EvaluateSpec, FigureSpec, TrainSpec, makes_model
from seqae.checkpoints.architecture import architecture_difference
from seqae.config import ModelConfig
from service.db.models import JobRow
from service.db.store import Store
from service.errors import FieldProblem, JobNotFoundError
from service.job_state import State

__all__ = ["check"]

log = logging.getLogger(__name__)

_START = "#/start_from"


def check(
    spec: AnySpec, store: Store, registry: Tracking | None, sees_only: str | None = None
) -> tuple[FieldProblem, ...]:
    """What is wrong with the models that a spec names; what can't be seen from here is not refused.

    Args:
        spec: with its defaults filled in.
        store: the job database.
        registry: asked for registered models; it may be unreachable.
        sees_only: owner whose jobs alone the asking one may name; None: all.

    Raises:
        StoreUnavailableError: the database does not answer.
    """
    if isinstance(spec, FigureSpec | EvaluateSpec):
        # A path below the folder of all jobs leads through a job's, whatever stands before it.
        named = [part for part in PurePosixPath(spec.model).parts if part.startswith("job_")]
        is_hidden = any(_is_hidden(_row(store, job_id), sees_only) for job_id in named)
        return (FieldProblem("#/model", "there is no such job here"),) if is_hidden else ()
    if not isinstance(spec, TrainSpec) or spec.start_from is None:
        return ()
    row = _row(store, spec.start_from) if spec.start_from.startswith("job_") else None
    if _is_hidden(row, sees_only):
        problem: str | None = "there is no such job here"
    elif row is not None:
        problem = _problem_of_job(row, spec.model)
    else:
        problem = _problem_of_version(spec.start_from, registry, spec.model)
    return () if problem is None else (FieldProblem(_START, problem),)


def _row(store: Store, job_id: str) -> JobRow | None:
    try:
        return store.job(job_id)
    except JobNotFoundError:
        return None


def _is_hidden(row: JobRow | None, sees_only: str | None) -> bool:
    return row is not None and sees_only is not None and row.owner != sees_only


def _problem_of_job(row: JobRow, model: ModelConfig) -> str | None:
    if not makes_model(row.kind):
        return "that job makes no model"
    if row.state != State.SUCCEEDED:
        return f"that job has not succeeded: it is {row.state}"
    try:
        earlier = parse_spec(row.spec, row.spec_version)
    except SpecUnreadable:
        return "the spec of that job can't be read by this release"
    # A search's winner may have another model than its base: its driver will see.
    return _difference(earlier.model, model) if isinstance(earlier, TrainSpec) else None


def _problem_of_version(selector: str, registry: Tracking | None, model: ModelConfig) -> str | None:
    if registry is None:
        return None
    try:
        path = registry.resolve(selector).path
    except NoModel:
        return "there is no such job or registered model here"
    except (TrackingUnavailable, TrackingRefused) as error:
        log.info("a model to start from is not looked for: %s", error)
        return None
    theirs = _config_of(path)
    return "that model can't be read by this release" if theirs is None else _difference(theirs, model)


def _config_of(checkpoint: Path) -> ModelConfig | None:
    """The model's config in a checkpoint; None where another release wrote it, or it is damaged."""
    try:
        stored = json.loads((checkpoint / "config.json").read_bytes())
        return ModelConfig.model_validate(stored["config"]["model"])
    except (OSError, LookupError, TypeError, ValueError, RecursionError, ValidationError) as error:
        log.warning("%s: %s", checkpoint, type(error).__name__)
        return None


def _difference(theirs: ModelConfig, own: ModelConfig) -> str | None:
    found = architecture_difference(theirs, own)
    if found is None:
        return None
    return f"that model has another model.{found.field}: {found.given}, where this run has {found.other}"
