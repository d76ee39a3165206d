"""This library's model as a method, trained as a job trains it and read after looking again, as it is served."""

import numpy as np
import torch
from numpy.typing import NDArray

from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.model import Output, SequentialAutoEncoder
from seqae.peers.method import BATCH, Segments, check_finite, count_parameters, joined
from seqae.segmentation.looks import look_again
from seqae.segmentation.ownership import own_pixels
from seqae.tensors import intensities
from seqae.training import Trainer

__all__ = ["OurMethod"]


class OurMethod:
    """The model of a config; the learning rate's schedule ends with the iterations.

    Args:
        config: the run; its epochs are replaced.
        data: the scenes.
        iterations: of the whole run.
    """

    def __init__(self, config: TrainConfig, data: Dataset, iterations: int) -> None:
        images = len(data.train.images)
        epochs = iterations * config.schedule.batch_size / images
        schedule = config.schedule.model_copy(update={"epochs": epochs})
        self._trainer = Trainer(config.model_copy(update={"schedule": schedule}), data)

    @property
    def model(self) -> SequentialAutoEncoder:
        """The model, in any mode."""
        return self._trainer.model

    @property
    def parameters(self) -> int:
        """Learned numbers."""
        return count_parameters(self._trainer.model)

    def step(self) -> None:
        """One optimizer step, as in a run."""
        _, norm = self._trainer.train_step()
        check_finite(norm, self._trainer.iteration, "gradient")

    def segment(self, images: NDArray[np.uint8]) -> Segments:
        """Segments after looking again; its count is that of the active writes."""
        self._trainer.model.eval()
        with torch.inference_mode():
            return joined([self._segment(images[at : at + BATCH]) for at in range(0, len(images), BATCH)])

    def _segment(self, images: NDArray[np.uint8]) -> Segments:
        model, image = self._trainer.model, intensities(images)
        output: Output = model(image)
        first = own_pixels(image, output, has_background=model.background is not None)
        owned = look_again(model, image, output, first)
        return Segments(owned.owners.numpy(), owned.active.sum(dim=0).numpy(), output.canvas.clamp(0, 1).numpy())
