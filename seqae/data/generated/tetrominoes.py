"""Tetrominoes: pieces of four squares side by side that do not overlap, painted from a seed.

After the published description of Tetrominoes (Kabra et al., Multi-Object Datasets, 2019): 35 x 35 pixels, three pieces
in six colours. No file of it is used. It counts 17 shapes and orientations and does not list them; these are all 19.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seqae.config import TetrominoesConfig
from seqae.data.generated.backgrounds import make_background
from seqae.data.generated.masks import FlatObject, empty_scenes, paint_scene, stream_of
from seqae.data.scenes import Scenes
from seqae.data.splits import Split
from seqae.errors import DataError

__all__ = ["COLOURS", "ORIENTATIONS", "make_tetrominoes"]

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255], [0, 255, 255]], np.uint8)
"""Red, green, blue, yellow, magenta and cyan."""

_PIECES = ("####", "##/##", "###/.#.", ".##/##.", "##./.##", "###/#..", "###/..#")  # I, O, T, S, Z, L, J
_REDRAWS = 200  # sets of pieces tried for a scene
_TRIES = 20  # places tried for a piece


def _orientations() -> tuple[NDArray[np.bool_], ...]:
    """Every piece in each of its different rotations, bool [rows, columns]."""
    found: dict[tuple[tuple[int, ...], bytes], NDArray[np.bool_]] = {}
    for piece in _PIECES:
        cells = np.array([[cell == "#" for cell in row] for row in piece.split("/")])
        for turns in range(4):
            turned = np.ascontiguousarray(np.rot90(cells, turns))
            found.setdefault((turned.shape, turned.tobytes()), turned)
    return tuple(found.values())


ORIENTATIONS = _orientations()
"""The 19 pieces, told apart by rotation; the index is the label."""


def make_tetrominoes(
    config: TetrominoesConfig, height: int, width: int, channels: Literal[1, 3], split: Split, numbers: range
) -> Scenes:
    """Tetromino scenes of one split. Pieces lie at whole pixels and may touch; a grey image has them white.

    Args:
        config: the settings.
        height: H in pixels.
        width: W in pixels.
        channels: C, 1 or 3.
        split: names the random streams.
        numbers: which scenes to make.

    Raises:
        DataError: the pieces do not fit into the image.
    """
    if 4 * config.block > min(height, width):
        raise DataError(f"a piece of 4 x {config.block} pixels does not fit into an image of {height} x {width} pixels")
    scenes = empty_scenes(len(numbers), config.pieces, channels, height, width)
    for row, number in enumerate(numbers):
        rng = stream_of(config.seed, split, number)
        objects = _compose(config, height, width, rng)
        colours = COLOURS[rng.integers(len(COLOURS), size=len(objects))]
        if channels == 1:
            colours = np.full((len(objects), 1), 255, np.uint8)
        paint_scene(scenes, row, objects, colours, make_background("black", channels, height, width, rng))
    return scenes


def _compose(config: TetrominoesConfig, height: int, width: int, rng: np.random.Generator) -> list[FlatObject]:
    for _ in range(_REDRAWS):
        taken = np.zeros((height, width), np.bool_)
        objects: list[FlatObject] = []
        for label in rng.integers(len(ORIENTATIONS), size=config.pieces):
            piece = _place(int(label), config.block, taken, rng)
            if piece is None:
                break
            taken[piece.window] |= piece.mask
            objects.append(piece)
        if len(objects) == config.pieces:
            return objects
    raise DataError(
        f"{config.pieces} pieces of {config.block} pixels a block do not fit into an image of {height} x {width} pixels"
    )


def _place(label: int, block: int, taken: NDArray[np.bool_], rng: np.random.Generator) -> FlatObject | None:
    """A piece at a random place where nothing is `taken` [H, W]; None if 20 places were."""
    coverage = np.kron(ORIENTATIONS[label], np.full((block, block), 255, np.uint8)).astype(np.uint8)
    room = (taken.shape[0] - coverage.shape[0] + 1, taken.shape[1] - coverage.shape[1] + 1)
    for _ in range(_TRIES):
        piece = FlatObject(coverage, int(rng.integers(room[0])), int(rng.integers(room[1])), label)
        if not (taken[piece.window] & piece.mask).any():
            return piece
    return None
