import numpy as np
import pytest

from seqae.config import TetrominoesConfig
from seqae.data.generated.tetrominoes import COLOURS, ORIENTATIONS, make_tetrominoes
from seqae.data.splits import SPLITS
from seqae.errors import DataError


def test_there_are_nineteen_pieces_of_four_squares() -> None:
    shapes = {(piece.shape, piece.tobytes()) for piece in ORIENTATIONS}
    assert len(ORIENTATIONS) == len(shapes) == 19
    assert {int(piece.sum()) for piece in ORIENTATIONS} == {4}


def test_three_pieces_of_six_colours_lie_apart() -> None:
    made = make_tetrominoes(TetrominoesConfig(), 35, 35, 3, "train", range(40))
    assert made.masks is not None
    assert made.overlap is not None
    assert made.labels is not None
    assert made.counts is not None
    assert made.images.shape == (40, 3, 35, 35)
    assert (made.counts == 3).all()
    assert not made.overlap.any()
    seen = set()
    for image, mask in zip(made.images, made.masks, strict=True):
        assert image[:, mask == 0].max() == 0
        for k in (1, 2, 3):
            assert (mask == k).sum() == 4 * 25
            colours = {tuple(map(int, colour)) for colour in image[:, mask == k].T}
            assert len(colours) == 1
            seen |= colours
    assert seen == {tuple(map(int, colour)) for colour in COLOURS}
    assert len(np.unique(made.labels)) > 15


def test_seed_and_split_change_the_scenes_and_grey_ones_are_white() -> None:
    made = [make_tetrominoes(TetrominoesConfig(), 35, 35, 1, split, range(3)) for split in SPLITS]
    made.append(make_tetrominoes(TetrominoesConfig(seed=1), 35, 35, 1, "train", range(3)))
    assert len({scenes.images.tobytes() for scenes in made}) == 4
    assert set(np.unique(made[0].images)) == {0, 255}


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(DataError, match="a piece of 4 x 9 pixels"):
        make_tetrominoes(TetrominoesConfig(block=9), 35, 35, 1, "train", range(1))
    with pytest.raises(DataError, match="16 pieces of 5 pixels"):
        make_tetrominoes(TetrominoesConfig(pieces=16), 35, 35, 1, "train", range(1))
