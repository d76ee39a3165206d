"""Comparison of two model configs by what decides the shapes of the weights.

Needs no torch: the control plane compares models before a job is queued.
"""

from collections.abc import Iterator
from typing import NamedTuple

from seqae.config import ModelConfig

__all__ = ["Difference", "architecture_difference"]


class Difference(NamedTuple):
    """A field by which the weights of one model do not fit another."""

    field: str
    """Its path below the model's config, parts joined by dots."""
    given: str
    """Its value in the first config, in words."""
    other: str
    """Its value in the second."""


def architecture_difference(given: ModelConfig, other: ModelConfig) -> Difference | None:
    """The first field by which the weights of two models differ in shape; None where one's fit the other.

    T, the bounds of the window and what a seeker makes of its sizes may differ. So may the image's size, where no layer
    is fully connected to the image: with a seeker and without a background network.
    """
    for (field, mine), (_, theirs) in zip(_shape(given, other), _shape(other, given), strict=True):
        if mine != theirs:
            return Difference(field, str(mine), str(theirs))
    return None


def _shape(config: ModelConfig, other: ModelConfig) -> Iterator[tuple[str, object]]:
    """What decides the shapes of a config's weights, beside another one, by field."""
    yield "channels", config.channels
    yield "attention.kernel_size", config.attention.kernel_size
    yield "coder.kind", config.coder.kind
    yield "coder.bottleneck", config.coder.bottleneck
    yield "localizer.kind", config.localizer.kind
    is_seeker = config.localizer.kind == "seeker"
    yield "localizer.sizes", f"{len(config.localizer.sizes)} sizes" if is_seeker else "of no meaning"
    background = config.background
    yield "background", "none" if background is None else f"a bottleneck of {background.bottleneck}"
    is_free = all(one.localizer.kind == "seeker" and one.background is None for one in (config, other))
    yield "height", "any" if is_free else config.height
    yield "width", "any" if is_free else config.width
