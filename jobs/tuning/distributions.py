"""Domains of a search's space as Optuna's distributions."""

from collections.abc import Mapping
from typing import cast

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from jobs.search.space import (
    ChoiceDomain,
    Domain,
    IntDomain,
    LogUniformDomain,
    Params,
    Scalar,
    UniformDomain,
    active,
)

__all__ = ["distribution", "distributions", "fitting", "suggest"]


def distribution(domain: Domain) -> BaseDistribution:
    """The distribution of a domain."""
    match domain:
        case ChoiceDomain():
            return CategoricalDistribution(domain.values)
        case IntDomain():
            last = domain.low + (domain.high - domain.low) // domain.step * domain.step
            return IntDistribution(domain.low, last, step=domain.step)
        case LogUniformDomain() | UniformDomain():
            return FloatDistribution(domain.low, domain.high, log=isinstance(domain, LogUniformDomain))


def distributions(params: Params, domains: Mapping[str, Domain]) -> dict[str, BaseDistribution]:
    """The distributions of those fields that a trial varies."""
    return {path: distribution(domains[path]) for path in params}


def suggest(trial: Trial, domains: Mapping[str, Domain]) -> Params:
    """Draws what a trial does not have yet, and gives all that it has.

    Args:
        trial: that runs.
        domains: by path, parents first.
    """
    params: Params = {}
    for path, domain in domains.items():
        if active(domain, params):
            params[path] = _suggest_one(trial, path, domain)
    return params


def _suggest_one(trial: Trial, path: str, domain: Domain) -> Scalar:
    drawn = distribution(domain)
    if isinstance(domain, ChoiceDomain):
        # Optuna's type of choices knows None as well, which a domain has not.
        return cast("Scalar", trial.suggest_categorical(path, domain.values))
    if isinstance(drawn, IntDistribution):
        return trial.suggest_int(path, drawn.low, drawn.high, step=drawn.step)
    return trial.suggest_float(path, domain.low, domain.high, log=isinstance(domain, LogUniformDomain))


def fitting(params: Params, domains: Mapping[str, Domain]) -> Params:
    """Those values that lie in their domains, and whose conditions hold."""
    found: Params = {}
    for path, domain in domains.items():
        if path in params and active(domain, found) and _contains(domain, params[path]):
            found[path] = params[path]
    return found


def _contains(domain: Domain, value: Scalar) -> bool:
    if isinstance(domain, ChoiceDomain):
        return value in domain.values
    if isinstance(value, bool | str):
        return False
    within = domain.low <= value <= domain.high
    return within and (not isinstance(domain, IntDomain) or (value - domain.low) % domain.step == 0)
