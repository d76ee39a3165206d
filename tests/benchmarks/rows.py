"""Settings of the table of experiments, by name."""

import json
from dataclasses import dataclass, field
from typing import Any

from seqae.config import TrainConfig

MNIST = {"digits": "mnist"}


@dataclass(frozen=True)
class Row:
    """Setting of an experiment: what differs from the default run."""

    about: str
    overrides: dict[str, Any]
    minutes: float = 10
    """The training time that the goals name for it."""
    workers: int = 1
    growth: tuple[tuple[float, int], ...] = ()
    """Progressive training, as (share of the iterations, T)."""
    overfit: bool = False
    """Evaluated on the training images, and compared with the background network alone."""
    peer: bool = False
    """Not this library's model: see seqae.peers."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the peer."""


ROWS: dict[str, Row] = {
    "default": Row("the default, 1 to 4 digits without overlap", {"data": MNIST}),
    "paper": Row("`preset: paper`", {"preset": "paper", "data": MNIST}),
    "overlap": Row(
        "overlap up to a third of a digit's box", {"data": MNIST | {"max_overlap": 0.33}, "model": {"steps": 6}}, 30
    ),
    "five-seven": Row(
        "5 to 7 digits, T 9", {"data": MNIST | {"min_digits": 5, "max_digits": 7}, "model": {"steps": 9}}, 30
    ),
    "seven-only": Row("7 digits, T 9", {"data": MNIST | {"min_digits": 7, "max_digits": 7}, "model": {"steps": 9}}, 30),
    "scales": Row(
        "scales 0.5 to 1.5, three sizes",
        {
            "data": MNIST | {"min_scale": 0.5, "max_scale": 1.5},
            "model": {"localizer": {"sizes": [12, 20, 28]}, "attention": {"write_gain": "unit"}},
        },
        30,
    ),
    "scales-support": Row(
        "scales 0.5 to 1.5, three sizes, windows from the support as well",
        {
            "data": MNIST | {"min_scale": 0.5, "max_scale": 1.5},
            "model": {"localizer": {"sizes": [12, 20, 28], "support": True}, "attention": {"write_gain": "unit"}},
        },
        30,
    ),
    "scales-window": Row(
        "scales 0.5 to 1.5, one size, window of up to 1.5 digits",
        {
            "data": MNIST | {"min_scale": 0.5, "max_scale": 1.5},
            "model": {"attention": {"delta_min": 0.25, "delta_max": 1.74}},
        },
        30,
    ),
    "colour": Row("colour", {"data": MNIST, "model": {"channels": 3}}),
    "texture": Row(
        "colour with a background texture, no background network",
        {"data": MNIST | {"background": "texture"}, "model": {"channels": 3}},
        30,
    ),
    "texture-background": Row(
        "colour with a background texture, background network",
        {"data": MNIST | {"background": "texture"}, "model": {"channels": 3, "background": {"bottleneck": 64}}},
        30,
    ),
    "large": Row(
        "12 digits at 128 x 128, T 14",
        {
            "data": MNIST | {"min_digits": 12, "max_digits": 12},
            "model": {"height": 128, "width": 128, "steps": 14},
        },
        30,
    ),
    "unseen": Row(
        "trained on digits 0 to 7, tested on 8 and 9",
        {"data": MNIST | {"train_labels": [0, 1, 2, 3, 4, 5, 6, 7], "test_labels": [8, 9]}},
        30,
    ),
    "sprites": Row(
        "sprites, 2 to 5, colour, T 7", {"data": {"kind": "sprites"}, "model": {"channels": 3, "steps": 7}}, 30
    ),
    "sprites-background": Row(
        "sprites before one colour, background network, T 7",
        {
            "data": {"kind": "sprites", "background": "uniform"},
            "model": {"channels": 3, "steps": 7, "background": {}},
        },
        30,
    ),
    "tetrominoes": Row(
        "tetrominoes, 35 x 35, T 5",
        {"data": {"kind": "tetrominoes"}, "model": {"height": 35, "width": 35, "channels": 3, "steps": 5}},
        30,
    ),
    "bf16": Row("bfloat16", {"data": MNIST, "schedule": {"precision": "bfloat16"}}),
    "workers": Row("two workers", {"data": MNIST}, workers=2),
    "bundled": Row("bundled digits", {"data": {"digits": "bundled"}}),
    "variational": Row("variational coder", {"data": MNIST, "model": {"coder": {"kind": "variational"}}}),
    "coco16": Row(
        "16 COCO images rebuilt by windows nearly as large as they are, background network, N 32, T grows 1 to 8",
        {
            "data": {
                "kind": "images",
                "path": "coco128",
                "annotations": "coco128/annotations/instances_train2017.json",
                "train_images": 16,
                "val_images": 8,
                "test_images": 8,
            },
            "model": {
                "channels": 3,
                "steps": 8,
                "background": {},
                "localizer": {"kind": "small"},
                "coder": {"bottleneck": 512},
                "attention": {"kernel_size": 32, "delta_max": 1.74, "write_gain": "unit"},
            },
            # Natural images are not made of a few objects: nothing to paste, and no reason to write little.
            "loss": {"alpha_region": 1, "alpha_separation": 0, "alpha_location": 0, "alpha_presence": 0},
            "schedule": {"batch_size": 16, "evaluate_every": 50, "learning_rate": 3e-3},
        },
        20,
        growth=((0.0, 1), (0.04, 2), (0.08, 4), (0.12, 6), (0.16, 8)),
        overfit=True,
    ),
    "draw": Row("DRAW, T 6, 12 x 12", {"data": MNIST}, peer=True, options={"steps": 6, "kernel": 12}),
    "draw-16": Row("DRAW, T 16, 12 x 12", {"data": MNIST}, peer=True, options={"steps": 16, "kernel": 12}),
}


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, dictionary by dictionary."""
    both = {key: merged(base[key], value) for key, value in over.items() if isinstance(base.get(key), dict)}
    return base | over | both


def setting(path: str, value: Any) -> dict[str, Any]:
    """ "model.steps" and 9 as {"model": {"steps": 9}}."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value if isinstance(value, dict) else {}


def parsed(text: str) -> Any:
    """What JSON says, or the text itself where it is none: `bundled` need not be quoted."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def config_of(row: Row, seed: int, over: dict[str, Any], iterations: int | None, images: int = 0) -> TrainConfig:
    """The run of a row; with `iterations`, of so many over a training set of `images`."""
    given = merged(merged({"seed": seed}, row.overrides), over)
    if iterations is not None:
        batch = TrainConfig.model_validate(given).schedule.batch_size
        schedule: dict[str, Any] = {"epochs": iterations * batch / images}
        if row.growth:
            schedule["growth"] = [{"iteration": round(share * iterations), "steps": t} for share, t in row.growth]
        given = merged(given, {"schedule": schedule})
    return TrainConfig.model_validate(given)
