"""What deploy/ and docker-compose.yml say has to fit what the package needs; only a look at both can tell."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([A-Za-z0-9_.+!-]+)$")


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def _pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "deploy/constraints.txt").read_text().splitlines() if not line.startswith("#")]
    found = [PIN.match(line) for line in lines]
    assert all(found), [line for line, pin in zip(lines, found, strict=True) if not pin]
    return {_name(pin.group(1)): pin.group(2) for pin in found if pin}


def test_every_dependency_is_pinned_to_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {_name(line) for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]}
    assert wanted - _pins().keys() == set()
    assert "seqae" not in _pins()


def _kubernetes() -> list[dict[str, Any]]:
    folder = ROOT / "deploy/kubernetes"
    names = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert {folder / name for name in names} == set(folder.glob("*.yaml")) - {folder / "kustomization.yaml"}
    return [document for name in names for document in yaml.safe_load_all((folder / name).read_text())]


def _deployments() -> dict[str, dict[str, Any]]:
    found = [document for document in _kubernetes() if document["kind"] == "Deployment"]
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"]["containers"][0] for one in found}


def _compose() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])


def _variables() -> Iterator[str]:
    yield from re.findall(r"\b(SEQAE_[A-Z_]+)=", (ROOT / "deploy/Dockerfile").read_text())
    for service in _compose().values():
        yield from service.get("environment", {})
    for container in _deployments().values():
        yield from (variable["name"] for variable in container.get("env", ()))


def test_both_describe_the_same_three_services() -> None:
    compose, kubernetes = _compose(), _deployments()
    assert compose.keys() - {"setup"} == kubernetes.keys() == {"mlflow", "ray", "api"}
    for name, container in kubernetes.items():
        same = {word for word in compose[name]["command"] if not word.startswith("--allowed-hosts")}
        assert same == {word for word in container["command"] if not word.startswith("--allowed-hosts")}, name
        assert compose[name]["image"] == container["image"]


def test_every_variable_is_a_setting() -> None:
    ours = {name for name in _variables() if name.startswith("SEQAE_")}
    assert len(ours) >= 6
    assert {name.removeprefix("SEQAE_").lower() for name in ours} - Settings.model_fields.keys() == set()


def test_services_find_each_other() -> None:
    ports = {
        document["metadata"]["name"]: document["spec"]["ports"][0]["port"]
        for document in _kubernetes()
        if document["kind"] == "Service"
    }
    environment = {variable["name"]: variable["value"] for variable in _deployments()["api"]["env"]}
    for name in ("mlflow", "ray"):
        assert environment[f"SEQAE_{name.upper()}_URL"] == f"http://{name}:{ports[name]}"
        assert _compose()["api"]["environment"][f"SEQAE_{name.upper()}_URL"] == f"http://{name}:{ports[name]}"
    assert environment["SEQAE_PORT"] == str(ports["api"])


def test_no_port_is_published_beyond_this_machine() -> None:
    published = [port for service in _compose().values() for port in service.get("ports", ())]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_kustomize_takes_it() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", ROOT / "deploy/kubernetes"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert len(list(yaml.safe_load_all(done.stdout))) == len(_kubernetes())
