"""Converts pydantic's validation errors to JSON pointers into the client's body (RFC 6901, as URI fragments)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from service.errors import FieldProblem

__all__ = ["body_problems", "pointer_to"]

MOST_PROBLEMS = 50
"""More are left out: a client that sends thousands of mistakes needs none of them listed."""

_DISCRIMINATOR = "kind"
"""The field by which all unions of the wire format are told apart; a function that reads it hides its name."""

_MESSAGES = {
    "missing": "is required",
    "union_tag_not_found": "is required",
    "extra_forbidden": "is not a known field",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
}

_NO_KIND = ("union_tag_invalid", "union_tag_not_found")

Part = str | int


def pointer_to(parts: Iterable[Part]) -> str:
    """The JSON pointer of a path, as a URI fragment: ["a/b", 0] -> "#/a~1b/0"."""
    escaped = (quote(str(part).replace("~", "~0").replace("/", "~1"), safe="~", errors="replace") for part in parts)
    return "#" + "".join(f"/{part}" for part in escaped)


def body_problems(errors: Iterable[Mapping[str, Any]], body: Any) -> tuple[FieldProblem, ...]:
    """One problem for each field at fault, in pydantic's order.

    Args:
        errors: as pydantic lists them, with locations from the root of the body.
        body: as it was parsed from JSON. Pydantic's locations also name the branches of unions ("train"), which a
            client never wrote; walking the body tells the two apart.
    """
    found: dict[tuple[Part, ...], list[str]] = {}
    branches: set[tuple[Part, ...]] = set()
    for error in errors:
        path, is_branch = _locate(error, body)
        if is_branch:
            branches.add(path)
        messages = found.setdefault(path, [])
        if (message := _message(error, path)) not in messages:
            messages.append(message)
        if len(found) >= MOST_PROBLEMS:
            break
    # "must be an integer" of one branch of a union is noise where another branch complains about something deeper.
    noise = {path for path in branches if any(other[: len(path)] == path and other != path for other in found)}
    return tuple(
        FieldProblem(pointer_to(path), ", or: ".join(messages)) for path, messages in found.items() if path not in noise
    )


def _locate(error: Mapping[str, Any], body: Any) -> tuple[tuple[Part, ...], bool]:
    """The path of the field at fault, and whether the error is about one branch of a union there."""
    location: tuple[Part, ...] = tuple(error["loc"])
    pointer: str | None = (error.get("ctx") or {}).get("pointer")
    if error["type"] == "missing" and location:
        return (*_walk(location[:-1], body)[1], location[-1]), False
    reached, path = _walk(location, body)
    if error["type"] in _NO_KIND and isinstance(_at(path, body), dict):
        return (*path, _DISCRIMINATOR), False
    if pointer is not None:
        return (*path, *(int(part) if part.isdecimal() else part for part in pointer.split("/"))), False
    return path, not reached


def _walk(location: Sequence[Part], node: Any) -> tuple[bool, tuple[Part, ...]]:
    """The way along a location that exists in the body, and whether it gets to the location's last part.

    Names of branches are stepped over. A branch's name may also be a field's, as in {"kind": "train", "train": 1}: the
    way that gets to the end, or else the longer one, is the right one.
    """
    if not location:
        return True, ()
    part, rest = location[0], location[1:]
    ways = []
    if _has(node, part):
        reached, path = _walk(rest, node[part])
        ways.append((reached, (part, *path)))
    if isinstance(part, str):
        reached, path = _walk(rest, node)
        ways.append((reached and bool(rest), path))
    return max(ways, key=lambda way: (way[0], len(way[1])), default=(False, ()))


def _at(path: Sequence[Part], node: Any) -> Any:
    for part in path:
        node = node[part]
    return node


def _has(node: Any, part: Part) -> bool:
    if isinstance(node, dict):
        return part in node
    return isinstance(node, list) and isinstance(part, int) and part < len(node)


def _message(error: Mapping[str, Any], path: Sequence[Part]) -> str:
    kind = error["type"]
    if kind in _NO_KIND and path[-1:] != (_DISCRIMINATOR,):
        return _MESSAGES["dict_type"]
    if kind == "union_tag_invalid":
        return f"must be one of {error['ctx']['expected_tags']}"
    return _MESSAGES.get(kind) or str(error["msg"]).removeprefix("Value error, ")
