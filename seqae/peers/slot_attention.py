"""Slot Attention (Locatello et al., 2020), written for this comparison from its paper, small enough for a CPU.

A convolutional encoder at half the image's size, slots that compete for its places, and a spatial broadcast decoder
which gives each slot an image and a mask. A pixel of the foreground belongs to the slot with the largest mask.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.evaluation.baselines import find_foreground
from seqae.peers.method import (
    BATCH,
    Segments,
    batches,
    check_finite,
    count_owned,
    count_parameters,
    half_cosine,
    joined,
)
from seqae.tensors import intensities

__all__ = ["SlotAttention", "SlotConfig", "SlotMethod"]

_SEED = 0  # of the slots that an evaluation starts from
_GRID = 8  # side of what the decoder starts from, three doublings below 64 pixels


@dataclass(frozen=True)
class SlotConfig:
    """Sizes and learning rate; the paper has 64 numbers a slot, three rounds of attention and a rate of 4e-4."""

    slots: int = 6
    """One of them is free for the background."""
    size: int = 64
    """Numbers of a slot."""
    width: int = 32
    """Channels of encoder and decoder; the paper's for its small data sets."""
    rounds: int = 3
    learning_rate: float = 4e-4
    warmup: float = 0.05
    """Share of the run in which the rate rises; the paper has 10,000 of 500,000 steps."""
    grad_clip: float = 5.0


def _positions(height: int, width: int) -> Tensor:
    """Distances from the four edges in 0..1, [1, 4, H, W]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([x, y, 1 - x, 1 - y])[None]


def _double(before: int, after: int) -> nn.ConvTranspose2d:
    """A layer that doubles height and width."""
    return nn.ConvTranspose2d(before, after, 5, stride=2, padding=2, output_padding=1)


class SlotAttention(nn.Module):
    """Auto-encoder with slots in its middle, on images [B, C, H, W] in 0..1."""

    def __init__(self, config: SlotConfig, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        (channels, height, width), c, d = shape, config.width, config.size
        layers: list[nn.Module] = [nn.Conv2d(channels, c, 5, stride=2, padding=2), nn.ReLU()]
        for _ in range(3):
            layers += [nn.Conv2d(c, c, 5, padding=2), nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        self.encoder_position, self.decoder_position = nn.Conv2d(4, c, 1), nn.Conv2d(4, d, 1)
        self.to_input = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, d), nn.ReLU(), nn.Linear(d, d), nn.LayerNorm(d))
        self.to_key, self.to_value, self.to_query = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.mean, self.log_sigma = (nn.Parameter(0.1 * torch.randn(1, 1, d)) for _ in range(2))
        self.norm_slots, self.norm_update = nn.LayerNorm(d), nn.LayerNorm(d)
        self.memory = nn.GRUCell(d, d)
        self.update = nn.Sequential(nn.Linear(d, 2 * d), nn.ReLU(), nn.Linear(2 * d, d))
        self.decoder = nn.Sequential(_double(d, c), nn.ReLU(), _double(c, c), nn.ReLU(), _double(c, channels + 1))
        half = (-(-height // 2), -(-width // 2))
        self.register_buffer("encoder_grid", _positions(*half), persistent=False)
        self.register_buffer("decoder_grid", _positions(-(-height // _GRID), -(-width // _GRID)), persistent=False)
        self.encoder_grid: Tensor
        self.decoder_grid: Tensor

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The image as rebuilt, [B, C, H, W], and the slots' masks [B, K, H, W], which sum to 1.

        Args:
            image: [B, C, H, W].
            noise: [B, K, D] of the unit Gaussian, by which slots differ at first.
        """
        slots = self._attend(image, noise)
        (channels, height, width), (batch, count, d) = self.shape, slots.shape
        grid = slots.reshape(-1, d, 1, 1) + self.decoder_position(self.decoder_grid)
        # Images that are no multiple of 8 are cut out of a larger one.
        out = self.decoder(grid)[:, :, :height, :width].view(batch, count, channels + 1, height, width)
        masks = out[:, :, channels].softmax(dim=1)
        return (masks[:, :, None] * out[:, :, :channels]).sum(dim=1), masks

    def _attend(self, image: Tensor, noise: Tensor) -> Tensor:
        """Slots [B, K, D] after all rounds: algorithm 1 of the paper."""
        features = self.encoder(image) + self.encoder_position(self.encoder_grid)
        inputs = self.to_input(features.flatten(2).mT)  # [B, places, D]
        keys, values = self.to_key(inputs) * inputs.shape[2] ** -0.5, self.to_value(inputs)
        slots = self.mean + self.log_sigma.exp() * noise
        for _ in range(self.config.rounds):
            queries = self.to_query(self.norm_slots(slots))
            attention = (keys @ queries.mT).softmax(dim=2) + 1e-8  # [B, places, K]: slots compete
            weights = attention / attention.sum(dim=1, keepdim=True)
            seen = (weights.mT @ values).flatten(0, 1)
            slots = self.memory(seen, slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.update(self.norm_update(slots))
        return slots


class SlotMethod:
    """Slot Attention as a method: squared error, Adam, a warm-up, then half a cosine.

    Args:
        config: gives the batch and the seed.
        data: the scenes.
        iterations: of the whole run.
        sizes: of the model.
    """

    def __init__(self, config: TrainConfig, data: Dataset, iterations: int, sizes: SlotConfig) -> None:
        torch.manual_seed(config.seed)
        _, channels, height, width = data.train.images.shape
        self.model = SlotAttention(sizes, (channels, height, width))
        self._batches = batches(data.train.images, config.schedule.batch_size, config.seed)
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=sizes.learning_rate, fused=True)
        self._iterations, self._done = iterations, 0

    @property
    def parameters(self) -> int:
        """Learned numbers."""
        return count_parameters(self.model)

    def step(self) -> None:
        """One step on the squared error of the rebuilt images."""
        sizes, image = self.model.config, next(self._batches)
        rise = min(1.0, (self._done + 1) / max(sizes.warmup * self._iterations, 1))
        rate = sizes.learning_rate * rise * half_cosine(self._done, self._iterations)
        self._optimizer.param_groups[0]["lr"] = rate
        rebuilt, _ = self.model(image, torch.randn(len(image), sizes.slots, sizes.size))
        loss = F.mse_loss(rebuilt, image)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), sizes.grad_clip)
        self._optimizer.step()
        self._done += 1
        check_finite(loss, self._done)

    def segment(self, images: NDArray[np.uint8]) -> Segments:
        """Segments by the largest mask; slots start from the same noise each time."""
        with torch.inference_mode():
            return joined([self._segment(images[at : at + BATCH]) for at in range(0, len(images), BATCH)])

    def _segment(self, images: NDArray[np.uint8]) -> Segments:
        sizes = self.model.config
        noise = torch.randn(1, sizes.slots, sizes.size, generator=torch.Generator().manual_seed(_SEED))
        rebuilt, masks = self.model(intensities(images), noise.expand(len(images), -1, -1))
        owners = np.where(find_foreground(images), masks.argmax(dim=1).numpy() + 1, 0)
        return Segments(owners, count_owned(owners), rebuilt.numpy())
