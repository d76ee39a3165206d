"""Inference with a trained model: pictures in, canvas frames and attention out; numpy and PIL, no tensors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from seqae.attention import window_box
from seqae.checkpoints import checkpoint
from seqae.compute.cpu_threads import flush_denormals
from seqae.config import TrainConfig
from seqae.data.preprocess import centre_box, fit, orientation
from seqae.losses import step_errors
from seqae.model import Output, SequentialAutoEncoder
from seqae.reconstruction import AttentionStep, Reconstruction
from seqae.rendering.panels import to_bytes
from seqae.segmentation.looks import LOOKS, look_again
from seqae.segmentation.ownership import own_pixels
from seqae.tensors import intensities

__all__ = ["Reconstructor"]


class Reconstructor:
    """Runs a trained model. One instance may be used by one thread at a time.

    Args:
        model: a trained one; it is put into evaluation mode.
        config: of the run that trained it.
        looks: how often each active write is encoded again for the owners of the pixels (`seqae.segmentation.looks`).
    """

    def __init__(self, model: SequentialAutoEncoder, config: TrainConfig, looks: int = LOOKS) -> None:
        self.config = config
        self.looks = looks
        self._model = model.eval()
        self._device = next(model.parameters()).device

    @classmethod
    def from_checkpoint(cls, path: Path | str, device: str = "cpu") -> "Reconstructor":
        """Loads a checkpoint folder.

        Args:
            path: of the folder, with a manifest in it.
            device: where the model runs, as torch names it: "cpu", "cuda", "cuda:1".

        Raises:
            CheckpointError: it is damaged or of another format version.
        """
        folder = Path(path)
        return cls(checkpoint.load_model(folder, device), checkpoint.read_config(folder))

    def reconstruct(self, images: Sequence[Image.Image]) -> list[Reconstruction]:
        """Rebuilds pictures of any size and mode; each is cropped to its largest centred part and resized.

        Raises:
            OSError: a picture is truncated (PIL decodes it here).
        """
        if not images:
            return []
        model = self.config.model
        inputs = np.stack([fit(image, model.height, model.width, model.channels) for image in images])
        # EXIF rotation may have swapped the sides; `fit` crops the rotated picture, so its size is what counts.
        sizes = [image.size[::-1] if orientation(image) >= 5 else image.size for image in images]
        return self.reconstruct_arrays(inputs, sizes)

    def reconstruct_arrays(
        self, inputs: np.ndarray, sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Reconstruction]:
        """Rebuilds images that have the model's size already.

        Args:
            inputs: uint8 [B, H, W, C].
            sizes: (width, height) of the picture that each was made from; the model's own when left out.
        """
        flush_denormals()
        image = intensities(inputs, self._device).movedim(-1, 1)
        with torch.inference_mode():
            output: Output = self._model(image)
            errors = step_errors(image, output).T.tolist()  # [B][T+1]
            written = own_pixels(image, output, has_background=self._model.background is not None)
            owners = look_again(self._model, image, output, written, self.looks).owners.cpu().numpy()
            active = written.active.T.tolist()  # [B][T]
        model = self.config.model
        frames = to_bytes(output.canvases.movedim(1, 0).cpu().numpy())  # [B, T+1, H, W, C]
        sizes = sizes or [(model.width, model.height)] * len(inputs)
        return [
            Reconstruction(
                input=inputs[at],
                frames=frames[at],
                steps=self._steps(output, at, sizes[at], errors[at], active[at]),
                error=tuple(errors[at]),
                owners=owners[at],
            )
            for at in range(len(inputs))
        ]

    def _steps(
        self, output: Output, at: int, size: tuple[int, int], errors: Sequence[float], active: Sequence[bool]
    ) -> tuple[AttentionStep, ...]:
        model = self.config.model
        left, top, right, _ = centre_box(size, model.height, model.width)
        scale = (right - left) / model.width
        steps = []
        for step, error, is_active in zip(output.steps, errors[1:], active, strict=True):
            # A pixel's centre is its index; the box is given by edges, so half a pixel is added.
            box = [edge + 0.5 for edge in window_box(step.window, model.attention.kernel_size)[at].tolist()]
            source = (left + box[0] * scale, top + box[1] * scale, left + box[2] * scale, top + box[3] * scale)
            x, y, delta, sigma, gamma = (float(value[at]) for value in step.window)
            steps.append(
                AttentionStep(
                    x=x,
                    y=y,
                    stride=delta,
                    sigma=sigma,
                    gamma=gamma,
                    window=(box[0], box[1], box[2], box[3]),
                    source_window=source,
                    error=error,
                    patch_read=to_bytes(step.patch_read[at].cpu().numpy()),
                    patch_written=to_bytes(step.patch_written[at].cpu().numpy()),
                    active=is_active,
                )
            )
        return tuple(steps)
