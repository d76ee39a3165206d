"""Rules about imports: that each contract of the linter bites, and what only a running interpreter can show."""

import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("seqae", "jobs", "service")
HEAVY = ("torch", "ray", "mlflow", "optuna")
SERVER_SIDE = (
    "__main__",
    "api.problems",
    "app",
    "backup.restore",
    "db.store",
    "inference.batcher",
    "metrics.instruments",
    "reconciler.loop",
)

FORBIDDEN_IMPORTS: dict[str, list[tuple[str, str]]] = {
    "rooms": [("seqae.config", "jobs.specs"), ("jobs.specs", "service.job_state"), ("seqae.model", "service.settings")],
    "control-plane": [
        ("service.app", "service.__main__"),
        ("service.server", "service.app"),
        ("service.app", "service.server"),
        ("service.api.problems", "service.app"),
        ("service.reconciler.loop", "service.api.problems"),
        ("service.webhook_sender", "service.reconciler.loop"),
        ("service.scheduling.admission", "service.reconciler.loop"),
        ("service.scheduling.admission", "service.inference.batcher"),
        ("service.inference.batcher", "service.scheduling.admission"),
        ("service.backup.create", "service.reconciler.loop"),
        ("service.disk.sweep", "service.backup.create"),
        ("service.db.models", "service.scheduling.admission"),
        ("service.schemas.jobs", "service.db.models"),
        ("service.upstream.circuit_breaker", "service.db.store"),
        ("service.schemas.base", "service.upstream.circuit_breaker"),
        ("service.job_state", "service.schemas.jobs"),
        ("service.settings", "service.db.models"),
        ("service.errors", "service.upstream.circuit_breaker"),
        ("service.metrics.instruments", "service.db.store"),
    ],
    "client-side": [
        ("service.client", "service.cli.main"),
        ("service.local.stack", "service.client"),
        ("service.client", "service.local.processes"),
        ("service.connection", "service.client"),
        ("service.schemas.jobs", "service.client"),
        ("service.schemas.jobs", "service.connection"),
    ],
    "client-without-server": [
        *(("service.client", f"service.{module}") for module in SERVER_SIDE),
        ("service.cli.main", "service.scheduling.estimates"),
        ("service.connection", "service.api.problems"),
        ("service.local.stack", "service.upstream.circuit_breaker"),
        ("service.local.daemons", "service.webhook_sender"),
    ],
    "server-without-client": [
        *((f"service.{module}", "service.client") for module in SERVER_SIDE),
        ("service.scheduling.admission", "service.cli.progress"),
        ("service.scheduling.admission", "service.connection"),
        ("service.schemas.jobs", "service.local.processes"),
        ("service.upstream.circuit_breaker", "service.local.processes"),
        ("service.webhook_sender", "service.local.processes"),
    ],
    "model-library": [
        ("seqae.model", library)
        for library in ("ray", "mlflow", "fastapi", "starlette", "uvicorn", "httpx", "sqlalchemy", "alembic")
    ],
    "cluster-code": [
        ("jobs.driver", library) for library in ("fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic")
    ],
    "mlflow": [("jobs.driver", "mlflow"), ("service.app", "mlflow"), ("seqae.config", "mlflow")],
    "optuna": [("service.app", "optuna"), ("jobs.driver", "optuna"), ("seqae.config", "optuna")],
    "object-storage": [("service.app", "obstore"), ("jobs.driver", "obstore"), ("seqae.config", "obstore")],
    "ray": [("service.app", "ray"), ("service.local.stack", "ray"), ("seqae.config", "ray")],
    "database": [
        ("service.reconciler.loop", "sqlalchemy"),
        ("service.app", "alembic"),
        ("jobs.specs", "sqlalchemy"),
    ],
    "web-framework": [
        ("service.scheduling.job_service", "fastapi"),
        ("service.client", "fastapi"),
        ("service.__main__", "fastapi"),
        ("service.cli.main", "fastapi_offline"),
    ],
    "asgi": [("service.upstream.circuit_breaker", "starlette"), ("service.client", "starlette")],
    "web-server": [("service.app", "uvicorn"), ("service.__main__", "uvicorn"), ("service.local.stack", "h11")],
    "torch-in-service": [
        ("service.api.uploads", "torch"),
        ("service.app", "torch"),
        ("service.inference.model_pool", "torch"),
        ("service.inference.batcher", "torchvision"),
    ],
    "acyclic": [
        ("seqae.config", "seqae.model"),
        ("seqae.data.scenes", "seqae.data.cache"),
        ("jobs.directory.files", "jobs.directory.layout"),
        ("jobs.specs", "jobs.driver"),
        ("service.db.models", "service.db.store"),
        ("service.schemas.base", "service.schemas.jobs"),
        ("service.settings", "service.inference.model_pool"),
    ],
}
"""By contract: imports that it must refuse, as importer and imported."""


# --- the contracts


def _contracts() -> dict[str, dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {contract["id"]: contract for contract in settings["contracts"]}


def _lint_imports(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo", *options]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with the three packages and the contracts, for a test to change."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_every_contract_is_kept(copy: Path) -> None:
    done = _lint_imports(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Contracts: {len(FORBIDDEN_IMPORTS)} kept, 0 broken." in done.stdout


def test_no_contract_was_taken_away_or_excused() -> None:
    contracts = _contracts()
    assert contracts.keys() == FORBIDDEN_IMPORTS.keys()
    excused = {name: found for name, contract in contracts.items() if (found := contract.get("ignore_imports"))}
    assert excused == {}


def _cases() -> list[tuple[str, list[tuple[str, str]]]]:
    """Contracts and what to plant at once: one import where it could hide another, else all of a contract's."""
    one_by_one = {name for name, contract in _contracts().items() if contract["type"] in ("layers", "acyclic_siblings")}
    alone = [(name, [pair]) for name in FORBIDDEN_IMPORTS if name in one_by_one for pair in FORBIDDEN_IMPORTS[name]]
    return alone + [(name, pairs) for name, pairs in FORBIDDEN_IMPORTS.items() if name not in one_by_one]


@pytest.mark.parametrize(("contract", "imports"), _cases())
def test_a_forbidden_import_breaks_its_contract(copy: Path, contract: str, imports: list[tuple[str, str]]) -> None:
    for importer, imported in imports:
        module = copy.joinpath(*importer.split(".")).with_suffix(".py")
        assert module.is_file()
        with module.open("a") as source:
            source.write(f"\n\ndef _import_{imported.replace('.', '_')}() -> None:\n    import {imported}\n")
    done = _lint_imports(copy, "--contract", contract)
    assert done.returncode == 1, done.stdout + done.stderr
    found = " ".join(done.stdout.split())
    assert "Contracts: 0 kept, 1 broken." in found
    if contract != "acyclic":  # a cycle is told by siblings, which may be packages that the two lie in
        assert [pair for pair in imports if " -> ".join(pair) not in found] == []


def test_a_module_of_the_control_plane_has_a_place_in_the_layers(copy: Path) -> None:
    (copy / "service/stray.py").write_text('"""A module that no layer names."""\n')
    done = _lint_imports(copy, "--contract", "control-plane")
    assert done.returncode == 1
    assert "stray" in done.stdout


# --- the packages


def test_no_package_has_more_than_twelve_modules() -> None:
    for room in ROOMS:
        for package in (ROOT / room, *(path.parent for path in (ROOT / room).rglob("*/__init__.py"))):
            if package.name == "versions":  # one migration a change of the tables
                continue
            modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
            assert len(modules) <= 12, f"{package.relative_to(ROOT)}: {sorted(modules)}"


def test_a_package_holds_nothing_but_its_docstring() -> None:
    for room in ROOMS:
        for path in (ROOT / room).rglob("__init__.py"):
            body = ast.parse(path.read_text()).body
            assert len(body) == 1, path
            assert ast.get_docstring(ast.Module(body, [])), path


# --- what a running interpreter shows


def _run(program: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    inherited = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=cwd, env=inherited, capture_output=True, text=True, timeout=120)


def _imported(statement: str) -> set[str]:
    """Names of all modules that a fresh interpreter has after a statement."""
    done = _run(f"{statement}\nimport sys\nprint(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "service.app",
        "service.__main__",
        "service.cli.main",
        "service.client",
        "service.local.stack",
        "service.cli.demo",
    ],
)
def test_the_control_plane_and_the_command_line_start_without_the_heavy_libraries(module: str) -> None:
    assert not _imported(f"import {module}").intersection(HEAVY)


def test_a_job_runs_to_its_registered_model_without_the_heavy_libraries(tmp_path: Path) -> None:
    """The reconciler checks the model's files in the API's own process, which must not stall while torch is loaded."""
    program = f"""
from pathlib import Path
from service.settings import ReconcilerSettings
from service.job_state import State
from tests.control_plane import ControlPlane
plane = ControlPlane(Path({str(tmp_path)!r}), "sqlite:///{tmp_path}/jobs.db", ReconcilerSettings())
job, driver = plane.running()
driver.finish()
plane.until(job, State.SUCCEEDED)
plane.store.close()"""
    assert not _imported(program).intersection(HEAVY)


def test_help_needs_neither_the_service_nor_the_model() -> None:
    program = "from service.cli.main import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass"
    loaded = _imported(program)
    assert not loaded.intersection({*HEAVY, "numpy", "fastapi", "sqlalchemy", "httpx", "psutil"})


def test_the_rooms_import_nothing_by_themselves() -> None:
    assert not _imported("import seqae, jobs, service").intersection({*HEAVY, "numpy", "fastapi", "pydantic"})


IMPORT_EVERYTHING = """
import importlib, json, logging, os, signal, sys, threading
before = dict(os.environ)
handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
for name in json.loads(os.environ["MODULES"]):
    importlib.import_module(name)
seen = {
    "threads": [thread.name for thread in threading.enumerate()],
    "children": open(f"/proc/self/task/{os.getpid()}/children").read().split() if sys.platform == "linux" else [],
    "environment": [name for name, value in os.environ.items() if before.get(name) != value],
    "signals": [number for number in handlers if signal.getsignal(number) != handlers[number]],
    "logging": [repr(handler) for handler in logging.getLogger().handlers],
}
with open(os.environ["REPORT"], "w") as report:
    json.dump(seen, report)
"""


def test_importing_every_module_does_nothing_that_could_be_seen(tmp_path: Path) -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
    ]
    assert len(names) > 120
    names.remove("service.db.migrations.env")  # a script, which Alembic runs by its path
    folder, report = tmp_path / "here", tmp_path / "report.json"
    folder.mkdir()
    (folder / "kept.txt").write_text("as it was")
    done = _run(IMPORT_EVERYTHING, folder, MODULES=json.dumps(names), REPORT=str(report), MPLCONFIGDIR=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    seen = json.loads(report.read_text())
    # The numerical libraries set these for OpenMP.
    environment = [name for name in seen.pop("environment") if not name.startswith("KMP_")]
    assert environment == []
    assert seen == {"threads": ["MainThread"], "children": [], "signals": [], "logging": []}
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"kept.txt": "as it was"}
