import hashlib
from typing import Any

import numpy as np
import pytest

from seqae.config import SpritesConfig
from seqae.data.generated.sprites import SHAPES, _rasterize, make_sprites
from seqae.data.scenes import Scenes
from seqae.data.splits import SPLITS, Split
from seqae.errors import DataError


def sprites(count: int = 12, channels: int = 3, split: Split = "train", **settings: Any) -> Scenes:
    config = SpritesConfig.model_validate(settings)
    return make_sprites(config, 64, 64, 3 if channels == 3 else 1, split, range(count))


def digest(made: Scenes) -> str:
    return hashlib.sha256(made.images.tobytes()).hexdigest()


def test_masks_boxes_and_counts_agree() -> None:
    made = sprites(20, background="uniform")
    assert made.masks is not None
    assert made.amodal is not None
    assert made.overlap is not None
    assert made.boxes is not None
    assert made.labels is not None
    assert made.counts is not None
    assert set(made.counts) == {2, 3, 4, 5}
    for row, count in enumerate(made.counts):
        bits = [made.amodal[row] >> k & 1 for k in range(count)]
        np.testing.assert_array_equal(made.overlap[row], sum(bit.astype(int) for bit in bits) > 1)
        topmost = np.zeros((64, 64), np.uint8)
        for k, bit in enumerate(bits):
            topmost[bit > 0] = k + 1  # a later sprite lies over an earlier one
            rows, columns = np.nonzero(bit)
            assert list(made.boxes[row, k]) == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_array_equal(made.masks[row], topmost)
        assert (made.labels[row, :count] >= 0).all()
        assert (made.labels[row, count:] == -1).all()
    assert set(made.labels.ravel()) == {-1, 0, 1, 2}


def test_an_object_is_one_colour_and_the_background_another() -> None:
    made = sprites(8, background="uniform")
    assert made.masks is not None
    backgrounds = set()
    for image, mask in zip(made.images, made.masks, strict=True):
        backgrounds.add(tuple(image[:, 0, 0]))
        assert image[:, 0, 0].max() <= 128
        for k in range(1, int(mask.max()) + 1):
            colours, counts = np.unique(image[:, mask == k], axis=1, return_counts=True)
            assert counts.max() > counts.sum() / 2  # all but the edges, which are smooth
            assert colours[:, counts.argmax()].max() == 255
    assert len(backgrounds) == 8


@pytest.mark.parametrize("most", [0.0, 0.3])
def test_no_sprite_is_hidden_further_than_allowed(most: float) -> None:
    made = sprites(15, max_hidden=most, max_size=20)
    assert made.amodal is not None
    assert made.masks is not None
    assert made.overlap is not None
    assert made.counts is not None
    for row, count in enumerate(made.counts):
        for k in range(count):
            whole = (made.amodal[row] >> k & 1).sum()
            assert (made.masks[row] == k + 1).sum() >= (1 - most) * whole - 1e-9
    assert made.overlap.any() == (most > 0)


def test_seed_split_and_number_decide_alone() -> None:
    assert digest(sprites()) == digest(sprites())
    assert len({digest(sprites(4, split=split)) for split in SPLITS} | {digest(sprites(4, seed=1))}) == 4
    alone = make_sprites(SpritesConfig(), 64, 64, 3, "train", range(5, 7))
    np.testing.assert_array_equal(alone.images, sprites().images[5:7])


def test_grey_scenes_have_the_layout_of_coloured_ones() -> None:
    grey, coloured = sprites(4, channels=1), sprites(4)
    assert grey.masks is not None
    assert coloured.masks is not None
    np.testing.assert_array_equal(grey.masks, coloured.masks)
    assert grey.images.shape == (4, 1, 64, 64)
    assert grey.images.max(axis=(1, 2, 3)).min() >= 160


def test_each_shape_has_its_area() -> None:
    areas = {name: float((_rasterize(at, 40, 0.7) >= 128).mean()) for at, name in enumerate(SHAPES)}
    # A square in the unit circle has 2 of 4, an ellipse of 1 by 0.6 has 0.6 pi of 4.
    assert areas["square"] == pytest.approx(0.5, abs=0.02)
    assert areas["ellipse"] == pytest.approx(0.6 * np.pi / 4, abs=0.02)
    assert areas["heart"] == pytest.approx(3.66 / 1.42**2 / 4, abs=0.03)
    for at in range(3):
        for angle in np.linspace(0, 6, 7):
            edge = _rasterize(at, 40, float(angle))
            assert max(edge[0, :4].max(), edge[-1, -4:].max(), edge[:4, 0].max(), edge[-4:, -1].max()) == 0


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(DataError, match="a sprite of 80 pixels does not fit"):
        sprites(1, max_size=80)
    with pytest.raises(DataError, match="16 sprites of 40 to 60 pixels do not fit"):
        sprites(1, min_objects=16, max_objects=16, min_size=40, max_size=60, max_hidden=0)
