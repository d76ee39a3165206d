"""Known holes of the installed packages, by pip-audit, told apart from what could not be looked up.

python -m tests.dependency_audit

pip-audit ends with 1 when there is a hole and also when there is no network, and with 0 when the index that it reaches
knows nothing of the packages. So its answer is read, and not its exit status: this ends with 1 for a hole alone.
"""

import subprocess
import sys
from collections.abc import Callable

from pydantic import BaseModel, ValidationError

__all__ = ["judge", "main"]

_COMMAND = (
    *(sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner", "off"),
    *("--format", "json", "--timeout", "15"),
)
_SECONDS = 600


class _Hole(BaseModel):
    id: str
    fix_versions: list[str] = []


class _Package(BaseModel):
    name: str
    version: str = ""
    skip_reason: str | None = None
    vulns: list[_Hole] = []


class _Report(BaseModel):
    dependencies: list[_Package]


def judge(answer: str, complaints: str) -> tuple[int, list[str]]:
    """What an answer of pip-audit means.

    Args:
        answer: its standard output, JSON if it got that far.
        complaints: its standard error.

    Returns:
        The exit status, 1 where there is a known hole, and lines for people.
    """
    try:
        packages = _Report.model_validate_json(answer).dependencies
    except ValidationError:
        last = next((line.strip() for line in reversed(complaints.splitlines()) if line.strip()), "it said nothing")
        return 0, [
            "NOT AUDITED: pip-audit got no answer. Is there a network, and does it lead to the index of packages?",
            f"pip-audit: {last[:300]}",
        ]
    skipped = [package for package in packages if package.skip_reason is not None]
    holes = [(package, hole) for package in packages for hole in package.vulns]
    if len(skipped) == len(packages):
        return 0, [f"NOT AUDITED: nothing could be looked up of any of {len(packages)} packages. Is there a network?"]
    lines = [_line(package, hole) for package, hole in holes]
    lines += [f"not looked up: {package.name}: {package.skip_reason}" for package in skipped]
    lines.append(f"{len(packages) - len(skipped)} of {len(packages)} packages looked up, {len(holes)} known holes")
    return (1 if holes else 0), lines


def _line(package: _Package, hole: _Hole) -> str:
    fixed = f"fixed in {', '.join(hole.fix_versions)}" if hole.fix_versions else "not fixed yet"
    return f"{package.name} {package.version}: {hole.id}, {fixed}"


def _run() -> tuple[str, str]:
    """Standard output and error of pip-audit."""
    try:
        done = subprocess.run(_COMMAND, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return "", f"no answer within {_SECONDS} s"
    return done.stdout, done.stderr


def main(run: Callable[[], tuple[str, str]] = _run) -> int:
    """Prints what is known; the exit status."""
    status, lines = judge(*run())
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())
