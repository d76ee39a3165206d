"""Spec files, good and bad. The bad ones end in one line, whatever is in them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.backends.provenance import to_yaml
from seqae.errors import Error
from service.cli.spec_file import parse_spec, read_spec

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("name: first", {"name": "first"}),
    ("\ufeffname: first", {"name": "first"}),
    ('{\n\t"name": "tabs",\n\t"schedule": {"epochs": 1}\n}', {"name": "tabs", "schedule": {"epochs": 1}}),
    ("{name: flow, on: yes}", {"name": "flow", "on": "yes"}),
    ("a: 2e2\nb: 1.5e3\nc: 1.5e-3", {"a": 200, "b": 1500, "c": 0.0015}),
    ("d: 2.0\ne: +3\nf: -4", {"d": 2.0, "e": 3, "f": -4}),
    ('{"a": 2e2, "b": 1E-3, "c": 5}', {"a": 200, "b": 0.001, "c": 5}),
    ("a: 010\nb: 0o10\nc: 0x1f\nd: 1_000", {"a": 10, "b": 8, "c": 31, "d": "1_000"}),
    ("a: yes\nb: off\nc: 1:30", {"a": "yes", "b": "off", "c": "1:30"}),
    ("d: 2024-13-45\ne: 2024-01-02", {"d": "2024-13-45", "e": "2024-01-02"}),
    ("a: true\nb: False\nc: null\nd: ~\ne:", {"a": True, "b": False, "c": None, "d": None, "e": None}),
    ("a: !!str 5\nb: !!float '1.5'", {"a": "5", "b": 1.5}),
    ('{"a": "\\ud83d\\ude00\\t/"}', {"a": "😀\t/"}),
    ("base: &b {x: 1, y: [2]}\nsame: *b", {"base": {"x": 1, "y": [2]}, "same": {"x": 1, "y": [2]}}),
    ("b: &b {x: 1, y: 2}\nmore: {<<: *b, x: 3}", {"b": {"x": 1, "y": 2}, "more": {"x": 3, "y": 2}}),
    ("<<: [{x: 1}, {x: 2, y: 2}]", {"x": 1, "y": 2}),
]

BAD: list[tuple[str, str]] = [
    ("", "no job spec"),
    ("- a list", "no job spec"),
    ("only words", "no job spec"),
    ('"a text"', "no job spec"),
    ("[1]", "no job spec"),
    ("{broken", "line 1, column 8, is neither YAML nor JSON"),
    ("a: 1\n b: 2", "line 2, column 3, is neither YAML nor JSON"),
    ("a:\n\tb: 1", "line 2, column 1, is neither YAML nor JSON"),
    ("--- {a: 1}\n--- {b: 2}", "line 2"),
    ("a: \x00", "line 1, is neither"),
    ("a: 1\nb: \x1b[31m", "line 2, is neither"),
    ("a: *nowhere", "alias"),
    ("name: &a [*a]", "line 1, repeats itself"),
    ("a: &a {b: {c: *a}}", "repeats itself"),
    ("<<: [&a {<<: *a}]", "repeats itself"),
    ("<<: 3", "merges"),
    ("x: .inf", "line 1, has .inf"),
    ("y: 1\nx: -.INF", "line 2, has -.INF"),
    ("x: .nan", "finite"),
    ('{"x": NaN}', "has NaN"),
    ('{"x": -Infinity}', "has -Infinity"),
    ("x: 1e999", "too large"),
    ('{"x": 1e999}', "too large"),
    ("x: " + "9" * 5000, "too large"),
    ('{"x": ' + "9" * 5000 + "}", "too large"),
    ("%YAML " + "9" * 5000 + ".1\n--- {a: 1}", "neither"),
    ("a: 1\nb: 2\na: 3", "line 3, has the field 'a' again, after line 1"),
    ('{\n\t"a": 1,\n\t"b": {"c": "\\t", "c": 2}\n}', "line 3, has the field 'c' again, after line 3"),
    ('{"a": 1,\n"\\u0061": 2}', "line 2, has the field 'a' again"),
    ("1: x", "line 1, has a field whose name is no text"),
    ("true: x", "no text"),
    ("~: x", "no text"),
    ("? [a, b]\n: c", "no text"),
    ("? {a: b}\n: c", "no text"),
    ("a: !!timestamp 2020-01-01", "the type 'timestamp'"),
    ("a: !!binary aGVsbG8=", "the type 'binary'"),
    ("a: !!set {x, y}", "the type 'set'"),
    ("a: !!omap [b: 1]", "the type 'omap'"),
    ("a: !!python/object/apply:os.getcwd []", "the type 'python/object/apply:os.getcwd'"),
    ("a: !mine 5", "the type '!mine'"),
    ("a: !!int word", "number"),
    ("a: !!bool yes", "the type 'bool'"),
    ("a: !!map [1]", "the type 'map'"),
    ('a: "\\ud800"', "half a character"),
    ('{"a": ["\\udfff"]}', "half a character"),
    ('{"\\udfff": 1}', "half a character"),
    ('a: "\\U00110000"', "neither"),
    ("[" * 100_000, "nested deeper"),
    ("a: " + "[" * 100_000, "nested deeper"),
    ('{"a":' * 100_000, "nested deeper"),
    ('{"a":' * 60 + "1" + "}" * 60, "nested deeper"),
    ("- " * 100_000, "nested deeper"),
    ("a: &x '" + "y" * 100_000 + "'\nb: [" + "*x, " * 100 + "]", "too large"),
    ("l0: &l0 [a, b]\n" + "".join(f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}]\n" for n in range(1, 40)), "too large"),
    ("\n".join(f"k{n}: 1" for n in range(21_000)), "too large"),
]


@pytest.mark.parametrize(("text", "expected"), GOOD, ids=[text[:20] for text, _ in GOOD])
def test_what_a_spec_says(text: str, expected: dict[str, Any]) -> None:
    """F5: a JSON file is JSON, tabs and all; 2e2 is 200; no surprises of YAML 1.1."""
    assert parse_spec(text, "spec") == expected
    # A whole number is an integer, which equality does not tell from a float.
    assert json.dumps(parse_spec(text, "spec")) == json.dumps(expected)


@pytest.mark.parametrize(("text", "told"), BAD, ids=[text[:20] for text, _ in BAD])
def test_a_bad_spec_is_told_in_one_line(text: str, told: str) -> None:
    """F4, F5: no traceback, duplicate fields are refused with their lines."""
    with pytest.raises(Error) as refused:
        parse_spec(text, "spec.yaml")
    message = str(refused.value)
    assert message.startswith("spec.yaml")
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["name: x", "{name: x}", '{"a": 1,}', "", '{"a": 1} {}'])
def test_a_json_file_is_json_and_nothing_else(text: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.JSON"
    path.write_text(text)
    with pytest.raises(Error, match=r"spec\.JSON, line 1, is not JSON: "):
        read_spec(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_usual_encodings_are_read(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "spec"
    path.write_text("name: grün", encoding=encoding)
    assert read_spec(path) == {"name": "grün"}


def test_a_file_of_another_encoding_is_told(tmp_path: Path) -> None:
    """F4: the byte is named, and not the content."""
    path = tmp_path / "spec.yaml"
    path.write_bytes("name: grün".encode("latin-1"))
    with pytest.raises(Error, match=r"spec\.yaml is no text in UTF-8: byte 9 can't be read"):
        read_spec(path)


_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
_plain = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc<.!&*- ", max_size=5), inner, max_size=4),
    max_leaves=12,
)
_specs = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=10), _plain, max_size=5)


@settings(max_examples=150, deadline=None)
@given(_specs, st.sampled_from([None, 1, "\t"]))
def test_what_json_says_is_read_as_json_reads_it(spec: dict[str, Any], indent: int | str | None) -> None:
    """F5: whatever a program has written, indented or not."""
    text = json.dumps(spec, indent=indent)
    assert parse_spec(text, "spec") == spec
    assert parse_spec(text, "spec", only_json=True) == spec


_pieces = st.sampled_from(
    [
        *("name", "first", ": ", ":", "\n", "  ", "\t", "- ", "? ", "{", "}", "[", "]", ", ", "&a ", "*a", "<<", "!!"),
        *(
            "!!binary ",
            "!!set ",
            "!!python/name:os",
            "!t ",
            "'",
            '"',
            "\\",
            "\\u",
            "d800",
            "#",
            "|",
            ">",
            "%YAML ",
            "---",
        ),
        *(
            "...",
            "2e2",
            "1e999",
            ".inf",
            ".nan",
            "2024-13-45",
            "0x",
            "0o9",
            "~",
            "true",
            "null",
            "\x00",
            "\x85",
            "\ud800",
        ),
        *("é", "😀", "=", "@", "`", "1:30", "\u2028", "\r", "NaN", '"a":', "9" * 30),
    ]
)


def _refusal(read: Callable[[], dict[str, Any]]) -> str | None:
    """Why a text is no spec; None if it is one, which can be sent."""
    try:
        spec = read()
    except Error as error:
        return str(error)
    json.dumps(spec, allow_nan=False, ensure_ascii=False).encode()
    return None


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_pieces, max_size=14).map("".join) | st.text(max_size=40), st.booleans())
def test_any_text_is_a_spec_or_one_line(text: str, only_json: bool) -> None:
    """F4: fuzzed out of the pieces that YAML and JSON are made of."""
    refusal = _refusal(lambda: parse_spec(text, "spec", only_json=only_json))
    assert refusal is None or "\n" not in refusal


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60))
def test_any_bytes_are_a_spec_or_one_line(content: bytes, tmp_path: Path) -> None:
    """F4: and out of no text at all."""
    path = tmp_path / "spec"
    path.write_bytes(content)
    refusal = _refusal(lambda: read_spec(path))
    assert refusal is None or "\n" not in refusal


@settings(max_examples=100, deadline=None)
@given(_specs)
def test_what_yaml_writes_is_read_again(spec: dict[str, Any]) -> None:
    """F5: the `config.yaml` of a run can be submitted. Texts that look like something else are quoted."""
    assert parse_spec(to_yaml(spec), "spec") == spec


@pytest.mark.parametrize(
    "text", ["0E0", "2e2", ".5e3", "1.e2", "010", "0o7", "-08", "1e-5", "+1E5", "yes", "1:30", "~"]
)
def test_a_text_that_looks_like_a_number_stays_a_text(text: str) -> None:
    """F5: also what only one of YAML's two versions takes for a number."""
    assert parse_spec(to_yaml({text: text}), "spec") == {text: text}
