"""Search space: which fields of a training spec a search varies, the domain of each, and the checks of both.

A key is the dotted path of a field, such as `loss.alpha_region`. Four fields have a short name as well, which is what
older releases had alone. A domain may depend on what another key's choice is.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, islice, product
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from seqae.config import Config, field_error

__all__ = [
    "ChoiceDomain",
    "Domain",
    "FloatRange",
    "IntDomain",
    "LogUniformDomain",
    "Params",
    "Scalar",
    "SearchSpace",
    "UniformDomain",
    "active",
    "check_space",
    "domains_of",
    "grid",
    "variants",
    "with_params",
]

Scalar = bool | int | float | str
"""Value of a field that can be varied."""

_Given = (
    bool
    | Annotated[int, Field(ge=-(10**9), le=10**9)]
    | Annotated[float, Field(ge=-1e9, le=1e9)]
    | Annotated[str, Field(max_length=100)]
)

Params = dict[str, Scalar]
"""Values by the dotted paths of their fields."""

_MOST_COMBINATIONS = 512
"""Pairs of values that are tried on the config at submission."""

_MOST_GRID_POINTS = 100_000
"""A grid of more is cut there, which is beyond the most trials of a search."""

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

_When = Annotated[dict[str, tuple[_Given, ...]], Field(max_length=8)]


class _Domain(Config):
    """Base of the domains."""

    when: _When = Field(default_factory=dict)
    """The key is varied only where each of these other keys, whose domain is a choice, has one of the values given;
    elsewhere the field has the base's value."""


class _Bounded(_Domain):
    """Base of the domains between two bounds."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.low > self.high:  # type: ignore[attr-defined]  # each domain has both, of its own type
            raise field_error("low", "low is larger than high")
        return self


class UniformDomain(_Bounded):
    """Any number of a range, all alike."""

    kind: Literal["uniform"]
    """Tells this domain from the others."""

    low: float = Field(ge=-1e9, le=1e9)
    """Smallest value."""

    high: float = Field(ge=-1e9, le=1e9)
    """Largest value."""


class LogUniformDomain(_Bounded):
    """Any number of a range, on a logarithmic scale."""

    kind: Literal["loguniform"]
    """Tells this domain from the others."""

    low: float = Field(ge=1e-9, le=1e9)
    """Smallest value, above 0."""

    high: float = Field(ge=1e-9, le=1e9)
    """Largest value."""


class IntDomain(_Bounded):
    """Whole numbers of a range, `step` apart from the lowest on."""

    kind: Literal["int"]
    """Tells this domain from the others."""

    low: int = Field(ge=0, le=10**9)
    """Smallest value."""

    high: int = Field(ge=0, le=10**9)
    """Largest value; the last one that is reached by whole steps counts."""

    step: int = Field(1, ge=1, le=10**9)
    """Distance between two values."""


class ChoiceDomain(_Domain):
    """A few values, in no order."""

    kind: Literal["choice"]
    """Tells this domain from the others."""

    values: tuple[_Given, ...] = Field(min_length=1, max_length=64)
    """What is chosen from."""


def _domain_kind(given: Any) -> str | None:
    kind = given.get("kind") if isinstance(given, dict) else getattr(given, "kind", None)
    return None if kind is None else str(kind)


Domain = Annotated[
    Annotated[UniformDomain, Tag("uniform")]
    | Annotated[LogUniformDomain, Tag("loguniform")]
    | Annotated[IntDomain, Tag("int")]
    | Annotated[ChoiceDomain, Tag("choice")],
    Discriminator(_domain_kind),
]


class FloatRange(Config):
    """A range to draw from, on a logarithmic scale."""

    low: float = Field(ge=1e-9, le=1e6)
    """Smallest value."""

    high: float = Field(ge=1e-9, le=1e6)
    """Largest value."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.low > self.high:
            raise field_error("low", "low is larger than high")
        return self


class SearchSpace(Config):
    """What a search varies, by the dotted path of the field in a training spec; the rest keeps the base's value.

    Beside these four short names any path of `model`, `loss` and `schedule` may be a key, such as
    `schedule.learning_rate`, with a domain of kind uniform, loguniform, int or choice.
    """

    model_config = ConfigDict(extra="allow")

    # What stands under the paths.
    __pydantic_extra__: dict[str, Domain]

    alpha_region: FloatRange | None = None
    """Range of `loss.alpha_region`, on a logarithmic scale."""

    alpha_mseot: FloatRange | None = None
    """Range of `loss.alpha_mseot`, on a logarithmic scale."""

    bottleneck: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = Field((), max_length=64)
    """Choices of `model.coder.bottleneck`."""

    kernel_size: tuple[Annotated[int, Field(ge=8, le=256)], ...] = Field((), max_length=64)
    """Choices of `model.attention.kernel_size`."""


_SHORT_NAMES = {
    "alpha_region": "loss.alpha_region",
    "alpha_mseot": "loss.alpha_mseot",
    "bottleneck": "model.coder.bottleneck",
    "kernel_size": "model.attention.kernel_size",
}


def domains_of(space: SearchSpace) -> dict[str, "Domain"]:
    """The domain of each field that a search varies, by the dotted path; parents of a condition come first."""
    found: dict[str, Domain] = {}
    for short, path in _SHORT_NAMES.items():
        given = getattr(space, short)
        if isinstance(given, FloatRange):
            found[path] = LogUniformDomain(kind="loguniform", low=given.low, high=given.high)
        elif given:
            found[path] = ChoiceDomain(kind="choice", values=given)
    found |= space.__pydantic_extra__ or {}
    return {path: found[path] for path in sorted(found, key=lambda path: _depth(path, found))}


def _depth(path: str, domains: Mapping[str, "Domain"], above: tuple[str, ...] = ()) -> int:
    """How many conditions stand above a key; of those that wait for each other the number of keys."""
    if path in above:
        return len(domains)
    domain = domains.get(path)
    if domain is None or not domain.when:
        return 0
    return 1 + max(_depth(parent, domains, (*above, path)) for parent in domain.when)


def active(domain: "Domain", params: Mapping[str, Scalar]) -> bool:
    """Whether a key is varied beside what others have become."""
    return all(parent in params and params[parent] in values for parent, values in domain.when.items())


def with_params(fields: Mapping[str, Any], params: Mapping[str, Scalar]) -> dict[str, Any]:
    """A spec's fields with some of them replaced.

    Args:
        fields: as `model_dump` gives them; they stay as they are.
        params: values by dotted path.

    Raises:
        KeyError: there is no such field.
    """
    changed = dict(fields)
    for path, value in params.items():
        *parents, last = path.split(".")
        part = changed
        for name in parents:
            part[name] = dict(part[name])
            part = part[name]
        if last not in part:
            raise KeyError(path)
        part[last] = value
    return changed


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


def grid(domains: Mapping[str, "Domain"], points: int) -> Iterator[Params]:
    """All combinations of a space, the last key's values first; of a range without steps some values, evenly apart.

    Args:
        domains: by path, parents first.
        points: values of each range without steps.
    """
    seen: set[tuple[tuple[str, Scalar], ...]] = set()
    combinations_of_all = product(*(_grid_values(domain, points) for domain in domains.values()))
    for values in islice(combinations_of_all, _MOST_GRID_POINTS):
        params: Params = {}
        for (path, domain), value in zip(domains.items(), values, strict=True):
            if active(domain, params):
                params[path] = value
        key = tuple(params.items())
        if key not in seen:
            seen.add(key)
            yield params


def _grid_values(domain: "Domain", points: int) -> Sequence[Scalar]:
    if isinstance(domain, ChoiceDomain):
        return domain.values
    if isinstance(domain, IntDomain):
        return range(domain.low, domain.high + 1, domain.step)
    if points == 1 or domain.low == domain.high:
        return (domain.low,)
    shares = [at / (points - 1) for at in range(points)]
    if isinstance(domain, LogUniformDomain):
        return [domain.low * (domain.high / domain.low) ** share for share in shares]
    return [domain.low + (domain.high - domain.low) * share for share in shares]


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
    short = next((name for name, long in _SHORT_NAMES.items() if long == path), None)
    if short is not None and getattr(space, short) and path in (space.__pydantic_extra__ or {}):
        raise field_error(f"space/{path}", f"is given twice: also as {short}")


def _check_condition(path: str, domain: "Domain", domains: Mapping[str, "Domain"]) -> None:
    for parent, values in domain.when.items():
        at = f"space/{path}/when"
        if re.fullmatch(r"[A-Za-z0-9_.]{1,200}", parent) is None or parent not in domains:
            raise field_error(at, "names a key that the space does not have")
        choice = domains[parent]
        if not isinstance(choice, ChoiceDomain):
            raise field_error(f"{at}/{parent}", "a condition stands on a key whose domain is a choice")
        if not values or any(value not in choice.values for value in values):
            raise field_error(f"{at}/{parent}", "must be a list of values that the other key may have")
        if _depth(path, domains) >= len(domains):
            raise field_error(at, "waits for a key that waits for this one")


def _check_pairs(
    space: SearchSpace,
    domains: Mapping[str, "Domain"],
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


def _beside_parents(domains: Mapping[str, "Domain"], params: Params) -> Params | None:
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


def _edges(domain: "Domain") -> list[tuple[str, Scalar]]:
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
    short = next(short for short, long in _SHORT_NAMES.items() if long == path)
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
