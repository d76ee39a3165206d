"""What choosing on the test scenes is worth: `python -m tests.benchmarks.selection --seed 0,1,2 --iterations 400`.

Trains the default row of docs/experiments.md with each seed, and scores the model on `val` and on `test` at every
evaluation. Then it chooses the best of them twice, on the test scenes as releases before the third split did, and on
`val`, and compares what the test scenes say of the two. Likewise it chooses the threshold of the counts on the test
scenes themselves, on the other half of them, and on `val`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from seqae.compute.cpu_threads import set_threads
from seqae.compute.machine import machine
from seqae.data.cache import Dataset, load_data
from seqae.evaluation.evaluate import Evaluation, evaluate
from seqae.training import Trainer
from tests.benchmarks.rows import ROWS, config_of, merged, parsed, setting

METRICS = ("objective", "mse", "fg_ari")
"""By which the best evaluation is chosen; the first two go down."""


@dataclass(frozen=True)
class Scores:
    """Metrics of one evaluation on both splits, under their bare names."""

    iteration: int
    val: dict[str, float]
    test: dict[str, float]


@dataclass(frozen=True)
class Run:
    """Evaluations of one seed, and the count accuracy on `test` at its end by where the threshold was chosen."""

    seed: int
    scores: list[Scores]
    counts: dict[str, float]


def train(seed: int, iterations: int, over: dict[str, Any], data_dir: Path | None, cache_dir: Path) -> Run:
    """Trains one seed of the default row, scoring it at each evaluation on all scenes of both splits.

    Args:
        seed: of the run.
        iterations: optimizer steps.
        over: laid over the row's settings.
        data_dir: with MNIST.
        cache_dir: built data sets.
    """
    probe = config_of(ROWS["default"], seed, over, None)
    data = load_data(probe.data, probe.model, cache_dir, data_dir)
    trainer = Trainer(config_of(ROWS["default"], seed, over, iterations, len(data.train.images)), data)
    found = []
    for event in trainer.run():
        if isinstance(event, Evaluation):
            test = _test(trainer, data)
            found.append(Scores(event.iteration, event.metrics(), test.metrics()))
            words = f"seed {seed}, {event.iteration}/{iterations}: objective {event.metrics()['objective']:.4f} on val"
            print(f"{words}, {test.metrics()['objective']:.4f} on test", file=sys.stderr, flush=True)
    of_val, of_test = found[-1].val["active_share"], found[-1].test["active_share"]
    counts = {
        "the test scenes themselves": _count_accuracy(_test(trainer, data, of_test)),
        "the other half of the test scenes": found[-1].test["count_accuracy"],
        "val": _count_accuracy(_test(trainer, data, of_val)),
    }
    return Run(seed, found, counts)


def _test(trainer: Trainer, data: Dataset, active_share: float | None = None) -> Evaluation:
    return evaluate(
        trainer.model,
        data.test,
        steps=trainer.steps_now(),
        limit=len(data.test.images),
        iteration=trainer.iteration,
        epoch=trainer.epoch,
        active_share=active_share,
    )


def _count_accuracy(found: Evaluation) -> float:
    return found.metrics()["count_accuracy"]


def gains(runs: Sequence[Run], metric: str) -> list[tuple[float, float]]:
    """For each run the test metric of the evaluation that is best on `test`, and of the one that is best on `val`."""
    sign = -1 if metric == "fg_ari" else 1
    pairs = []
    for run in runs:
        on_test = min(run.scores, key=lambda scores: sign * scores.test[metric])
        on_val = min(run.scores, key=lambda scores: sign * scores.val[metric])
        pairs.append((on_test.test[metric], on_val.test[metric]))
    return pairs


def mean_and_error(values: Sequence[float]) -> str:
    """The mean of values with its standard error."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{fmean(values):.5f} +- {error:.5f}"


def report(runs: Sequence[Run]) -> str:
    """Tables of the differences, in Markdown."""
    lines = [
        "| chosen by | test value, best on test | test value, best on val | difference |",
        "| --- | --- | --- | --- |",
    ]
    for metric in METRICS:
        pairs = gains(runs, metric)
        columns = ([pair[0] for pair in pairs], [pair[1] for pair in pairs], [two - one for one, two in pairs])
        lines.append(f"| {metric} | {' | '.join(mean_and_error(column) for column in columns)} |")
    lines += [
        "",
        "| threshold of the counts chosen on | count accuracy on test | less than on the test scenes themselves |",
    ]
    lines.append("| --- | --- | --- |")
    own = [run.counts["the test scenes themselves"] for run in runs]
    for where in runs[0].counts:
        values = [run.counts[where] for run in runs]
        lost = [best - value for best, value in zip(own, values, strict=True)]
        lines.append(f"| {where} | {mean_and_error(values)} | {mean_and_error(lost)} |")
    return "\n".join(lines)


def main() -> int:
    """Trains all seeds, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", default="0,1,2,3", help="seeds, joined by commas")
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--every", type=int, default=20, help="iterations between two evaluations")
    parser.add_argument("--scenes", type=int, default=500, help="of val, and of test")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=JSON", help="such as model.steps=9")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache-dir", type=Path, default=Path("experiments/data"))
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("SEQAE_DATA_DIR"), help="with MNIST")
    given = parser.parse_args()
    set_threads(given.threads)
    seeds = [int(seed) for seed in given.seed.split(",")]
    over: dict[str, Any] = {
        "schedule": {"evaluate_every": given.every, "evaluate_scenes": given.scenes},
        "data": {"val_scenes": given.scenes, "test_scenes": given.scenes},
    }
    for pair in given.set:
        path, _, value = pair.partition("=")
        over = merged(over, setting(path, parsed(value)))
    runs = [train(seed, given.iterations, over, given.data_dir, given.cache_dir) for seed in seeds]
    described = machine()
    print(f"{described['cpu']}, {described['cores']} cores, {given.threads} threads, torch {described['torch']}")
    print(f"{len(seeds)} seeds, {given.iterations} iterations, {len(runs[0].scores)} evaluations each")
    print(report(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
