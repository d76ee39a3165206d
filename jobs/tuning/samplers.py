"""Optuna's samplers and pruners by the names that a spec has for them, and the changes of population based training."""

import warnings
from collections.abc import Mapping
from random import Random

import numpy as np
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, RandomSampler, TPESampler

from jobs.search.settings import Sampler, Scheduler
from jobs.search.space import ChoiceDomain, Domain, IntDomain, Params, Scalar
from jobs.specs import TuneSpec

__all__ = ["PARENT", "make_pruner", "make_sampler", "perturbed"]

PARENT = "parent"
"""Attribute of a trial that goes on from another one's model: the other's number."""

_GENERATION = 8
"""Trials of a generation of the genetic algorithm, at most; of a short search a quarter of its trials."""


def make_sampler(spec: TuneSpec, number: int) -> BaseSampler:
    """The sampler that proposes a trial: what it draws follows from the search's seed, the number, and the journal.

    Args:
        spec: the search.
        number: of the trial.
    """
    seed = int(np.random.SeedSequence((spec.seed, number)).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match spec.sampler:
            case Sampler.TPE:
                startup = min(10, max(2, spec.trials // 3))
                return TPESampler(n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed)
            case Sampler.CMA_ES:
                return CmaEsSampler(seed=seed, warn_independent_sampling=False)
            case Sampler.NSGA_II:
                return NSGAIISampler(population_size=min(_GENERATION, max(2, spec.trials // 4)), seed=seed)
            case Sampler.RANDOM | Sampler.GRID:
                # The grid's points are asked for one by one.
                return RandomSampler(seed=seed)


def make_pruner(spec: TuneSpec) -> BasePruner:
    """The pruner of a search's scheduler. Its steps are thousandths of an epoch."""
    first, last = (max(1, round(1000 * epochs)) for epochs in (spec.grace_epochs, spec.base.schedule.epochs))
    first = min(first, last)
    match spec.stops_by:
        case Scheduler.ASHA:
            return SuccessiveHalvingPruner(min_resource=first, reduction_factor=spec.reduction_factor)
        case Scheduler.HYPERBAND:
            return HyperbandPruner(min_resource=first, max_resource=last, reduction_factor=spec.reduction_factor)
        case Scheduler.MEDIAN:
            return MedianPruner(n_startup_trials=min(5, max(1, spec.trials // 4)), n_warmup_steps=first - 1)
        case Scheduler.PBT | Scheduler.NONE:
            # Population based training is decided by `jobs.tuning.study`.
            return NopPruner()


def perturbed(params: Mapping[str, Scalar], domains: Mapping[str, Domain], random: Random) -> Params:
    """Values near those of another trial, as population based training takes them.

    A number becomes 0.8 or 1.2 times as large, within its range; of choices another one is taken now and then.
    """
    changed: Params = {}
    for path, value in params.items():
        domain = domains[path]
        if isinstance(domain, ChoiceDomain):
            changed[path] = random.choice(domain.values) if random.random() < 0.25 else value
        elif isinstance(value, bool | str):
            changed[path] = value
        else:
            near = min(max(value * random.choice((0.8, 1.2)), domain.low), domain.high)
            changed[path] = _on_step(near, domain) if isinstance(domain, IntDomain) else near
    return changed


def _on_step(value: float, domain: IntDomain) -> int:
    steps = round((value - domain.low) / domain.step)
    return domain.low + min(steps, (domain.high - domain.low) // domain.step) * domain.step
