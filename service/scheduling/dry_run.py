"""Dry run of a submission: what it would do, and about what it would cost."""

from collections.abc import Iterable

from jobs.interfaces import Capacity
from jobs.specs import AnySpec, TuneSpec
from service.db.models import JobRow
from service.scheduling import estimates, resources
from service.schemas.jobs import ProblemView, Validation

__all__ = ["dry_run"]


def dry_run(spec: AnySpec, capacity: Capacity | None, succeeded: Iterable[JobRow]) -> Validation:
    """What submitting a spec would do, and about what it would cost.

    Args:
        spec: with its defaults filled in.
        capacity: what the cluster has; None while it does not answer.
        succeeded: earlier jobs, newest first: their speed is what an estimate rests on.
    """
    warnings = []
    found = () if capacity is None else resources.problems(spec, capacity)
    if capacity is None:
        warnings.append("the cluster does not answer now, so its size was not checked")
    train = spec.base if isinstance(spec, TuneSpec) else spec
    if estimates.images(train) is None:
        warnings.append("how many images the folder has is seen when the job starts")
    demand = resources.demand(spec, None if found else capacity)
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
