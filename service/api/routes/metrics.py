"""Route `GET /metrics`: the state of the control plane in Prometheus' text format."""

import logging
import math
import shutil
from collections.abc import Iterator
from datetime import datetime

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from service.api.access.principal import PrincipalDep, needs
from service.api.dependencies import AppContext, ContextDep
from service.db.job_statistics import JobStatistics, job_statistics
from service.errors import StoreUnavailableError
from service.scopes import Scope

__all__ = ["router"]

router = APIRouter(tags=["health"])

log = logging.getLogger(__name__)


@router.get(
    "/metrics",
    dependencies=[needs(Scope.READ)],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' format"}},
)
def get_metrics(context: ContextDep, principal: PrincipalDep) -> Response:
    """Jobs, queue, reconciler, requests, model and disk, in Prometheus' text format.

    docs/operations.md explains each. Asks neither the cluster nor MLflow. Counters and histograms are this process's
    own; jobs are those of the database. Where jobs are private, owners see no other owner's.
    """
    moment = CollectorRegistry()
    moment.register(_Moment(context, principal.sees_only))
    body = generate_latest(context.metrics.registry) + generate_latest(moment)
    return Response(body, media_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})


class _Moment(Collector):
    """What is read off when it is asked for.

    Args:
        context: the app's.
        owner: whose jobs are told by owner; None: everybody's.
    """

    def __init__(self, context: AppContext, owner: str | None) -> None:
        self._context = context
        self._owner = owner

    def collect(self) -> Iterator[Metric]:
        """The families; without the database those of jobs are left out, and one says so."""
        context = self._context
        try:
            jobs = job_statistics(context.store.database)
        except StoreUnavailableError as error:
            log.warning("no jobs can be counted: %s", error)
            jobs = None
        up = "Whether the job database answers"
        yield GaugeMetricFamily("seqae_database_up", up, value=float(jobs is not None))
        if jobs is not None:
            yield from self._jobs(jobs)
        waiting = "Requests to /reconstruct whose image has arrived and that are not answered yet"
        yield GaugeMetricFamily("seqae_reconstruct_requests", waiting, value=context.reconstructing)
        model = GaugeMetricFamily("seqae_model_info", "The champion that is served: 1", labels=("name", "version"))
        champion = None if context.inference is None else context.inference.champion
        if champion is not None:
            model.add_metric((champion.version.name, champion.version.version), 1.0)
        yield model
        yield GaugeMetricFamily("seqae_disk_free_bytes", "Room on the disk of the home folder", value=self._free())

    def _jobs(self, jobs: JobStatistics) -> Iterator[Metric]:
        states = GaugeMetricFamily("seqae_jobs", "Jobs by state", labels=("state",))
        for state, number in jobs.by_state.items():
            states.add_metric((state,), number)
        yield states
        about = "Jobs that have not ended, by owner and state; all but the owners with most of them together"
        owners = GaugeMetricFamily("seqae_owner_jobs", about, labels=("owner", "state"))
        for (owner, state), number in jobs.by_owner.items():
            if self._owner not in (None, owner):
                continue
            owners.add_metric((owner, state), number)
        yield owners
        about = "Longest wait in the queue now, by owner of those with most jobs that have not ended"
        waits = GaugeMetricFamily("seqae_owner_oldest_queued_seconds", about, labels=("owner",))
        for owner, since in jobs.queued_since.items():
            if self._owner in (None, owner):
                waits.add_metric((owner,), self._waited(since))
        yield waits
        oldest = 0.0 if jobs.oldest_queued is None else self._waited(jobs.oldest_queued)
        yield GaugeMetricFamily("seqae_oldest_queued_seconds", "Longest wait in the queue now", value=oldest)
        speed = "Images per second of all running jobs together, by their newest heartbeats"
        yield GaugeMetricFamily("seqae_training_images_per_second", speed, value=jobs.images_per_second)

    def _waited(self, since: datetime) -> float:
        return max(0.0, (self._context.store.now() - since).total_seconds())

    def _free(self) -> float:
        try:
            return float(shutil.disk_usage(self._context.settings.home).free)
        except OSError as error:
            log.warning("the free space of the home folder can't be read: %s", error)
            return math.nan
