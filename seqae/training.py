"""The training loop of one worker, as an iterator of progress reports and evaluations.

`Trainer.run` does nothing but train and evaluate: whoever iterates it logs, saves, tells the cluster, and stops it by
not asking for more. The order of the data is a function of (seed, iteration), and what is random is one of (seed,
iteration, image): a run that resumes from a checkpoint goes on exactly as if it had not stopped, and however many
workers share the batches, and in whatever pieces they compute them, the curve is the same to rounding.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from seqae.compute.variant import Precision, Variant, choose_compilation, choose_precision, given_variant
from seqae.config import ImagesConfig, LossConfig, TrainConfig
from seqae.data.cache import Dataset
from seqae.errors import CheckpointError, DivergedError
from seqae.evaluation.evaluate import Evaluation, evaluate
from seqae.evaluation.names import modern, with_split
from seqae.losses import Losses
from seqae.model import SequentialAutoEncoder
from seqae.optimization.batches import BatchSampler, split
from seqae.optimization.gradients import AllReduce, GradientAccumulation, LateFlag, add_up
from seqae.optimization.learning_rate import one_cycle, set_peak
from seqae.optimization.progress import Progress, WorkerLoad
from seqae.optimization.random_numbers import uniforms
from seqae.optimization.training_loss import TrainingLoss
from seqae.tensors import VIEW_DRAWS, intensities, random_views

__all__ = ["Trainer", "with_synchronized_batch_norm"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


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
        all_reduce: adds a tensor up over the workers, in place; needed with several.
        pieces: in so many each worker computes its share of a batch; more where memory runs out.

    Attributes:
        module: computes the losses of images [B, C, H, W], with T and random numbers [B, n] for them.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: Dataset,
        *,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world: int = 1,
        all_reduce: AllReduce | None = None,
        pieces: int = 1,
    ) -> None:
        flush_denormals()  # before anything is computed, at which threads start
        self.config = config = config.bare()
        self.data = data
        self.device = torch.device(device)
        self.rank, self.world = rank, world
        if world > 1 and all_reduce is None:
            raise ValueError("several workers need a way to add up their gradients")
        self._all_reduce = all_reduce
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
        self.module: nn.Module = self.loss
        self._parameters = list(self.model.parameters())
        pairs = config.loss.pastes
        self._shares = list(split(range(config.schedule.batch_size), world, pairs=pairs))
        self._gradients = GradientAccumulation(self.device, pairs=pairs, pieces=pieces)
        given = config.data
        self._crop, self._flip = (given.crop, given.flip) if isinstance(given, ImagesConfig) else (0.0, False)
        self.images = torch.from_numpy(np.ascontiguousarray(data.train.images)).to(self.device)  # uint8 [M, C, H, W]
        self._order = BatchSampler(config.seed, len(self.images), self.device)
        self.iterations = config.schedule.iterations(len(self.images))
        self.iteration = 0
        self.halvings = 0
        self.evaluation: Evaluation | None = None
        self._stop_wanted = self._stop_agreed = False
        self._stop_flag = LateFlag()
        # Of the steps since the newest report, [8] each, left on the device: reading them would make a GPU wait.
        self._losses: list[Tensor] = []
        self._metrics: dict[str, float] = {}  # of the newest evaluation, this process's or the one's before it
        schedule = config.schedule
        # Fused: one kernel, in place of a hundred to start.
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=schedule.learning_rate, fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda done: one_cycle(done, self.iterations, schedule.warmup)
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
        steps, started = 0, time.perf_counter()
        self._gradients.take_seconds()
        while self.iteration < self.iterations and not self._stop_agreed:
            _, norm = self.train_step()
            steps += 1
            last = self.iteration == self.iterations
            due = last or self.iteration % schedule.checkpoint_every == 0
            evaluation_due = last or self.iteration % schedule.evaluate_every == 0
            regular = due or evaluation_due or self.iteration % schedule.log_every == 0
            if not (regular or self._stop_agreed):
                continue
            progress = self._progress(norm, steps, started, due)
            if regular:
                self._losses = []
            if evaluation_due and self.rank == 0:
                self.evaluation = self.evaluate()
                self._metrics = with_split(self.evaluation.metrics(), "val")
                yield self.evaluation
            yield progress
            steps, started = 0, time.perf_counter()

    def request_stop(self) -> None:
        """Asks all workers to stop after the same step, the next one or the one after it; from any thread.

        The run then ends with a report that says so, from whose iteration on it can be resumed.
        """
        self._stop_wanted = True

    def train_step(self) -> tuple[Tensor, Tensor]:
        """One optimizer step; every worker computes its share of the batch.

        Returns:
            The whole batch's `Losses` as one tensor, and the gradient's norm before clipping.
        """
        schedule = self.config.schedule
        batch = self._order.batch(self.iteration, schedule.batch_size)
        steps = self.steps_now()
        views = VIEW_DRAWS if self._crop > 0 or self._flip else 0
        count = views + self.loss.draws(steps)

        def losses_of(rows: range) -> Losses:
            drawn = uniforms(self.config.seed, self.iteration, rows, count, self.device)
            image = intensities(self.images[batch[rows.start : rows.stop]])
            image = random_views(image, self._crop, self._flip, drawn[:, :views])
            losses: Losses = self.module(image, steps, drawn[:, views:])
            return losses

        if not self.model.training:  # setting it on all modules takes 60 us
            self.model.train()
        losses = self._gradients.accumulate(self._shares[self.rank], schedule.batch_size, losses_of, self._parameters)
        if self._all_reduce is None:
            self._stop_agreed = self._stop_wanted
        else:
            wanted = torch.full((1,), float(self._stop_wanted), device=self.device)
            sums = add_up(self._all_reduce, self._parameters, torch.cat((losses, wanted)))
            losses = sums[:-1]
            self._stop_agreed = self._stop_flag.update(sums[-1])
        norm = nn.utils.clip_grad_norm_(self._parameters, schedule.grad_clip)
        self.optimizer.step()
        self.scheduler.step()
        self.iteration += 1
        self._losses.append(losses)
        return losses, norm

    def _loads(self, steps: int) -> tuple[WorkerLoad, ...]:
        """What the newest steps cost each worker; every worker calls it at the same iteration."""
        table = torch.zeros(self.world, 2, device=self.device)
        table[self.rank, 0] = self._gradients.take_seconds() / steps
        table[self.rank, 1] = self._gradients.pieces
        if self._all_reduce is not None:
            self._all_reduce(table)
        costs = zip(self._shares, table.tolist(), strict=True)
        return tuple(WorkerLoad(len(share), seconds, round(pieces)) for share, (seconds, pieces) in costs)

    def _progress(self, norm: Tensor, steps: int, started: float, due: bool) -> Progress:
        mean = Losses(*torch.stack(self._losses).mean(dim=0).cpu())
        # A gradient that is not finite has spoiled the weights already, though the loss shows it only one step later.
        for name, value in (("loss", float(mean.total)), ("gradient", float(norm))):
            if not np.isfinite(value):
                what = f"the {name} is {value} at iteration {self.iteration}"
                raise DivergedError(f"{what}; a lower learning rate may help")
        seconds = time.perf_counter() - started  # read only now that a GPU has been waited for
        rate = steps * self.config.schedule.batch_size / seconds
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
            stopping=self._stop_agreed,
            workers=self._loads(steps),
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
        state = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "halvings": self.halvings,
            "losses": [losses.cpu() for losses in self._losses],
        }
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
        # An older release stored neither: it halved nothing, and wrote no checkpoint between two reports.
        self.halvings = state.get("halvings", 0)
        self._losses = [losses.to(self.device) for losses in state.get("losses", ())]
        self._metrics = modern(manifest.metrics)
        if stored != self.config:
            self._set_peak()

    def halve_learning_rate(self) -> None:
        """Halves the rest of the learning rate's cycle; a checkpoint remembers it."""
        self.halvings += 1
        self._set_peak()

    def _set_peak(self) -> None:
        """Puts this run's peak of the learning rate in the place of the one it has, at the same point of the cycle."""
        schedule = self.config.schedule
        share = one_cycle(self.iteration, self.iterations, schedule.warmup)
        set_peak(self.optimizer, self.scheduler, schedule.learning_rate * 0.5**self.halvings, share)


def _without_weights(config: TrainConfig) -> TrainConfig:
    """A config with those settings at fixed values that may change while a model trains."""
    schedule = config.schedule.model_copy(update={"learning_rate": 1.0, "grad_clip": 1.0})
    return config.model_copy(update={"loss": LossConfig(), "schedule": schedule})
