"""Searches without a cluster: samplers and schedulers on recorded trials, and a long search's memory and speed.

    python -m tests.benchmarks.search surrogate --plot docs/img/search-surrogate.png
    python -m tests.benchmarks.search long

The surrogate is a Gaussian process through the 24 recorded trials of a search on MNIST-Scenes
(`search_trials.json`): objective on `val` by the five parameters and the epoch. No trial of it is real training.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, stdev

import httpx
import numpy as np
import psutil
from numpy.typing import NDArray

from jobs.directory.layout import JobFolder
from jobs.search.space import Params
from jobs.specs import TuneSpec
from tests.benchmarks.api import running_api
from tests.tiny import TINY
from tests.unit.jobs.tuning.fake_driver import drive

RECORDED = Path(__file__).with_name("search_trials.json")

_SPACE = {
    "loss.alpha_region": {"kind": "uniform", "low": 0, "high": 4},
    "loss.alpha_mseot": {"kind": "loguniform", "low": 1, "high": 100},
    "model.coder.bottleneck": {"kind": "choice", "values": [64, 128, 256, 512, 1024]},
    "model.attention.kernel_size": {"kind": "int", "low": 16, "high": 32},
    "schedule.learning_rate": {"kind": "loguniform", "low": 0.0005, "high": 0.02},
}
"""Of the recorded search."""

_ARMS = {
    "TPE + ASHA": {"sampler": "tpe", "scheduler": "asha"},
    "random + ASHA": {"sampler": "random", "scheduler": "asha"},
    "random": {"sampler": "random", "scheduler": "none"},
}

_EPOCHS = 3.0
_UNIT = 0.5
"""Epochs between two evaluations, of the recorded search; the fake driver evaluates once a unit."""


def _features(params: Params, epoch: float) -> list[float]:
    return [
        float(params["loss.alpha_region"]) / 4,
        float(np.log10(float(params["loss.alpha_mseot"]))) / 2,
        float(np.log2(float(params["model.coder.bottleneck"]))) / 4,
        (float(params["model.attention.kernel_size"]) - 16) / 16,
        float(np.log10(float(params["schedule.learning_rate"]) / 0.0005)) / 1.6,
        float(np.log2(epoch)) / 2.6,
    ]


def surrogate() -> Callable[[Params, float], float]:
    """The objective that the recorded trials let expect, by parameters and epoch."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, WhiteKernel

    recorded = json.loads(RECORDED.read_text())
    points = [(one["params"], float(epoch), value) for one in recorded for epoch, value in one["objective"].items()]
    inputs: NDArray[np.float64] = np.array([_features(params, epoch) for params, epoch, _ in points])
    outputs = np.log([value for _, _, value in points])
    kernel = RBF(np.full(6, 0.5), (0.1, 10)) + WhiteKernel(0.01, (1e-4, 0.1))
    model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(inputs, outputs)

    def objective(params: Params, epoch: float) -> float:
        return float(np.exp(model.predict(np.array([_features(params, epoch)]))[0]))

    return objective


class _SpentError(Exception):
    """All epochs have been used."""


@dataclass
class _Meter:
    """Counts what a search trains, and what it would end with at each moment."""

    objective: Callable[[Params, float], float]
    budget: float
    used: float = 0.0
    newest: dict[str, tuple[float, Params]] = field(default_factory=dict)
    curve: list[tuple[float, float]] = field(default_factory=list)

    def __call__(self, params: Params, unit: float) -> float:
        if self.used >= self.budget:
            raise _SpentError
        self.used += _UNIT
        value = self.objective(params, unit * _UNIT)
        self.newest[str(params)] = (value, params)
        _, best = min(self.newest.values(), key=lambda pair: pair[0])
        self.curve.append((self.used, self.objective(best, _EPOCHS)))
        return value


def _spec(trials: int, **fields: object) -> TuneSpec:
    units = _EPOCHS / _UNIT
    base = TINY | {"model": {}, "schedule": TINY["schedule"] | {"epochs": units}}
    return TuneSpec.model_validate(
        {"kind": "tune", "name": "s", "base": base, "space": _SPACE, "trials": trials, **fields}
    )


def compare(budget: float, seeds: int, plot: Path | None) -> None:
    """Prints by what each way of searching would end after so many epochs, and draws the curves.

    Args:
        budget: epochs that all trials of a search train together.
        seeds: searches of each way.
        plot: of a PNG file.
    """
    objective = surrogate()
    curves: dict[str, list[list[tuple[float, float]]]] = {}
    for name, fields in _ARMS.items():
        for seed in range(seeds):
            meter = _Meter(objective, budget)
            with tempfile.TemporaryDirectory() as folder, suppress(_SpentError):
                drive(_spec(10_000, seed=seed, **fields), JobFolder(Path(folder) / "job"), meter, at_once=2)
            curves.setdefault(name, []).append(meter.curve)
            print(f"{name}, seed {seed}: {len(meter.newest)} trials, {meter.curve[-1][1]:.4f}", file=sys.stderr)
    print(f"objective after {_EPOCHS:g} epochs of the best trial so far, on the surrogate, mean +- standard error")
    print(f"{'epochs trained':<16}" + "".join(f"{name:>22}" for name in curves))
    for share in (1 / 3, 2 / 3, 1):
        cells = []
        for found in curves.values():
            values = [curve[round(share * len(curve)) - 1][1] for curve in found]
            error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
            cells.append(f"{fmean(values):.4f} +- {error:.4f}")
        print(f"{share * budget:<16g}" + "".join(f"{cell:>22}" for cell in cells))
    if plot is not None:
        _draw(curves, plot)


def _draw(curves: dict[str, list[list[tuple[float, float]]]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, (name, found) in enumerate(curves.items()):
        for at, curve in enumerate(found):
            used, best = zip(*curve, strict=True)
            axes.step(used, best, color=f"C{number}", where="post", alpha=0.8, label=name if at == 0 else None)
    axes.set_xlabel("epochs trained, over all trials")
    axes.set_ylabel(f"objective of the best trial at {_EPOCHS:g} epochs")
    axes.set_title("A surrogate of 24 recorded trials, not real training")
    axes.set_yscale("log")
    axes.legend()
    figure.savefig(path, dpi=110)


def drive_long(folder: Path, trials: int) -> None:
    """The driver's process of a long search: all of the real one but Ray, with evaluations that are made up."""
    drive(
        _spec(trials), JobFolder(folder), lambda params, unit: float(params["loss.alpha_region"]) + 1 / unit, at_once=4
    )


def long_search(trials: int) -> None:
    """Prints the memory of driver and control plane during a search of many trials, and how long its page takes.

    The control plane is a process of its own, asked over HTTP; so is the driver, which places no trial on a cluster.
    """
    with (
        tempfile.TemporaryDirectory() as name,
        running_api(Path(name), f"sqlite:///{name}/jobs.db") as api,
        httpx.Client(base_url=api.url, trust_env=False, timeout=60) as client,
    ):
        job = str(client.post("/jobs", json=_spec(trials).model_dump(mode="json")).json()["id"])
        folder = Path(name) / "jobs" / job
        command = [sys.executable, "-m", __spec__.name, "drive", "--trials", str(trials), "--folder", str(folder)]
        page = f"/jobs/{job}/trials?limit=1000"
        started = time.perf_counter()
        with subprocess.Popen(command) as driver:
            sizes = _sizes(client, page, psutil.Process(driver.pid), api.process, trials)
        if driver.returncode != 0:
            raise SystemExit("the driver failed")
        _print_sizes(sizes, trials, time.perf_counter() - started)
        times, before, cpu = [], api.memory().rss, api.process.cpu_times()
        for _ in range(50):
            at = time.perf_counter()
            found = client.get(page).json()["items"]
            times.append(1000 * (time.perf_counter() - at))
        spent = api.process.cpu_times()
        computed = 1000 * (spent.user + spent.system - cpu.user - cpu.system) / len(times)
        lines = (folder / "attempts" / "1" / "trials.jsonl").read_bytes().count(b"\n")
        print(
            f"GET /jobs/ID/trials, {len(found)} trials out of {lines} rows: median {median(times):.1f} ms, most "
            f"{max(times):.1f} ms, of which the control plane computes {computed:.1f} ms; it grew by "
            f"{api.memory().rss - before:.1f} MB in {len(times)} of them"
        )


def _sizes(
    client: httpx.Client, page: str, driver: psutil.Process, plane: psutil.Process, trials: int
) -> dict[int, tuple[float, float]]:
    """Memory of driver and control plane in MB after each quarter of the trials, while the page is asked for."""
    sizes: dict[int, tuple[float, float]] = {}
    while driver.is_running() and driver.status() != psutil.STATUS_ZOMBIE:
        counts = client.get(page).json()["search"]["trials"]
        ended = sum(count for state, count in counts.items() if state not in ("pending", "running"))
        for quarter in (1, 2, 3, 4):
            if ended >= quarter * trials // 4 - 2 and quarter not in sizes:
                with suppress(psutil.NoSuchProcess):
                    sizes[quarter] = (driver.memory_info().rss / 1e6, plane.memory_info().rss / 1e6)
        time.sleep(0.1)
    return sizes


def _print_sizes(sizes: dict[int, tuple[float, float]], trials: int, seconds: float) -> None:
    print(f"{trials} trials in {seconds:.1f} s; memory in MB after so many trials:")
    print("  ".join([f"{'trials':<14}", *(f"{quarter * trials // 4:>5}" for quarter in sizes)]))
    for place, name in enumerate(("driver", "control plane")):
        print("  ".join([f"{name:<14}", *(f"{size[place]:>5.0f}" for size in sizes.values())]))


def main() -> int:
    """Runs the part that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("surrogate", "long", "drive"), help="`drive` is the driver of `long`")
    parser.add_argument("--budget", type=float, default=36, help="epochs of each search on the surrogate")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=200, help="of the long search")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("search"), help="of the search that `drive` runs")
    given = parser.parse_args()
    if given.part == "surrogate":
        compare(given.budget, given.seeds, given.plot)
    elif given.part == "drive":
        drive_long(given.folder, given.trials)
    else:
        long_search(given.trials)
    return 0


if __name__ == "__main__":
    sys.exit(main())
