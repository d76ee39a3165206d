"""Template of a job spec: YAML with every field, its default, and a comment that says what it is and may be."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from jobs.specs import job_spec
from seqae.errors import Error

__all__ = ["json_schema", "template"]

Schema = Mapping[str, Any]

_WORDS_OF_YAML = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
"""Texts that are something else without quotes, in YAML 1.1 at least."""

_WIDTH = 110

_EXAMPLES: Mapping[str, Any] = {
    "name": "first",
    "figure": 6,
    "job": "job_0000000000ab",
    "path": "images",
    "space": {"alpha_mseot": {"low": 3, "high": 30}},
    "min": 1,
    "max": 2,
    "low": 3,
    "high": 30,
    "iteration": 0,
    "steps": 6,
}
"""Values of fields without a default, by their names."""


def json_schema(kind: str) -> dict[str, Any]:
    """JSON schema of the specs of a kind.

    Raises:
        Error: there is no such kind.
    """
    whole = job_spec.json_schema()
    definitions = whole["$defs"]
    found = {}
    for option in whole.get("oneOf") or whole["anyOf"]:
        schema = _resolved(option, definitions)
        found[schema["properties"]["kind"]["const"]] = schema
    if kind not in found:
        raise Error(f"there is no kind {kind!r} of jobs; there are {', '.join(found)}")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found[kind], "$defs": definitions}


def template(kind: str) -> str:
    """YAML of a spec of a kind, which is valid as it is.

    Raises:
        Error: there is no such kind.
    """
    schema = json_schema(kind)
    return "\n".join([*_comment(schema.get("description", ""), ""), *_Writer(schema["$defs"]).fields(schema)]) + "\n"


def _resolved(schema: Schema, definitions: Schema) -> dict[str, Any]:
    """A schema with its reference followed; what stands beside the reference counts more."""
    if "$ref" not in schema:
        return dict(schema)
    target = definitions[schema["$ref"].rpartition("/")[2]]
    return {**target, **{name: value for name, value in schema.items() if name != "$ref"}}


class _Writer:
    """Writes the fields of one schema, those of the kinds of jobs and those inside them."""

    def __init__(self, definitions: Schema) -> None:
        self._definitions = definitions

    def fields(self, schema: Schema, values: Mapping[str, Any] | None = None, indent: str = "") -> Iterator[str]:
        """Lines of an object's fields.

        Args:
            schema: of the object.
            values: of fields whose values are not their own defaults.
            indent: before each line.
        """
        given = values or {}
        for name, raw in schema["properties"].items():
            field = _resolved(raw, self._definitions)
            if name == "kind" and "const" in field:
                value: Any = field["const"]
            elif name in given:
                value = given[name]
            else:
                value = field["default"] if "default" in field else _EXAMPLES.get(name)
            yield from self._field(name, field, value, indent)

    def _field(self, name: str, field: Schema, value: Any, indent: str) -> Iterator[str]:
        yield from _comment(self._explain(field, name), indent)
        options = self._options(field)
        chosen = self._option_of(options, value)
        if chosen is None:
            yield f"{indent}{name}: {_scalar(value)}"
        else:
            yield f"{indent}{name}:"
            yield from self.fields(chosen, value, f"{indent}  ")
        for option in options:
            if option is not chosen and "properties" in option:
                yield f"{indent}# or:"
                yield f"{indent}# {name}:"
                for line in self.fields(option, None, "  "):
                    yield f"{indent}# {line}".rstrip()

    def _options(self, field: Schema) -> list[dict[str, Any]]:
        """The schemas of which a value must meet one."""
        several = field.get("oneOf") or field.get("anyOf")
        if not several:
            return [dict(field)]
        return [option for one in several for option in self._options(_resolved(one, self._definitions))]

    def _option_of(self, options: list[dict[str, Any]], value: Any) -> dict[str, Any] | None:
        """The option of an object that a value is of; None where it is no object."""
        objects = [option for option in options if "properties" in option]
        if not objects or not (isinstance(value, dict) or (value is None and len(options) == 1)):
            return None
        kind = (value or {}).get("kind")
        return next((one for one in objects if kind and one["properties"]["kind"].get("const") == kind), objects[0])

    def _explain(self, field: Schema, name: str) -> str:
        """What a field is, and its bounds or choices."""
        described = field.get("description", "")
        options = self._options(field)
        ranges = [text for option in options if (text := _range(option))]
        required = "needed" if "default" not in field and name != "kind" else ""
        facts = "; ".join([*ranges, *([required] if required else [])])
        return " ".join(part for part in (described, f"({facts})" if facts else "") if part)


def _range(schema: Schema) -> str:
    """What values a schema takes, in words; empty where anything of its type will do."""
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "items" in schema and isinstance(schema["items"], Mapping):
        inner = _range(schema["items"])
        return f"a list, each {inner}" if inner else "a list"
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    if high is None and "exclusiveMaximum" in schema:
        return f"{_scalar(low)} to less than {_scalar(schema['exclusiveMaximum'])}"
    return "" if low is None or high is None else f"{_scalar(low)} to {_scalar(high)}"


def _comment(text: str, indent: str) -> Iterator[str]:
    """Lines of a comment; nothing for an empty text."""
    words = " ".join(text.split())
    for line in textwrap.wrap(words, _WIDTH - len(indent), break_long_words=False, break_on_hyphens=False):
        yield f"{indent}# {line}"


def _scalar(value: Any) -> str:
    """A value in one line, as JSON, which YAML reads as well; plain words without quotes."""
    if isinstance(value, str) and value.replace("_", "").isalpha() and value.lower() not in _WORDS_OF_YAML:
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e9:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)
