"""The Kubernetes overlays: rendered, checked against schemas, and against each other."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from jobs.backends.kubernetes.template import ClusterTemplate
from jobs.interfaces import WorkerDemand
from service.settings import LauncherKind, Settings
from tests.kustomize import Manifest, render

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
SCHEMA = json.loads((ROOT / "tests/fixtures/kubernetes/ray.schema.json").read_text())
OVERLAYS = ("one-node", "several", "gpus", "queued")


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(FOLDER / request.param)


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [one for one in manifests if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and spec of every pod that is made."""
    for one in manifests:
        if one["kind"] == "Deployment":
            yield one["metadata"]["name"], one["spec"]["template"]["spec"]
        elif one["kind"] == "RayCluster":
            yield "head", one["spec"]["headGroupSpec"]["template"]["spec"]
            yield from ((group["groupName"], group["template"]["spec"]) for group in one["spec"]["workerGroupSpecs"])


def containers(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods(manifests):
        yield from ((name, container) for container in (*pod.get("initContainers", ()), *pod["containers"]))


def template() -> Manifest:
    """The cluster that each attempt gets where a queue decides."""
    config = named(render(FOLDER / "queued"), "ConfigMap", "attempt-cluster")
    found: Manifest = yaml.safe_load(config["data"]["cluster.yaml"])
    return found


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", ())}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
@pytest.mark.parametrize("name", [".", *OVERLAYS])
def test_kustomize_makes_the_same_of_it(name: str) -> None:
    done = subprocess.run(["kubectl", "kustomize", FOLDER / name], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

    def in_order(found: list[Manifest]) -> list[Manifest]:
        plain: list[Manifest] = json.loads(json.dumps(found, sort_keys=True))
        for pod in pods(plain):
            pod[1].get("volumes", []).sort(key=lambda one: one["name"])
            for container in pod[1].get("initContainers", []) + pod[1]["containers"]:
                for lists in ("env", "volumeMounts"):
                    container.get(lists, []).sort(key=lambda one: one["name"])
        return sorted(plain, key=lambda one: (one["kind"], one["metadata"]["name"]))

    assert in_order(list(yaml.safe_load_all(done.stdout))) == in_order(render(FOLDER / name))


def test_rays_objects_are_of_their_schema(manifests: list[Manifest]) -> None:
    of_ray = [one for one in manifests if one["apiVersion"].startswith("ray.io/")]
    for one in of_ray:
        jsonschema.validate(one, SCHEMA)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda spec: spec.update(workerGroups=[]),
        lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda spec: spec["workerGroupSpecs"][0].update(replicas="2"),
        lambda spec: spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0].pop("resources"),
        lambda spec: spec["autoscalerOptions"].update(version="v3"),
        lambda spec: spec["headGroupSpec"]["template"]["spec"].pop("securityContext"),
    ],
)
def test_the_schema_refuses_what_the_operator_would(break_it: Any) -> None:
    cluster = named(render(FOLDER / "several"), "RayCluster", "ray")
    jsonschema.validate(cluster, SCHEMA)
    break_it(cluster["spec"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster, SCHEMA)


def test_every_pod_is_restricted_and_has_a_limit_of_memory(manifests: list[Manifest]) -> None:
    found = [*pods(manifests), *pods([template()])]
    assert len(found) >= 5
    for name, pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["enableServiceLinks"] is False, name
        assert all("memory" in container["resources"]["limits"] for container in pod["containers"]), name
    for name, container in [*containers(manifests), *containers([template()])]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        assert container["image"] == "seqae", name
    namespace = yaml.safe_load((FOLDER / "namespace.yaml").read_text())
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_probes_need_only_their_own_parts(manifests: list[Manifest]) -> None:
    (api,) = [container for name, container in containers(manifests) if container["name"] == "api"]
    assert api["readinessProbe"]["httpGet"]["path"] == "/readyz", "green without Ray and MLflow"
    assert api["livenessProbe"]["httpGet"]["path"] == "/healthz", "asks nobody"


def test_every_variable_is_a_setting(manifests: list[Manifest]) -> None:
    names = {name for _, container in containers(manifests) for name in environment(container)}
    ours = {name for name in names if name.startswith("SEQAE_")}
    assert len(ours) >= 6
    assert {name.removeprefix("SEQAE_").lower() for name in ours} - Settings.model_fields.keys() == set()


def test_services_find_each_other(manifests: list[Manifest]) -> None:
    ports = {one["metadata"]["name"]: one["spec"]["ports"][0]["port"] for one in manifests if one["kind"] == "Service"}
    clusters = [one["metadata"]["name"] for one in manifests if one["kind"] == "RayCluster"]
    ports |= {f"{name}-head-svc": 8265 for name in clusters}  # the operator makes it
    (api,) = [container for name, container in containers(manifests) if container["name"] == "api"]
    told = environment(api)
    launched = told.get("SEQAE_LAUNCHER") == "kubernetes"
    for name in ("SEQAE_MLFLOW_URL", *(() if launched else ("SEQAE_RAY_URL",))):
        found = re.fullmatch(r"http://([a-z-]+):(\d+)", told[name])
        assert found is not None
        assert ports[found.group(1)] == int(found.group(2)), name
    assert told["SEQAE_PORT"] == str(ports["api"])


def test_policies_name_pods_that_there_are(manifests: list[Manifest]) -> None:
    """Everything is closed, and each policy opens a port that a pod listens on."""
    labels = {
        one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
        for one in manifests
        if one["kind"] == "Deployment"
    }
    labels |= {"ray"}  # the operator makes its pods, where there is no Deployment
    policies = {one["metadata"]["name"]: one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"}
    assert policies.keys() - {"closed"} == labels
    assert policies["closed"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    for name in labels:
        assert policies[name]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": name}
        listened = {
            port["containerPort"]
            for pod, container in [*containers(manifests), *containers([template()])]
            for port in container.get("ports", ())
            if name in (pod, {"head": "ray"}.get(pod))
        }
        for rule in policies[name]["ingress"]:
            assert {port["port"] for port in rule.get("ports", ())} <= listened, name


def test_several_nodes_have_no_single_point_of_their_own() -> None:
    manifests = render(FOLDER / "several")
    api = named(manifests, "Deployment", "api")["spec"]
    budget = named(manifests, "PodDisruptionBudget", "api")["spec"]
    assert (api["replicas"], budget["minAvailable"]) == (2, 1)
    assert budget["selector"] == api["selector"]
    by_name = {container["name"]: environment(container) for _, container in containers(manifests)}
    database = {"secretKeyRef": {"name": "databases", "key": "jobs"}}
    assert by_name["api"]["SEQAE_DATABASE_URL"] == by_name["first-token"]["SEQAE_DATABASE_URL"] == database
    assert "sqlite" not in json.dumps(manifests)
    assert named(manifests, "PersistentVolumeClaim", "home")["spec"]["accessModes"] == ["ReadWriteMany"]
    cluster = named(manifests, "RayCluster", "ray")["spec"]
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "workers train, the head does not"
    assert json.loads(json.loads(cluster["headGroupSpec"]["rayStartParams"]["resources"])) == {"trial_driver": 16}
    pinned = re.search(r"^ray==(.+)$", (ROOT / "deploy/constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert cluster["rayVersion"] == pinned.group(1)


def test_gpus_are_a_group_of_their_own() -> None:
    several, gpus = (named(render(FOLDER / name), "RayCluster", "ray")["spec"] for name in ("several", "gpus"))
    assert gpus["workerGroupSpecs"][:-1] == several["workerGroupSpecs"]
    group = gpus["workerGroupSpecs"][-1]
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == group["rayStartParams"]["num-gpus"] == "1"
    assert {**several, "workerGroupSpecs": []} == {**gpus, "workerGroupSpecs": []}


def test_attempts_of_a_queue_get_clusters_of_the_same_schema() -> None:
    manifest = template()
    jsonschema.validate(manifest, SCHEMA)
    cluster = ClusterTemplate(manifest)
    for demand, name in ((WorkerDemand(4, 2, 0), "cpu"), (WorkerDemand(8, 4, 1), "gpu")):
        spec = cluster.cluster_spec(demand)
        jsonschema.validate({**manifest, "spec": spec}, SCHEMA)
        assert [group["groupName"] for group in spec["workerGroupSpecs"]] == [name]
    assert (
        manifest["spec"]["rayVersion"] == named(render(FOLDER / "several"), "RayCluster", "ray")["spec"]["rayVersion"]
    )


def test_the_launcher_may_do_what_it_does_and_no_more() -> None:
    manifests = render(FOLDER / "queued")
    rules = {
        (group, resource): set(rule["verbs"])
        for rule in named(manifests, "Role", "launcher")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert rules == {
        ("ray.io", "rayjobs"): {"create", "get", "list", "delete"},
        ("", "pods"): {"list"},
        ("", "namespaces"): {"get"},
    }
    account = named(manifests, "Deployment", "api")["spec"]["template"]["spec"]["serviceAccountName"]
    assert named(manifests, "RoleBinding", "launcher")["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    (api,) = [one for _, one in containers(manifests) if one["name"] == "api"]
    told = environment(api)
    mounts = {one["mountPath"] for one in api["volumeMounts"]}
    assert str(Path(told["SEQAE_KUBERNETES_TEMPLATE"]).parent) in mounts
    assert Settings(launcher=told["SEQAE_LAUNCHER"]).launcher is LauncherKind.KUBERNETES
    assert json.loads(told["SEQAE_KUBERNETES_LABELS"]) == {"kueue.x-k8s.io/queue-name": "seqae"}
