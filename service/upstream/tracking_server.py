"""The MLflow server behind one circuit breaker: every call of the control plane to it goes through here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.directory.records import EvaluationReport
from jobs.errors import TrackingUnavailable
from jobs.interfaces import (
    ModelVersion,
    OpenRun,
    RegisteredModel,
    Registration,
    RunDetails,
    RunRef,
    RunStatus,
    Tracking,
)
from jobs.promotion import Promotion
from service.clock import Clock
from service.upstream.circuit_breaker import CircuitBreaker

__all__ = ["TrackingServer"]


class TrackingServer:
    """The methods of `jobs.interfaces.Tracking`. After a call without an answer all fail at once for a moment.

    Args:
        tracking: asked.
        clock: tells the time.
        rest: seconds without calls after one that got no answer.
    """

    def __init__(self, tracking: Tracking, clock: Clock, rest: float) -> None:
        self._tracking = tracking
        self._breaker = CircuitBreaker(TrackingUnavailable, clock, rest)

    def create_run(
        self, job_id: str, name: str, kind: str, params: Mapping[str, Any], details: RunDetails | None = None
    ) -> RunRef:
        """See `Tracking.create_run`."""
        return self._breaker.call(lambda: self._tracking.create_run(job_id, name, kind, params, details))

    def create_trial_run(self, parent_run_id: str, trial: int, params: Mapping[str, Any]) -> RunRef:
        """See `Tracking.create_trial_run`."""
        return self._breaker.call(lambda: self._tracking.create_trial_run(parent_run_id, trial, params))

    def close_run(self, run_id: str, status: RunStatus) -> None:
        """See `Tracking.close_run`."""
        self._breaker.call(lambda: self._tracking.close_run(run_id, status))

    def ship(self, job_dir: Path, run_id: str) -> None:
        """See `Tracking.ship`."""
        self._breaker.call(lambda: self._tracking.ship(job_dir, run_id))

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
        """See `Tracking.register`."""
        return self._breaker.call(
            lambda: self._tracking.register(job_id, run_id, model, checkpoint_dir, metrics, report, decided)
        )

    def resolve(self, selector: str) -> ModelVersion:
        """See `Tracking.resolve`."""
        return self._breaker.call(lambda: self._tracking.resolve(selector))

    def models(self) -> list[RegisteredModel]:
        """See `Tracking.models`."""
        return self._breaker.call(self._tracking.models)

    def promote(self, model: str, version: str, who: str, why: str) -> None:
        """See `Tracking.promote`."""
        self._breaker.call(lambda: self._tracking.promote(model, version, who, why))

    def rollback(self, model: str, who: str, why: str) -> None:
        """See `Tracking.rollback`."""
        self._breaker.call(lambda: self._tracking.rollback(model, who, why))

    def open_runs(self) -> list[OpenRun]:
        """See `Tracking.open_runs`."""
        return self._breaker.call(self._tracking.open_runs)
