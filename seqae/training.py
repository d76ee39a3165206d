"""The training loop of one worker, as an iterator of progress reports and evaluations.

`Trainer.run` does nothing but train and evaluate: whoever iterates it logs, saves, tells the cluster, and stops it by
not asking for more. The order of the data and all random numbers are functions of (seed, iteration) alone,
so a run that resumes from a checkpoint goes on exactly as if it had not stopped.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from seqae.checkpoints import checkpoint
from seqae.checkpoints.architecture import architecture_difference
from seqae.checkpoints.manifest import Manifest, verify
from seqae.compute.compilation import allow_compilations, has_compiler
from seqae.compute.cpu_threads import flush_denormals
from seqae.compute.generators import generator_of
from seqae.compute.variant import Precision, Variant, choose_compilation, choose_precision, given_variant
from seqae.config import LossConfig, TrainConfig
from seqae.copy_paste import copy_paste_losses
from seqae.data.cache import Dataset
from seqae.errors import CheckpointError, DivergedError
from seqae.evaluation.evaluate import Evaluation, evaluate
from seqae.evaluation.names import modern, with_split
from seqae.losses import Losses, total_loss
from seqae.model import Output, SequentialAutoEncoder
from seqae.tensors import intensities

__all__ = ["Progress", "Trainer", "TrainingLoss", "with_synchronized_batch_norm"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Progress:
    """Progress report of a run."""

    iteration: int
    """Optimizer steps done."""
    iterations: int
    """Optimizer steps in all."""
    epoch: float
    """Passes over the training images done."""
    epochs: float
    loss: float
    """Mean of Eq. 15 since the report before."""
    region: float
    mseot: float
    mse: float
    """Of the last canvas on the training images (Eq. 13), mean since the report before."""
    separation: float
    """Of pasted images (`seqae.copy_paste`), mean since the report before; 0 where there are none."""
    location: float
    """Likewise."""
    presence: float
    """Writes per training image that do something, mean since the report before."""
    learning_rate: float
    gradient_norm: float
    """Of the newest step, before clipping."""
    images_per_second: float
    """Over all workers, since the report before; evaluations and what the reader of reports does not counted."""
    eta_seconds: float
    checkpoint_due: bool
    """The schedule asks for a checkpoint now."""


class _BatchSampler:
    """Sampler of batches: epochs are permutations of the images, laid end to end."""

    def __init__(self, seed: int, images: int, device: torch.device) -> None:
        self._seed, self._images, self._device = seed, images, device
        self._newest: tuple[int, Tensor] | None = None

    def _permutation(self, epoch: int) -> Tensor:
        """The order of an epoch, made and copied to the device once: a copy for each batch would make a GPU wait."""
        if self._newest is None or self._newest[0] != epoch:
            order = np.random.default_rng((self._seed, epoch)).permutation(self._images)
            self._newest = (epoch, torch.from_numpy(order).to(self._device))
        return self._newest[1]

    def batch(self, iteration: int, size: int) -> Tensor:
        """Indices of the images of one batch, [size], on the device."""
        first = iteration * size
        taken: list[Tensor] = []
        while size > 0:
            epoch, at = divmod(first, self._images)
            part = self._permutation(epoch)[at : at + size]
            taken.append(part)
            first += len(part)
            size -= len(part)
        return torch.cat(taken)


def _one_cycle(done: int, iterations: int, warmup: float) -> float:
    """One-cycle learning rate as a share of its peak: a linear rise from 1/25 in the warm-up, then half a cosine to 0.

    torch's OneCycleLR divides by zero where the warm-up is one iteration long, so short runs would fail.
    """
    rise = warmup * iterations
    if done < rise:
        return 1 / 25 + (1 - 1 / 25) * done / rise
    return 0.5 * (1 + math.cos(math.pi * (done - rise) / max(iterations - rise, 1)))


class TrainingLoss(nn.Module):
    """Model and loss as one module, so that a wrapper (DDP, torch.compile) sees the whole step."""

    def __init__(self, model: SequentialAutoEncoder, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.precision: Precision = given_variant(config.schedule).precision

    def forward(self, image: Tensor, steps: int) -> Losses:
        """The losses of images [B, C, H, W] in 0..1, with T = `steps`."""
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            output: Output = self.model(image, steps)
            loss = self.config.loss
            pasted = copy_paste_losses(self.model, image, output, loss.separation_target) if loss.pastes else None
        return total_loss(image, output, loss, pasted)


def with_synchronized_batch_norm(model: ModuleT, device: torch.device, world: int) -> ModuleT:
    """The model with batch norms (Table 3) that use the statistics of the whole batch, over several workers.

    torch has that for GPUs only: workers on CPUs use those of their own share, and the first one's running averages
    are kept. One worker needs nothing.
    """
    if world == 1 or device.type == "cpu":
        return model
    shared: ModuleT = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return shared


class Trainer:
    """Trains one model; with several workers, one `Trainer` in each.

    Args:
        config: the run.
        data: the images; the training images are copied to the device once.
        device: where to train.
        rank: of this worker, 0 to world - 1. Rank 0 evaluates.
        world: number of workers.
        wrap: puts a data-parallel wrapper around the module whose forward pass gives the loss. It must average
            gradients over the workers.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: Dataset,
        *,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world: int = 1,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    ) -> None:
        flush_denormals()  # before anything is computed, at which threads start
        self.config = config = config.bare()
        self.data = data
        self.device = torch.device(device)
        self.rank, self.world = rank, world
        # The weights are drawn on the CPU; a GPU that the job was not given is not touched.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            self.model = with_synchronized_batch_norm(SequentialAutoEncoder(config.model), self.device, world).to(
                self.device
            )
        self.model.checkpoint_activations = config.schedule.checkpoint_activations
        self.loss = TrainingLoss(self.model, config)
        self.variant = given_variant(config.schedule)
        self._compile()
        self.module = wrap(self.loss)
        # What a step draws, it draws on its own device. torch.manual_seed sets all there are, which takes 100 us.
        self._generator = generator_of(self.device)
        self._is_random = config.loss.pastes or config.model.coder.kind == "variational"
        self.images = torch.from_numpy(np.ascontiguousarray(data.train.images)).to(self.device)  # uint8 [M, C, H, W]
        self._order = _BatchSampler(config.seed, len(self.images), self.device)
        self.iterations = config.schedule.iterations(len(self.images))
        self.iteration = 0
        self.evaluation: Evaluation | None = None
        self._metrics: dict[str, float] = {}  # of the newest evaluation, this process's or the one's before it
        schedule = config.schedule
        # Fused: one kernel, in place of a hundred to start.
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=schedule.learning_rate, fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda done: _one_cycle(done, self.iterations, schedule.warmup)
        )

    @property
    def epoch(self) -> float:
        """Passes over the training images done so far."""
        return self.iteration * self.config.schedule.batch_size / len(self.images)

    def steps_now(self) -> int:
        """T at this iteration: progressive training (2.6)."""
        growth = self.config.schedule.growth
        reached = [step.steps for step in growth if step.iteration <= self.iteration]
        if reached:
            return reached[-1]
        return min(growth[0].steps, self.config.model.steps) if growth else self.config.model.steps

    def _compile(self) -> None:
        if self.variant.compile != "off":
            allow_compilations(1 + len(self.config.schedule.growth))
            self.loss.compile(mode=self.variant.compile, dynamic=False)

    def choose_variant(self) -> Variant:
        """Chooses what the config leaves open as "auto", and says how the run computes; `run` does it unasked.

        What has been chosen stays. A run that resumes measures again.
        """
        schedule = self.config.schedule
        if "auto" not in (schedule.precision, schedule.compile) or self.variant.reason:
            return self.variant
        if self.world > 1:  # each might choose otherwise
            self.variant = replace(self.variant, reason="several workers do not measure")
            return self.variant
        left = self.iterations - self.iteration
        # On a copy: gradients and batch norm's statistics of the model are left alone.
        trial = copy.deepcopy(self.loss)
        image = intensities(self.images[: schedule.batch_size])

        def step(precision: Precision) -> None:
            trial.precision = precision if schedule.precision == "auto" else self.variant.precision
            torch.autograd.backward(trial(image, self.steps_now()).total)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        precision, why, seconds = choose_precision(step, left)
        if schedule.precision != "auto":
            precision, why = self.variant.precision, ""
        mode, why_compiled = self.variant.compile, ""
        if schedule.compile == "auto":
            growth = 1 + len(schedule.growth)
            mode, why_compiled = choose_compilation(seconds, left, growth, self.device.type, has_compiler)
        self.variant = Variant(precision, mode, "; ".join(filter(None, (why, why_compiled))))
        self.loss.precision = precision
        if schedule.compile == "auto":
            self._compile()
        return self.variant

    def run(self) -> Iterator[Progress | Evaluation]:
        """Trains to the end, reporting every `log_every` iterations and at each evaluation.

        Every worker reports at the same iterations. An `Evaluation` comes before the `Progress` of its iteration, on
        rank 0 only.

        Raises:
            DivergedError: the loss, or its gradient, is not finite.
        """
        flush_denormals()  # this may be another thread than the one that made the trainer
        self.choose_variant()
        schedule = self.config.schedule
        losses: list[Tensor] = []  # [5] each, left on the device: reading them would make a GPU wait
        started = time.perf_counter()
        while self.iteration < self.iterations:
            loss, norm = self.train_step()
            losses.append(loss)
            last = self.iteration == self.iterations
            due = last or self.iteration % schedule.checkpoint_every == 0
            evaluation_due = last or self.iteration % schedule.evaluate_every == 0
            if not (due or evaluation_due or self.iteration % schedule.log_every == 0):
                continue
            progress = self._progress(losses, norm, started, due)
            if evaluation_due and self.rank == 0:
                self.evaluation = self.evaluate()
                self._metrics = with_split(self.evaluation.metrics(), "val")
                yield self.evaluation
            yield progress
            losses = []
            started = time.perf_counter()

    def train_step(self) -> tuple[Tensor, Tensor]:
        """One optimizer step on this worker's share of the batch.

        Returns:
            `Losses` as one tensor, and the gradient's norm before clipping.
        """
        schedule = self.config.schedule
        batch = self._order.batch(self.iteration, schedule.batch_size)
        share = batch[self.rank :: self.world]
        # With more workers than images one of them has none; it must take part, so it gets one that does not count.
        image = intensities(self.images[share if len(share) else batch[:1]])
        if self._is_random:
            self._generator.manual_seed(hash((self.config.seed, self.iteration, self.rank)) & 0x7FFFFFFF)
        if not self.model.training:  # setting it on all modules takes 60 us
            self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses: Losses = self.module(image, self.steps_now())
        # The workers' gradients are averaged; where the shares differ by an image, this makes it the batch's mean.
        weight = len(share) * self.world / schedule.batch_size
        torch.autograd.backward(losses.total * weight)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), schedule.grad_clip)
        self.optimizer.step()
        self.scheduler.step()
        self.iteration += 1
        return torch.stack(losses).detach(), norm  # a copy: CUDA graphs write the next step's losses to the same place

    def _progress(self, losses: list[Tensor], norm: Tensor, started: float, due: bool) -> Progress:
        mean = Losses(*torch.stack(losses).mean(dim=0).cpu())
        # A gradient that is not finite has spoiled the weights already, though the loss shows it only one step later.
        for name, value in (("loss", float(mean.total)), ("gradient", float(norm))):
            if not np.isfinite(value):
                what = f"the {name} is {value} at iteration {self.iteration}"
                raise DivergedError(f"{what}; a lower learning rate may help")
        seconds = time.perf_counter() - started  # read only now that a GPU has been waited for
        rate = len(losses) * self.config.schedule.batch_size / seconds
        left = (self.iterations - self.iteration) * self.config.schedule.batch_size
        return Progress(
            iteration=self.iteration,
            iterations=self.iterations,
            epoch=self.epoch,
            epochs=self.config.schedule.epochs,
            loss=float(mean.total),
            region=float(mean.region),
            mseot=float(mean.mseot),
            mse=float(mean.mse),
            separation=float(mean.separation),
            location=float(mean.location),
            presence=float(mean.presence),
            learning_rate=self.optimizer.param_groups[0]["lr"],
            gradient_norm=float(norm),
            images_per_second=rate,
            eta_seconds=left / rate,
            checkpoint_due=due,
        )

    def evaluate(self) -> Evaluation:
        """Evaluates on the images of `val`, at this iteration's T."""
        return evaluate(
            self.model,
            self.data.val,
            steps=self.steps_now(),
            limit=self.config.schedule.evaluate_scenes,
            iteration=self.iteration,
            epoch=self.epoch,
        )

    def save(self, path: Path, before_commit: Callable[[], None] | None = None) -> Manifest:
        """Writes a checkpoint folder (see `seqae.checkpoints.checkpoint.save`); call it on one worker only."""
        state = {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}
        return checkpoint.save(
            path,
            self.model,
            self.config,
            iteration=self.iteration,
            metrics=self._metrics,
            trainer_state=state,
            before_commit=before_commit,
        )

    def start_from(self, path: Path) -> int:
        """Takes over the weights of another run's checkpoint; the optimizer and the schedule begin anew.

        Args:
            path: the checkpoint's folder, of a model with the same architecture. It needs no trainer's state.

        Returns:
            How many iterations the weights have seen.

        Raises:
            CheckpointError: it is damaged, or of a model with another architecture.
        """
        manifest = verify(path)
        difference = architecture_difference(checkpoint.read_config(path).model, self.config.model)
        if difference is not None:
            field, theirs, own = difference
            raise CheckpointError(f"{path}: of a model with another model.{field} ({theirs}; this run's is {own})")
        self.model.load_state_dict(checkpoint.load_model(path, self.device).state_dict())
        return manifest.iteration

    def load(self, path: Path, *, other_settings: bool = False) -> None:
        """Goes on from a checkpoint that `save` wrote, with the same results as a run that never stopped.

        Args:
            path: the checkpoint's folder.
            other_settings: the loss's weights, the learning rate and the gradient's bound may differ; this run's count.

        Raises:
            CheckpointError: it is damaged, or of a run with another config.
        """
        manifest = verify(path)
        stored = checkpoint.read_config(path)
        if stored != self.config and not (other_settings and _without_weights(stored) == _without_weights(self.config)):
            raise CheckpointError(f"{path}: of a run with another config")
        state = checkpoint.load_trainer_state(path)
        self.model.load_state_dict(checkpoint.load_model(path, self.device).state_dict())
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.iteration = manifest.iteration
        self._metrics = modern(manifest.metrics)
        if stored != self.config:
            self._use_own_learning_rate()

    def _use_own_learning_rate(self) -> None:
        """Puts this run's peak in the place of the loaded one, at the same point of the cycle."""
        peak = self.config.schedule.learning_rate
        now = peak * _one_cycle(self.iteration, self.iterations, self.config.schedule.warmup)
        self.scheduler.base_lrs = [peak for _ in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["initial_lr"], group["lr"] = peak, now


def _without_weights(config: TrainConfig) -> TrainConfig:
    """A config with those settings at fixed values that may change while a model trains."""
    schedule = config.schedule.model_copy(update={"learning_rate": 1.0, "grad_clip": 1.0})
    return config.model_copy(update={"loss": LossConfig(), "schedule": schedule})
