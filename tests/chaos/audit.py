"""Audit of a deployment after all jobs have ended: what was lost, what is doubled, what still runs."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from jobs.directory.layout import JobFolder
from jobs.directory.records import Outcome
from service.job_state import State
from tests.chaos.deployment import Deployment

_SETTLES = 60.0  # seconds that Ray and the sweep have to clear away what the last job left


@dataclass(frozen=True)
class JobAudit:
    """What became of one job."""

    job_id: str
    state: State
    attempts: int
    repeated: int
    """Most iterations that were trained again after one loss."""
    faults: tuple[str, ...]
    """What is doubled or missing of its results."""

    @property
    def lost(self) -> bool:
        return self.state is not State.SUCCEEDED or any(fault.startswith("missing") for fault in self.faults)

    @property
    def doubled(self) -> bool:
        return any(fault.startswith("doubled") for fault in self.faults)


def audits(deployment: Deployment, ids: Sequence[str], curve: Sequence[int]) -> list[JobAudit]:
    """Audits jobs, oldest first.

    Args:
        curve: the steps that the curve of `train/loss` must have in MLflow, each once.
    """
    found = []
    for job_id, row in sorted(deployment.rows(list(ids)).items(), key=lambda item: item[1].number):
        faults = _faults(deployment, job_id, str(row.mlflow_run_id), curve)
        again = repeated(JobFolder(deployment.jobs_dir / job_id))
        found.append(JobAudit(job_id, row.state, row.attempt, again, faults))
    return found


def repeated(folder: JobFolder) -> int:
    """Most iterations between two rows of metrics of which the later one is not further than the earlier one."""
    steps = [row.step for attempt in folder.attempts() for row in attempt.metrics() if "train/loss" in row.metrics]
    stride = min((b - a for a, b in pairwise(steps) if b > a), default=0)
    furthest, most = 0, 0
    for step in steps:
        most = max(most, furthest - step + stride) if step <= furthest else most
        furthest = max(furthest, step)
    return most


def _faults(deployment: Deployment, job_id: str, run_id: str, curve: Sequence[int]) -> tuple[str, ...]:
    faults = []
    mlflow = deployment.tracking._client
    status = mlflow.get_run(run_id).info.status
    if status != "FINISHED":
        faults.append(f"missing: its run is {status}")
    steps = [metric.step for metric in mlflow.get_metric_history(run_id, "train/loss")]
    if twice := [step for step, times in Counter(steps).items() if times > 1]:
        faults.append(f"doubled: steps {twice} of its curve")
    if absent := sorted(set(curve) - set(steps)):
        faults.append(f"missing: steps {absent} of its curve")
    versions = len(mlflow.search_model_versions(f"run_id = '{run_id}'"))
    results = [attempt.read_result() for attempt in JobFolder(deployment.jobs_dir / job_id).attempts()]
    succeeded = sum(result is not None and result.outcome is Outcome.SUCCEEDED for result in results)
    for count, what in ((versions, "model"), (succeeded, "final result")):
        if count != 1:
            faults.append(f"{'doubled' if count else 'missing'}: {count} of its {what}")
    return tuple(faults)


def zombies(deployment: Deployment) -> list[str]:
    """Processes, actors and runs that are open though no job is; those that end within a minute do not count."""
    deadline = time.monotonic() + _SETTLES
    while (found := _zombies(deployment)) and time.monotonic() < deadline:
        time.sleep(1)
    return found


def _zombies(deployment: Deployment) -> list[str]:
    ray = deployment.daemons.dashboard
    found = [f"actor {actor['class_name']} {actor['state']}" for actor in ray.actors()]
    found += [f"placement group {group['placement_group_id']}" for group in ray.placement_groups()]
    found += [f"Ray job {name}" for name in sorted(deployment.launcher.live())]
    found += [f"process {process.pid} of job {job_id}" for job_id, process in deployment.drivers().items()]
    return found + [f"open run {run.run_id}" for run in deployment.tracking.open_runs()]
