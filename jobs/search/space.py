"""Search space: which fields of a training spec a search varies, and the domain of each.

A key is the dotted path of a field, such as `loss.alpha_region`. Four fields have a short name as well, which is what
older releases had alone. A domain may depend on what another key's choice is.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from seqae.config import Config, field_error

__all__ = [
    "SHORT_NAMES",
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
    "domains_of",
    "grid",
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

_MOST_GRID_POINTS = 100_000
"""A grid of more is cut there, which is beyond the most trials of a search."""


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


SHORT_NAMES = {
    "alpha_region": "loss.alpha_region",
    "alpha_mseot": "loss.alpha_mseot",
    "bottleneck": "model.coder.bottleneck",
    "kernel_size": "model.attention.kernel_size",
}
"""Paths of the fields that have a short name."""


def domains_of(space: SearchSpace) -> dict[str, "Domain"]:
    """The domain of each field that a search varies, by the dotted path; parents of a condition come first."""
    found: dict[str, Domain] = {}
    for short, path in SHORT_NAMES.items():
        given = getattr(space, short)
        if isinstance(given, FloatRange):
            found[path] = LogUniformDomain(kind="loguniform", low=given.low, high=given.high)
        elif given:
            found[path] = ChoiceDomain(kind="choice", values=given)
    found |= space.__pydantic_extra__ or {}
    return _parents_first(found)


def _parents_first(domains: dict[str, "Domain"]) -> dict[str, "Domain"]:
    """Domains in an order in which a condition's keys stand before it; those that wait for each other stand last."""
    placed: dict[str, Domain] = {}
    left = dict(domains)
    while left:
        ready = [path for path, domain in left.items() if not any(parent in left for parent in domain.when)]
        for path in ready or list(left):
            placed[path] = left.pop(path)
    return placed


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
