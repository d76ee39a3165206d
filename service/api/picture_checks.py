"""Checks of a reconstruction: how much of the picture was explained, and what speaks against trusting the answer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqae.config import MnistScenesConfig, TrainConfig
from seqae.data.preprocess import centre_box
from seqae.reconstruction import Reconstruction
from service.schemas.models import Invert

__all__ = ["NO_CHECKS", "PictureChecks", "check", "inverted", "warnings_header"]

_EXPLAINED_WELL = 0.5
_CROPPED = 0.1
_EMPTY = 1e-4  # mean squared intensity
_DIGIT_BRIGHTNESS = 0.22  # mean of the brightest digits over their box


@dataclass(frozen=True)
class PictureChecks:
    """What is said of a reconstruction besides itself."""

    explained: float | None = None
    """1 - error / error of an empty canvas; None for a picture that is empty itself."""
    inverted: bool = False
    """Whether black and white were exchanged before."""
    warnings: tuple[str, ...] = ()
    """In words, for a person."""


NO_CHECKS = PictureChecks()
"""Nothing is said."""


def inverted(pixels: np.ndarray, config: TrainConfig, invert: Invert) -> tuple[np.ndarray, bool]:
    """A picture with black and white exchanged if that is asked for, and whether it was.

    Args:
        pixels: uint8 [H, W, C] as the model would see it.
        config: of the model. What was trained on scenes with a black background needs one.
        invert: what is asked for.
    """
    automatic = invert is Invert.AUTO and _digits_on_black(config) is not None and _bright_border(pixels)
    if invert is Invert.TRUE or automatic:
        return 255 - pixels, True
    return pixels, False


def check(found: Reconstruction, size: tuple[int, int], config: TrainConfig, *, was_inverted: bool) -> PictureChecks:
    """Checks a reconstruction against what its model was trained on.

    Args:
        found: the reconstruction.
        size: width and height of the picture that it was made from.
        config: of the model.
        was_inverted: whether black and white were exchanged.
    """
    warnings = _size_warnings(size, config)
    pixels = found.input
    empty = float(np.square(pixels / 255.0).mean())
    explained = None if empty < _EMPTY else 1.0 - found.error[-1] / empty
    if explained is None:
        warnings.append("what is left of the picture is black: there is nothing to rebuild")
    elif explained < _EXPLAINED_WELL:
        share = max(0.0, explained)
        warnings.append(f"only {share:.0%} of the picture was explained: it looks unlike the training data")
    digits = _digits_on_black(config)
    if digits is not None:
        warnings += _scene_warnings(pixels, config, digits, was_inverted)
    return PictureChecks(explained, was_inverted, tuple(warnings))


def warnings_header(warnings: Sequence[str]) -> dict[str, str]:
    """The header that carries the warnings of an answer: a JSON list, in ASCII."""
    return {"Seqae-Warnings": json.dumps(list(warnings))} if warnings else {}


def _size_warnings(size: tuple[int, int], config: TrainConfig) -> list[str]:
    model, warnings = config.model, []
    left, top, right, bottom = centre_box(size, model.height, model.width)
    lost = 1.0 - (right - left) * (bottom - top) / (size[0] * size[1])
    if lost > _CROPPED:
        sides = "left and right" if right - left < size[0] else "top and bottom"
        shape = f"{model.width} x {model.height}"
        warnings.append(
            f"{lost:.0%} of the {size[0]} x {size[1]} picture was cropped off {sides}: the model takes {shape}"
        )
    if min(size) * 2 < min(model.height, model.width):
        warnings.append(f"the picture was enlarged from {size[0]} x {size[1]}: it may look blurred to the model")
    return warnings


def _digits_on_black(config: TrainConfig) -> MnistScenesConfig | None:
    """The scenes that a model was trained on, where they are bright digits on a black background."""
    data = config.data
    return data if isinstance(data, MnistScenesConfig) and data.background == "black" else None


def _scene_warnings(pixels: np.ndarray, config: TrainConfig, data: MnistScenesConfig, was_inverted: bool) -> list[str]:
    """Of a model that was trained on bright digits on a black background."""
    cure = "" if was_inverted else "; invert=auto exchanges black and white"
    if _bright_border(pixels):
        return [f"the background is bright, and the model was trained on a black one{cure}"]
    most = data.max_digits * (28 * data.max_scale) ** 2 * _DIGIT_BRIGHTNESS / (config.model.height * config.model.width)
    brightness = float(pixels.mean()) / 255
    if brightness > min(1.0, most):
        return [
            f"the picture's mean brightness is {brightness:.2f}, and the training images' at most {most:.2f}: "
            "it looks unlike the training data"
        ]
    return []


def _bright_border(pixels: np.ndarray) -> bool:
    """Whether most of the outermost pixels are bright."""
    grey = pixels.mean(axis=-1)
    return float(np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))) > 127.5
