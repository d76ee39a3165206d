"""Provenance of a run: its settings as flat params, the code's commit, the packages' versions."""

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from seqae.config import Config

__all__ = ["flat_params", "provenance"]

_PACKAGES = ("seqae", "torch", "torchvision", "numpy", "ray", "mlflow-skinny")


def flat_params(spec: Config) -> dict[str, Any]:
    """The fields of a spec, nested names joined by dots, such as "model.attention.kernel_size"."""
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, below in value.items():
                add(f"{prefix}.{name}" if prefix else name, below)
        else:
            flat[prefix] = value

    add("", spec.model_dump(mode="json"))
    return flat


@cache
def provenance() -> dict[str, str]:
    """Tags with the git commit (of a checkout; a wheel has its version only) and the packages' versions."""
    tags = {f"seqae.version.{package}": version(package) for package in _PACKAGES}
    here = Path(__file__).resolve().parent
    git = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(git, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return tags
    if answer.returncode == 0:
        tags["mlflow.source.git.commit"] = answer.stdout.strip()
    return tags
