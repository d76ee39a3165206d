"""Job specs, the wire format: what `POST /jobs` takes, the job table keeps, and a driver on the cluster reads back."""

import re
from enum import StrEnum
from itertools import islice
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, TypeAdapter, model_validator

from jobs.search.settings import (
    HUMAN_SCORE,
    Constraint,
    Goal,
    Judge,
    Objective,
    Retrain,
    Sampler,
    Scheduler,
    goal_of,
    parse_constraint,
)
from jobs.search.space import SearchSpace, domains_of, grid
from jobs.search.space_checks import check_space
from seqae.config import NO_NULL, Config, DataConfig, ImagesConfig, TrainConfig, field_error
from seqae.figures.figure import FigureName

__all__ = [
    "AnySpec",
    "EvaluateSpec",
    "FigureSpec",
    "JobSpec",
    "ScalingConfig",
    "SelectionMetric",
    "TrainSpec",
    "TuneSpec",
    "VerifySpec",
    "WorkerRange",
    "job_spec",
    "makes_model",
    "model_name",
    "named_model",
]


_SMALLEST_GPU_SHARE = 0.01


class WorkerRange(Config):
    """Elastic training: between `min` and `max` workers, as many as the cluster has room for."""

    min: int = Field(ge=1, le=1024)
    """Fewest workers that train."""

    max: int = Field(ge=1, le=1024)
    """Most workers that train; `schedule.batch_size` has an image for each of them."""

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.min > self.max:
            raise field_error("min", "min is larger than max")
        return self


class ScalingConfig(Config):
    """What one training run asks of the cluster."""

    workers: Annotated[int, Field(ge=1, le=1024)] | WorkerRange = 1
    """Data-parallel workers; the batch is shared among them, at least one image each."""

    cpus_per_worker: float = Field(1, ge=0.0001, le=1024)
    """CPUs that the cluster keeps for each worker; parts of one down to 0.0001, which is Ray's precision."""

    gpus_per_worker: float = Field(0, ge=0, le=1)
    """Above 0 the workers train on CUDA, with NCCL between them; 0 trains on the CPU, with gloo. A worker uses one GPU;
    one that trains alone may share it with other jobs, with a share of 0.01 or more."""

    @model_validator(mode="after")
    def _gpus_can_be_used(self) -> Self:
        share = self.gpus_per_worker
        if 0 < share < _SMALLEST_GPU_SHARE:
            raise field_error("gpus_per_worker", f"a share of a GPU is {_SMALLEST_GPU_SHARE:g} or more")
        if 0 < share < 1 and self.max_workers > 1:
            # NCCL refuses two workers on one GPU.
            raise field_error("gpus_per_worker", "only one worker alone can do with a share of a GPU: 0 or 1")
        return self

    @property
    def min_workers(self) -> int:
        """The fewest workers with which the run trains."""
        return self.workers.min if isinstance(self.workers, WorkerRange) else self.workers

    @property
    def max_workers(self) -> int:
        """The most workers with which the run trains."""
        return self.workers.max if isinstance(self.workers, WorkerRange) else self.workers


Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")]


_MODEL_NAME = r"[a-z0-9][a-z0-9._-]{0,99}"


def _means_something_else(name: str) -> bool:
    """Whether a selector is a version, a job's id or an alias, so that it can't be a model's name."""
    return name.isdecimal() or name.startswith("job_") or name in ("champion", "challenger", "previous")


def _check_model_name(name: str) -> str:
    if _means_something_else(name):
        raise ValueError("means a version, a job or an alias where a model is asked for; take another name")
    return name


ModelName = Annotated[
    str,
    Field(min_length=1, max_length=100, pattern=r"^[a-z0-9][a-z0-9._-]*$"),
    AfterValidator(_check_model_name),
]
"""Name of a registered model."""


Selector = Annotated[
    str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(?:@[a-z]+|/[0-9]+)?$")
]
"""What names a job's model or one of the registry."""


class TrainSpec(TrainConfig):
    """A job that trains one model."""

    kind: Literal["train"] = "train"
    """What the job does: it trains. A spec without `kind` does as well."""

    name: Name
    """What people call the job; it need not be unique."""

    register_as: ModelName | None = None
    """Registered model that the result becomes a version of, each with a champion of its own; by the kind of data when
    left out, such as `seqae-mnist_scenes`."""

    scaling: ScalingConfig = ScalingConfig()
    """Workers, and what each of them asks of the cluster."""

    start_from: Selector | None = None
    """Model whose weights training starts from: the id of a job that has succeeded, NAME, NAME@champion, NAME@previous
    or NAME/VERSION of the registry; of the default model also "champion" or a version. Its architecture must be this
    run's; T, the window's bounds and the data may be others. Left out, weights are drawn from `seed`."""

    @model_validator(mode="after")
    def _every_worker_has_an_image(self) -> Self:
        if self.scaling.max_workers > self.schedule.batch_size:
            # An elastic run may get as many as it may use.
            field = "scaling/workers/max" if isinstance(self.scaling.workers, WorkerRange) else "scaling/workers"
            images = self.schedule.batch_size
            raise field_error(field, f"more workers than images in a batch (schedule/batch_size is {images})")
        return self


_CHANGEABLE = ("schedule.learning_rate", "schedule.grad_clip")
"""Fields beside the loss's weights that may change while a model trains."""


class SelectionMetric(StrEnum):
    """Metric on `val` by which the best checkpoint of a run, and the best trial of a search, is selected."""

    OBJECTIVE = "objective"
    """Share of the error that is left, and of the objects that are mixed up: see `seqae.evaluation.objective`."""
    MSE = "val/mse"
    """Mean squared error of the reconstruction."""
    FG_ARI = "val/fg_ari"
    """Adjusted Rand index of the foreground."""

    @classmethod
    def _missing_(cls, value: object) -> "SelectionMetric | None":
        """The member that an older release's spec names."""
        return {"test_mse": cls.MSE, "fg_ari": cls.FG_ARI}.get(str(value))

    @property
    def row_name(self) -> str:
        """The metric's name in metrics.jsonl, in manifests and in MLflow."""
        return "val/objective" if self is SelectionMetric.OBJECTIVE else self.value

    @property
    def higher_is_better(self) -> bool:
        """Whether the metric goes up as a model improves."""
        return self is SelectionMetric.FG_ARI

    @property
    def mode(self) -> Literal["min", "max"]:
        """The direction, as Ray Tune names it."""
        return "max" if self.higher_is_better else "min"

    def is_better(self, value: float, than: float) -> bool:
        """Whether one value of the metric is strictly better than another."""
        return value > than if self.higher_is_better else value < than


class TuneSpec(Config):
    """A job that searches: trials of `base` with fields of `space` changed, poor ones stopped early."""

    kind: Literal["tune"]
    """What the job does: it searches."""

    name: Name
    """What people call the search; it need not be unique."""

    register_as: ModelName | None = None
    """As a training job's; the base spec's, if it names one, when left out."""

    base: TrainSpec
    """What every trial starts from; its scaling is each trial's."""

    space: SearchSpace
    """What the trials differ in."""

    trials: int = Field(8, ge=1, le=10_000)
    """Combinations that are tried; a grid has no more than it has points."""

    metric: SelectionMetric = SelectionMetric.OBJECTIVE
    """What the search improves, and what chooses each trial's best checkpoint: `objective` and `val/mse` go down,
    `val/fg_ari` goes up."""

    objectives: tuple[Objective, ...] = Field((), max_length=4)
    """Metrics that the search improves in place of `metric`, which then only chooses checkpoints. With several the
    search ends with their Pareto front, and its result is the front's knee."""

    objective: Judge = Judge.METRICS
    """`human` lets people say which of two trials is better, by their film strips; `metric` then only chooses
    checkpoints."""

    comparisons: int | None = Field(None, ge=1, le=100_000)
    """Pairs of trials that people compare before a search by eye ends, at most all there are; twice as many as trials
    when left out."""

    constraints: tuple[Constraint, ...] = Field((), max_length=8)
    """Bounds that the result must meet, such as `val/count_accuracy >= 0.95`; a trial that breaks one loses against any
    that does not."""

    sampler: Sampler = Sampler.TPE
    """What proposes the trials' parameters."""

    scheduler: Scheduler | None = None
    """What stops trials early: `asha` when left out, and `none` where there are several objectives."""

    grace_epochs: float = Field(1.0, ge=1e-6, le=100_000)
    """No trial is stopped before it has trained for so many epochs; for population based training, the epochs between
    two of its decisions."""

    reduction_factor: int = Field(3, ge=2, le=16)
    """ASHA and Hyperband keep one trial in so many at each rung."""

    population: int = Field(4, ge=2, le=1000)
    """Trials that population based training keeps going at a time."""

    grid_points: int = Field(3, ge=1, le=1000)
    """Values that the grid takes of each range without steps, both ends among them."""

    seeds: int = Field(1, ge=1, le=32)
    """A trial that was not stopped early trains with so many seeds in turn, `base.seed` and the numbers after it, and
    the mean counts. Its model is the first seed's."""

    warm_start: str | None = Field(None, pattern=r"^job_[a-z0-9]{1,32}$")
    """Id of an earlier search of the same base and data, whose trials the sampler knows from the start."""

    retrain: Retrain | None = None
    """Trains the winner's settings once more, and makes that the result; left out, the winner's own model is it."""

    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Of what the sampler draws; the trials themselves train with `base.seed`."""

    @model_validator(mode="after")
    def _trials_start_from_their_seeds(self) -> Self:
        if self.base.start_from is not None:
            raise field_error("base/start_from", "the trials of a search start from their seeds: leave it out")
        return self

    @model_validator(mode="after")
    def _space_is_valid(self) -> Self:
        check_space(self.space, self.base, TrainSpec.model_validate)
        return self

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if len(set(self.objectives)) < len(self.objectives):
            raise field_error("objectives", "names a metric twice")
        several = len(self.objectives) > 1
        if several and self.scheduler not in (None, Scheduler.NONE):
            raise field_error("scheduler", "trials are stopped early by one objective, not by several: leave it out")
        if several and self.sampler is Sampler.CMA_ES:
            raise field_error("sampler", "cma-es improves one objective; nsga-ii and tpe take several")
        if self.stops_by is Scheduler.PBT:
            self._check_population()
        self._check_judge()
        return self

    def _check_judge(self) -> None:
        if not self.is_by_eye:
            if self.comparisons is not None:
                raise field_error("comparisons", "people compare trials where the objective is human")
            return
        if self.most_trials < 2:
            raise field_error("trials", "people compare two trials: at least 2")
        refused = {
            "objectives": (bool(self.objectives), "people are the objective: leave it out"),
            "scheduler": (self.stops_by is not Scheduler.NONE, "people see trials that have ended: none stops early"),
            "sampler": (
                self.sampler in (Sampler.CMA_ES, Sampler.NSGA_II),
                "tpe, random and grid take people's answers",
            ),
            "seeds": (self.seeds > 1, "people see one model of a trial"),
            "warm_start": (self.warm_start is not None, "scores of another search's comparisons don't compare"),
        }
        for name, (is_set, message) in refused.items():
            if is_set:
                raise field_error(name, message)

    def _check_population(self) -> None:
        for path in domains_of(self.space):
            if not path.startswith("loss.") and path not in _CHANGEABLE:
                message = f"population based training goes on from another trial's model, so it can't vary {path}"
                raise field_error("scheduler", message)
        if self.seeds > 1:
            raise field_error("seeds", "a trial of population based training has one seed")

    @property
    def stops_by(self) -> Scheduler:
        """The scheduler, with its default."""
        stops_none = len(self.objectives) > 1 or self.is_by_eye
        return self.scheduler or (Scheduler.NONE if stops_none else Scheduler.ASHA)

    @property
    def is_by_eye(self) -> bool:
        """Whether people say how good the trials are."""
        return self.objective is Judge.HUMAN

    @property
    def most_comparisons(self) -> int:
        """How many pairs people compare: no more than there are, and none where the metrics decide."""
        trials = self.most_trials
        wanted = 2 * trials if self.comparisons is None else self.comparisons
        return min(wanted, trials * (trials - 1) // 2) if self.is_by_eye else 0

    @property
    def goals(self) -> dict[str, bool]:
        """Metrics that the search improves, as rows name them, and whether each is better high."""
        if self.is_by_eye:
            return {HUMAN_SCORE: True}
        return {name: goal_of(name) is Goal.MAXIMIZE for name in self.objectives or (self.metric.row_name,)}

    @property
    def bounds(self) -> dict[str, tuple[str, bool, float]]:
        """Of each constraint its metric, whether the bound is an upper one, and the bound."""
        return {text: parse_constraint(text) for text in self.constraints}

    @property
    def most_trials(self) -> int:
        """How many trials there will be: of a grid no more than it has points."""
        if self.sampler is not Sampler.GRID:
            return self.trials
        return sum(1 for _ in islice(grid(domains_of(self.space), self.grid_points), self.trials))


class FigureSpec(Config):
    """A job that makes one of the paper's figures from a model that was trained."""

    kind: Literal["figure"]
    """What the job does: it makes a figure."""

    name: Name
    """What people call the job; it need not be unique."""

    figure: FigureName
    """Number of the figure in the paper, 4 to 10, or "sample" for scenes drawn from a variational model."""

    model: str = Field("champion", min_length=1, max_length=4096, pattern=NO_NULL)
    """As in an evaluation: see `EvaluateSpec.model`. 5 and 9 plot a record of training, so they need a model that comes
    from a job here; 4 needs none at all."""

    data: DataConfig | None = None
    """Images to look at; those that the model was trained on when left out."""

    index: int = Field(0, ge=0, le=10_000_000)
    """Which scene or image is shown, counted from 0."""

    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Of what is random in a figure: t-SNE, samples."""

    @property
    def scaling(self) -> ScalingConfig:
        """What it asks of the cluster: its driver makes it, on one core."""
        return ScalingConfig()


class EvaluateSpec(Config):
    """A job that evaluates a model that was trained on test images, on those of its own config or on others."""

    kind: Literal["evaluate"]
    """What the job does: it evaluates."""

    name: Name
    """What people call the job; it need not be unique."""

    model: str = Field("champion", min_length=1, max_length=4096, pattern=NO_NULL)
    """NAME, NAME@champion, NAME@challenger or NAME/VERSION of the registry; of the default model also "champion" or a
    version; a job's id; or a checkpoint's folder, as a path below the folder of all jobs."""

    data: DataConfig | None = None
    """Images to evaluate on; those that the model was trained for when left out."""

    scenes: int | None = Field(None, ge=1, le=1_000_000)
    """At most so many of the first test images; all when left out."""

    figures: tuple[FigureName, ...] = Field((), max_length=8)
    """Figures of the paper to make of the model as well; see `FigureSpec.figure`."""

    index: int = Field(0, ge=0, le=1_000_000)
    """Which image the figures show, counted from 0."""

    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Of what is random in a figure: t-SNE, samples."""

    @property
    def scaling(self) -> ScalingConfig:
        """What it asks of the cluster: its driver evaluates, on one core."""
        return ScalingConfig()


class VerifySpec(Config):
    """A job that trains a part of a training run again and compares it with what was logged."""

    kind: Literal["verify"]
    """What the job does: it verifies."""

    name: Name
    """What people call the job; it need not be unique."""

    job: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")
    """The training run, by its id."""

    start: int | None = Field(None, ge=0, le=2**31 - 1)
    """Iteration to begin at, or at the newest checkpoint before it; 0 is the start of the run. Left out: the newest
    checkpoint that has as many logged reports after it as are compared."""

    reports: int = Field(3, ge=1, le=100_000)
    """How many logged reports are compared."""

    tolerance: float = Field(0.01, ge=1e-9, le=1e6)
    """Largest relative deviation of a number that counts as the same. On the machine that trained, the same number of
    workers gives the same bits; elsewhere, roundings grow from step to step."""

    @property
    def scaling(self) -> ScalingConfig:
        """What it asks of the cluster: its driver trains, on one core."""
        return ScalingConfig()


def named_model(selector: str) -> str | None:
    """The registered model that a selector names; None where it is a job's id, a folder, or of the default model."""
    name = re.fullmatch(rf"({_MODEL_NAME})(?:@[a-z]+|/[0-9]+)?", selector)
    if name is None or _means_something_else(name[1]):
        return None
    return name[1]


def makes_model(kind: str) -> bool:
    """Whether jobs of a kind end with a model, which is to be registered."""
    return kind in ("train", "tune")


def model_name(spec: "TrainSpec | TuneSpec") -> str:
    """The registered model that a job's result becomes a version of."""
    base = spec.base if isinstance(spec, TuneSpec) else spec
    named = spec.register_as or base.register_as
    if named is not None:
        return named
    if isinstance(base.data, ImagesConfig):
        folder = re.sub(r"[^a-z0-9._-]+", "-", PurePosixPath(base.data.path).name.lower()).strip("-._")
        return f"seqae-images-{folder[:80] or 'folder'}"
    return f"seqae-{base.data.kind}"


def _kind(given: Any) -> str:
    kind = given.get("kind", "train") if isinstance(given, dict) else getattr(given, "kind", "train")
    return str(kind)


JobSpec = Annotated[
    Annotated[TrainSpec, Tag("train")]
    | Annotated[TuneSpec, Tag("tune")]
    | Annotated[FigureSpec, Tag("figure")]
    | Annotated[EvaluateSpec, Tag("evaluate")]
    | Annotated[VerifySpec, Tag("verify")],
    Discriminator(_kind),
]

AnySpec = TrainSpec | TuneSpec | FigureSpec | EvaluateSpec | VerifySpec
"""A spec that was parsed."""

job_spec: TypeAdapter[AnySpec] = TypeAdapter(JobSpec)
"""Parses and validates a job spec; a spec without `kind` trains."""
