"""Fakes of the cluster and of the tracking server, in memory, for tests."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.cluster.nodes import ClusterNode
from jobs.directory.records import EvaluationReport
from jobs.errors import LauncherUnavailable, NoModel, NoRun, SubmissionRefused, TrackingUnavailable
from jobs.interfaces import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    Capacity,
    ModelKey,
    ModelVersion,
    NodeCapacity,
    OpenRun,
    ProcessState,
    PromotionRecord,
    RegisteredModel,
    Registration,
    RunDetails,
    RunRef,
    RunStatus,
    Submission,
    VersionInfo,
)
from jobs.promotion import Champion, Promotion, decide

__all__ = ["FakeLauncher", "FakeRun", "FakeTracking"]


class FakeLauncher:
    """A cluster in memory, on which submissions stay PENDING until the test changes that.

    Set `unreachable` to make every call raise LauncherUnavailable, `refusal` to refuse submissions with that text, and
    `loses_answers` to take submissions but raise LauncherUnavailable, as a time-out does.
    """

    def __init__(self, capacity: Capacity | None = None) -> None:
        self.unreachable = False
        self.loses_answers = False
        self.refusal: str | None = None
        self.submissions: dict[str, Submission] = {}
        """Every submission taken, by id, ended ones too."""
        self.submitted: list[str] = []
        """Ids in the order in which they were really started; one that existed already is not repeated."""
        self.stopped: list[str] = []
        """Ids in the order in which stop was called."""
        self.machines: tuple[ClusterNode, ...] = ()
        """What `nodes` answers."""
        self._capacity = capacity or Capacity((NodeCapacity(cpus=2, gpus=0, memory_bytes=8e9),))
        self._states: dict[str, ProcessState] = {}
        self._logs: dict[str, str] = {}
        self._cluster = 1

    # What the Launcher protocol asks for.

    def submit(self, submission: Submission) -> None:
        """See `jobs.interfaces.Launcher.submit`."""
        self._answer()
        if self.refusal is not None:
            raise SubmissionRefused(self.refusal)
        name = submission.submission_id
        if name not in self._states:
            self.submissions[name] = submission
            self.submitted.append(name)
            self._states[name] = ProcessState.PENDING
        if self.loses_answers:
            raise LauncherUnavailable("the answer was lost")

    def state(self, submission_id: str) -> ProcessState | None:
        """See `jobs.interfaces.Launcher.state`."""
        self._answer()
        return self._states.get(submission_id)

    def stop(self, submission_id: str) -> None:
        """See `jobs.interfaces.Launcher.stop`."""
        self._answer()
        self.stopped.append(submission_id)
        state = self._states.get(submission_id)
        if state is not None and not state.is_terminal():
            self._states[submission_id] = ProcessState.STOPPED

    def logs(self, submission_id: str) -> str:
        """See `jobs.interfaces.Launcher.logs`."""
        self._answer()
        return self._logs.get(submission_id, "")

    def capacity(self) -> Capacity:
        """See `jobs.interfaces.Launcher.capacity`."""
        self._answer()
        return self._capacity

    def nodes(self) -> tuple[ClusterNode, ...]:
        """See `jobs.interfaces.Launcher.nodes`."""
        self._answer()
        return self.machines

    def cluster_id(self) -> str:
        """See `jobs.interfaces.Launcher.cluster_id`."""
        self._answer()
        return f"cluster-{self._cluster}"

    def live(self) -> set[str]:
        """See `jobs.interfaces.Launcher.live`."""
        self._answer()
        return {name for name, state in self._states.items() if not state.is_terminal()}

    # What a test makes happen.

    def run(self, submission_id: str) -> None:
        """The driver starts."""
        self._set(submission_id, ProcessState.RUNNING)

    def finish(self, submission_id: str, state: ProcessState = ProcessState.SUCCEEDED) -> None:
        """The driver ends."""
        self._set(submission_id, state)

    def vanish(self, submission_id: str) -> None:
        """The cluster forgets a submission."""
        self._states.pop(submission_id)

    def replace_cluster(self) -> None:
        """The head dies and another comes up: everything is forgotten."""
        self._cluster += 1
        self._states.clear()

    def set_capacity(self, capacity: Capacity) -> None:
        """Changes what the machines of the cluster have."""
        self._capacity = capacity

    def print(self, submission_id: str, text: str) -> None:
        """The driver prints."""
        self._logs[submission_id] = self._logs.get(submission_id, "") + text

    def _set(self, submission_id: str, state: ProcessState) -> None:
        if submission_id not in self._states:
            raise KeyError(f"never submitted: {submission_id}")
        self._states[submission_id] = state

    def _answer(self) -> None:
        if self.unreachable:
            raise LauncherUnavailable("the cluster does not answer")


@dataclass
class FakeRun:
    """A run of FakeTracking."""

    job_id: str
    name: str
    kind: str
    params: dict[str, Any]
    status: RunStatus | None = None
    """None while open."""
    parent: str | None = None
    """The search's run, of a trial's."""
    shipped: list[Path] = field(default_factory=list)
    """The job folders that were shipped to it, one entry a call."""
    details: RunDetails = field(default_factory=RunDetails)


class FakeTracking:
    """A tracking server in memory. Set `unreachable` to make every call raise TrackingUnavailable."""

    def __init__(self) -> None:
        self.unreachable = False
        self.runs: dict[str, FakeRun] = {}
        self.versions: list[ModelVersion] = []
        """Registered models, oldest first; version "1" is the first."""
        self.reports: dict[ModelKey, EvaluationReport] = {}
        self.promotions: dict[ModelKey, Promotion] = {}
        """What was decided when each version was made."""
        self.aliases: dict[tuple[str, str], str] = {}
        """Version by model and alias; change it as a person does in MLflow's page."""
        self.history: dict[str, list[PromotionRecord]] = {}
        """Moves of the champion's alias by model, oldest first."""

    def create_run(
        self, job_id: str, name: str, kind: str, params: Mapping[str, Any], details: RunDetails | None = None
    ) -> RunRef:
        """See `jobs.interfaces.Tracking.create_run`."""
        self._answer()
        run_id = f"run-{job_id}"
        self.runs.setdefault(run_id, FakeRun(job_id, name, kind, dict(params), details=details or RunDetails()))
        return RunRef(run_id, f"http://mlflow.invalid/#/experiments/1/runs/{run_id}")

    def create_trial_run(self, parent_run_id: str, trial: int, params: Mapping[str, Any]) -> RunRef:
        """See `jobs.interfaces.Tracking.create_trial_run`."""
        self._answer()
        parent = self._run(parent_run_id)
        run_id = f"{parent_run_id}-trial-{trial}"
        made = FakeRun(parent.job_id, f"trial {trial}", "trial", dict(params), parent=parent_run_id)
        self.runs.setdefault(run_id, made)
        return RunRef(run_id, f"http://mlflow.invalid/#/experiments/1/runs/{run_id}")

    def close_run(self, run_id: str, status: RunStatus) -> None:
        """See `jobs.interfaces.Tracking.close_run`."""
        self._answer()
        self._run(run_id)
        for name, run in self.runs.items():
            if run_id in (name, run.parent) and run.status is None:
                run.status = status

    def ship(self, job_dir: Path, run_id: str) -> None:
        """See `jobs.interfaces.Tracking.ship`."""
        self._answer()
        self._run(run_id).shipped.append(job_dir)

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
        """See `jobs.interfaces.Tracking.register`."""
        self._answer()
        self._run(run_id)
        for version in self.versions:
            if version.run_id == run_id:
                return Registration(version, self.promotions[version.key])
        number = str(1 + sum(version.name == model for version in self.versions))
        made = ModelVersion(
            name=model,
            version=number,
            run_id=run_id,
            job_id=job_id,
            path=checkpoint_dir,
            metrics=dict(metrics),
            is_champion=False,
            test_checksum=None if report is None else report.test_checksum,
            scoring_version=1 if report is None else report.scoring_version,
        )
        self.versions.append(made)
        if report is not None:
            self.reports[made.key] = report
        promotion = decided or decide(report, self._champion_of(model))
        self.promotions[made.key] = promotion
        if decided is not None:
            return Registration(self._with_flag(made), promotion)
        if promotion.promoted:
            self._move_champion(model, number, "", promotion.reason)
        else:
            self.aliases[model, CHALLENGER] = number
        return Registration(self._with_flag(made), promotion)

    def resolve(self, selector: str) -> ModelVersion:
        """See `jobs.interfaces.Tracking.resolve`."""
        self._answer()
        found = self._find(selector)
        if found is None:
            raise NoModel(f"no registered model answers to {selector!r}")
        return self._with_flag(found)

    def models(self) -> list[RegisteredModel]:
        """See `jobs.interfaces.Tracking.models`."""
        self._answer()
        names = sorted({version.name for version in self.versions})
        return [
            RegisteredModel(
                name,
                tuple(self._info(version) for version in reversed(self.versions) if version.name == name),
                tuple(reversed(self.history.get(name, []))),
            )
            for name in names
        ]

    def promote(self, model: str, version: str, who: str, why: str) -> None:
        """See `jobs.interfaces.Tracking.promote`."""
        self._answer()
        if self._find(f"{model}/{version}") is None:
            raise NoModel(f"{model} has no version {version} that was made here")
        self._move_champion(model, version, who, why)

    def rollback(self, model: str, who: str, why: str) -> None:
        """See `jobs.interfaces.Tracking.rollback`."""
        self._answer()
        before = self.aliases.get((model, PREVIOUS))
        if before is None:
            raise NoModel(f"{model} has no earlier champion to go back to")
        self._move_champion(model, before, who, why)

    def open_runs(self) -> list[OpenRun]:
        """See `jobs.interfaces.Tracking.open_runs`."""
        self._answer()
        return [
            OpenRun(run_id, run.job_id) for run_id, run in self.runs.items() if run.status is None and not run.parent
        ]

    def forget_runs(self) -> None:
        """The server's database is lost: runs that were made are unknown from now on."""
        self.runs.clear()

    def _find(self, selector: str) -> ModelVersion | None:
        model, slash, number = selector.rpartition("/")
        name, at, alias = selector.rpartition("@")
        if slash:
            pass
        elif at:
            model, number = name, self.aliases.get((name, alias), "")
        elif selector == CHAMPION or selector.isdecimal():
            model = self._default_model()
            number = self.aliases.get((model, CHAMPION), "") if selector == CHAMPION else selector
        elif selector.startswith("job_"):
            return next((version for version in self.versions if version.job_id == selector), None)
        else:
            model, number = selector, self.aliases.get((selector, CHAMPION), "")
        return next((one for one in self.versions if (one.name, one.version) == (model, number)), None)

    def _default_model(self) -> str:
        moves = [(moves[-1].at, model) for model, moves in self.history.items() if moves]
        return max(moves)[1] if moves else ""

    def _champion_of(self, model: str) -> Champion | None:
        found = self._find(f"{model}@{CHAMPION}")
        if found is None:
            return None
        return Champion(name=model, version=found.version, run_id=found.run_id, report=self.reports.get(found.key))

    def _move_champion(self, model: str, version: str, who: str, why: str) -> None:
        before = self.aliases.get((model, CHAMPION))
        if before is not None and before != version:
            self.aliases[model, PREVIOUS] = before
        self.aliases[model, CHAMPION] = version
        if self.aliases.get((model, CHALLENGER)) == version:
            del self.aliases[model, CHALLENGER]
        self.history.setdefault(model, []).append(PromotionRecord(version, who, why, datetime.now(UTC)))

    def _with_flag(self, version: ModelVersion) -> ModelVersion:
        return replace(version, is_champion=self.aliases.get((version.name, CHAMPION)) == version.version)

    def _info(self, version: ModelVersion) -> VersionInfo:
        aliases = tuple(
            sorted(alias for (model, alias), number in self.aliases.items() if (model, number) == version.key[:2])
        )
        return VersionInfo(
            version=version.version,
            run_id=version.run_id,
            job_id=version.job_id,
            metrics=version.metrics,
            aliases=aliases,
            created_at=None,
            promotion=self.promotions.get(version.key),
        )

    def _run(self, run_id: str) -> FakeRun:
        if run_id not in self.runs:
            raise NoRun(f"unknown run {run_id}")
        return self.runs[run_id]

    def _answer(self) -> None:
        if self.unreachable:
            raise TrackingUnavailable("the tracking server does not answer")
