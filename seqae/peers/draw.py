"""DRAW (Gregor et al., 2015), written for this comparison from the equations of its paper; colour shares its windows.

A pixel of the foreground belongs to the active step that changed it most, in DRAW's canvas of log odds.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.evaluation.baselines import find_foreground
from seqae.peers.method import BATCH, Segments, batches, check_finite, count_parameters, half_cosine, joined
from seqae.segmentation.ownership import ACTIVE_SHARE, Ownership, energy_shares
from seqae.tensors import intensities

__all__ = ["Draw", "DrawConfig", "DrawMethod"]


@dataclass(frozen=True)
class DrawConfig:
    """Sizes and learning rate of DRAW; h and z are the paper's for MNIST."""

    steps: int = 6
    kernel: int = 12
    """N of the reading and of the writing attention."""
    hidden: int = 256
    code: int = 100
    learning_rate: float = 1e-3
    grad_clip: float = 5.0


class Draw(nn.Module):
    """DRAW with selective attention on images [B, C, H, W] in 0..1.

    Args:
        config: sizes.
        shape: C, H and W.
        brightness: mean of the training images, which the first canvas shows.
    """

    def __init__(self, config: DrawConfig, shape: tuple[int, int, int], brightness: float) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        values, hidden = shape[0] * config.kernel**2, config.hidden
        self.encoder = nn.LSTMCell(2 * values + hidden, hidden)
        self.decoder = nn.LSTMCell(config.code, hidden)
        self.to_mean = nn.Linear(hidden, config.code)
        self.to_log_sigma = nn.Linear(hidden, config.code)
        self.to_patch = nn.Linear(hidden, values)
        self.read_window = nn.Linear(hidden, 5)
        self.write_window = nn.Linear(hidden, 5)
        # c_0, h_0 and the LSTMs' cells are learned biases (section 2.1); c_0 starts at the images' mean.
        self.start = nn.Parameter(torch.full(shape, math.log(brightness / (1 - brightness))))
        self.states = nn.Parameter(torch.zeros(4, hidden))

    def _filters(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Filters over rows [B, 1, N, H] and columns [B, 1, N, W], and gamma [B, 1, 1, 1]: the paper's Eq. 19-26."""
        n, (_, height, width) = self.config.kernel, self.shape
        x, y = (width + 1) / 2 * (raw[:, 0] + 1), (height + 1) / 2 * (raw[:, 1] + 1)
        stride = (max(height, width) - 1) / (n - 1) * raw[:, 3].clamp(-8, 8).exp()
        variance = raw[:, 2].clamp(-8, 8).exp()
        i = torch.arange(1, n + 1, device=raw.device)

        def axis(centre: Tensor, pixels: int) -> Tensor:
            mu = centre[:, None] + (i - n / 2 - 0.5) * stride[:, None]
            away = torch.arange(1, pixels + 1, device=raw.device) - mu[:, :, None]
            filters = torch.exp(-away.square() / (2 * variance[:, None, None]))
            return (filters / filters.sum(dim=2, keepdim=True).clamp(min=1e-8))[:, None]

        return axis(y, height), axis(x, width), raw[:, 4].clamp(-8, 8).exp()[:, None, None, None]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The last canvas in log odds [B, C, H, W], writes [T, B, C, H, W], and the codes' KL divergence [B]."""
        batch, (channels, _, _), n = len(image), self.shape, self.config.kernel
        canvas = self.start.expand(batch, -1, -1, -1)
        h_encoder, cell_encoder, h_decoder, cell_decoder = (state.expand(batch, -1) for state in self.states)
        writes = []
        divergence = torch.zeros(batch, device=image.device)
        for _ in range(self.config.steps):
            error = image - torch.sigmoid(canvas)
            rows, columns, gamma = self._filters(self.read_window(h_decoder))
            read = [(gamma * (rows @ part @ columns.mT)).flatten(1) for part in (image, error)]
            h_encoder, cell_encoder = self.encoder(torch.cat([*read, h_decoder], 1), (h_encoder, cell_encoder))
            mean, log_sigma = self.to_mean(h_encoder), self.to_log_sigma(h_encoder).clamp(-8, 8)
            divergence = divergence + 0.5 * (mean.square() + (2 * log_sigma).exp() - 2 * log_sigma - 1).sum(1)
            z = mean + torch.randn_like(mean) * log_sigma.exp() if self.training else mean
            h_decoder, cell_decoder = self.decoder(z, (h_decoder, cell_decoder))
            rows, columns, gamma = self._filters(self.write_window(h_decoder))
            patch = self.to_patch(h_decoder).reshape(batch, channels, n, n)
            write = (rows.mT @ patch @ columns) / gamma
            canvas = canvas + write
            writes.append(write)
        return canvas, torch.stack(writes), divergence


class DrawMethod:
    """DRAW as a method: its paper's loss, Adam, and a learning rate that falls as half a cosine.

    Args:
        config: gives the batch and the seed.
        data: the scenes.
        iterations: of the whole run.
        sizes: of the model.
    """

    def __init__(self, config: TrainConfig, data: Dataset, iterations: int, sizes: DrawConfig) -> None:
        torch.manual_seed(config.seed)
        images = data.train.images
        _, channels, height, width = images.shape
        brightness = min(max(float(images.mean() / 255), 1e-3), 1 - 1e-3)
        self.model = Draw(sizes, (channels, height, width), brightness)
        self._batches = batches(images, config.schedule.batch_size, config.seed)
        self._optimizer = torch.optim.Adam(
            self.model.parameters(), lr=sizes.learning_rate, betas=(0.5, 0.999), fused=True
        )
        self._iterations, self._done = iterations, 0

    @property
    def parameters(self) -> int:
        """Learned numbers."""
        return count_parameters(self.model)

    def step(self) -> None:
        """One step on the paper's loss, Eq. 8-12: binary cross-entropy and KL divergence, per image."""
        sizes, image = self.model.config, next(self._batches)
        self._optimizer.param_groups[0]["lr"] = sizes.learning_rate * half_cosine(self._done, self._iterations)
        self.model.train()
        odds, _, divergence = self.model(image)
        loss = F.binary_cross_entropy_with_logits(odds, image, reduction="sum") / len(image) + divergence.mean()
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), sizes.grad_clip)
        self._optimizer.step()
        self._done += 1
        check_finite(loss, self._done)

    def segment(self, images: NDArray[np.uint8]) -> Segments:
        """Segments by the step that changed a pixel most."""
        self.model.eval()
        with torch.inference_mode():
            return joined([self._segment(images[at : at + BATCH]) for at in range(0, len(images), BATCH)])

    def _segment(self, images: NDArray[np.uint8]) -> Segments:
        odds, written, _ = self.model(intensities(images))
        strengths = written.abs().sum(dim=2)
        nowhere = torch.zeros_like(strengths)  # DRAW writes through one window and reads through another
        active = energy_shares(strengths) > ACTIVE_SHARE
        owned = Ownership(strengths, nowhere, active, torch.from_numpy(find_foreground(images)))
        return Segments(owned.owners.numpy(), active.sum(dim=0).numpy(), torch.sigmoid(odds).numpy())
