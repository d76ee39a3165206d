"""Views of the cluster's machines with the jobs, attempts and ranks that run on them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jobs.cluster.drains import read_drains
from jobs.cluster.nodes import ClusterNode, NodeProcess, NodeState, ProcessRole
from jobs.directory.layout import JobFolder
from jobs.directory.placements import read_ranks
from service.db.column_types import wire_safe
from service.db.store import Store
from service.schemas.cluster import NodeList, NodeView, NodeWork

__all__ = ["node_list"]


def node_list(nodes: Sequence[ClusterNode], store: Store, jobs_dir: Path, sees_only: str | None) -> NodeList:
    """The machines as whoever asks may see them.

    Args:
        nodes: as the cluster told.
        store: the job database, which knows whose a job is.
        jobs_dir: folder of the job folders, where ranks are looked up; machines that leave are beside it.
        sees_only: the owner whose jobs alone are named; None: all are. Others' work is shown without its job.
    """
    attempts = {process.submission_id: _attempt(process.submission_id) for node in nodes for process in node.processes}
    leaving = read_drains(jobs_dir.parent)
    rows = store.jobs([job_id for job_id, _ in attempts.values()])
    # A job that this database does not know is nobody's: it was submitted to the cluster by other means.
    shown = {job_id for job_id, row in rows.items() if sees_only in (None, row.owner)}
    ranks: dict[str, int] = {}
    for job_id, attempt in attempts.values():
        if job_id in shown:
            ranks |= read_ranks(JobFolder(jobs_dir / job_id).attempt(attempt))
    return NodeList(nodes=tuple(_view(_with_drain(node, leaving), attempts, shown, ranks) for node in nodes))


def _with_drain(node: ClusterNode, leaving: Collection[tuple[str, str]]) -> ClusterNode:
    """A machine that is written down as leaving is draining, as long as the cluster has it alive."""
    if node.state is not NodeState.ALIVE or (node.name, node.address) not in leaving:
        return node
    return replace(node, state=NodeState.DRAINING, detail="it was asked to leave")


def _attempt(submission_id: str) -> tuple[str, int]:
    """Job and attempt of a submission; others than ours may have any name."""
    job_id, _, number = submission_id.rpartition("-")
    return (job_id, int(number)) if number.isascii() and number.isdigit() and len(number) < 10 else (submission_id, 0)


def _view(
    node: ClusterNode, attempts: Mapping[str, tuple[str, int]], shown: set[str], ranks: Mapping[str, int]
) -> NodeView:
    work = [_work(process, *attempts[process.submission_id], shown, ranks) for process in node.processes]
    return NodeView(
        id=node.id,
        name=wire_safe(node.name),
        address=node.address,
        is_head=node.is_head,
        state=node.state,
        detail=wire_safe(node.detail),
        cpus=node.capacity.cpus,
        cpus_used=node.used.cpus,
        gpus=node.capacity.gpus,
        gpus_used=node.used.gpus,
        memory_bytes=node.capacity.memory_bytes,
        memory_used_bytes=node.used.memory_bytes,
        is_idle=node.state is NodeState.ALIVE and not work and node.used.cpus == node.used.gpus == 0,
        started_at=node.started_at,
        ended_at=node.ended_at,
        work=tuple(sorted(work, key=_place)),
    )


def _work(process: NodeProcess, job_id: str, attempt: int, shown: set[str], ranks: Mapping[str, int]) -> NodeWork:
    if job_id not in shown:
        return NodeWork(job_id=None, attempt=None, role=process.role)
    rank = ranks.get(process.process_id) if process.role is ProcessRole.WORKER else None
    return NodeWork(job_id=job_id, attempt=attempt, role=process.role, rank=rank)


def _place(work: NodeWork) -> tuple[str, int, bool, int]:
    return (work.job_id or "~", work.attempt or 0, work.role is not ProcessRole.DRIVER, work.rank or 0)
