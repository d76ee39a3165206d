"""Baseline DRAW (Gregor et al., 2015), written for this benchmark from the equations of its paper.

Segmentation as for our model before looking again, which takes a coder of patches that DRAW does not have: a pixel
belongs to the active step that changed it most (in DRAW's canvas, of log odds).
"""

import math
import sys
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqae.config import TrainConfig
from seqae.data.cache import Dataset
from seqae.data.scenes import Scenes
from seqae.evaluation.scores import OwnerScores, object_count, score_owners, tabulate_owners
from seqae.evaluation.write_energy import EnergyScores, score_energy, tabulate_energy
from seqae.segmentation.ownership import ACTIVE_SHARE, FOREGROUND_LEVEL, Ownership, energy_shares
from tests.benchmarks.record import EvaluationPoint, Record, TrainingTimer

PROBE = 40  # iterations that the rate is measured over, after as many that are not
_BATCH = 100  # images in one batch of an evaluation


@dataclass(frozen=True)
class Budget:
    """Length of a training run: a number of iterations, or as many as fill the minutes."""

    minutes: float
    iterations: int | None


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
    """DRAW with selective attention on grey images [B, H, W] in 0..1."""

    def __init__(self, config: DrawConfig, height: int, width: int, brightness: float) -> None:
        super().__init__()
        self.config = config
        self.size = (height, width)
        cells, hidden = config.kernel**2, config.hidden
        self.encoder = nn.LSTMCell(2 * cells + hidden, hidden)
        self.decoder = nn.LSTMCell(config.code, hidden)
        self.to_mean = nn.Linear(hidden, config.code)
        self.to_log_sigma = nn.Linear(hidden, config.code)
        self.to_patch = nn.Linear(hidden, cells)
        self.read_window = nn.Linear(hidden, 5)
        self.write_window = nn.Linear(hidden, 5)
        # c_0, h_0 and the LSTMs' cells are learned biases (section 2.1); c_0 starts at the images' mean.
        self.start = nn.Parameter(torch.full((height, width), math.log(brightness / (1 - brightness))))
        self.states = nn.Parameter(torch.zeros(4, hidden))

    def _filters(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Filters over rows [B, N, H] and columns [B, N, W], and gamma [B, 1, 1]: the paper's Eq. 19-26."""
        n, (height, width) = self.config.kernel, self.size
        x, y = (width + 1) / 2 * (raw[:, 0] + 1), (height + 1) / 2 * (raw[:, 1] + 1)
        stride = (max(height, width) - 1) / (n - 1) * raw[:, 3].clamp(-8, 8).exp()
        variance = raw[:, 2].clamp(-8, 8).exp()
        i = torch.arange(1, n + 1, device=raw.device)

        def axis(centre: Tensor, pixels: int) -> Tensor:
            mu = centre[:, None] + (i - n / 2 - 0.5) * stride[:, None]
            away = torch.arange(1, pixels + 1, device=raw.device) - mu[:, :, None]
            filters = torch.exp(-away.square() / (2 * variance[:, None, None]))
            return filters / filters.sum(dim=2, keepdim=True).clamp(min=1e-8)

        return axis(y, height), axis(x, width), raw[:, 4].clamp(-8, 8).exp()[:, None, None]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log odds c_0..c_T [T+1, B, H, W], writes [T, B, H, W], and the codes' KL divergence [B]."""
        batch = len(image)
        canvas = self.start.expand(batch, -1, -1)
        h_encoder, cell_encoder, h_decoder, cell_decoder = (state.expand(batch, -1) for state in self.states)
        canvases, writes = [canvas], []
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
            patch = self.to_patch(h_decoder).reshape(batch, self.config.kernel, self.config.kernel)
            write = (rows.mT @ patch @ columns) / gamma
            canvas = canvas + write
            canvases.append(canvas)
            writes.append(write)
        return torch.stack(canvases), torch.stack(writes), divergence


def _evaluate(
    model: Draw, scenes: Scenes, limit: int, device: str, active_share: float | None = None
) -> tuple[float, float, OwnerScores, EnergyScores]:
    """Error of an empty canvas and of the last one on the first scenes, and how object-wise the writes are."""
    some = scenes.first(limit)
    model.eval()
    owners, writes, canvases, images = [], [], [], []
    with torch.inference_mode():
        for first in range(0, len(some.images), _BATCH):
            part = np.ascontiguousarray(some.images[first : first + _BATCH, 0])
            image = torch.from_numpy(part).to(device).float() / 255
            odds, written, _ = model(image)
            images.append(image.cpu().numpy())
            canvases.append(torch.sigmoid(odds[-1]).cpu().numpy())
            strengths = written.abs()
            nowhere = torch.zeros_like(strengths)  # DRAW writes through one window and reads through another
            active = energy_shares(strengths) > ACTIVE_SHARE
            owned = Ownership(strengths, nowhere, active, image > FOREGROUND_LEVEL)
            owners.append(owned.owners.cpu().numpy())
            writes.append(strengths.movedim(0, 1).cpu().numpy())
    model.train()
    all_images, all_canvases = np.concatenate(images), np.concatenate(canvases)  # [M, H, W]
    objects, steps = object_count(some), len(writes[0][0])
    found = score_owners(tabulate_owners(np.concatenate(owners), some, segments=steps, objects=objects))
    energy = score_energy(tabulate_energy(np.concatenate(writes), some, objects=objects), active_share)
    error = np.square(all_images - all_canvases).mean()
    return float(np.square(all_images).mean()), float(error), found, energy


def train_draw(
    data: Dataset, config: TrainConfig, record: Record, budget: Budget, sizes: DrawConfig, device: str
) -> Draw:
    """Trains DRAW on the scenes and with the batch of `config`, and fills in the record.

    The learning rate falls like ours, as half a cosine, over the iterations that fill the time.

    Raises:
        ValueError: the images are not grey.
    """
    if config.model.channels != 1:
        raise ValueError("this DRAW is for grey images")
    schedule = config.schedule
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    images = torch.from_numpy(np.ascontiguousarray(data.train.images[:, 0])).to(device)  # uint8 [M, H, W]
    brightness = float(images.float().mean() / 255)
    model = Draw(sizes, config.model.height, config.model.width, brightness).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=sizes.learning_rate, betas=(0.5, 0.999))
    total, iteration, order = budget.iterations, 0, np.empty(0, np.int64)
    active_share: float | None = None  # chosen at the newest evaluation
    clock, warm = TrainingTimer(), 0.0
    clock.start()
    while total is None or iteration < total:
        while len(order) < schedule.batch_size:
            order = np.concatenate([order, rng.permutation(len(images))])
        chosen, order = order[: schedule.batch_size], order[schedule.batch_size :]
        share = 0.0 if total is None else iteration / total
        optimizer.param_groups[0]["lr"] = sizes.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
        _step(model, optimizer, images[torch.from_numpy(chosen).to(device)].float() / 255)
        iteration += 1
        if iteration in (PROBE, 2 * PROBE) and total is None:
            now = clock.lap()
            if iteration == 2 * PROBE:
                total = max(iteration, round(budget.minutes * 60 / ((now - warm) / PROBE)))
            warm = now
        if iteration % schedule.evaluate_every == 0 or iteration == total:
            record.minutes = clock.lap() / 60
            clock.stop()
            _, error, found, energy = _evaluate(model, data.val, schedule.evaluate_scenes, device)
            record.evaluations.append(EvaluationPoint(iteration, record.minutes, error, found.fg_ari.mean))
            active_share = energy.active_share
            words = f"{iteration}/{total}: {record.minutes:.1f} min, MSE {error:.4f}, FG-ARI {found.fg_ari.mean:.3f}"
            print(words, file=sys.stderr, flush=True)
            clock.start()
    record.iterations, record.scenes = iteration, len(data.test.images)
    record.empty_mse, record.mse, found, energy = _evaluate(model, data.test, record.scenes, device, active_share)
    record.score(found, energy.count_accuracy, data.test)
    return model


def _step(model: Draw, optimizer: torch.optim.Optimizer, image: Tensor) -> None:
    """One optimizer step on the paper's loss, Eq. 8-12: binary cross-entropy and KL divergence, per image."""
    odds, _, divergence = model(image)
    loss = F.binary_cross_entropy_with_logits(odds[-1], image, reduction="sum") / len(image) + divergence.mean()
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), model.config.grad_clip)
    optimizer.step()
