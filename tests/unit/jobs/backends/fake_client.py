"""MLflow's client in memory: experiments, runs, and what was sent to them. A real server is tested elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST

__all__ = ["FakeClient", "FakeExperiment", "FakeRun", "Points"]

Points = list[tuple[str, int, float]]


@dataclass
class FakeExperiment:
    """An experiment, with the attributes of MLflow's own."""

    experiment_id: str
    name: str
    tags: dict[str, str] = field(default_factory=dict)
    lifecycle_stage: str = "active"


@dataclass
class FakeRun:
    """A run, and what was sent to it."""

    experiment_id: str
    tags: dict[str, str]
    name: str = ""
    status: str = "RUNNING"
    lifecycle_stage: str = "active"
    params: dict[str, str] = field(default_factory=dict)
    calls: list[Points] = field(default_factory=list)
    """Name, step and value of each point, one entry a call."""
    images: list[str] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    inputs: list[Any] = field(default_factory=list)

    @property
    def points(self) -> Points:
        return [point for call in self.calls for point in call]


class _Pages(list[Any]):
    token = None


class FakeClient:
    """The part of MLflow's client that finds, makes and fills runs."""

    def __init__(self) -> None:
        self.experiments: dict[str, FakeExperiment] = {}
        self.runs: dict[str, FakeRun] = {}
        self.error: Exception | None = None
        """Raised by the next call that sends metrics."""
        self.before_metrics: Callable[[], None] = lambda: None
        """What happens between two calls, before metrics are sent."""
        self.restores = True
        """Whether a deleted experiment can be restored."""
        self.listed = 0
        """How often artifacts were listed."""

    # Experiments

    def get_experiment_by_name(self, name: str) -> FakeExperiment | None:
        return next((one for one in self.experiments.values() if one.name == name), None)

    def create_experiment(self, name: str) -> str:
        if self.get_experiment_by_name(name) is not None:
            raise MlflowException("exists", RESOURCE_ALREADY_EXISTS)
        number = str(len(self.experiments) + 1)
        self.experiments[number] = FakeExperiment(number, name)
        return number

    def restore_experiment(self, experiment_id: str) -> None:
        if not self.restores:
            raise MlflowException("no", INVALID_PARAMETER_VALUE)
        self.experiments[experiment_id].lifecycle_stage = "active"
        for run in self.runs.values():
            if run.experiment_id == experiment_id:
                run.lifecycle_stage = "active"

    def delete_experiment(self, experiment_id: str) -> None:
        self.experiments[experiment_id].lifecycle_stage = "deleted"
        for run in self.runs.values():
            if run.experiment_id == experiment_id:
                run.lifecycle_stage = "deleted"

    def search_experiments(self, filter_string: str, **_: Any) -> Any:
        tag = filter_string.split("`")[1]
        active = (one for one in self.experiments.values() if one.lifecycle_stage == "active")
        return _Pages(one for one in active if tag in one.tags)

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        self.experiments[experiment_id].tags[key] = value

    # Runs

    def search_runs(self, experiment_ids: Sequence[str], query: str, **_: Any) -> Any:
        conditions = [part.split(" = ") for part in query.split(" and ")]
        wanted = {name.removeprefix("tags.").strip("`"): value.strip("'") for name, value in conditions}
        status = wanted.pop("attributes.status", None)
        return _Pages(
            self.get_run(run_id)
            for run_id, run in self.runs.items()
            if wanted.items() <= run.tags.items()
            and status in (None, run.status)
            and run.lifecycle_stage == "active"
            and run.experiment_id in experiment_ids
        )

    def create_run(self, experiment_id: str, tags: Mapping[str, str], run_name: str) -> Any:
        if self.experiments[experiment_id].lifecycle_stage != "active":
            raise MlflowException("not active", INVALID_PARAMETER_VALUE)
        run_id = f"run-{len(self.runs) + 1}"
        self.runs[run_id] = FakeRun(experiment_id, dict(tags), run_name)
        return self.get_run(run_id)

    def get_run(self, run_id: str) -> Any:
        if run_id not in self.runs:
            raise MlflowException("no such run", RESOURCE_DOES_NOT_EXIST)
        run = self.runs[run_id]
        info = SimpleNamespace(
            run_id=run_id,
            status=run.status,
            lifecycle_stage=run.lifecycle_stage,
            experiment_id=run.experiment_id,
            start_time=1000,
        )
        return SimpleNamespace(info=info, data=SimpleNamespace(tags=dict(run.tags), params=dict(run.params)))

    def delete_run(self, run_id: str) -> None:
        self.runs[run_id].lifecycle_stage = "deleted"

    def set_terminated(self, run_id: str, status: str) -> None:
        self._active(run_id).status = status

    def set_tag(self, run_id: str, name: str, value: str) -> None:
        self._active(run_id).tags[name] = value

    def log_batch(self, run_id: str, metrics: Sequence[Any] = (), params: Sequence[Any] = ()) -> None:
        if metrics:
            self.before_metrics()
        run = self._active(run_id)
        for param in params:
            if run.params.setdefault(param.key, param.value) != param.value:
                raise MlflowException("a param can't be changed", INVALID_PARAMETER_VALUE)
        if metrics:
            if self.error is not None:
                error, self.error = self.error, None
                raise error
            run.calls.append([(metric.key, metric.step, metric.value) for metric in metrics])

    def log_inputs(self, run_id: str, datasets: Sequence[Any]) -> None:
        self._active(run_id).inputs += datasets

    # Files

    def list_artifacts(self, run_id: str, _: str) -> list[Any]:
        self.listed += 1
        return []

    def log_artifacts(self, run_id: str, folder: str, path: str) -> None:
        assert path == "images"
        self._active(run_id).images += sorted(file.name for file in Path(folder).iterdir())

    def log_artifact(self, run_id: str, path: str) -> None:
        self._active(run_id).artifacts.append(Path(path).name)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        self._active(run_id).texts[name] = text

    def _active(self, run_id: str) -> FakeRun:
        self.get_run(run_id)
        run = self.runs[run_id]
        if run.lifecycle_stage != "active":
            raise MlflowException("not active", INVALID_PARAMETER_VALUE)
        return run
