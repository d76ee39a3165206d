"""Rules about imports that only a running interpreter can show."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "ray", "mlflow")


def _imported(statement: str) -> set[str]:
    """Names of all modules that a fresh interpreter has after a statement."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
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
