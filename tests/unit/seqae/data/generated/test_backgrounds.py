import numpy as np

from seqae.data.generated.backgrounds import lay_over, make_background


def test_black_draws_nothing() -> None:
    rng = np.random.default_rng(0)
    assert not make_background("black", 3, 8, 9, rng).any()
    assert rng.random() == np.random.default_rng(0).random()


def test_a_uniform_background_is_one_dark_colour() -> None:
    made = make_background("uniform", 3, 8, 9, np.random.default_rng(0))
    assert made.shape == (3, 8, 9)
    assert len(np.unique(made.reshape(3, -1), axis=1).T) == 1
    grey = [make_background("uniform", 1, 2, 2, np.random.default_rng(seed)).max() for seed in range(200)]
    assert 48 < max(grey) <= 64


def test_a_texture_varies_within_its_levels_and_with_its_stream() -> None:
    made = make_background("texture", 3, 64, 48, np.random.default_rng(0))
    assert (made.min(), made.max()) == (16, 128)
    assert min(channel.std() for channel in made) > 5
    assert (made[0] != made[1]).any()
    assert (made != make_background("texture", 3, 64, 48, np.random.default_rng(1))).any()


def test_a_background_shows_where_nothing_was_painted() -> None:
    image = np.array([[[0, 128, 255]]], np.uint8)
    lay_over(image, np.array([[0, 128, 255]], np.uint8), np.full((1, 1, 3), 100, np.uint8))
    assert image.tolist() == [[[100, 128 + 100 * 127 // 255, 255]]]
