"""Stored form of job specs: with the version of their format, migrated on reading, refused alone when unreadable.

A spec outlives the release that wrote it: in the job table, and in the job's folder. Version 1 is what has no version.
"""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import version as version_of
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from jobs.directory.files import describe_invalid
from jobs.errors import SpecUnreadable
from jobs.specs import AnySpec, job_spec

__all__ = ["SPEC_VERSION", "parse_spec", "spec_from_json", "spec_to_json"]

SPEC_VERSION = 3
"""Goes up when a stored spec would be read otherwise than it was meant, or not at all."""

Fields = dict[str, Any]

_VERSION_FIELD = "spec_version"


def _from_1(fields: Fields) -> Fields:
    """Version 2 has new fields, whose defaults are what version 1 did."""
    return fields


def _from_2(fields: Fields) -> Fields:
    """Version 3 has searches that propose their trials by TPE; version 2 drew them at random."""
    return {"sampler": "random", **fields} if fields.get("kind") == "tune" else fields


MIGRATIONS: Mapping[int, Callable[[Fields], Fields]] = MappingProxyType({1: _from_1, 2: _from_2})
"""What makes a spec of one version one of the next."""


def parse_spec(stored: object, version: int | None) -> AnySpec:
    """A spec that was stored as its fields.

    Args:
        stored: the fields.
        version: of their format; None where none was written down, which is 1.

    Raises:
        SpecUnreadable: a newer release wrote it, or it is no spec. The text names the field, and quotes nothing of it.
    """
    number = 1 if version is None else version
    if number > SPEC_VERSION:
        raise SpecUnreadable(
            f"it was stored by a newer release (version {number} of the format; this one, seqae {version_of('seqae')}, "
            f"reads {SPEC_VERSION}): install that release again to run it",
            is_newer=True,
        )
    if not isinstance(stored, dict):
        raise SpecUnreadable("it is not an object")
    try:
        # The same specs are read again and again, by lists and by every round of admission.
        return _parse(json.dumps(stored), max(1, number))
    except ValidationError as error:
        raise SpecUnreadable(describe_invalid(error)) from error
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise SpecUnreadable(f"it can't be migrated: {type(error).__name__}") from error


@lru_cache(maxsize=1024)
def _parse(stored: str, number: int) -> AnySpec:
    fields = json.loads(stored)
    for step in range(number, SPEC_VERSION):
        fields = MIGRATIONS[step](fields)
    return job_spec.validate_python(fields)


def spec_to_json(spec: AnySpec) -> str:
    """The content of a spec.json."""
    return json.dumps({_VERSION_FIELD: SPEC_VERSION} | spec.model_dump(mode="json"), indent=2)


def spec_from_json(content: bytes) -> AnySpec:
    """The spec of a spec.json. Raises: SpecUnreadable."""
    try:
        stored = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SpecUnreadable("it is not JSON") from error
    if not isinstance(stored, dict):
        raise SpecUnreadable("it is not an object")
    version = stored.pop(_VERSION_FIELD, None)
    if version is not None and (not isinstance(version, int) or isinstance(version, bool)):
        raise SpecUnreadable(f"{_VERSION_FIELD} is not a number")
    return parse_spec(stored, version)
