"""Provenance of a run: its settings as params and as a file, the code's commit, the packages' versions."""

import re
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from jobs.interfaces import RunDetails
from jobs.search.space import domains_of
from jobs.specs import AnySpec, TrainSpec, TuneSpec, VerifySpec, model_name, named_model

__all__ = ["SEARCH", "changed_params", "provenance", "run_details", "to_yaml"]

SEARCH = "search."
"""Starts the names of params that are of a search, not of its trials."""

_LABELS = {"kind", "name", "register_as"}
"""Fields that name a job and decide nothing."""

_PACKAGES = ("seqae", "torch", "torchvision", "numpy", "ray", "mlflow-skinny")


def changed_params(spec: AnySpec) -> dict[str, Any]:
    """The fields of a spec that are not at their defaults, nested names joined by dots, as in "model.steps".

    The fields of a search's base have the names that they have in its trials, and its own have SEARCH before them. What
    the search varies is left out, since it is each trial's own.
    """
    fields = spec.model_dump(mode="json", exclude_defaults=True, exclude=_LABELS)
    if isinstance(spec, TuneSpec):
        base = spec.base.model_dump(mode="json", exclude_defaults=True, exclude=_LABELS)
        varied = domains_of(spec.space)
        flat = {name: value for name, value in _flat(base).items() if name not in varied}
        own = {name: value for name, value in fields.items() if name != "base"}
        return flat | {f"{SEARCH}{name}": value for name, value in _flat(own).items()}
    return _flat(fields)


def run_details(spec: AnySpec, owner: str) -> RunDetails:
    """What the run of a job shows beside its name and params.

    Args:
        spec: of the job.
        owner: who submitted it.
    """
    return RunDetails(experiment=_model_of(spec), owner=owner, config=to_yaml(spec.model_dump(mode="json")))


class _Dumper(yaml.SafeDumper):
    """Writer of YAML that means the same to readers of YAML 1.1 and 1.2: a text such as 2e2 is quoted for both."""


_Dumper.yaml_implicit_resolvers = {
    first: list(known) for first, known in yaml.SafeDumper.yaml_implicit_resolvers.items()
}
# Integers too: a text is quoted whichever kind of number it looks like.
_NUMBER = re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|0o[0-7]+)$")
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Line breaks of Unicode are escaped in double quotes alone; elsewhere a reader folds them.
    style = '"' if any(sign in text for sign in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


def to_yaml(value: object) -> str:
    """A value as YAML, which `seqae submit` reads as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _model_of(spec: AnySpec) -> str | None:
    """The registered model that a job is about; None where only the registry knows, or there is none."""
    if isinstance(spec, TrainSpec | TuneSpec):
        return model_name(spec)
    return None if isinstance(spec, VerifySpec) else named_model(spec.model)


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, below in value.items():
                add(f"{prefix}.{name}" if prefix else name, below)
        else:
            flat[prefix] = value

    add("", fields)
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
