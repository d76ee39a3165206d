"""What `make audit` makes of an answer, and that the list of `make sbom` is one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.dependency_audit import main

ROOT = Path(__file__).parents[2]
GOOD: dict[str, Any] = {"name": "good", "version": "1", "vulns": []}
SKIPPED = {"name": "own", "skip_reason": "Dependency not found on PyPI and could not be audited: own (1)"}
BAD = {
    "name": "bad",
    "version": "2",
    "vulns": [{"id": "CVE-1", "fix_versions": ["3", "4"], "aliases": []}, {"id": "CVE-2", "fix_versions": []}],
}
NO_NETWORK = "Traceback (most recent call last):\nrequests.exceptions.ConnectionError: HTTPSConnectionPool: refused\n"


def _answer(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


@pytest.mark.parametrize(
    ("answer", "complaints", "status", "said"),
    [
        ("", NO_NETWORK, 0, ["NOT AUDITED", "network", "ConnectionError"]),
        ("", "", 0, ["NOT AUDITED", "it said nothing"]),
        ("<html>log in</html>", "", 0, ["NOT AUDITED"]),
        (_answer(SKIPPED, SKIPPED), "No known vulnerabilities found", 0, ["NOT AUDITED", "any of 2"]),
        (_answer(), "", 0, ["NOT AUDITED"]),
        (_answer(GOOD, SKIPPED), "", 0, ["not looked up: own", "1 of 2 packages looked up, 0 known holes"]),
        (_answer(GOOD), "", 0, ["1 of 1 packages looked up, 0 known holes"]),
        (_answer(GOOD, BAD), "Found 2", 1, ["bad 2: CVE-1, fixed in 3, 4", "bad 2: CVE-2, not fixed", "2 known holes"]),
        (_answer(SKIPPED, BAD), "", 1, ["CVE-1", "not looked up: own"]),
    ],
)
def test_only_a_known_hole_fails_the_audit(
    answer: str, complaints: str, status: int, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """pip-audit's own exit status is 1 without a network, and 0 where nothing could be looked up."""
    assert main(lambda: (answer, complaints)) == status
    printed = capsys.readouterr().out
    assert [text for text in said if text not in printed] == []
    assert ("NOT AUDITED" in printed) == (said[0] == "NOT AUDITED")


def test_the_bill_of_materials_is_valid_and_has_what_is_installed(tmp_path: Path) -> None:
    """`make sbom` as it is in the Makefile, but for its check of all components against the schema: 20 s for the same
    few kinds of entries."""
    (recipe,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "cyclonedx-py environment" in line]
    file = tmp_path / "sbom.json"
    words = {
        "$(BIN)/cyclonedx-py": str(Path(sys.executable).parent / "cyclonedx-py"),
        "$(BIN)/python": sys.executable,
        "--validate": "--no-validate",
        "sbom.json": str(file),
    }
    assert words.keys() <= set(recipe.split())
    command = [words.get(word, word) for word in recipe.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert found["metadata"]["component"]["name"] == "seqae"
    versions = {component["name"].lower(): component["version"] for component in found["components"]}
    assert {"torch", "ray", "mlflow", "fastapi", "sqlalchemy"} <= versions.keys()
    pins = (line.split("==") for line in (ROOT / "deploy" / "constraints.txt").read_text().splitlines() if "==" in line)
    assert versions["fastapi"] == {name.lower(): version for name, version in pins}["fastapi"]
    some = {**found, "components": found["components"][:20], "dependencies": found["dependencies"][:20]}
    validator = JsonStrictValidator(SchemaVersion.from_version(found["specVersion"]))
    assert validator.validate_str(json.dumps(some)) is None
    some["components"][0]["type"] = "no such type"
    assert validator.validate_str(json.dumps(some)) is not None
