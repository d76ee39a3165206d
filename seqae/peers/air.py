"""AIR: Attend, Infer, Repeat (Eslami et al., 2016), written for this comparison with Pyro, the extra `seqae[bench]`.

The settings are those that Pyro's documentation of its AIR example names for 50 x 50 pixels and up to two digits: the
prior of a further object is 0.01, that of its size 3 +- 0.2 (the image's side in windows), decoders end in a sigmoid
that starts at -2, and the rates are 1e-4 and, of the baseline of the gradient of the discrete choices, 0.1. A pixel of
the foreground belongs to the strongest write of an object that AIR says is there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pyro.infer import TraceGraph_ELBO
from torch import Tensor, nn

from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.evaluation.baselines import find_foreground
from seqae.peers.method import BATCH, Segments, batches, check_finite, count_parameters, joined
from seqae.segmentation.ownership import Ownership
from seqae.tensors import intensities

__all__ = ["Air", "AirConfig", "AirMethod"]

_LEAST_SCALE = 0.2  # of a window, in images' sides a window: 5 images wide


@dataclass(frozen=True)
class AirConfig:
    """Sizes, priors and learning rates."""

    steps: int = 3
    """Most objects."""
    window: int = 28
    """Side of an object's patch, in pixels."""
    hidden: int = 256
    code: int = 50
    presence_prior: float = 0.01
    scale_prior: tuple[float, float] = (3.0, 0.2)
    noise: float = 0.3
    """Standard deviation of a pixel."""
    learning_rate: float = 1e-4
    baseline_rate: float = 0.1


class _State(NamedTuple):
    """What inference carries from object to object."""

    shown: tuple[Tensor, Tensor]  # what both recurrent networks have of the image, [B, 4 * hidden] each
    hidden: tuple[Tensor, Tensor]  # of the recurrent network, [B, hidden] each
    baseline: tuple[Tensor, Tensor]  # likewise
    present: Tensor  # [B, 1], 1 while objects come
    where: Tensor  # [B, 3]
    what: Tensor  # [B, code]


class _Inferred(NamedTuple):
    """Posteriors of one object, given those before it."""

    present: Tensor  # [B, 1], probability that there is one
    where: Tensor  # [B, 6]: means and raw deviations of scale, x and y
    baseline: Tensor  # [B], expected cost of the choice
    hidden: tuple[Tensor, Tensor]
    baseline_state: tuple[Tensor, Tensor]


def _mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class _ImageLstm(nn.Module):
    """An LSTM cell that is given the same image at each step, whose part in the gates is computed once."""

    def __init__(self, pixels: int, others: int, hidden: int) -> None:
        super().__init__()
        self.of_image = nn.Linear(pixels, 4 * hidden)
        self.of_others = nn.Linear(others + hidden, 4 * hidden, bias=False)

    def forward(self, shown: Tensor, others: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The next state, of `shown` [B, 4 * hidden], which `of_image` gives, and other inputs [B, n]."""
        before, cell = state
        gates = shown + self.of_others(torch.cat([others, before], dim=1))
        enter, keep, new, leave = gates.chunk(4, dim=1)
        cell = torch.sigmoid(keep) * cell + torch.sigmoid(enter) * torch.tanh(new)
        return torch.sigmoid(leave) * torch.tanh(cell), cell


def _grid(where: Tensor, shape: tuple[int, int, int], *, inverse: bool) -> Tensor:
    """Sampling grid of spatial transformers: image places in a window's coordinates, or the other way round.

    Args:
        where: [B, 3], scale s and place (x, y): a window's point is s times the image's plus (x, y), both in -1..1.
        shape: C, H and W of what is sampled.
        inverse: image's places for each of a window's points, to read; else to write.
    """
    scale = where[:, :1].clamp(min=_LEAST_SCALE)
    factor, offset = (1 / scale, -where[:, 1:] / scale) if inverse else (scale, where[:, 1:])
    zero = torch.zeros_like(factor)
    rows = torch.stack([torch.cat([factor, zero, offset[:, :1]], 1), torch.cat([zero, factor, offset[:, 1:]], 1)], 1)
    return F.affine_grid(rows, [len(where), *shape], align_corners=False)


class Air(nn.Module):
    """Generative model and inference network, for Pyro's `TraceGraph_ELBO`, on images [B, C, H, W] in 0..1."""

    def __init__(self, config: AirConfig, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        pixels, patch, code = int(np.prod(shape)), shape[0] * config.window**2, config.code
        self.recurrent = _ImageLstm(pixels, 3 + code + 1, config.hidden)
        self.predict = _mlp(config.hidden, 200, 7)
        self.encoder = _mlp(patch, 200, 2 * code)
        self.decoder = _mlp(code, 200, patch)
        self.baseline = _ImageLstm(pixels, 3 + code + 1, config.hidden)
        self.predict_baseline = _mlp(config.hidden, 200, 1)
        mean, _ = config.scale_prior
        with torch.no_grad():
            last = self.predict[-1]
            # Windows start at the prior's size, in the middle, nearly certain of it.
            last.get_parameter("bias").copy_(torch.tensor([0.0, mean, 0.0, 0.0, -2.0, -2.0, -2.0]))
            nn.init.normal_(last.get_parameter("weight"), std=0.01)
        self.register_buffer("where_mean", torch.tensor([mean, 0.0, 0.0]), persistent=False)
        self.register_buffer("where_sd", torch.tensor([config.scale_prior[1], 1.0, 1.0]), persistent=False)
        self.where_mean: Tensor
        self.where_sd: Tensor

    def baseline_parameters(self) -> Iterator[nn.Parameter]:
        """What has the baseline's learning rate."""
        yield from self.baseline.parameters()
        yield from self.predict_baseline.parameters()

    def write(self, what: Tensor, where: Tensor) -> Tensor:
        """An object's image [B, C, H, W]."""
        window, channels = self.config.window, self.shape[0]
        patch = torch.sigmoid(self.decoder(what) - 2).view(-1, channels, window, window)
        return F.grid_sample(patch, _grid(where, self.shape, inverse=False), align_corners=False)

    def code(self, image: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation [B, code] of what a window shows."""
        window = self.config.window
        grid = _grid(where, (self.shape[0], window, window), inverse=True)
        patch = F.grid_sample(image, grid, align_corners=False)
        mean, raw = self.encoder(patch.flatten(1)).chunk(2, dim=1)
        return mean, F.softplus(raw) + 1e-4

    def first(self, image: Tensor) -> _State:
        """The state before the first object."""
        zeros, pixels = image.new_zeros(len(image), self.config.hidden), image.flatten(1)
        shown = (self.recurrent.of_image(pixels), self.baseline.of_image(pixels))
        what = zeros.new_zeros(len(image), self.config.code)
        return _State(shown, (zeros, zeros), (zeros, zeros), zeros.new_ones(len(image), 1), zeros[:, :3], what)

    def infer(self, state: _State) -> _Inferred:
        """Posteriors of the next object."""
        carried = torch.cat([state.where, state.what, state.present], dim=1)
        hidden = self.recurrent(state.shown[0], carried, state.hidden)
        baseline_state = self.baseline(state.shown[1], carried.detach(), state.baseline)
        raw = self.predict(hidden[0])
        expected = self.predict_baseline(baseline_state[0]).squeeze(1) * state.present.squeeze(1)
        return _Inferred(torch.sigmoid(raw[:, :1]) * state.present, raw[:, 1:], expected, hidden, baseline_state)

    def model(self, image: Tensor) -> None:
        """Generates images, in Pyro: objects one after the other, until one is absent."""
        with pyro.plate("images", len(image)):
            canvas, present = torch.zeros_like(image), image.new_ones(len(image), 1)
            for t in range(self.config.steps):
                chance = self.config.presence_prior * present
                present = pyro.sample(f"present_{t}", dist.Bernoulli(chance).to_event(1))
                place = dist.Normal(self.where_mean, self.where_sd).expand([len(image), 3])
                where = pyro.sample(f"where_{t}", place.mask(present).to_event(1))
                unit = dist.Normal(image.new_zeros(len(image), self.config.code), 1.0)
                what = pyro.sample(f"what_{t}", unit.mask(present).to_event(1))
                canvas = canvas + present[:, :, None, None] * self.write(what, where)
            pixels = dist.Normal(canvas.flatten(1), self.config.noise).to_event(1)
            pyro.sample("image", pixels, obs=image.flatten(1))

    def guide(self, image: Tensor) -> None:
        """Infers objects, in Pyro."""
        with pyro.plate("images", len(image)):
            state = self.first(image)
            for t in range(self.config.steps):
                found = self.infer(state)
                options = {"baseline": {"baseline_value": found.baseline}}
                choice = dist.Bernoulli(found.present).to_event(1)
                present = pyro.sample(f"present_{t}", choice, infer=options)
                mean, raw = found.where.chunk(2, dim=1)
                place = dist.Normal(mean, F.softplus(raw) + 1e-4).mask(present).to_event(1)
                where = pyro.sample(f"where_{t}", place)
                mean, deviation = self.code(image, where)
                what = pyro.sample(f"what_{t}", dist.Normal(mean, deviation).mask(present).to_event(1))
                state = _State(state.shown, found.hidden, found.baseline_state, present, where, what)

    def rebuild(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The likeliest objects, nothing drawn: writes [T, B, C, H, W], presence [T, B], centres [T, B, 2] in -1..1.

        An object is there if that is likelier than not, and the one before it is there.
        """
        state, writes, there, centres = self.first(image), [], [], []
        for _ in range(self.config.steps):
            found = self.infer(state)
            present, where = (found.present > 0.5).float(), found.where[:, :3]
            what, _ = self.code(image, where)
            writes.append(present[:, :, None, None] * self.write(what, where))
            there.append(present[:, 0] > 0)
            centres.append(-where[:, 1:] / where[:, :1].clamp(min=_LEAST_SCALE))
            state = _State(state.shown, found.hidden, found.baseline_state, present, where, what)
        return torch.stack(writes), torch.stack(there), torch.stack(centres)


class AirMethod:
    """AIR as a method: a bound on the evidence, score-function gradients with a learned baseline, Adam.

    Args:
        config: gives the batch and the seed.
        data: the scenes.
        sizes: of the model.
    """

    def __init__(self, config: TrainConfig, data: Dataset, sizes: AirConfig) -> None:
        torch.manual_seed(config.seed)
        _, channels, height, width = data.train.images.shape
        self.net = Air(sizes, (channels, height, width))
        self._batches = batches(data.train.images, config.schedule.batch_size, config.seed)
        baseline = list(self.net.baseline_parameters())
        taken = {id(parameter) for parameter in baseline}
        others = [parameter for parameter in self.net.parameters() if id(parameter) not in taken]
        groups = [{"params": others, "lr": sizes.learning_rate}, {"params": baseline, "lr": sizes.baseline_rate}]
        self._optimizer = torch.optim.Adam(groups, fused=True)
        self._bound = TraceGraph_ELBO()
        self._done = 0

    @property
    def parameters(self) -> int:
        """Learned numbers, with the baseline's."""
        return count_parameters(self.net)

    def step(self) -> None:
        """One step on the bound and the baseline's error, both summed over the batch."""
        image = next(self._batches)
        self._optimizer.zero_grad()
        loss = float(self._bound.loss_and_grads(self.net.model, self.net.guide, image))
        self._optimizer.step()
        self._done += 1
        check_finite(loss, self._done)

    def segment(self, images: NDArray[np.uint8]) -> Segments:
        """Segments by the strongest write; where none shows, the nearest window's."""
        with torch.inference_mode():
            return joined([self._segment(images[at : at + BATCH]) for at in range(0, len(images), BATCH)])

    def _segment(self, images: NDArray[np.uint8]) -> Segments:
        writes, there, centres = self.net.rebuild(intensities(images))
        height, width = images.shape[2:]
        rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
        x, y = (centres[..., axis][:, :, None, None] for axis in (0, 1))
        away = torch.hypot((columns - x) * width / 2, (rows - y) * height / 2)
        owned = Ownership(writes.sum(dim=2), away, there, torch.from_numpy(find_foreground(images)))
        return Segments(owned.owners.numpy(), there.sum(dim=0).numpy(), writes.sum(dim=0).clamp(0, 1).numpy())
