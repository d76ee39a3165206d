"""Specs of the smallest training runs that still evaluate and make checkpoints."""

from typing import Any

__all__ = ["ON_A_CLUSTER", "TINY"]

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"train_scenes": 32, "test_scenes": 8, "min_digits": 1, "max_digits": 1},
    "model": {
        "height": 32,
        "width": 32,
        "steps": 2,
        "attention": {"kernel_size": 8},
        "coder": {"bottleneck": 4},
    },
    "schedule": {"batch_size": 8, "epochs": 3, "log_every": 1, "evaluate_every": 4, "checkpoint_every": 4},
}
"""12 iterations in 3 epochs, evaluated at 4, 8 and 12: a second of training."""

ON_A_CLUSTER: dict[str, Any] = TINY | {
    "data": TINY["data"] | {"train_scenes": 64},
    "schedule": {"batch_size": 8, "epochs": 5, "log_every": 2, "evaluate_every": 20, "checkpoint_every": 10},
}
"""40 iterations in 5 epochs, evaluated at 20 and 40, a checkpoint every 10: long enough to be interrupted."""
