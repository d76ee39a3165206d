"""Scenes and methods of the scoreboard by name, and the settings of each on the other."""

from enum import StrEnum
from typing import Any, Literal

from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.errors import Error
from seqae.peers.draw import DrawConfig, DrawMethod
from seqae.peers.method import Method
from seqae.peers.ours import OurMethod
from seqae.peers.slot_attention import SlotConfig, SlotMethod
from seqae.peers.unlearned import ComponentsMethod, KmeansMethod

__all__ = ["MethodName", "SceneSet", "config_of", "make_method"]

_INSTALL = "pip install 'seqae[bench]'"


class SceneSet(StrEnum):
    """Scenes to compare on. All but the last are rows of docs/experiments.md."""

    MNIST = "mnist"
    OVERLAP = "overlap"
    SEVEN = "seven"
    SPRITES = "sprites"
    TETROMINOES = "tetrominoes"
    AIR_SETTING = "air-setting"
    """AIR's published setting: none to two digits, which may overlap, in 50 x 50 pixels; three steps."""


class MethodName(StrEnum):
    """Methods to compare."""

    OURS = "ours"
    PAPER = "paper"
    """This library's model in the paper's literal setting."""
    DRAW = "draw"
    AIR = "air"
    SLOT_ATTENTION = "slot-attention"
    COMPONENTS = "components"
    KMEANS = "kmeans"

    @property
    def learns(self) -> bool:
        """Whether it is trained."""
        return self not in (MethodName.COMPONENTS, MethodName.KMEANS)


def config_of(
    scenes: SceneSet, method: MethodName, seed: int, digits: Literal["mnist", "bundled"] = "mnist"
) -> TrainConfig:
    """Data, T, batch and seed of a method on these scenes, and, of ours, everything."""
    data, model = _parts(scenes, digits)
    preset = {"preset": "paper"} if method is MethodName.PAPER else {}
    return TrainConfig.model_validate({"seed": seed, "data": data, "model": model, **preset})


def _parts(scenes: SceneSet, digits: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the data and of the model."""
    of_digits = {"digits": digits}
    match scenes:
        case SceneSet.MNIST:
            return of_digits, {"steps": 6}
        case SceneSet.OVERLAP:
            return of_digits | {"max_overlap": 0.33}, {"steps": 6}
        case SceneSet.SEVEN:
            return of_digits | {"min_digits": 7, "max_digits": 7}, {"steps": 9}
        case SceneSet.SPRITES:
            return {"kind": "sprites"}, {"channels": 3, "steps": 7}
        case SceneSet.TETROMINOES:
            return {"kind": "tetrominoes"}, {"height": 35, "width": 35, "channels": 3, "steps": 5}
        case SceneSet.AIR_SETTING:
            few = {"min_digits": 0, "max_digits": 2, "max_overlap": 1.0}
            return of_digits | few, {"height": 50, "width": 50, "steps": 3}


def make_method(name: MethodName, config: TrainConfig, data: Dataset, iterations: int) -> Method:
    """A method on these scenes, ready for its first step.

    Args:
        name: which.
        config: of `config_of`.
        data: the scenes.
        iterations: of the whole run, for the learning rate.

    Raises:
        Error: its package is not installed.
    """
    steps = config.model.steps
    match name:
        case MethodName.OURS | MethodName.PAPER:
            return OurMethod(config, data, iterations)
        case MethodName.DRAW:
            return DrawMethod(config, data, iterations, DrawConfig(steps=steps))
        case MethodName.SLOT_ATTENTION:
            return SlotMethod(config, data, iterations, SlotConfig(slots=steps))
        case MethodName.AIR:
            try:
                from seqae.peers.air import AirConfig, AirMethod
            except ModuleNotFoundError as error:
                raise Error(f"{error.name} is not installed: {_INSTALL}") from error
            return AirMethod(config, data, AirConfig(steps=steps))
        case MethodName.COMPONENTS:
            return ComponentsMethod()
        case MethodName.KMEANS:
            return KmeansMethod(data, steps)
