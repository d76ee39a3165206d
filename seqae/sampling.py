"""Sampling of new scenes: codes from the unit Gaussian, decoded, and written where training scenes have objects.

The paper names this as future work (its conclusion): with a variational region coder in the auto-encoder's place, a
code can be drawn and not only encoded. What the paper does not have is a distribution of places. Here it is the one
that the trained model gives: it reconstructs training scenes, and the windows of its active writes are drawn again,
scene by scene, so that sampled scenes have as many objects as training scenes and keep them as far apart. A small
normal shift makes each place new. Masks and labels are not used.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from seqae.attention import Window, make_filters, write
from seqae.compute.cpu_threads import flush_denormals
from seqae.errors import SamplingError
from seqae.model import Output, SequentialAutoEncoder
from seqae.segmentation.ownership import active_writes
from seqae.tensors import intensities

__all__ = ["Layouts", "Samples", "fit_layouts", "sample_scenes"]

_BATCH = 50


@dataclass(frozen=True)
class Layouts:
    """Windows, codes and starting canvases of a model's writes in training scenes. L scenes, T steps."""

    windows: NDArray[np.float32]
    """[L, T, 5]: x, y, delta, sigma, gamma of each write; lengths in pixels."""

    active: NDArray[np.bool_]
    """[L, T]: writes that may own pixels (`seqae.segmentation.ownership`), unlike the last touches."""

    starts: NDArray[np.float32]
    """[L, C, H, W]: the canvas before the first write: zeros, or the background network's."""

    code_mean: NDArray[np.float64]
    """[Z], of the active writes' codes."""

    code_covariance: NDArray[np.float64]
    """[Z, Z], likewise."""


@dataclass(frozen=True)
class Samples:
    """Sampled scenes, M of them, as canvases write by write."""

    frames: NDArray[np.float32]
    """[M, K+1, C, H, W]: the canvas before the first write and after each of at most K; a scene of fewer objects ends
    early and stays as it is."""

    counts: NDArray[np.int64]
    """[M]: writes in each."""

    @property
    def scenes(self) -> NDArray[np.float32]:
        """[M, C, H, W]."""
        return self.frames[:, -1]


def fit_layouts(model: SequentialAutoEncoder, images: NDArray[np.uint8]) -> Layouts:
    """Fits the layouts: collects the writes with which a model reconstructs training scenes.

    Args:
        model: on the CPU; it is put into evaluation mode.
        images: uint8 [L, C, H, W].

    Raises:
        SamplingError: the model writes nothing on them.
    """
    flush_denormals()
    windows, active, starts, codes = [], [], [], []
    for first in range(0, len(images), _BATCH):
        given = intensities(images[first : first + _BATCH])
        with torch.inference_mode():
            output: Output = model.eval()(given)
        busy = active_writes(output.writes.abs().sum(dim=2)).T.numpy()  # [b, T]
        windows.append(torch.stack(output.windows, dim=2).transpose(0, 1).numpy())
        active.append(busy)
        starts.append(output.start.numpy())
        codes.append(torch.stack([step.code for step in output.steps], dim=1).double().numpy()[busy])
    z = np.concatenate(codes)  # [writes, Z]
    if len(z) < 2:
        raise SamplingError("the model writes nothing on these images, so there is no place to write to")
    return Layouts(
        np.concatenate(windows),
        np.concatenate(active),
        np.concatenate(starts),
        z.mean(axis=0),
        np.atleast_2d(np.cov(z.T)),
    )


def sample_scenes(
    model: SequentialAutoEncoder,
    layouts: Layouts,
    count: int,
    *,
    seed: int = 0,
    codes: Literal["prior", "fitted"] = "prior",
    shift: float = 1.0,
) -> Samples:
    """Draws scenes from the model.

    Args:
        model: with the variational coder, or any for fitted codes.
        layouts: from `fit_layouts`.
        count: M.
        seed: the same seed gives the same scenes.
        codes: "prior": z ~ N(0, I), what the variational coder is trained towards. "fitted": a Gaussian with the mean
            and the covariance of the codes that active writes had, which any coder can be sampled from.
        shift: standard deviation of the shift of each window, pixels.

    Raises:
        SamplingError: codes are to come from the prior, and the coder is not variational.
    """
    if codes == "prior" and model.config.coder.kind != "variational":
        raise SamplingError("the model's coder is not variational, so no code can be drawn; train model.coder.kind so")
    flush_denormals()
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(layouts.windows), size=count)
    active = layouts.active[chosen]
    # Active writes first, in their order, so that every scene is done after as many steps as it has objects.
    order = np.argsort(~active, axis=1, kind="stable")
    windows = np.take_along_axis(layouts.windows[chosen], order[:, :, None], axis=1)
    counts = active.sum(axis=1)
    most = int(counts.max(initial=0))
    windows[..., :2] += rng.normal(0, shift, windows[..., :2].shape)
    shape, config = (count, most, len(layouts.code_mean)), model.config
    if codes == "prior":
        z = rng.standard_normal(shape)
    else:
        z = rng.multivariate_normal(layouts.code_mean, layouts.code_covariance, shape[:2])
    canvas = torch.from_numpy(layouts.starts[chosen])
    frames = [canvas]
    with torch.inference_mode():
        for t in range(most):
            window = Window(*torch.from_numpy(windows[:, t]).unbind(dim=1))
            filters = make_filters(window, config.attention.kernel_size, config.height, config.width)
            patch = model.eval().coder.decode(torch.from_numpy(z[:, t]).float())
            written = write(patch, filters, config.attention.write_gain)
            canvas = canvas + written * torch.from_numpy(counts > t).float()[:, None, None, None]
            frames.append(canvas)
    return Samples(torch.stack(frames, dim=1).numpy(), counts)
