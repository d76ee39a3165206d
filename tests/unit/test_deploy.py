"""Consistency of the files around the code: dependencies, Makefile, pre-commit hooks, image, compose and Kubernetes."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
ROOMS = ("seqae", "jobs", "service")
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


def _project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def _sources() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


# --- dependencies


def test_every_dependency_is_pinned_to_one_version() -> None:
    project = _project()
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    wanted = {_name(line) for line in [*project["dependencies"], *extras]}
    assert wanted - _pins().keys() == set()
    assert "seqae" not in _pins()


def _imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name.partition(".")[0] for name in found}


def test_what_is_imported_is_a_dependency_of_its_own() -> None:
    packages = {name for path in _sources() for name in _imported(path)} - sys.stdlib_module_names - set(ROOMS)
    assert len(packages) > 20
    project = _project()
    # `seqae bench` alone needs its extra; without it those methods say so.
    declared = {_name(line) for line in [*project["dependencies"], *project["optional-dependencies"]["bench"]]}
    # pydantic pins its core; mlflow's package is in several distributions.
    distributions = {name: {_name(one) for one in packages_distributions()[name]} for name in packages}
    missing = {name for name, found in distributions.items() if not found & declared}
    assert missing == {"pydantic_core"}


def test_what_checks_the_code_is_not_needed_to_run_it() -> None:
    project = _project()
    extras = project["optional-dependencies"]
    assert extras.keys() == {"bench", "dev"}
    runtime, dev = ({_name(line) for line in lines} for lines in (project["dependencies"], extras["dev"]))
    assert set(extras["bench"]) <= set(extras["dev"]), "what the extra is for is tested"
    assert dev & runtime == set()
    assert {"pytest", "pytest-cov", "pytest-xdist", "mypy", "ruff", "import-linter", "pre-commit"} <= dev


def test_the_version_stands_in_one_place() -> None:
    version = _project()["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    again = [path for path in _sources() if "__version__ =" in path.read_text() or f'"{version}"' in path.read_text()]
    assert again == []


# --- the Makefile


STUB_PYTHON = """#!/bin/bash
# Stands for the interpreter that makes .venv: what is installed into it only writes down how it was called.
mkdir -p .venv/bin
for tool in pip seqae ruff mypy lint-imports pytest python; do
    printf '#!/bin/bash\\necho %s "$@" >> calls\\n[ ! -e refuse-$1 ]\\n' $tool > .venv/bin/$tool
    chmod +x .venv/bin/$tool
done
"""


class MadeProject:
    """A folder in which make runs with stubs in place of the tools.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "deploy").mkdir()
        for name in ("Makefile", "pyproject.toml", "deploy/constraints.txt"):
            shutil.copy(ROOT / name, folder / name)
        python = folder / "python"
        python.write_text(STUB_PYTHON)
        python.chmod(0o755)

    def make(self, target: str) -> tuple[int, list[str]]:
        """Makes a target: make's exit status, and what it called."""
        calls = self.folder / "calls"
        calls.write_text("")
        command = ["make", f"PYTHON={self.folder / 'python'}", target]
        # The tests themselves may run under make, which tells its children how it was called.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, calls.read_text().splitlines()


@pytest.fixture
def project(tmp_path: Path) -> MadeProject:
    return MadeProject(tmp_path)


PIP = "pip install --disable-pip-version-check -c deploy/constraints.txt -e "


def test_the_demo_installs_no_linter(project: MadeProject) -> None:
    assert project.make("demo") == (0, [PIP + ".", "seqae demo"])
    assert project.make("demo") == (0, ["seqae demo"])


@pytest.mark.parametrize("target", ["test", "lint", "unit", "slow", "chaos", "bench"])
def test_a_check_installs_its_tools_once(project: MadeProject, target: str) -> None:
    status, calls = project.make(target)
    assert status == 0
    assert calls[:2] == [PIP + ".", PIP + ".[dev]"]
    assert project.make(target) == (0, calls[2:])


def test_an_interrupted_installation_is_taken_up_again(project: MadeProject) -> None:
    refuse = project.folder / "refuse-install"
    refuse.touch()
    assert project.make("lint")[0] != 0
    assert project.make("demo") == (2, [PIP + "."])
    refuse.unlink()
    assert project.make("demo") == (0, [PIP + ".", "seqae demo"])
    refuse.touch()
    assert project.make("lint") == (2, [PIP + ".[dev]"])
    refuse.unlink()
    assert project.make("lint")[1][0] == PIP + ".[dev]"


def test_the_tests_measure_branch_coverage_and_have_a_floor(project: MadeProject) -> None:
    _, calls = project.make("test")
    assert " --cov " in next(call for call in calls if call.startswith("pytest"))
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]
    assert settings["run"]["branch"] is True
    assert settings["run"]["source"] == list(ROOMS)
    assert settings["report"]["fail_under"] >= 90


def test_types_are_checked_strictly_in_the_tests_too() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"] is True
    assert settings["files"] == [*ROOMS, "tests"]


def test_pre_commit_runs_what_make_lint_runs(project: MadeProject) -> None:
    _, calls = project.make("lint")
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [one["repo"] for one in repositories] == ["local"]  # nothing is fetched
    hooks = repositories[0]["hooks"]
    assert [hook["entry"] for hook in hooks] == [f".venv/bin/{call}".strip() for call in calls[2:]]
    for hook in hooks:
        assert (hook["language"], hook["pass_filenames"], hook["always_run"]) == ("system", False, True)


# --- image, compose, Kubernetes


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
