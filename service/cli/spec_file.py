"""Reader of spec files: JSON, and YAML 1.2 without the surprises of YAML 1.1.

Every problem is one line that names the file and the place in it. What YAML can say and JSON can't is refused: dates
and other types, fields whose names are no text, lists in themselves.
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from seqae.errors import Error
from service.cli.files import STANDARD_INPUT, read_file

__all__ = ["parse_spec", "read_spec"]

_MOST_BYTES = 256_000
"""Of a file; the service takes a quarter of that, without comments."""

_MOST_LEVELS = 50
_MOST_VALUES = 20_000
_MOST_CHARACTERS = 1_000_000
"""Of all texts together, once what is repeated by aliases is written out."""

_EXACT = 2**53
"""Whole numbers below it are floats without loss."""


def read_spec(path: Path) -> dict[str, Any]:
    """The fields of a job spec, as plain data that JSON can hold; the service says whether they are right.

    Args:
        path: of a YAML or JSON file; `-` is standard input.

    Raises:
        Error: it can't be read, or is neither JSON nor YAML that says the same.
    """
    name = "standard input" if str(path) == STANDARD_INPUT else str(path)
    content = read_file(path, _MOST_BYTES)
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise Error(f"{name} is no text in UTF-8: byte {error.start + 1} can't be read") from error
    return parse_spec(text, name, only_json=path.suffix.lower() == ".json")


def parse_spec(text: str, name: str, *, only_json: bool = False) -> dict[str, Any]:
    """The same of a text.

    Args:
        text: JSON or YAML.
        name: of the file, for messages.
        only_json: it must be JSON; else what begins like JSON may be either.

    Raises:
        Error: see `read_spec`.
    """
    try:
        spec = _parse(text, only_json)
        _check_levels(spec)
    except _SpecError as error:
        raise Error(f"{name}{error}") from error
    except RecursionError as error:
        raise Error(f"{name} is nested deeper than {_MOST_LEVELS} levels") from error
    if not isinstance(spec, dict):
        raise Error(f"{name} holds no job spec: fields with values are expected, such as `name: first`")
    return spec


class _SpecError(Exception):
    """What is wrong with a text, to be said after the file's name: ", line 3: ..." or " is not JSON"."""


def _parse(text: str, only_json: bool) -> Any:
    if only_json or text.lstrip().startswith(("{", "[")):
        try:
            return _JsonReader(text).read()
        except json.JSONDecodeError as error:
            if only_json:
                raise _SpecError(f", line {error.lineno}, is not JSON: {error.msg}") from error
    return _YamlReader(text).read()


def _check_levels(value: Any, levels: int = 1) -> None:
    if levels > _MOST_LEVELS:
        raise _SpecError(f" is nested deeper than {_MOST_LEVELS} levels")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_levels(item, levels + 1)


def _number(text: str) -> int | float:
    """A decimal number; one written with an exponent is whole if its value is, so that 2e2 is 200.

    Raises:
        ValueError: it is too large.
    """
    if text.lstrip("+-").isdecimal():
        return int(text)
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("too large")
    return int(value) if "e" in text.lower() and value.is_integer() and abs(value) < _EXACT else value


def _check_text(text: str, place: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _SpecError(f"{place} has half a character in it (a lone surrogate)")
    return text


class _JsonReader:
    """Reader of one JSON text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def read(self) -> Any:
        """The value.

        Raises:
            JSONDecodeError: it is not JSON.
            _SpecError: it is, and can't be a spec.
        """
        value = json.loads(
            self._text,
            object_pairs_hook=self._object,
            parse_float=self._number,
            parse_int=self._number,
            parse_constant=self._constant,
        )
        # Texts in lists are seen nowhere else; this is fast, and rarely wrong.
        if re.search(r"\\u[dD][89a-fA-F]", self._text):
            _check_text(json.dumps(value, ensure_ascii=False), "")
        return value

    def _object(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            # JSON's parser tells no lines, YAML's does; tabs between tokens are what it would not take.
            _YamlReader(re.sub(r'("(?:[^"\\]|\\.)*")|\t', lambda match: match[1] or " ", self._text)).read()
            raise _SpecError(" has a field twice")
        return found

    def _number(self, text: str) -> int | float:
        try:
            return _number(text)
        except ValueError as error:
            raise _SpecError(" has a number that is too large") from error

    def _constant(self, text: str) -> NoReturn:
        raise _SpecError(f" has {text} in it; numbers must be finite")


_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Parser of YAML whose plain scalars are those of YAML 1.2's core schema, and so nearly those of JSON.

    `yes`, `on`, 1:30 and 2024-13-45 are texts, 2e2 is a number, and 010 is ten.
    """

    levels = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """Composes a node. Deep nesting is refused before it takes Python's whole stack."""
        self.levels += 1
        if self.levels > _MOST_LEVELS:
            raise _SpecError(f" is nested deeper than {_MOST_LEVELS} levels")
        node = super().compose_node(parent, index)
        self.levels -= 1
        return node


_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
    ("merge", r"^<<$", ["<"]),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(_pattern), _first)


class _YamlReader:
    """Reader of one YAML document."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._values = self._characters = 0
        self._above: set[int] = set()
        """Nodes that are being read: an alias to one of them never ends."""

    def read(self) -> Any:
        """The value.

        Raises:
            _SpecError: it is not YAML, or can't be a spec.
        """
        try:
            node = yaml.compose(self._text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f", line {mark.line + 1}, column {mark.column + 1}," if mark else ""
            raise _SpecError(f"{place} is neither YAML nor JSON: {error.problem or error.context}") from error
        except yaml.reader.ReaderError as error:
            line = self._text.count("\n", 0, error.position) + 1
            raise _SpecError(f", line {line}, is neither YAML nor JSON: it has a control character in it") from error
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            # An escape for a character that there is not, or a version of many digits.
            raise _SpecError(f" is neither YAML nor JSON: {error}") from error
        return None if node is None else self._value(node)

    def _value(self, node: Node) -> Any:
        self._values += 1
        if self._values > _MOST_VALUES or self._characters > _MOST_CHARACTERS:
            raise _SpecError(" is too large for a spec, once its aliases are written out")
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        if id(node) in self._above:
            raise _SpecError(f"{_place(node)} repeats itself without end, by an alias to what it is part of")
        self._above.add(id(node))
        try:
            return self._mapping(node) if isinstance(node, MappingNode) else self._sequence(node)
        finally:
            self._above.remove(id(node))

    def _sequence(self, node: Node) -> list[Any]:
        if not isinstance(node, SequenceNode) or node.tag != f"{_TAG}seq":
            raise _unknown_type(node)
        return [self._value(item) for item in node.value]

    def _mapping(self, node: MappingNode) -> dict[str, Any]:
        if node.tag != f"{_TAG}map":
            raise _unknown_type(node)
        found: dict[str, Any] = {}
        lines: dict[str, int] = {}
        defaults: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                defaults = self._merged(value_node) | defaults
                continue
            key = self._value(key_node) if isinstance(key_node, ScalarNode) else None
            if not isinstance(key, str):
                raise _SpecError(f"{_place(key_node)} has a field whose name is no text")
            if key in found:
                raise _SpecError(f"{_place(key_node)} has the field {key[:80]!r} again, after line {lines[key]}")
            found[key], lines[key] = self._value(value_node), key_node.start_mark.line + 1
        return defaults | found

    def _merged(self, node: Node) -> dict[str, Any]:
        """Fields that `<<` takes over from another mapping, or from several of which the first counts most."""
        merged: dict[str, Any] = {}
        for one in node.value if isinstance(node, SequenceNode) else [node]:
            value = self._value(one)
            if not isinstance(value, dict):
                raise _SpecError(f"{_place(one)} merges what is no mapping")
            merged = value | merged
        return merged

    def _scalar(self, node: ScalarNode) -> Any:
        text: str = node.value
        self._characters += len(text)
        match node.tag.removeprefix(_TAG):
            case "str" | "merge":
                return _check_text(text, _place(node))
            case "null":
                return None
            case "bool" if text.lower() in ("true", "false"):
                return text.lower() == "true"
            case "int" | "float":
                return _yaml_number(node)
            case _:
                raise _unknown_type(node)


def _yaml_number(node: ScalarNode) -> int | float:
    text: str = node.value
    if text.lower().lstrip("+-") in (".inf", ".nan"):
        raise _SpecError(f"{_place(node)} has {text} in it; numbers must be finite")
    try:
        if text.startswith(("0o", "0x")):
            return int(text, 0)
        return _number(text)
    except ValueError as error:
        raise _SpecError(f"{_place(node)} has a number that is too large, or none") from error


def _unknown_type(node: Node) -> _SpecError:
    kind = node.tag.removeprefix(_TAG)
    return _SpecError(f"{_place(node)} has a value of the type {kind[:80]!r}; write it as a text, in quotes")


def _place(node: Node) -> str:
    return f", line {node.start_mark.line + 1},"
