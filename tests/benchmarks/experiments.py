"""Experiment runner for the rows of docs/experiments.md: `python -m tests.benchmarks.experiments --row NAME --seed S`.

Trains the setting, evaluates it on `val` while it does and on all test scenes at the end, prints its row, adds a line
to results.jsonl, and keeps the checkpoint. The time asked for is met by measuring the rate over the first iterations of
a model that is thrown away, and setting `schedule.epochs` by it; the learning rate's schedule then fits the time.
Evaluations are not counted.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from seqae.compute.cpu_threads import set_threads
from seqae.compute.machine import cores
from seqae.config import TrainConfig
from seqae.data.cache import Dataset, load_data
from seqae.errors import DivergedError
from seqae.evaluation.evaluate import Evaluation, evaluate
from seqae.optimization.progress import Progress
from seqae.peers import runs as peer_runs
from seqae.peers.draw import DrawConfig, DrawMethod
from seqae.peers.runs import Budget, Point
from seqae.peers.settings import MethodName, SceneSet
from seqae.training import Trainer
from tests.benchmarks import overfit
from tests.benchmarks.record import HEADER, EvaluationPoint, Record
from tests.benchmarks.rows import ROWS, Row, config_of, merged, parsed, setting

PROBE = 40  # iterations that the rate is measured over, after as many that are not


@dataclass(frozen=True)
class Run:
    """Command-line arguments of one row."""

    name: str
    row: Row
    seed: int
    over: dict[str, Any]
    minutes: float
    iterations: int | None
    device: str
    rank: int
    out: Path
    start: Path | None = None
    """Checkpoint whose weights training starts from, such as those of an easier row."""

    @property
    def folder(self) -> Path:
        """Of this run's checkpoint and plot."""
        return self.out / f"{self.name}-{self.seed}"


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _trainer(run: Run, config: TrainConfig, data: Dataset) -> Trainer:
    all_reduce = dist.all_reduce if dist.is_initialized() else None
    return Trainer(config, data, device=run.device, rank=run.rank, world=_world(), all_reduce=all_reduce)


def iterations_for(run: Run, data: Dataset) -> int:
    """Optimizer steps that fill the time; the same on every worker. Where T grows, its mean over the run counts."""
    images = len(data.train.images)
    silent = {"evaluate_every": 10**9, "checkpoint_every": 10**9, "log_every": PROBE}
    shares = [*run.row.growth, (1.0, 0)] if run.row.growth else [(0.0, 0), (1.0, 0)]
    seconds = 0.0
    for (share, steps), (end, _) in pairwise(shares):
        config = config_of(run.row, run.seed, run.over, 10**4, images)
        growth = [{"iteration": 0, "steps": steps}] if steps else []
        given = config.model_dump() | {"schedule": config.schedule.model_dump() | silent | {"growth": growth}}
        reports = _trainer(run, TrainConfig.model_validate(given), data).run()
        next(reports)
        report = next(reports)
        assert isinstance(report, Progress)
        seconds += (end - share) * config.schedule.batch_size / report.images_per_second
    found = [max(1, round(run.minutes * 60 / seconds))]
    if dist.is_initialized():
        dist.broadcast_object_list(found, src=0)
    return found[0]


def train(run: Run, cache_dir: Path, data_dir: Path | None) -> Record | None:
    """Trains, evaluates and stores one run of this library's model; None on all workers but the first."""
    probe = config_of(run.row, run.seed, run.over, None)
    data = load_data(probe.data, probe.model, cache_dir, data_dir)
    iterations = run.iterations or iterations_for(run, data)
    config = config_of(run.row, run.seed, run.over, iterations, len(data.train.images))
    trainer = _trainer(run, config, replace(data, val=data.train, test=data.train) if run.row.overfit else data)
    if run.start is not None:
        trainer.start_from(run.start)
    record = Record(run.row.about, run.seed, config.model_dump(mode="json"), data.source)
    record.budget_minutes = None if run.iterations else run.minutes
    try:
        _follow(trainer, record)
    except DivergedError as error:
        record.failed = str(error)
    if run.rank != 0:
        return None
    chosen = trainer.evaluation.segments if trainer.evaluation else None
    final = evaluate(
        trainer.model,
        trainer.data.test,
        steps=trainer.steps_now(),
        limit=len(trainer.data.test.images),
        iteration=trainer.iteration,
        epoch=trainer.epoch,
        active_share=chosen.energy.active_share if chosen else None,
    )
    record.iterations, record.scenes = trainer.iteration, len(trainer.data.test.images)
    record.empty_mse, record.mse = final.empty_mse, final.mse
    if final.segments is not None:
        record.score(final.segments.of_looks, final.segments.energy.count_accuracy, trainer.data.test)
    trainer.save(run.folder / "checkpoint")
    if run.row.overfit:
        record.extra = overfit.compare(trainer, record, run.folder / "error.png")
    return record


def _follow(trainer: Trainer, record: Record) -> None:
    """Trains to the end, and notes each evaluation with the minutes of training before it."""
    seconds, last = 0.0, 0
    waiting: Evaluation | None = None
    for event in trainer.run():
        if isinstance(event, Evaluation):
            waiting = event
            continue
        # The rate leaves out evaluations and what this loop does.
        seconds += (event.iteration - last) * trainer.config.schedule.batch_size / event.images_per_second
        last = event.iteration
        record.minutes = seconds / 60
        if waiting is not None:
            ari = waiting.segments.of_looks.fg_ari.mean if waiting.segments else None
            record.evaluations.append(EvaluationPoint(waiting.iteration, record.minutes, waiting.mse, ari))
            shown = "" if ari is None else f", FG-ARI {ari:.3f}"
            words = f"{waiting.iteration}/{trainer.iterations}: {record.minutes:.1f} min, MSE {waiting.mse:.4f}"
            print(words + shown, file=sys.stderr, flush=True)
            waiting = None


def train_peer(run: Run, cache_dir: Path, data_dir: Path | None) -> Record:
    """Trains and evaluates another method on the same scenes, with the same batch, for the same time."""
    config = config_of(run.row, run.seed, run.over, None)
    data = load_data(config.data, config.model, cache_dir, data_dir)
    described = config.model_dump(mode="json") | {"peer": {"name": run.name} | run.row.options}
    record = Record(run.row.about, run.seed, described, data.source)
    record.budget_minutes = None if run.iterations else run.minutes
    budget = Budget(
        run.minutes, run.iterations, val_scenes=config.schedule.evaluate_scenes, test_scenes=len(data.test.images)
    )
    make = partial(DrawMethod, config, data, sizes=DrawConfig(**run.row.options))
    found = peer_runs.Run(MethodName.DRAW, SceneSet.MNIST, config, data, make, budget).perform(_print_point)
    record.iterations, record.minutes, record.failed = found.iterations, found.minutes, found.failed
    record.evaluations = [EvaluationPoint(at.iteration, at.minutes, at.mse or 0.0, at.fg_ari) for at in found.points]
    record.scenes = len(data.test.images)
    record.empty_mse = float(np.square(data.test.images / 255).mean())
    if found.mse is not None:
        record.mse = found.mse
        record.fg_ari, record.miou, record.count_accuracy = (
            found.scores[name].mean for name in ("fg_ari", "miou", "counts")
        )
    record.score_baseline(data.test)
    return record


def _print_point(point: Point) -> None:
    words = f"{point.iteration}: {point.minutes:.1f} min, FG-ARI {point.fg_ari:.3f}"
    print(words, file=sys.stderr, flush=True)


def _with_others(run: Run, given: argparse.Namespace) -> Record | None:
    """The first of several workers: starts the others' processes, and stops them when it is done or fails."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        command = [sys.executable, "-m", "tests.benchmarks.experiments", "--row", run.name, "--seed", str(run.seed)]
        command += ["--iterations", str(run.iterations)] if run.iterations else ["--minutes", str(run.minutes)]
        command += ["--cache-dir", str(given.cache_dir), "--store", str(store), "--threads", str(given.threads or 0)]
        command += ["--data-dir", str(given.data_dir)] if given.data_dir else []
        command += ["--start", str(given.start)] if given.start else []
        command += [word for pair in given.set for word in ("--set", pair)]
        others = [subprocess.Popen([*command, "--rank", str(rank)]) for rank in range(1, run.row.workers)]
        try:
            return _join(run, given, store)
        finally:
            for other in others:
                if other.poll() is None:
                    other.terminate()
                other.wait()


def _join(run: Run, given: argparse.Namespace, store: Path) -> Record | None:
    """One of several workers."""
    dist.init_process_group("gloo", init_method=store.resolve().as_uri(), rank=run.rank, world_size=run.row.workers)
    try:
        record = train(run, given.cache_dir, given.data_dir)
        dist.barrier()  # the others wait for the first one's evaluation
        return record
    finally:
        dist.destroy_process_group()


def perform(run: Run, given: argparse.Namespace) -> Record | None:
    """One row, however it is trained; None on all workers but the first."""
    set_threads(given.threads or max(1, cores() // run.row.workers))
    if run.row.peer:
        return train_peer(run, given.cache_dir, given.data_dir)
    if run.row.workers == 1:
        return train(run, given.cache_dir, given.data_dir)
    return _with_others(run, given) if run.rank == 0 else _join(run, given, given.store)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", required=True, help=f"names, joined by commas: {', '.join(ROWS)}")
    parser.add_argument("--seed", default="0", help="seeds, joined by commas")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--minutes", type=float, help="of training; left out, what the row names")
    budget.add_argument("--iterations", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=JSON", help="such as model.steps=9")
    parser.add_argument("--start", type=Path, metavar="CHECKPOINT", help="folder with the weights to start from")
    parser.add_argument("--threads", type=int, default=0, help="of each worker; 0: all cores, shared by the workers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("experiments"), help="checkpoints, plots, results.jsonl")
    parser.add_argument("--cache-dir", type=Path, default=Path("experiments/data"))
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("SEQAE_DATA_DIR"), help="MNIST and coco128")
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    return parser


def _runs(parser: argparse.ArgumentParser, given: argparse.Namespace) -> list[Run]:
    unknown = set(given.row.split(",")) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    over: dict[str, Any] = {}
    for pair in given.set:
        path, _, value = pair.partition("=")
        over = merged(over, setting(path, parsed(value)))
    runs = []
    for name in given.row.split(","):
        for seed in given.seed.split(","):
            row = ROWS[name]
            if given.set:
                row = replace(row, about=f"{row.about}, {' '.join(given.set)}")
            minutes = given.minutes or row.minutes
            runs.append(
                Run(
                    name,
                    row,
                    int(seed),
                    over,
                    minutes,
                    given.iterations,
                    given.device,
                    given.rank,
                    given.out,
                    given.start,
                )
            )
    return runs


def main() -> int:
    parser = _parser()
    given = parser.parse_args()
    rows = []
    for run in _runs(parser, given):
        print(f"{run.name}, seed {run.seed} ...", file=sys.stderr, flush=True)
        record = perform(run, given)
        if record is not None:
            record.append_to(given.out / "results.jsonl")
            rows.append(record)
    if rows:
        print(HEADER)
    for record in rows:
        print(record.row())
        for name, value in record.extra.items():
            print(f"<!-- {record.setting}: {name} {value:.5f} -->")
    return 0


if __name__ == "__main__":
    sys.exit(main())
