"""Machines of a Ray cluster, out of four answers of its dashboard: nodes, their use, actors, and submitted jobs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AliasPath, BaseModel, BeforeValidator, Field, ValidationError

from jobs.cluster.nodes import ClusterNode, NodeProcess, NodeResources, NodeState, ProcessRole
from jobs.errors import LauncherUnavailable

__all__ = ["RayAnswers", "cluster_nodes"]

_MOST_DEAD = 20
"""Dead nodes that are told of, those that died last; Ray remembers a thousand."""

_SUPERVISOR = "JobSupervisor"
_SUPERVISOR_NAME = "_ray_internal_job_actor_"
_ROLES = {"RayTrainWorker": ProcessRole.WORKER, "TrainTrainable": ProcessRole.TRIAL_DRIVER}


def _mapping_or_empty(value: object) -> object:
    return {} if value is None else value


class _Snapshot(BaseModel):
    state: str = ""


class _Raylet(BaseModel):
    """Ray's own record of a node."""

    id: str = Field(alias="nodeId")
    name: str = Field("", alias="nodeName")
    address: str = Field("", alias="nodeManagerAddress")
    is_head: bool = Field(False, alias="isHeadNode")
    state: str
    message: str | None = Field(None, alias="stateMessage")
    resources: Annotated[dict[str, float], BeforeValidator(_mapping_or_empty)] = Field({}, alias="resourcesTotal")
    snapshot: Annotated[_Snapshot, BeforeValidator(_mapping_or_empty)] = Field(_Snapshot(), alias="stateSnapshot")
    started_ms: int = Field(0, alias="startTimeMs")
    ended_ms: int = Field(0, alias="endTimeMs")


class _Summary(BaseModel):
    """A node of `/nodes?view=summary`."""

    raylet: _Raylet
    memory: list[float] = Field([], alias="mem")
    """Total, available, percent, used."""


class _Actor(BaseModel):
    """An actor of `/api/v0/actors`."""

    id: str = Field(alias="actor_id")
    kind: str = Field("", alias="class_name")
    state: str
    job_id: str | None = None
    name: str | None = None
    node_id: str | None = None


class _Job(BaseModel):
    """A job of `/api/jobs/`."""

    job_id: str | None = None
    submission_id: str | None = None


class _Loads(BaseModel):
    usage: Annotated[dict[str, dict[str, tuple[float, float]]], BeforeValidator(_mapping_or_empty)] = Field(
        {}, alias="usageByNode"
    )
    """Used and total, by node and resource."""


class _Status(BaseModel):
    loads: Annotated[_Loads, BeforeValidator(_mapping_or_empty)] = Field(_Loads(), alias="loadMetricsReport")


class _Report(BaseModel):
    status: Annotated[_Status, BeforeValidator(_mapping_or_empty)] = Field(_Status(), alias="clusterStatus")


class RayAnswers(BaseModel):
    """What of the dashboard's answers is read; all else in them is left aside."""

    nodes: list[_Summary] = Field(validation_alias=AliasPath("nodes", "data", "summary"))
    report: _Report = Field(validation_alias=AliasPath("report", "data"))
    actors: list[_Actor] = Field(validation_alias=AliasPath("actors", "data", "result", "result"))
    jobs: list[_Job]

    @classmethod
    def parse(cls, nodes: Any, report: Any, actors: Any, jobs: Any) -> "RayAnswers":
        """Of the parsed JSON of each answer.

        Raises:
            LauncherUnavailable: one is not as Ray gives it; the text names the field.
        """
        try:
            return cls.model_validate({"nodes": nodes, "report": report, "actors": actors, "jobs": jobs})
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise LauncherUnavailable(f"the cluster's answer is not as Ray gives it: {where}") from error


def cluster_nodes(answers: RayAnswers) -> tuple[ClusterNode, ...]:
    """The machines, the head first, then by name; of the dead the newest ones."""
    processes = _processes(answers.actors, answers.jobs)
    usage = answers.report.status.loads.usage
    found = [_node(node, usage.get(node.raylet.id, {}), processes) for node in answers.nodes]
    dead = sorted(
        (node for node in found if node.state is NodeState.DEAD),
        key=lambda node: node.ended_at or datetime.min.replace(tzinfo=UTC),
        reverse=True,
    )
    living = [node for node in found if node.state is not NodeState.DEAD]
    return (*sorted(living, key=lambda node: (not node.is_head, node.name, node.id)), *dead[:_MOST_DEAD])


def _processes(actors: Sequence[_Actor], jobs: Sequence[_Job]) -> Mapping[str, list[NodeProcess]]:
    """Processes of attempts by the node that they run on."""
    submissions = {job.job_id: job.submission_id for job in jobs if job.job_id and job.submission_id}
    found: dict[str, list[NodeProcess]] = defaultdict(list)
    for actor in actors:
        if actor.state != "ALIVE" or not actor.node_id:
            continue
        name = actor.name or ""
        if actor.kind == _SUPERVISOR and name.startswith(_SUPERVISOR_NAME):
            process = NodeProcess(name.removeprefix(_SUPERVISOR_NAME), ProcessRole.DRIVER, actor.id)
        elif actor.kind in _ROLES and actor.job_id in submissions:
            process = NodeProcess(submissions[actor.job_id], _ROLES[actor.kind], actor.id)
        else:
            continue
        found[actor.node_id].append(process)
    return found


def _node(
    node: _Summary, usage: Mapping[str, tuple[float, float]], processes: Mapping[str, list[NodeProcess]]
) -> ClusterNode:
    raylet = node.raylet
    state = NodeState.ALIVE if raylet.state == "ALIVE" else NodeState.DEAD
    if state is NodeState.ALIVE and raylet.snapshot.state == "DRAINING":
        state = NodeState.DRAINING
    used = {name: pair[0] for name, pair in usage.items()}
    return ClusterNode(
        id=raylet.id,
        name=raylet.name,
        address=raylet.address,
        is_head=raylet.is_head,
        state=state,
        capacity=_resources(raylet.resources, raylet.resources.get("memory", 0.0)),
        used=_resources(used, node.memory[3] if len(node.memory) > 3 and state is not NodeState.DEAD else 0.0),
        detail=(raylet.message or "")[:300],
        started_at=_time(raylet.started_ms),
        ended_at=_time(raylet.ended_ms),
        processes=() if state is NodeState.DEAD else tuple(processes.get(raylet.id, ())),
    )


def _resources(resources: Mapping[str, float], memory: float) -> NodeResources:
    return NodeResources(resources.get("CPU", 0.0), resources.get("GPU", 0.0), memory)


def _time(milliseconds: int) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds > 0 else None
