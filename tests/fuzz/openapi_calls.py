"""Requests made from the service's own OpenAPI document by Schemathesis: what it allows, and what it does not."""

import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation

from tests.fuzz.calls import Call

__all__ = ["openapi_calls"]

AnyCase = Case[Any]
AnyOperation = APIOperation[Any, Any, Any, Any]

_ROUNDS = 4
_KNOWN = {"name": ("digits", "nothing"), "version": ("1", "2", "9"), "step": ("latest", "100")}
"""Path parameters that exist on the server: made by chance alone, hardly a request would get past the look-up."""


def openapi_calls(document: dict[str, Any], count: int, number: int, jobs: list[str]) -> list[Call]:
    """Calls of all operations, half of them valid by the document, in a random order.

    Args:
        document: the service's OpenAPI document.
        count: of calls; a few less where the operations leave no more to choose.
        number: the seed.
        jobs: ids of jobs that exist.
    """
    rng = random.Random(number)
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    kinds = [(one, GenerationMode.POSITIVE) for one in operations]
    kinds += [(one, GenerationMode.NEGATIVE) for one in operations if _has_rules(one)]
    calls: list[Call] = []
    for turn in range(_ROUNDS):
        left = count - len(calls)
        for operation, mode in kinds if left > 0 else ():
            calls += _calls_of(operation, mode, 1 + left // len(kinds), number + turn, _Known(rng, jobs))
    rng.shuffle(calls)
    return calls[:count]


def _has_rules(operation: AnyOperation) -> bool:
    """Whether a request can break them; looking for one in vain takes long."""
    with_pattern = any("pattern" in str(parameter.definition) for parameter in operation.path_parameters)
    return bool(with_pattern or len(operation.body) or len(operation.query) or len(operation.headers))


class _Known:
    """Puts ids of what exists in the place of some that were made by chance."""

    def __init__(self, rng: random.Random, jobs: list[str]) -> None:
        self._rng = rng
        self._values = {**_KNOWN, "job_id": tuple(jobs)}

    def fill(self, case: AnyCase) -> None:
        for name in case.path_parameters or {}:
            if self._values.get(name) and self._rng.random() < 0.6:
                case.path_parameters[name] = self._rng.choice(self._values[name])


def _calls_of(operation: AnyOperation, mode: GenerationMode, count: int, number: int, known: _Known) -> list[Call]:
    calls: list[Call] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def collect(case: AnyCase) -> None:
        known.fill(case)
        calls.extend(_call(case))

    # Without parameters there is little to choose, and nothing that could be wrong.
    with suppress(Unsatisfiable):
        collect()
    return calls


def _call(case: AnyCase) -> Iterator[Call]:
    arguments = case.as_transport_kwargs(base_url="http://127.0.0.1")
    try:
        prepared = requests.Request(**{name: arguments[name] for name in _ARGUMENTS if name in arguments}).prepare()
    except (ValueError, requests.RequestException):
        return  # no client could send it
    body = prepared.body or b""
    content = body.encode() if isinstance(body, str) else body
    if not isinstance(content, bytes):
        raise TypeError(f"a body of type {type(content).__name__}")
    headers = [(name, value) for name, value in prepared.headers.items() if name.lower() != "content-length"]
    yield Call(
        prepared.method or "GET",
        (prepared.url or "").removeprefix("http://127.0.0.1"),
        tuple((_text(name), _text(value)) for name, value in headers),
        content,
    )


_ARGUMENTS = ("method", "url", "headers", "cookies", "params", "json", "data", "files")


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
