"""Protocols of the cluster (`Launcher`) and of the tracking server (`Tracking`), as the control plane uses them.

The real ones are `jobs.backends.ray.RayLauncher` and `jobs.backends.mlflow.MlflowTracking`; `jobs.backends.fakes`
has a fake of each.
Nothing here imports ray, mlflow or torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from jobs.cluster.nodes import ClusterNode
from jobs.directory.records import EvaluationReport
from jobs.promotion import Promotion

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "PREVIOUS",
    "Capacity",
    "Launcher",
    "ModelKey",
    "ModelVersion",
    "NodeCapacity",
    "OpenRun",
    "ProcessState",
    "PromotionRecord",
    "RegisteredModel",
    "Registration",
    "RunDetails",
    "RunRef",
    "RunStatus",
    "Submission",
    "Tracking",
    "VersionInfo",
    "WorkerDemand",
    "submission_id",
]


CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
"""Aliases in the model registry: the version that is served, the newest one that was not promoted, and the champion
before."""


class ProcessState(StrEnum):
    """State of a submission on the cluster. What follows for the job is for the control plane to judge."""

    PENDING = "PENDING"
    """Accepted; its driver has not started."""
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    """Ended because it was asked to."""
    SUCCEEDED = "SUCCEEDED"
    """The driver's exit status was 0."""
    FAILED = "FAILED"

    def is_terminal(self) -> bool:
        """Whether the submission has ended."""
        return self not in (ProcessState.PENDING, ProcessState.RUNNING)


_MOST_WORKERS = 1_000_000
"""No machine runs more, however little each asks for."""


@dataclass(frozen=True)
class NodeCapacity:
    """Resources of one machine of the cluster, used or not."""

    cpus: float
    gpus: float
    memory_bytes: float = 0.0


@dataclass(frozen=True)
class Capacity:
    """Resources of the cluster, used or not."""

    nodes: tuple[NodeCapacity, ...]

    @property
    def cpus(self) -> float:
        """CPU cores of all machines."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all machines."""
        return sum(node.gpus for node in self.nodes)

    def workers(self, cpus_per_worker: float, gpus_per_worker: float) -> int:
        """The most workers of this size that fit, each wholly on one machine."""
        return sum(_fits(node, cpus_per_worker, gpus_per_worker) for node in self.nodes)


def _fits(node: NodeCapacity, cpus: float, gpus: float) -> int:
    shares = [have / need for have, need in ((node.cpus, cpus), (node.gpus, gpus)) if need > 0]
    return int(min(*shares, _MOST_WORKERS)) if shares else 0


def submission_id(job_id: str, attempt: int) -> str:
    """Name of an attempt on the cluster. It is the same each time, so submitting an attempt twice is harmless."""
    return f"{job_id}-{attempt}"


@dataclass(frozen=True)
class WorkerDemand:
    """The least workers that an attempt needs to start."""

    workers: int = 1
    cpus: float = 1.0
    """For each worker."""
    gpus: float = 0.0
    """For each worker."""


@dataclass(frozen=True)
class Submission:
    """One attempt, as it is submitted to the cluster."""

    job_id: str
    attempt: int
    kind: Literal["train", "tune", "figure", "evaluate", "verify"]
    job_dir: Path
    """The job's folder, absolute, the same on every machine."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """For the driver and its workers: MLFLOW_TRACKING_URI, SEQAE_RUN_ID, SEQAE_CACHE_DIR, SEQAE_DATA_DIR."""

    demand: WorkerDemand = WorkerDemand()
    """What a cluster that is made for the attempt alone must have room for."""

    @property
    def submission_id(self) -> str:
        """The attempt's name on the cluster."""
        return submission_id(self.job_id, self.attempt)


class Launcher(Protocol):
    """Starts, stops and observes attempts on the cluster.

    Every method may raise LauncherUnavailable; none blocks for longer than a few seconds.
    """

    def submit(self, submission: Submission) -> None:
        """Starts an attempt; one that exists already counts as started.

        Raises:
            SubmissionRefused: the cluster does not take it, and would not the next time.
        """

    def state(self, submission_id: str) -> ProcessState | None:
        """None: the cluster answers, and knows no such submission."""

    def stop(self, submission_id: str) -> None:
        """Asks for the end: SIGTERM, and after three seconds SIGKILL. Unknown or ended ones are fine."""

    def logs(self, submission_id: str) -> str:
        """What the cluster says of an attempt: how it was prepared, and why its driver did not start.

        The driver itself prints into the attempt's folder. Empty for an unknown attempt.
        """

    def capacity(self) -> Capacity:
        """What the machines of the cluster have."""

    def nodes(self) -> tuple[ClusterNode, ...]:
        """The machines of the cluster and what runs on them, the head first; those that died lately, too."""

    def cluster_id(self) -> str:
        """Changes when the cluster was replaced, and with it everything that it ran."""

    def live(self) -> set[str]:
        """Submissions that are pending or running."""


class RunStatus(StrEnum):
    """Status with which a run is closed."""

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


@dataclass(frozen=True)
class RunRef:
    """A run of the tracking server."""

    run_id: str
    url: str


@dataclass(frozen=True)
class RunDetails:
    """What a job's run shows beside its name and params."""

    experiment: str | None = None
    """Registered model that the run is about: its runs have an experiment of their own. None: the shared experiment."""
    owner: str = ""
    """Who submitted the job."""
    config: str = ""
    """The whole spec, as YAML."""


@dataclass(frozen=True)
class OpenRun:
    """A job's run that is not closed on the tracking server."""

    run_id: str
    job_id: str


class ModelKey(NamedTuple):
    """Identity of a model version. A model that is deleted and made anew starts at version 1 again, with other runs."""

    name: str
    version: str
    run_id: str

    @property
    def label(self) -> str:
        """Name and version, as people write them."""
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model whose files are on this machine."""

    name: str
    version: str
    run_id: str
    job_id: str
    path: Path
    """A local folder with the checkpoint's files."""
    metrics: Mapping[str, float]
    is_champion: bool
    test_checksum: str | None = None
    """Of the test images that it was evaluated on; None where an older release made it."""
    scoring_version: int = 1
    """Of the rule that it was scored by, see `EvaluationReport`."""

    @property
    def key(self) -> ModelKey:
        """Its identity."""
        return ModelKey(self.name, self.version, self.run_id)


@dataclass(frozen=True)
class VersionInfo:
    """What the registry says of a version, without its files."""

    version: str
    run_id: str
    job_id: str | None
    """None: it was not made here, and is never served or compared."""
    metrics: Mapping[str, float]
    aliases: tuple[str, ...]
    created_at: datetime | None
    promotion: Promotion | None
    """What was decided when its job ended."""


@dataclass(frozen=True)
class PromotionRecord:
    """A move of the champion's alias."""

    version: str
    who: str
    why: str
    at: datetime


@dataclass(frozen=True)
class RegisteredModel:
    """A named model of the registry with its versions, newest first."""

    name: str
    versions: tuple[VersionInfo, ...]
    history: tuple[PromotionRecord, ...]
    """Moves of the champion's alias, newest first."""

    def with_alias(self, alias: str) -> VersionInfo | None:
        """The version that has an alias."""
        return next((version for version in self.versions if alias in version.aliases), None)

    @property
    def promoted_at(self) -> datetime | None:
        """When its champion became that; of a champion of an older release, when that was made."""
        champion = self.with_alias(CHAMPION)
        if champion is None or champion.job_id is None:
            return None
        moved = next((move.at for move in self.history if move.version == champion.version), None)
        return moved or champion.created_at


@dataclass(frozen=True)
class Registration:
    """A job's model version, and whether it became the champion."""

    version: ModelVersion
    promotion: Promotion


class Tracking(Protocol):
    """Runs and registered models on the tracking server.

    Every method may raise TrackingUnavailable, one that sends something of a job TrackingRefused, and one that is given
    a run's id NoRun, also where the run was deleted.
    """

    def create_run(
        self, job_id: str, name: str, kind: str, params: Mapping[str, Any], details: RunDetails | None = None
    ) -> RunRef:
        """The run of a job; it is made only once: a second call for the same job returns the same run."""

    def create_trial_run(self, parent_run_id: str, trial: int, params: Mapping[str, Any]) -> RunRef:
        """The run of a search's trial, below the search's own; made only once, too."""

    def close_run(self, run_id: str, status: RunStatus) -> None:
        """Ends a run and those below it. Ended ones stay as they are, so that a second call changes nothing."""

    def ship(self, job_dir: Path, run_id: str) -> None:
        """Copies what is new in a job's folder (metrics, film strips, artifacts) to its run. Harmless to repeat."""

    def register(
        self,
        job_id: str,
        run_id: str,
        model: str,
        checkpoint_dir: Path,
        metrics: Mapping[str, float],
        report: EvaluationReport | None,
        decided: Promotion | None = None,
    ) -> Registration:
        """Makes a version of a registered model, once a run, and its champion if the promotion rule says so.

        Args:
            job_id: of the job that made it.
            run_id: of the job or of a trial; a second call for it changes nothing, and gives the same answer.
            model: name of the registered model; it is made if need be.
            checkpoint_dir: the model's files.
            metrics: what is shown beside the version.
            report: the evaluation on the test images; None where an older release ended the job.
            decided: what is written down in place of the rule's decision; then no alias is moved.
        """

    def resolve(self, selector: str) -> ModelVersion:
        """The version that a selector names; its files are on this machine.

        Args:
            selector: NAME or NAME@champion, NAME@challenger, NAME@previous, NAME/VERSION, or a job's id. Of the default
                model also `champion` or a bare version number.

        Raises:
            NoModel: none answers to that, it was not made here, or its files are gone.
        """

    def models(self) -> list[RegisteredModel]:
        """All registered models that have a version made here, by name."""

    def promote(self, model: str, version: str, who: str, why: str) -> None:
        """Moves the champion's alias to a version; the one before gets the alias `previous`.

        Raises:
            NoModel: there is no such version, or it was not made here.
        """

    def rollback(self, model: str, who: str, why: str) -> None:
        """Moves the champion's alias back to the version that had it before.

        Raises:
            NoModel: there is no earlier champion.
        """

    def open_runs(self) -> list[OpenRun]:
        """Jobs' own runs (not a trial's) that are not closed."""
