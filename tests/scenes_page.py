"""docs/img/scenes.png: samples of each kind of generated scenes, one kind a row.

python -m tests.scenes_page     writes it
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seqae.config import MnistScenesConfig, SpritesConfig, TetrominoesConfig
from seqae.data.digits import bundled_digits
from seqae.data.generated.sprites import make_sprites
from seqae.data.generated.tetrominoes import make_tetrominoes
from seqae.data.mnist_scenes import make_scenes

__all__ = ["PICTURE", "samples"]

PICTURE = Path(__file__).parents[1] / "docs" / "img" / "scenes.png"
_COUNT, _ENLARGED, _GAP = 6, 2, 4


def samples() -> list[NDArray[np.uint8]]:
    """Six test scenes [6, 3, H, W] of sprites on black and on one colour, tetrominoes, and textured MNIST-Scenes."""
    numbers = range(_COUNT)
    return [
        make_sprites(SpritesConfig(), 64, 64, 3, "test", numbers).images,
        make_sprites(SpritesConfig(background="uniform"), 64, 64, 3, "test", numbers).images,
        make_tetrominoes(TetrominoesConfig(), 35, 35, 3, "test", numbers).images,
        make_scenes(MnistScenesConfig(background="texture"), 64, 64, 3, bundled_digits().test, "test", numbers).images,
    ]


def main() -> None:
    """Writes the picture: each scene in a square of 64 pixels, enlarged twice."""
    side = 64 + _GAP
    sheet = np.full((4 * side, _COUNT * side, 3), 255, np.uint8)
    for row, images in enumerate(samples()):
        for column, image in enumerate(images):
            _, height, width = image.shape
            top, left = row * side + (side - height) // 2, column * side + (side - width) // 2
            sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    picture = Image.fromarray(sheet)
    size = (picture.width * _ENLARGED, picture.height * _ENLARGED)
    picture.resize(size, Image.Resampling.NEAREST).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
