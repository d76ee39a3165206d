"""Rights of containers: what every one of them must give up, however many there are.

No Docker engine and no cluster runs here: the files are read, and `test_the_service_writes_nothing_elsewhere` runs the
service and looks at what it opens.
"""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.kustomize import render

ROOT = Path(__file__).parents[2]
WRITABLE = {"/var/lib/seqae", "/tmp", "/dev/shm"}
POD_KEYS = ("containers", "initContainers", "ephemeralContainers")


def _pods(node: Any) -> Iterator[dict[str, Any]]:
    """Every pod in a document, in whatever kind of object it is."""
    if isinstance(node, dict):
        if any(key in node for key in POD_KEYS):
            yield node
        for value in node.values():
            yield from _pods(value)
    elif isinstance(node, list):
        for value in node:
            yield from _pods(value)


def _documents(overlay: str) -> Iterator[tuple[str, Any]]:
    for document in render(ROOT / "deploy/kubernetes" / overlay):
        yield document["metadata"]["name"], document
        if document["kind"] == "ConfigMap":
            # The cluster that each attempt gets.
            yield from ((name, yaml.safe_load(text)) for name, text in document["data"].items())


PODS = [
    (f"{overlay}-{name}", pod)
    for overlay in ("one-node", "several", "gpus", "queued")
    for name, document in _documents(overlay)
    for pod in _pods(document)
]
ASKS_KUBERNETES = {"several-ray-ray-head", "gpus-ray-ray-head", "queued-api-api"}
"""The autoscaler is in the head's pod, and the launcher makes RayJobs."""
CONTAINERS = [
    pytest.param(
        pod, container, f"{name}-{pod['containers'][0]['name']}" in ASKS_KUBERNETES, id=f"{name}-{container['name']}"
    )
    for name, pod in PODS
    for key in POD_KEYS
    for container in pod.get(key, ())
]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
COMPOSE = {name: service for name, service in SERVICES.items() if service["image"] == "seqae"}
OTHERS = {name: service for name, service in SERVICES.items() if service["image"] != "seqae"}


def test_all_are_found() -> None:
    assert [name for name, _ in PODS[:3]] == ["one-node-mlflow", "one-node-api", "one-node-ray"]
    assert [name for name, _ in PODS].count("several-ray") == 2
    assert [name for name, _ in PODS].count("gpus-ray") == 3
    assert [name for name, _ in PODS].count("queued-cluster.yaml") == 3
    assert len(CONTAINERS) == 5 + 6 + 7 + 7
    small = {name for name, service in SERVICES.items() if service["profiles"] == ["small"]}
    assert small == {"setup", "mlflow", "ray", "api"}
    assert OTHERS.keys() == {"postgres", "s3", "proxy"}


@pytest.mark.parametrize(("pod", "container", "asks"), CONTAINERS)
def test_a_container_of_a_pod_has_no_rights(pod: dict[str, Any], container: dict[str, Any], asks: bool) -> None:
    """The profile "restricted" of the Pod Security Standards, a read-only root, and bounds of memory."""
    of_pod, own = pod["securityContext"], container["securityContext"]
    assert own == {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert of_pod["runAsNonRoot"] is True
    assert of_pod["runAsUser"] == of_pod["runAsGroup"] == 10001
    assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is asks
    assert not any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
    assert container["resources"]["requests"].keys() - {"nvidia.com/gpu"} == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize(("pod", "container", "asks"), CONTAINERS)
def test_what_a_container_writes_has_a_volume(pod: dict[str, Any], container: dict[str, Any], asks: bool) -> None:
    kinds = {volume["name"]: set(volume) - {"name"} for volume in pod["volumes"]}
    assert set().union(*kinds.values()) <= {"persistentVolumeClaim", "secret", "configMap", "emptyDir"}, (
        "nothing of the node's own"
    )
    paths = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert {"/var/lib/seqae", "/tmp"} <= paths.keys()
    for path, mount in paths.items():
        if kinds[mount["name"]] <= {"secret", "configMap"}:
            assert mount["readOnly"] is True
        else:
            assert path in WRITABLE
    for volume in pod["volumes"]:
        assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), "a full one is no other pod's trouble"


@pytest.mark.parametrize("name", COMPOSE)
def test_a_container_of_compose_has_no_rights(name: str) -> None:
    service = COMPOSE[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert re.fullmatch(r"\d+g", service["mem_limit"])
    assert service["pids_limit"] > 0
    (tmpfs,) = service["tmpfs"]
    path, _, options = tmpfs.partition(":")
    assert path == "/tmp"
    assert re.search(r"\bsize=\d+g\b", options)
    assert service["volumes"] == ["home:/var/lib/seqae", *(["secrets:/secrets"] if name == "full-secrets" else [])]


@pytest.mark.parametrize("name", OTHERS)
def test_a_container_of_another_image_gains_no_rights(name: str) -> None:
    """They begin as their images want, and own what they keep; what belongs to jobs is not mounted."""
    service = OTHERS[name]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert re.fullmatch(r"\d+[gm]", service["mem_limit"])
    assert service["pids_limit"] > 0
    assert ":" in service["image"], "a version"
    assert "home" not in str(service["volumes"])
    assert all(volume["read_only"] for volume in service["volumes"] if isinstance(volume, dict))


def test_the_image_ends_as_a_user_without_rights() -> None:
    lines = (ROOT / "deploy/Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["10001:10001"], "by number: Kubernetes does not know names"
    after = lines[lines.index("USER 10001:10001") :]
    assert not any(line.startswith(("RUN ", "COPY ", "ADD ")) for line in after), "nothing of the image is its own"


# --- what a read-only root allows

WATCHED = """
import os, runpy, sys

log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
PATHS = {"os.mkdir": (0,), "os.rename": (0, 1), "os.remove": (0,), "os.rmdir": (0,), "os.chmod": (0,), "os.link": (1,),
         "os.symlink": (1,), "os.truncate": (0,), "os.utime": (0,), "sqlite3.connect": (0,)}

def note(event, arguments):
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES:
        found = arguments[:1]
    else:
        found = [arguments[at] for at in PATHS.get(event, ())]
    for path in found:
        if isinstance(path, (str, bytes, os.PathLike)):
            os.write(log, os.fsencode(os.path.abspath(os.fsdecode(path))) + b"\\n")

sys.addaudithook(note)
sys.argv = ["service"]
runpy.run_module("service", run_name="__main__", alter_sys=True)
"""


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _ready(port: int) -> httpx.Response:
    """An answer of the service, once it starts to give any."""
    end = time.monotonic() + 90
    while True:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=10, trust_env=False)
        except httpx.HTTPError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def test_the_service_writes_nothing_elsewhere(tmp_path: Path) -> None:
    """Whatever the service's process writes lies in its home folder or in TMPDIR: the rest may be read-only."""
    folders = {name: tmp_path / name for name in ("home", "tmp", "user", "cwd")}
    for folder in folders.values():
        folder.mkdir()
    port, opened = _free_port(), tmp_path / "opened"
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folders["user"]),
        "TMPDIR": str(folders["tmp"]),
        "SEQAE_HOME": str(folders["home"]),
        "SEQAE_PORT": str(port),
        # Nothing listens on either: the service is to be seen alone.
        "SEQAE_MLFLOW_URL": "http://127.0.0.1:9",
        "SEQAE_RAY_URL": "http://127.0.0.1:9",
    }
    process = subprocess.Popen([sys.executable, "-c", WATCHED, str(opened)], env=environment, cwd=folders["cwd"])
    try:
        assert _ready(port).status_code == 200
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            assert client.post("/jobs", json={"kind": "train", "name": "x"}).status_code == 201
            png = b"\x89PNG\r\n\x1a\n" + b"\0" * 100
            assert client.post("/reconstruct", content=png, headers={"content-type": "image/png"}).is_error
            assert client.get("/").status_code == client.get("/docs").status_code == 200
            time.sleep(2)  # the reconciler tries to submit it
    finally:
        process.terminate()
        process.wait(30)
    paths = {Path(line) for line in opened.read_text().splitlines()}
    allowed = (folders["home"], folders["tmp"], Path("/dev"), Path("/proc/self"))
    assert [path for path in paths if not any(path.is_relative_to(folder) for folder in allowed)] == []
    assert any(path.is_relative_to(folders["home"] / "control") for path in paths), "the watch works"
    assert list(folders["user"].iterdir()) == list(folders["cwd"].iterdir()) == []
