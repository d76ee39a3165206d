"""The template of a RayJob's cluster."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.backends.kubernetes.template import ClusterTemplate
from jobs.errors import SubmissionRefused
from jobs.interfaces import NodeCapacity, WorkerDemand
from seqae.errors import Error


def group(name: str, most: int, **limits: str | int) -> dict[str, Any]:
    container = {"name": "ray-worker", "resources": {"limits": limits}}
    return {"groupName": name, "maxReplicas": most, "template": {"spec": {"containers": [container]}}}


def manifest(*groups: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "RayCluster", "spec": {"rayVersion": "2.60.0", "workerGroupSpecs": list(groups)}}


CPUS, GPUS = group("cpu", 3, cpu="1500m", memory="2Gi"), group("gpu", 2, cpu=8, memory="1G", **{"nvidia.com/gpu": "4"})


def test_each_pod_that_there_may_be_is_a_machine() -> None:
    nodes = ClusterTemplate(manifest(CPUS, GPUS)).nodes
    assert nodes == (*[NodeCapacity(1.5, 0, 2 * 1024**3)] * 3, *[NodeCapacity(8, 4, 1e9)] * 2)


@pytest.mark.parametrize(
    ("demand", "name", "pods"),
    [
        (WorkerDemand(1, 1, 0), "cpu", 1),
        (WorkerDemand(3, 0.5, 0), "cpu", 1),
        (WorkerDemand(4, 0.5, 0), "cpu", 2),
        (WorkerDemand(3, 1, 0), "cpu", 3),
        (WorkerDemand(4, 1, 1), "gpu", 1),
        (WorkerDemand(5, 1, 1), "gpu", 2),
        (WorkerDemand(2, 4, 0.5), "gpu", 1),
    ],
)
def test_as_many_pods_as_an_attempt_needs(demand: WorkerDemand, name: str, pods: int) -> None:
    original = manifest(CPUS, GPUS)
    (found,) = ClusterTemplate(original).cluster_spec(demand)["workerGroupSpecs"]
    assert (found["groupName"], found["replicas"], found["minReplicas"]) == (name, pods, pods)
    assert original == manifest(CPUS, GPUS), "the template itself stays"


@pytest.mark.parametrize(
    "demand", [WorkerDemand(4, 1, 0), WorkerDemand(1, 2, 0), WorkerDemand(9, 1, 1), WorkerDemand(1, 1, 5)]
)
def test_what_has_no_room_is_refused(demand: WorkerDemand) -> None:
    with pytest.raises(SubmissionRefused, match="no group of the cluster's template has room"):
        ClusterTemplate(manifest(CPUS, GPUS)).cluster_spec(demand)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "all of it"),
        ({"kind": "RayJob"}, "kind"),
        (manifest(), "workerGroupSpecs"),
        (manifest({"groupName": "x"}), "maxReplicas"),
        (manifest(group("x", 0, cpu=1)), "maxReplicas"),
        (manifest(group("x", 1)), "no limit of CPUs"),
        (manifest(group("x", 1, cpu="many")), "no quantity"),
        (manifest(group("x", 1, cpu="-1")), "no quantity"),
        (manifest(group("x", 1, cpu=1, memory="1Zi")), "no quantity"),
    ],
)
def test_what_is_no_template_is_told(content: Any, why: str) -> None:
    with pytest.raises(Error, match=why):
        ClusterTemplate(content)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(manifest(CPUS)))
    assert len(ClusterTemplate.load(path).nodes) == 3
    for content in (b"\xff", b"a: [", b"[" * 100_000, b"- &a [*a]"):
        path.write_bytes(content)
        with pytest.raises(Error, match="template"):
            ClusterTemplate.load(path)
    with pytest.raises(Error, match="No such file"):
        ClusterTemplate.load(tmp_path / "none")
