"""Dry run of a submission: what it would do, and about what it would cost."""

from collections.abc import Iterable
from pathlib import Path

from jobs.interfaces import Capacity
from jobs.specs import AnySpec, TuneSpec
from service.db.models import JobRow
from service.errors import FieldProblem
from service.scheduling import data_sources, estimates, resources
from service.schemas.jobs import ProblemView, Validation

__all__ = ["dry_run", "refusals"]


def refusals(
    spec: AnySpec, capacity: Capacity | None, data_dir: Path | None
) -> tuple[tuple[FieldProblem, ...], tuple[str, ...]]:
    """Why a valid spec can't be run here, and what of that can't be known now.

    Args:
        spec: with its defaults filled in.
        capacity: what the cluster has; None while it does not answer.
        data_dir: the data folder of this stack, if it has one.
    """
    found, warnings = data_sources.check(spec, data_dir)
    if capacity is not None:
        found = (*resources.problems(spec, capacity), *estimates.memory_problems(spec, capacity), *found)
    return found, warnings


def dry_run(
    spec: AnySpec, capacity: Capacity | None, succeeded: Iterable[JobRow], data_dir: Path | None = None
) -> Validation:
    """What submitting a spec would do, and about what it would cost.

    Args:
        spec: with its defaults filled in.
        capacity: what the cluster has; None while it does not answer.
        succeeded: earlier jobs, newest first: their speed is what an estimate rests on.
        data_dir: the data folder of this stack, if it has one.
    """
    found, unknown = refusals(spec, capacity, data_dir)
    warnings = list(unknown)
    if capacity is None:
        warnings.append("the cluster does not answer now, so its size was not checked")
    train = spec.base if isinstance(spec, TuneSpec) else spec
    if estimates.images(train) is None:
        warnings.append("how many images the folder has is seen when the job starts")
    fits = capacity is None or not resources.problems(spec, capacity)
    demand = resources.demand(spec, capacity if fits else None)
    return Validation(
        accepted=not found,
        problems=tuple(ProblemView(pointer=one.pointer, detail=one.detail) for one in found),
        warnings=tuple(warnings),
        spec=spec,
        workers=demand.workers,
        cpus=demand.workers * demand.cpus,
        gpus=demand.workers * demand.gpus,
        iterations=estimates.iterations(train),
        seconds=estimates.seconds(spec, demand, succeeded),
        memory_bytes=estimates.memory_bytes(train, demand),
    )
