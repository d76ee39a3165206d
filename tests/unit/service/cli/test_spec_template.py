import re
from typing import Any

import pytest

from jobs.specs import job_spec
from seqae.errors import Error
from service.cli.spec_file import parse_spec
from service.cli.spec_template import json_schema, template

KINDS = [
    option["$ref"].rpartition("/")[2].removesuffix("Spec").lower()
    for option in (job_spec.json_schema().get("oneOf") or job_spec.json_schema()["anyOf"])
]


def _names(schema: dict[str, Any], definitions: dict[str, Any]) -> set[str]:
    found = set(schema.get("properties", ()))
    for inner in [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        found |= _names(inner, definitions)
    if "$ref" in schema:
        found |= _names(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_is_a_spec_with_the_defaults_and_names_every_field(kind: str) -> None:
    """Section 5: all fields, each with its default and its bounds."""
    text = template(kind)
    spec = job_spec.validate_python(parse_spec(text, kind))
    given = spec.model_dump(exclude_defaults=True)
    assert given.keys() <= {"kind", "name", "base", "space", "figure", "model", "job"}
    schema = json_schema(kind)
    written = set(re.findall(r"^[ #]*(\w+):", text, re.MULTILINE))
    assert _names(schema, schema["$defs"]) - written == set()
    assert all(len(line) <= 120 for line in text.splitlines())


def test_a_template_says_what_a_field_takes() -> None:
    lines = template("train").splitlines()
    assert "# (1 to 64" in "\n".join(lines) or "1 to 64)" in "\n".join(lines)
    assert any(line.lstrip().startswith("steps: 6") for line in lines)
    assert any("one of mnist_scenes" in line or "bundled, mnist" in line for line in lines)
    assert '  compile: "off"' in lines, "which YAML 1.1 would read as false"
    assert "# data:" in lines, "the other kind of data, to be uncommented"


def test_what_is_uncommented_is_a_spec_too() -> None:
    text = template("train")
    start = text.index("# or:\n# data:")
    lines = text[start:].splitlines()
    other = []
    for line in lines[1:]:
        if not line.startswith("#   ") and line != "# data:":
            break
        other.append(line.removeprefix("# "))
    spec = parse_spec("name: x\n" + "\n".join(other), "spec")
    assert job_spec.validate_python(spec).model_dump()["data"]["kind"] == "images"


def test_an_unknown_kind_is_told() -> None:
    with pytest.raises(Error, match=r"no kind 'x'.*train"):
        template("x")
