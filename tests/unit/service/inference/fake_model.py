"""A model that needs no torch."""

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from seqae.config import TrainConfig

if TYPE_CHECKING:
    from seqae.reconstruction import Reconstruction

CONFIG = TrainConfig.model_validate(
    {
        "model": {"height": 16, "width": 16, "steps": 2, "attention": {"kernel_size": 8}},
        "data": {"min_scale": 0.5, "max_scale": 0.5},
    }
)


class FakeModel:
    """Answers with its input; can be made slow, wrong or broken."""

    def __init__(self, error: float = 0.5, frames: int = 1) -> None:
        self.config = CONFIG
        self.batches: list[int] = []
        self.may_run = threading.Event()
        self.may_run.set()
        self.running = threading.Event()
        self._error = error
        self._frames = frames
        self.broken = False

    def reconstruct_arrays(
        self, inputs: np.ndarray, sizes: Sequence[tuple[int, int]] | None = None
    ) -> "list[Reconstruction]":
        from seqae.reconstruction import Reconstruction

        self.batches.append(len(inputs))
        self.running.set()
        assert self.may_run.wait(20)
        if self.broken:
            raise RuntimeError("broken")
        return [
            Reconstruction(image, np.stack([image] * self._frames), (), (self._error,), image[:, :, 0])
            for image in inputs
        ]
