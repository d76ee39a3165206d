"""Consistency of the files around the code: dependencies, Makefile, pre-commit hooks, image, compose and Kubernetes."""

import ast
import json
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
from tests.kustomize import Manifest, render

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
    # `seqae bench` alone needs its extra, and traces theirs; without them those say so.
    extras = [line for name in ("bench", "traces") for line in project["optional-dependencies"][name]]
    declared = {_name(line) for line in [*project["dependencies"], *extras]}
    # pydantic pins its core; mlflow's package is in several distributions.
    distributions = {name: {_name(one) for one in packages_distributions()[name]} for name in packages}
    missing = {name for name, found in distributions.items() if not found & declared}
    assert missing == {"pydantic_core"}


def test_what_checks_the_code_is_not_needed_to_run_it() -> None:
    project = _project()
    extras = project["optional-dependencies"]
    assert extras.keys() == {"bench", "dev", "traces"}
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


def _kubernetes() -> list[Manifest]:
    return render(ROOT / "deploy/kubernetes")


def _deployments() -> dict[str, dict[str, Any]]:
    found = [document for document in _kubernetes() if document["kind"] == "Deployment"]
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"]["containers"][0] for one in found}


def _compose(profile: str | None = None) -> dict[str, Any]:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return {name: one for name, one in services.items() if profile is None or one["profiles"] == [profile]}


def _variables() -> Iterator[str]:
    yield from re.findall(r"\b(SEQAE_[A-Z_]+)=", (ROOT / "deploy/Dockerfile").read_text())
    for service in _compose().values():
        yield from service.get("environment", {})
    for container in _deployments().values():
        yield from (variable["name"] for variable in container.get("env", ()))


def test_both_describe_the_same_three_services() -> None:
    compose, kubernetes = _compose("small"), _deployments()
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
    published = [port for service in _compose("small").values() for port in service.get("ports", ())]
    assert len(published) == 3
    published += [port for service in _compose("full").values() for port in service.get("ports", ())]
    assert published[3:] == ["127.0.0.1:8443:8443"], "of the full set the proxy alone is reached"
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_every_container_is_in_one_profile_and_the_small_one_is_the_usual() -> None:
    assert {tuple(one["profiles"]) for one in _compose().values()} == {("small",), ("full",)}
    assert "COMPOSE_PROFILES=small" in (ROOT / ".env").read_text().splitlines()


def test_a_container_waits_for_those_of_its_own_profile() -> None:
    """Each that is waited for has a health check, or ends."""
    ends = {"service_completed_successfully": lambda one: one["restart"] in ("no", "on-failure")}
    ends["service_healthy"] = lambda one: "healthcheck" in one
    for profile in ("small", "full"):
        services = _compose(profile)
        for name, service in services.items():
            for other, how in service.get("depends_on", {}).items():
                assert other in services, (name, other)
                assert ends[how["condition"]](services[other]), (name, other)


def test_the_full_set_finds_itself() -> None:
    services = _compose("full")
    one, two = services["api-1"], services["api-2"]
    assert one == two, "replicas"
    told = one["environment"]
    ports = {"mlflow-full": "--port=5000", "ray-head": "--dashboard-port=8265"}
    for variable, host in (("SEQAE_MLFLOW_URL", "mlflow-full"), ("SEQAE_RAY_URL", "ray-head")):
        port = ports[host].partition("=")[2]
        assert told[variable] == f"http://{host}:{port}"
        assert ports[host] in services[host]["command"]
    address = told["SEQAE_HEAD_ADDRESS"]
    assert f"--address={address}" in services["ray-worker"]["command"]
    assert f"--port={address.partition(':')[2]}" in services["ray-head"]["command"]
    assert services["ray-worker"]["deploy"] == {"replicas": 2}
    database = services["full-setup"]["environment"]
    assert told["SEQAE_DATABASE_URL"] == database["SEQAE_DATABASE_URL"]
    assert services["mlflow-full"]["environment"]["MLFLOW_BACKEND_STORE_URI"] == database["MLFLOW_BACKEND_STORE_URI"]
    assert services["mlflow-full"]["environment"].items() >= services["bucket"]["environment"].items()
    assert any(word.startswith("--artifacts-destination=s3://mlflow/") for word in services["mlflow-full"]["command"])
    proxy = (ROOT / "deploy/proxy/Caddyfile").read_text()
    assert "reverse_proxy api-1:8400 api-2:8400" in proxy
    assert set(json.loads(told["SEQAE_ALLOWED_HOSTS"])) == {"api-1", "api-2"}


def test_the_full_sets_secrets_are_made_once(tmp_path: Path) -> None:
    """The command of `full-secrets`, as a process, twice."""
    script = _compose("full")["full-secrets"]["command"][2].replace("$$", "$")
    home, secrets = tmp_path / "home", tmp_path / "secrets"
    home.mkdir()
    secrets.mkdir()
    script = script.replace("/var/lib/seqae", str(home)).replace("/secrets", str(secrets))
    environment = {**os.environ, "RAY_AUTH_TOKEN_PATH": str(home / "ray.token")}
    found = []
    for _ in range(2):
        subprocess.run(["sh", "-ec", script], check=True, env=environment, timeout=30)
        files = [path for folder in (home, secrets) for path in sorted(folder.iterdir()) if path.is_file()]
        found.append({path.name: path.read_text() for path in files})
    assert found[0] == found[1]
    texts = found[0]
    password, key = texts["postgres"], json.loads(texts["s3.json"])["identities"][0]["credentials"][0]["secretKey"]
    assert len(password) == len(key) == len(texts["ray.token"]) == 64
    assert texts["pgpass"] == f"postgres:5432:*:seqae:{password}\n"
    assert f"aws_secret_access_key = {key}\n" in texts["s3-credentials"]
    for name in ("pgpass", "s3-credentials", "ray.token"):
        assert (home / name).stat().st_mode & 0o777 == 0o600, name
