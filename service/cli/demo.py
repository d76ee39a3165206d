"""Command `seqae demo`: trains a small model end to end on this machine, and shows what it does."""

import io
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from itertools import count, takewhile
from pathlib import Path
from typing import Literal, Self

import numpy as np
from PIL import Image, ImageSequence
from rich.console import Console
from rich.table import Table

from jobs.search.space import FloatRange, SearchSpace
from jobs.specs import ScalingConfig, TrainSpec, TuneSpec
from seqae.config import MnistScenesConfig, ScheduleConfig
from seqae.data.cache import Dataset, load_data
from seqae.errors import Error
from seqae.evaluation.names import of_split
from seqae.rendering.frames import contact_sheet
from service.cli.home import find_home
from service.cli.progress import PipeConsole, follow
from service.client import Client
from service.errors import ApiError
from service.job_state import State
from service.local.home import DaemonName
from service.local.processes import shielded
from service.local.stack import Stack, api_url
from service.schemas.jobs import JobView
from service.schemas.models import MediaType

__all__ = ["Demo", "demo_spec"]

_SCENES = 4
_LEAST_REMOVED = 0.8
_LEAST_FG_ARI = 0.9


def demo_spec(digits: Literal["bundled", "mnist"], tune: bool) -> TrainSpec | TuneSpec:
    """Job spec of the demo: the one place for its settings.

    Args:
        digits: where the handwritten digits come from.
        tune: a search with four short trials, in place of one run.
    """
    data = MnistScenesConfig(digits=digits, train_scenes=5000, test_scenes=500)
    if not tune:
        return TrainSpec(
            name="demo",
            data=data,
            schedule=ScheduleConfig(epochs=3, learning_rate=1e-3, evaluate_every=100, checkpoint_every=200),
            scaling=ScalingConfig(workers=2),
        )
    return TuneSpec(
        kind="tune",
        name="demo search",
        base=TrainSpec(
            name="demo trial",
            data=data,
            schedule=ScheduleConfig(epochs=0.5, learning_rate=1e-3, evaluate_every=25, checkpoint_every=200),
            scaling=ScalingConfig(workers=1),
        ),
        space=SearchSpace(alpha_mseot=FloatRange(low=3, high=30), bottleneck=(64, 256)),
        trials=4,
        grace_epochs=0.25,
    )


class _Phase(StrEnum):
    """A part of the demo whose time is measured."""

    STACK = "stack"
    DATA = "data"
    JOB = "job"
    PICTURES = "pictures"


@dataclass(frozen=True)
class _Scores:
    """A job's metrics on the test scenes, as far as the demo shows them."""

    empty_mse: float
    """Of the canvas before the first write."""
    mse: float
    """Of the reconstruction."""
    step_mse: tuple[float, ...]
    """After each write."""
    fg_ari: float
    """NaN where it was not measured."""

    @classmethod
    def of(cls, job: JobView) -> Self:
        metrics = of_split(job.metrics or {}, "test")
        steps = takewhile(metrics.__contains__, (f"mse_step_{number}" for number in count(1)))
        return cls(
            empty_mse=metrics["empty_mse"],
            mse=metrics["mse"],
            step_mse=tuple(metrics[step] for step in steps),
            fg_ari=metrics.get("fg_ari", math.nan),
        )

    @property
    def error_removed(self) -> float:
        """Share of the empty canvas's error that the writes remove."""
        return 1 - self.mse / self.empty_mse


@dataclass(frozen=True)
class _Pictures:
    """Files with the reconstructions that the service made of the scenes."""

    gif: Path
    strip: Path


class Demo:
    """One run of the demo.

    Args:
        stack: to be started, and stopped at the end as far as the demo started it.
        data_dir: the user's own data.
        out: folder for the pictures and the report.
        console: where it prints; standard output when left out.
    """

    def __init__(self, stack: Stack, data_dir: Path | None, out: Path, console: Console | None = None) -> None:
        self._stack = stack
        self._data_dir = data_dir
        self._out = out
        self._console = console or PipeConsole()
        self._seconds: dict[_Phase, float] = {}
        self._stays = False
        self.report: Path | None = None
        """What the demo found, as a JSON file; None until it is written."""

    def run(self, spec: TrainSpec | TuneSpec, *, keep: bool) -> int:
        """Starts the stack, runs the job and shows its model.

        Args:
            spec: of the job.
            keep: leave the stack up.

        Returns:
            The exit status: 0 when the job succeeded and, unless it is a search, the model is as good as promised.
        """
        with self._phase(_Phase.STACK):
            started = self._stack.up()
        self._stays = keep or DaemonName.MLFLOW not in started
        try:
            code, last_line = self._train_and_show(spec)
        finally:
            if not keep:
                self._stack.down(only=started)
        if keep:
            self._say("the stack stays up: `seqae status` shows it, `seqae down` ends it")
        self._say(last_line)
        return code

    def _train_and_show(self, spec: TrainSpec | TuneSpec) -> tuple[int, str]:
        with self._phase(_Phase.DATA):
            data = self._make_data(spec)
        with Client(api_url(self._stack.layout.home)) as client:
            with self._phase(_Phase.JOB):
                job = self._train(client, spec)
            if job.state is not State.SUCCEEDED:
                reason = job.error.message if job.error else "`seqae logs` tells more"
                return 1, f"demo: job {job.id} {job.state}: {reason}"
            with self._phase(_Phase.PICTURES):
                pictures = self._draw(client, job, data)
        return self._conclude(job, data, pictures, judged=isinstance(spec, TrainSpec))

    def _make_data(self, spec: TrainSpec | TuneSpec) -> Dataset:
        """The job's own scenes, made before it asks for them: the workers then find them in the cache."""
        train = spec.base if isinstance(spec, TuneSpec) else spec
        data = load_data(train.data, train.model, self._stack.layout.home / "data", self._data_dir)
        learned, val, test = (len(split.images) for split in (data.train, data.val, data.test))
        self._say(f"{learned} scenes to train on, {val} to choose by, {test} to test on; {data.source}")
        return data

    def _train(self, client: Client, spec: TrainSpec | TuneSpec) -> JobView:
        job = client.submit(spec)
        self._say(f"submitted {job.id}: {client.url}/jobs/{job.id}")
        try:
            return follow(client, job.id, self._console)
        except BaseException:
            # The stack may have been up before, and then stays: the job must not go on in it. A job that has just
            # ended, or a service that is gone, refuses; that must not hide why we are here.
            with shielded(), suppress(ApiError):
                client.cancel(job.id)
            raise

    def _draw(self, client: Client, job: JobView, data: Dataset) -> _Pictures:
        """Sends held-out scenes to the service, as any client would, and writes what comes back."""
        self._out.mkdir(parents=True, exist_ok=True)
        scenes = [_as_png(image) for image in _busiest(data)]
        strips = [Image.open(io.BytesIO(client.render(scene, MediaType.PNG, model=job.id))) for scene in scenes]
        films = [Image.open(io.BytesIO(client.render(scene, MediaType.GIF, model=job.id))) for scene in scenes]
        pictures = _Pictures(gif=self._out / f"{job.id}.gif", strip=self._out / f"{job.id}.png")
        contact_sheet(strips).save(pictures.strip)
        _tile(films, pictures.gif)
        return pictures

    def _conclude(self, job: JobView, data: Dataset, pictures: _Pictures, *, judged: bool) -> tuple[int, str]:
        scores = _Scores.of(job)
        removed = scores.error_removed
        self._console.print(self._table(job, scores))
        again = "" if self._stays else f" (`{self._up_command()}` starts it again)"
        self._say(f"MLflow: {job.mlflow_url}{again}")
        self.report = self._out / f"{job.id}.json"
        self._write_report(self.report, job, data, pictures)
        self._say(f"film strip: {pictures.strip}, report: {self.report}")
        code = 0
        if judged and not (removed >= _LEAST_REMOVED and scores.fg_ari >= _LEAST_FG_ARI):
            self._say(
                f"demo: not as good as it should be: error down {removed:.1%} (at least {_LEAST_REMOVED:.0%}), "
                f"test/fg_ari {scores.fg_ari:.3f} (at least {_LEAST_FG_ARI})"
            )
            code = 1
        return code, f"demo: job {job.id} SUCCEEDED, error down {int(100 * removed)}%, frames: {pictures.gif}"

    def _table(self, job: JobView, scores: _Scores) -> Table:
        table = Table("on the test scenes", "", box=None, pad_edge=False, show_header=True)
        table.add_row("test/empty_mse, of the empty canvas", f"{scores.empty_mse:.5f}")
        for step, error in enumerate(scores.step_mse, start=1):
            table.add_row(f"test/mse_step_{step}, after {step} {'writes' if step > 1 else 'write'}", f"{error:.5f}")
        table.add_row("test/mse, of the reconstruction", f"{scores.mse:.5f}")
        table.add_row("test/fg_ari", f"{scores.fg_ari:.3f}")
        table.add_row("seconds, from submission to model", f"{self._seconds[_Phase.JOB]:.0f}")
        speed = job.progress.images_per_second if job.progress else None
        table.add_row("images/s while training", "-" if speed is None else f"{speed:.0f}")
        return table

    def _up_command(self) -> str:
        """What starts this stack again, from here."""
        home = self._stack.layout.home
        found = find_home(os.environ.get("SEQAE_HOME") or None)
        return "seqae up" if found == home else f"seqae up --home {home}"

    def _write_report(self, path: Path, job: JobView, data: Dataset, pictures: _Pictures) -> None:
        report = {
            "job": job.model_dump(mode="json", by_alias=True),
            "data": {"source": data.source, "checksum": data.checksum},
            "seconds": {phase: round(seconds, 1) for phase, seconds in self._seconds.items()},
            "gif": str(pictures.gif),
            "filmstrip": str(pictures.strip),
        }
        path.write_text(json.dumps(report, indent=2) + "\n")

    @contextmanager
    def _phase(self, phase: _Phase) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._seconds[phase] = time.monotonic() - began

    def _say(self, text: str) -> None:
        # Whole lines, without rich's wrapping: they are for reading by programs as well.
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _busiest(data: Dataset) -> list[np.ndarray]:
    """Held-out scenes with the most objects, uint8 [C, H, W]; the first of them where several have as many."""
    counts = data.test.counts
    if counts is None:
        raise Error("these scenes come without counts")
    order = np.argsort(-counts, kind="stable")[:_SCENES]
    return [np.asarray(data.test.images[index]) for index in order]


def _as_png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else np.moveaxis(image, 0, -1)).save(stream, "PNG")
    return stream.getvalue()


def _tile(films: Sequence[Image.Image], path: Path) -> None:
    """Puts animations of the same length and size into one, two in a row, with the times of the first."""
    durations = [frame.info["duration"] for frame in ImageSequence.Iterator(films[0])]
    width, height = films[0].size
    frames = []
    for at in range(len(durations)):
        sheet = Image.new("RGB", (2 * width, height * ((len(films) + 1) // 2)))
        for place, film in enumerate(films):
            film.seek(at)
            sheet.paste(film.convert("RGB"), (place % 2 * width, place // 2 * height))
        frames.append(sheet)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)
