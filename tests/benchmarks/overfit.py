"""Overfitting check: error of the whole model on a few images, against that of the background network alone.

A low error says nothing about objects: with windows nearly as large as the image the model is a whole-image
auto-encoder. So FG-ARI and mBO of objects of at least 1% of the image stand beside the error, and beside those of equal
blocks, k-means and SLIC on the same images.
"""

import textwrap
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from seqae.data.scenes import Scenes
from seqae.evaluation.baselines import Baseline, partition, score_segments
from seqae.evaluation.evaluate import evaluate
from seqae.networks import Background
from seqae.training import Trainer
from tests.benchmarks.record import Record

LEAST_SHARE = 0.01
"""Of the image: smaller objects are left out."""


def background_alone(images: Tensor, trainer: Trainer) -> list[float]:
    """Trains Table 2's network by itself, as long and as fast as the whole model was: its error at each iteration.

    Args:
        images: [M, C, H, W] in 0..1; every iteration sees all of them.
        trainer: of the whole model, at its end.
    """
    config = trainer.config
    if config.model.background is None:
        raise ValueError("the model has no background network to compare with")
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = Background(config.model, config.model.background).to(images.device)
    schedule = config.schedule
    optimizer = torch.optim.Adam(network.parameters(), lr=schedule.learning_rate)
    cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, trainer.scheduler.lr_lambdas[0])
    errors = []
    for _ in range(trainer.iteration):
        optimizer.zero_grad()
        loss = F.mse_loss(network(images), images)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), schedule.grad_clip)
        optimizer.step()
        cycle.step()
        errors.append(float(loss.detach()))
    return errors


def compare(trainer: Trainer, record: Record, plot: Path) -> dict[str, float]:
    """Trains the background network alone, draws both curves, and returns the errors and their ratios."""
    images = trainer.images.float() / 255
    alone = background_alone(images, trainer)
    started = trainer.evaluation.step_mse[0] if trainer.evaluation else float("nan")
    _draw(trainer, record, alone, plot)
    return object_scores(trainer) | {
        "background alone, MSE": alone[-1],
        "background of the whole model, MSE": started,
        "whole model / background alone": record.mse / alone[-1],
        "whole model / its own background": record.mse / started,
    }


def object_scores(trainer: Trainer) -> dict[str, float]:
    """FG-ARI and mBO of the model and of the baselines on the training images, without the smallest objects.

    Raises:
        ValueError: the images have no masks.
    """
    data, least = trainer.data.train, LEAST_SHARE
    scenes = Scenes(data.images, data.masks, data.overlap, counts=data.counts).without_small(least)
    found = evaluate(
        trainer.model,
        scenes,
        steps=trainer.steps_now(),
        limit=len(scenes.images),
        iteration=trainer.iteration,
        epoch=trainer.epoch,
    ).segments
    assert found is not None
    scores = {"model": found.of_looks}
    scores |= {str(each): score_segments(partition(each, scenes.images), scenes) for each in Baseline}
    flat: dict[str, float] = {}
    for name, each in scores.items():
        flat |= {f"{name}, FG-ARI": each.fg_ari.mean, f"{name}, mBO": each.mbo.mean}
    return flat


def _draw(trainer: Trainer, record: Record, alone: list[float], path: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points = record.evaluations
    axes.plot([point.iteration for point in points], [point.mse for point in points], label="whole model")
    axes.plot(range(1, len(alone) + 1), alone, label="background network alone")
    axes.axhline(alone[-1] / 3, color="0.5", linestyle=":", label="a third of the background's error")
    for step in trainer.config.schedule.growth:
        axes.axvline(step.iteration, color="0.85", zorder=0)
        axes.annotate(f"T {step.steps}", (step.iteration, 1), xycoords=("data", "axes fraction"), va="top", fontsize=8)
    axes.set(yscale="log", xlabel="iteration", ylabel="MSE on the training images")
    axes.set_title(textwrap.fill(record.setting, 80), fontsize=9)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
