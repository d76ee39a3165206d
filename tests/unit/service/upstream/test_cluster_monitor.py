"""The cluster as the control plane sees it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.backends.fakes import FakeLauncher
from jobs.cluster.nodes import ClusterNode, NodeResources, NodeState
from jobs.errors import LauncherUnavailable
from jobs.interfaces import Capacity, NodeCapacity, ProcessState, Submission
from service.upstream.cluster_monitor import ClusterMonitor, ClusterStatus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SUBMISSION = Submission(job_id="job_a", attempt=1, kind="train", job_dir=Path("/x"))


def test_the_status_of_an_attempt() -> None:
    launcher = FakeLauncher()
    cluster, cluster_id = ClusterMonitor(launcher, lambda: NOW), launcher.cluster_id()
    assert cluster.status("job_a-1", cluster_id) == ClusterStatus.GONE
    launcher.submit(SUBMISSION)
    assert cluster.status("job_a-1", cluster_id) == ClusterStatus.ALIVE
    for state in (ProcessState.SUCCEEDED, ProcessState.FAILED, ProcessState.STOPPED):
        launcher.finish("job_a-1", state)
        assert cluster.status("job_a-1", cluster_id) == ClusterStatus.ENDED
    another = cluster.status("job_a-1", "another")
    assert another == ClusterStatus.GONE, "another cluster's word on this name means nothing"


def test_a_cluster_that_does_not_answer_is_left_alone_for_a_moment() -> None:
    launcher, now = FakeLauncher(), NOW
    cluster = ClusterMonitor(launcher, lambda: now, rest=2.0)
    launcher.unreachable = True
    assert cluster.status("job_a-1", "cluster-1") == ClusterStatus.UNKNOWN
    launcher.unreachable = False
    assert cluster.status("job_a-1", "cluster-1") == ClusterStatus.UNKNOWN
    now += timedelta(seconds=2)
    assert cluster.status("job_a-1", "cluster-1") == ClusterStatus.GONE


def test_every_call_goes_through_the_one_breaker() -> None:
    launcher = FakeLauncher()
    cluster = ClusterMonitor(launcher, lambda: NOW)
    launcher.unreachable = True
    with pytest.raises(LauncherUnavailable):
        cluster.capacity()
    launcher.unreachable = False
    for call in (
        lambda: cluster.submit(SUBMISSION),
        lambda: cluster.state("job_a-1"),
        lambda: cluster.stop("job_a-1"),
        lambda: cluster.logs("job_a-1"),
        cluster.capacity,
        cluster.recent_capacity,
        cluster.nodes,
        cluster.recent_nodes,
        cluster.cluster_id,
        cluster.live,
    ):
        with pytest.raises(LauncherUnavailable):
            call()
    assert (launcher.submitted, launcher.stopped) == ([], []), "nobody was asked"


def test_every_call_reaches_the_launcher() -> None:
    launcher = FakeLauncher()
    cluster = ClusterMonitor(launcher, lambda: NOW)
    cluster.submit(SUBMISSION)
    launcher.print("job_a-1", "hello")
    assert (cluster.state("job_a-1"), cluster.logs("job_a-1")) == (ProcessState.PENDING, "hello")
    assert (cluster.live(), cluster.cluster_id()) == ({"job_a-1"}, launcher.cluster_id())
    assert cluster.capacity() == cluster.recent_capacity() == launcher.capacity()
    cluster.stop("job_a-1")
    assert launcher.stopped == ["job_a-1"]


def test_the_capacity_is_asked_for_every_few_seconds() -> None:
    launcher, now = FakeLauncher(), NOW
    cluster = ClusterMonitor(launcher, lambda: now)
    first = cluster.recent_capacity()
    launcher.set_capacity(type(first)(()))
    assert cluster.recent_capacity() == first
    assert cluster.capacity().nodes == (), "asked anew"
    now += timedelta(seconds=5)
    assert cluster.recent_capacity().nodes == ()


def test_the_machines_are_asked_for_every_two_seconds() -> None:
    launcher, now = FakeLauncher(), NOW
    cluster = ClusterMonitor(launcher, lambda: now)
    size = NodeResources(cpus=2)
    assert cluster.recent_nodes() == ()
    launcher.machines = (ClusterNode("a", "desk", "10.0.0.5", True, NodeState.ALIVE, size, size),)
    assert cluster.recent_nodes() == ()
    assert cluster.nodes() == launcher.machines, "asked anew"
    now += timedelta(seconds=2)
    assert cluster.recent_nodes() == launcher.machines


def test_a_clock_that_is_set_back_keeps_no_call_back() -> None:
    """B7: the breaker stayed open, and the size of the cluster was an hour old."""
    launcher, now = FakeLauncher(), NOW
    cluster = ClusterMonitor(launcher, lambda: now, rest=2.0)
    assert cluster.recent_capacity().cpus == 2
    launcher.set_capacity(Capacity((NodeCapacity(cpus=8, gpus=0),)))
    launcher.unreachable = True
    assert cluster.status("job_a-1", "cluster-1") == ClusterStatus.UNKNOWN
    launcher.unreachable = False
    now -= timedelta(hours=1)
    assert cluster.status("job_a-1", "cluster-1") == ClusterStatus.GONE
    assert cluster.recent_capacity().cpus == 8
