"""Requests with JSON bodies that begin as valid ones and are then spoilt, in their structure or in their bytes."""

import copy
import gzip
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from jobs.specs import job_spec
from service.api.examples import SPECS
from tests.fuzz.calls import Call

__all__ = ["spec_calls"]

_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    0.5,
    -0.0,
    5e-324,
    1e-5,
    1e300,
    2**31,
    2**63,
    -(2**63) - 1,
    10**400,
    float("nan"),
    float("inf"),
    "",
    " ",
    "0",
    "1e3",
    "NaN",
    "a" * 5000,
    "../../../etc/passwd",
    "/dev/zero",
    "file:///etc/passwd",
    "%00",
    "a\x00b",
    "\ud800",
    "\u202e\U0001f600",
    "{message}",
    "${jndi:ldap://x}",
    "'; DROP TABLE jobs; --",
    "champion",
    "latest",
    "train",
    "figure",
    [],
    {},
    [[]],
    [None] * 100,
    {"kind": "train"},
    {"low": 2, "high": 1},
    {"min": 5, "max": 1},
)
_PATHS = ("/jobs", "/jobs", "/jobs:validate", "/jobs:validate", "/jobs/{job}", "/models/digits:rollback")
_PROMOTE = "/models/digits/versions/{}:promote"
_DEEP = 3000


def spec_calls(rng: random.Random, jobs: list[str]) -> Iterator[Call]:
    """Endless calls.

    Args:
        rng: makes them.
        jobs: ids of jobs that exist.
    """
    while True:
        path = rng.choice((*_PATHS, _PROMOTE.format(rng.choice("0123"))))
        method = "PATCH" if path == "/jobs/{job}" else "POST"
        body = {"priority": rng.randint(-1000, 1000)} if method == "PATCH" else _base(rng)
        if path.startswith("/models"):
            body = {"why": "a reason"}
        url = path.replace("{job}", rng.choice([*jobs, "job_000000000000"]))
        yield Call(method, url, *_sent(rng, _mutated(rng, body)))


def _base(rng: random.Random) -> Any:
    """A valid spec, as an example has it or with all its fields."""
    given = rng.choice(list(SPECS.values()))["value"]
    return copy.deepcopy(given) if rng.random() < 0.5 else job_spec.validate_python(given).model_dump(mode="json")


def _sent(rng: random.Random, body: Any) -> tuple[tuple[tuple[str, str], ...], bytes]:
    """Headers and bytes of a body."""
    content = json.dumps(body).encode()
    headers = [("content-type", rng.choices(("application/json", "text/plain", "application/x+json"), (20, 1, 1))[0])]
    if rng.random() < 0.25:
        content, extra = rng.choice(_SPOILT)(rng, content)
        headers += extra
    if rng.random() < 0.1:
        headers.append(("idempotency-key", rng.choice(("k", "k" * 300, "\xff", " ", "a,b"))))
    if rng.random() < 0.2:
        headers.append(("seqae-owner", rng.choice(("ada", "x" * 201, "\xe9", "a;b", ""))))
    return tuple(headers), content


# --- structure


def _mutated(rng: random.Random, body: Any) -> Any:
    for _ in range(rng.choice((0, 1, 1, 1, 2, 4))):
        body = _changed(rng, body)
    return body


def _changed(rng: random.Random, body: Any) -> Any:
    places = list(_places(body))
    if not places or rng.random() < 0.02:
        return copy.deepcopy(rng.choice(_VALUES))
    parent, key = rng.choice(places)
    match rng.randrange(7):
        case 0 | 1 | 2:
            parent[key] = copy.deepcopy(rng.choice(_VALUES))
        case 3:
            del parent[key]
        case 4 if isinstance(parent, dict):
            parent[str(rng.choice(_VALUES))[:300]] = parent[key]
        case 5:
            other, name = rng.choice(places)
            # A copy: a value below itself has no JSON.
            parent[key] = copy.deepcopy(other[name])
        case _:
            parent[key] = [parent[key]] * rng.choice((1, 2, 70))
    return body


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a body, as the container and the key in it."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield node, key
        yield from _places(value)


# --- bytes

_Spoilt = tuple[bytes, list[tuple[str, str]]]


def _flip(rng: random.Random, content: bytes) -> _Spoilt:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed), []


def _cut(rng: random.Random, content: bytes) -> _Spoilt:
    return content[: rng.randrange(len(content))], []


def _doubled(rng: random.Random, content: bytes) -> _Spoilt:
    return content.replace(b"{", b'{"name": 5, "kind": "train", ', 1) if rng.random() < 0.7 else content * 2, []


def _encoded(rng: random.Random, content: bytes) -> _Spoilt:
    if rng.random() < 0.3:
        return gzip.compress(content, mtime=0), [("content-encoding", "gzip")]
    encoding = rng.choice(("utf-16", "utf-32", "utf-8-sig", "latin-1"))
    return content.decode().encode(encoding), []


def _deep(rng: random.Random, content: bytes) -> _Spoilt:
    opening, closing = rng.choice(((b"[", b"]"), (b'{"base":', b"}")))
    return opening * _DEEP + content + closing * rng.choice((0, _DEEP)), []


def _large(rng: random.Random, content: bytes) -> _Spoilt:
    return content + b" " * rng.choice((1000, 63_000, 70_000, 500_000)), []


def _number(rng: random.Random, content: bytes) -> _Spoilt:
    return content.replace(b"5", rng.choice((b"9" * 5000, b"1e999", b"-", b"0x1", b"1_0", b"NaN")), 1), []


_SPOILT: tuple[Callable[[random.Random, bytes], _Spoilt], ...] = (
    _flip,
    _cut,
    _doubled,
    _encoded,
    _deep,
    _large,
    _number,
)
