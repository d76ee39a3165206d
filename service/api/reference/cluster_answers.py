"""Examples of answers about the cluster's machines."""

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from jobs.cluster.nodes import NodeState, ProcessRole
from service.schemas.cluster import JoinInformation, NodeList, NodeView, NodeWork, Versions

__all__ = ["cluster_answers"]

_AT = datetime(2026, 11, 25, 9, 30, tzinfo=UTC)


def cluster_answers() -> dict[str, tuple[str, Any]]:
    """Title and value of each, by name."""
    information = JoinInformation(
        head_address="10.0.0.5:6379",
        versions=Versions(seqae=version("seqae"), python="3.11.9", ray="2.60.0", torch="2.14.0"),
        storage="/srv/seqae",
        storage_marker="0b5c7e19d2f84a63b1c9e07f5a2d3846",
    )
    head = NodeView(
        id="c7e0dad3dd2ea41f4bf674acd540bfc3fa804b1de6d250bcc074100d",
        name="desk",
        address="10.0.0.5",
        is_head=True,
        state=NodeState.ALIVE,
        cpus=8,
        cpus_used=1,
        gpus=1,
        gpus_used=1,
        memory_bytes=48e9,
        memory_used_bytes=9.5e9,
        is_idle=False,
        started_at=_AT,
        work=(
            NodeWork(job_id="job_4f7k2m9q1x3z", attempt=1, role=ProcessRole.DRIVER),
            NodeWork(job_id="job_4f7k2m9q1x3z", attempt=1, role=ProcessRole.WORKER, rank=0),
        ),
    )
    second = head.model_copy(
        update={
            "id": "27dea44e6acfdc9126fb96c51a3bb475252215f823d3c9749ee3bf2c",
            "name": "rack",
            "address": "10.0.0.6",
            "is_head": False,
            "work": (NodeWork(job_id="job_4f7k2m9q1x3z", attempt=1, role=ProcessRole.WORKER, rank=1),),
        }
    )
    alone = head.model_copy(update={"cpus_used": 0, "gpus_used": 0, "is_idle": True, "work": ()})
    with_data = information.model_copy(update={"data_dir": "/srv/pictures"})
    return {
        "nodes": ("A training on two machines", NodeList(nodes=(head, second))),
        "nodes_alone": ("One machine that is idle", NodeList(nodes=(alone,))),
        "join": ("A cluster", information),
        "join_data": ("With the users' own data", with_data),
    }
