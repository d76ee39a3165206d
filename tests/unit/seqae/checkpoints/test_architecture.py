from typing import Any

import pytest

from seqae.checkpoints.architecture import architecture_difference
from seqae.config import ModelConfig
from seqae.model import SequentialAutoEncoder

BASE: dict[str, Any] = {
    "height": 24,
    "width": 28,
    "steps": 3,
    "attention": {"kernel_size": 9},
    "coder": {"bottleneck": 5},
}
SMALL: dict[str, Any] = BASE | {"localizer": {"kind": "small"}}
PAINTED: dict[str, Any] = BASE | {"background": {}}

FIT: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (BASE, BASE),
    (BASE, BASE | {"steps": 9}),
    (BASE, BASE | {"height": 40, "width": 33}),
    (BASE, BASE | {"attention": {"kernel_size": 9, "delta_max": 1.5, "sigma": "free", "write_gain": "unit"}}),
    (BASE, BASE | {"localizer": {"sizes": [28], "scale": "chosen", "support": True}}),
    (SMALL, SMALL | {"localizer": {"kind": "small", "sizes": [12, 20]}}),
]
DIFFER: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (BASE, BASE | {"channels": 3}, "channels"),
    (BASE, BASE | {"attention": {"kernel_size": 17}}, "attention.kernel_size"),
    (BASE, BASE | {"coder": {"bottleneck": 6}}, "coder.bottleneck"),
    (BASE, BASE | {"coder": {"bottleneck": 5, "kind": "variational"}}, "coder.kind"),
    (BASE, SMALL, "localizer.kind"),
    (BASE, BASE | {"localizer": {"sizes": [12, 20]}}, "localizer.sizes"),
    (BASE, PAINTED, "background"),
    (PAINTED, BASE | {"background": {"bottleneck": 3}}, "background"),
    (PAINTED, PAINTED | {"height": 40}, "height"),
    (SMALL, SMALL | {"width": 40}, "width"),
]


def test_a_grid_of_another_size_is_another_architecture_even_where_its_weights_fit() -> None:
    one, two = (ModelConfig.model_validate(BASE | {"attention": {"kernel_size": size}}) for size in (9, 10))
    difference = architecture_difference(one, two)
    assert difference == ("attention.kernel_size", "9", "10")


def fits(given: ModelConfig, other: ModelConfig) -> bool:
    """Whether torch takes the weights of one for the other's."""
    try:
        SequentialAutoEncoder(given).load_state_dict(SequentialAutoEncoder(other).state_dict())
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize(("given", "other"), FIT)
def test_models_whose_weights_fit_do_not_differ(given: dict[str, Any], other: dict[str, Any]) -> None:
    one, two = ModelConfig.model_validate(given), ModelConfig.model_validate(other)
    assert fits(one, two)
    assert architecture_difference(one, two) is None


@pytest.mark.parametrize(("given", "other", "field"), DIFFER)
def test_the_field_by_which_weights_do_not_fit_is_named(
    given: dict[str, Any], other: dict[str, Any], field: str
) -> None:
    one, two = ModelConfig.model_validate(given), ModelConfig.model_validate(other)
    assert not fits(one, two)
    for difference in (architecture_difference(one, two), architecture_difference(two, one)):
        assert difference is not None
        assert difference.field == field
        assert difference.given != difference.other
