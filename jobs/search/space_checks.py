"""Checks of a search space against the training spec that it varies, at submission."""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, islice
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from jobs.search.space import (
    SHORT_NAMES,
    ChoiceDomain,
    Domain,
    IntDomain,
    Params,
    Scalar,
    SearchSpace,
    domains_of,
    with_params,
)
from seqae.config import field_error

__all__ = ["check_space", "variants"]

_MOST_COMBINATIONS = 512
"""Pairs of values that are tried on the config at submission."""

_VARIABLE = re.compile(r"(?:model|loss|schedule)(?:\.[a-z_]+)+")

_FIXED = {
    "model.height": "trials are compared on the same images, so their size is the base's",
    "model.width": "trials are compared on the same images, so their size is the base's",
    "model.channels": "trials are compared on the same images, so their channels are the base's",
    "schedule.epochs": "all trials have the same budget; `base.schedule.epochs` says which",
    "schedule.evaluate_every": "trials are compared at the same epochs",
    "schedule.evaluate_scenes": "trials are compared on the same images",
    "schedule.checkpoint_every": "a trial makes a checkpoint at each evaluation",
    "schedule.log_every": "it changes no result",
}
"""Fields of a training spec that a search can't vary, and why."""


def check_space(space: SearchSpace, base: BaseModel, validate: Callable[[Mapping[str, Any]], object]) -> None:
    """Checks a space against the spec that it varies.

    Args:
        space: what a search varies.
        base: the training spec.
        validate: makes a training spec of fields.

    Raises:
        PydanticCustomError: it names nothing, a field that there is not or that can't be varied, a value that the
            field does not take, a condition that can't hold, or two values that the config refuses beside each other.
            Its pointer starts at the search's spec.
    """
    domains = domains_of(space)
    if not domains:
        raise field_error("space", "names nothing to vary")
    fields = base.model_dump(mode="json")
    for path in domains:
        _check_path(path, space, fields)
    for path, domain in domains.items():
        _check_condition(path, domain, domains)
    for path, domain in domains.items():
        for at, value in _edges(domain):
            refused = _refusal(validate, fields, _beside_parents(domains, {path: value}) or {path: value})
            if refused is not None:
                raise field_error(_pointer(path, space, at), refused[1])
    _check_pairs(space, domains, fields, validate)


def _check_path(path: str, space: SearchSpace, fields: Mapping[str, Any]) -> None:
    if re.fullmatch(r"[A-Za-z0-9_.]{1,200}", path) is None:
        # It may hold what means something else in a pointer.
        raise field_error("space", "a key is the dotted path of a field, such as loss.alpha_region")
    if path in _FIXED:
        raise field_error(f"space/{path}", f"can't be varied: {_FIXED[path]}")
    part: Any = fields
    for name in path.split("."):
        part = part[name] if isinstance(part, Mapping) and name in part else ...
    if _VARIABLE.fullmatch(path) is None or part is ... or isinstance(part, Mapping | list):
        raise field_error(
            f"space/{path}",
            "is no field of `base` that can be varied; such are those of model, loss "
            "and schedule that hold one number, text or truth value",
        )
    short = next((name for name, long in SHORT_NAMES.items() if long == path), None)
    if short is not None and getattr(space, short) and path in (space.__pydantic_extra__ or {}):
        raise field_error(f"space/{path}", f"is given twice: also as {short}")


def _check_condition(path: str, domain: Domain, domains: Mapping[str, Domain]) -> None:
    order = list(domains)  # parents first, but for those in a circle
    for parent, values in domain.when.items():
        at = f"space/{path}/when"
        if re.fullmatch(r"[A-Za-z0-9_.]{1,200}", parent) is None or parent not in domains:
            raise field_error(at, "names a key that the space does not have")
        choice = domains[parent]
        if not isinstance(choice, ChoiceDomain):
            raise field_error(f"{at}/{parent}", "a condition stands on a key whose domain is a choice")
        if not values or any(value not in choice.values for value in values):
            raise field_error(f"{at}/{parent}", "must be a list of values that the other key may have")
        if order.index(parent) >= order.index(path):
            raise field_error(at, "waits for a key that waits for this one")


def _check_pairs(
    space: SearchSpace,
    domains: Mapping[str, Domain],
    fields: Mapping[str, Any],
    validate: Callable[[Mapping[str, Any]], object],
) -> None:
    """Tries pairs of values: each alone the config takes."""
    pairs = (
        ((first, one), (second, other))
        for (first, a), (second, b) in combinations(domains.items(), 2)
        for one in _edges(a)
        for other in _edges(b)
    )
    for (first, (_, one)), (second, (at, other)) in islice(pairs, _MOST_COMBINATIONS):
        params = _beside_parents(domains, {first: one, second: other})
        refused = None if params is None else _refusal(validate, fields, params)
        if refused is not None:
            # The message is about one of the two, as the config sees it.
            about, beside = (first, second) if refused[0] == first else (second, first)
            where = _pointer(about, space, at if about == second else "")
            raise field_error(where, f"beside a value of {beside}: {refused[1]}")


def _beside_parents(domains: Mapping[str, Domain], params: Params) -> Params | None:
    """Values together with those of other keys on which they depend; None where they never stand beside each other."""
    whole = dict(params)
    for path in params:
        for parent, values in domains[path].when.items():
            wanted = [domains[other].when.get(parent, values) for other in params]
            shared = [value for value in values if all(value in some for some in wanted)]
            if not shared or (parent in params and params[parent] not in shared):
                return None
            whole.setdefault(parent, shared[0])
    return whole


def _edges(domain: Domain) -> list[tuple[str, Scalar]]:
    """Values that are tried on the config, each with the rest of its pointer: both ends of a range, or all choices."""
    if isinstance(domain, ChoiceDomain):
        return [(f"/values/{at}", value) for at, value in enumerate(domain.values)]
    if isinstance(domain, IntDomain):
        last = domain.low + (domain.high - domain.low) // domain.step * domain.step
        return [("/low", domain.low), ("/high", last)]
    return [("/low", domain.low), ("/high", domain.high)]


def _pointer(path: str, space: SearchSpace, below: str = "") -> str:
    """Where a key's value stands in the body."""
    if path in (space.__pydantic_extra__ or {}):
        return f"space/{path}{below}"
    short = next(short for short, long in SHORT_NAMES.items() if long == path)
    return f"space/{short}{below.removeprefix('/values')}"


def _refusal(
    validate: Callable[[Mapping[str, Any]], object], fields: Mapping[str, Any], params: Mapping[str, Scalar]
) -> tuple[str, str] | None:
    """Path of the field at fault and what the config says of it; None where it takes the values."""
    try:
        validate(with_params(fields, params))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        below = str((first.get("ctx") or {}).get("pointer", "")).replace("/", ".")
        path = ".".join([*(str(part) for part in first["loc"]), *([below] if below else [])])
        return path, first["msg"].removeprefix("Value error, ")
    except PydanticCustomError as error:
        return "", error.message()
    return None


def variants(space: SearchSpace, fields: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A spec's fields with one of the values of a space each, and where that value stands in the search's spec.

    Args:
        space: that was checked.
        fields: of the base.
    """
    domains = domains_of(space)
    for path, domain in domains.items():
        for at, value in _edges(domain):
            yield (
                _pointer(path, space, at),
                with_params(fields, _beside_parents(domains, {path: value}) or {path: value}),
            )
