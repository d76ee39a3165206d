"""A model small enough to be trained for a few iterations in a test, its data, and a config unlike the default."""

from collections.abc import Callable
from typing import Any

import pytest

from seqae.config import MnistScenesConfig, TrainConfig
from seqae.data.cache import Dataset
from seqae.data.digits import bundled_digits
from seqae.data.mnist_scenes import make_scenes

SMALL: dict[str, Any] = {
    "data": {
        "train_scenes": 30,
        "val_scenes": 7,
        "test_scenes": 9,
        "max_digits": 2,
        "min_scale": 0.36,
        "max_scale": 0.43,
    },
    "model": {
        "height": 24,
        "width": 28,
        "steps": 3,
        "attention": {"kernel_size": 10},
        "coder": {"bottleneck": 16},
    },
    "schedule": {"batch_size": 5, "epochs": 1, "log_every": 1, "evaluate_every": 1000, "checkpoint_every": 1000},
}


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = base | over
    return merged | {
        key: _merged(base[key], value) for key, value in over.items() if isinstance(base.get(key), dict) and value
    }


@pytest.fixture(scope="session")
def small_config() -> Callable[..., TrainConfig]:
    """Makes a config of images of 24 x 28 and three steps; parts given by name, as dicts, go over it."""

    def make(**parts: Any) -> TrainConfig:
        return TrainConfig.model_validate(_merged(SMALL, parts))

    return make


@pytest.fixture(scope="session")
def small_data() -> Callable[[TrainConfig], Dataset]:
    """The scenes that a config asks for; made once for each."""
    made: dict[str, Dataset] = {}
    digits = bundled_digits()

    def make(config: TrainConfig) -> Dataset:
        data, model = config.data, config.model
        assert isinstance(data, MnistScenesConfig)
        key = f"{data} {model.height} {model.width} {model.channels}"
        if key not in made:
            size = (model.height, model.width, model.channels)
            train = make_scenes(data, *size, digits.train, "train")
            val = make_scenes(data, *size, digits.val, "val")
            test = make_scenes(data, *size, digits.test, "test")
            made[key] = Dataset(train, val, test, "bundled digits", "", "")
        return made[key]

    return make


@pytest.fixture(scope="session")
def changed_config() -> TrainConfig:
    """Every field is other than its default."""
    return TrainConfig.model_validate(
        {
            "preset": "paper",
            "seed": 7,
            "data": {
                "digits": "mnist",
                "train_scenes": 20,
                "val_scenes": 6,
                "test_scenes": 8,
                "min_digits": 0,
                "max_digits": 3,
                "min_scale": 0.3,
                "max_scale": 0.5,
                "max_overlap": 0.1,
                "seed": 5,
                "background": "texture",
                "train_labels": [0, 1, 2, 5],
                "test_labels": [8, 9],
            },
            "model": {
                "height": 20,
                "width": 30,
                "channels": 3,
                "steps": 4,
                "attention": {
                    "kernel_size": 9,
                    "delta_min": 0.3,
                    "delta_max": 1.7,
                    "sigma": "free",
                    "sigma_min": 0.2,
                    "sigma_max": 1.9,
                    "log_gamma_max": 0.7,
                    "write_gain": "unit",
                },
                "localizer": {
                    "kind": "improved",
                    "centre": "clamp",
                    "sizes": [12, 28],
                    "scale": "chosen",
                    "support": True,
                },
                "coder": {"kind": "variational", "bottleneck": 12},
                "background": {"bottleneck": 6},
            },
            "loss": {
                "alpha_region": 0.3,
                "region_target": "image",
                "region_moves_window": True,
                "alpha_mseot": 3.1,
                "mseot_weights": "t",
                "mseot_normalized": False,
                "alpha_separation": 0.7,
                "separation_target": "object",
                "alpha_location": 0.2,
                "alpha_presence": 0.003,
                "beta": 0.02,
            },
            "schedule": {
                "batch_size": 4,
                "epochs": 2.5,
                "learning_rate": 0.0123,
                "warmup": 0.1,
                "grad_clip": 1.5,
                "growth": [{"iteration": 0, "steps": 2}, {"iteration": 3, "steps": 4}],
                "precision": "bfloat16",
                "compile": "default",
                "checkpoint_activations": True,
                "log_every": 2,
                "evaluate_every": 6,
                "evaluate_scenes": 5,
                "checkpoint_every": 4,
            },
        }
    )
