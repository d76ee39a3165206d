"""docs/settings.md, made from the code: every variable with its default, its bounds and what it is.

python -m tests.settings_page     writes it
"""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.core import TyperGroup

from service.cli.main import app
from service.settings import ReconcilerSettings, Settings

__all__ = ["PAGE", "page"]

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"

_HEAD = """# Settings

Of the control plane, from environment variables, read once when it starts (`python -m service`; `seqae up` hands its
environment on). Durations are in seconds, sizes in bytes; lists are JSON. An unknown variable is ignored, a wrong value
ends the start with a message that names it.

This page is made from the code by `make docs`; a test compares them.
"""
_COMMAND_LINE = """
## The command line

Its options may be given as variables, too.

| variable | option | what it is |
| --- | --- | --- |
"""
_TABLE = "\n| variable | default | what it is |\n| --- | --- | --- |\n"
_ENDS = {"ge": "at least {}", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}


def page() -> str:
    """The page as it should be."""
    parts = [_HEAD]
    for model, first in ((Settings, "Where things are"), (ReconcilerSettings, "The reconciler")):
        for title, names in _groups(model, first):
            rows = "".join(_row(name, model.model_fields[name]) for name in names)
            parts.append(f"\n## {title}\n{_TABLE}{rows}")
    return "".join([*parts, _COMMAND_LINE, *sorted(_options())])


def _groups(model: type[BaseModel], first: str) -> Iterator[tuple[str, list[str]]]:
    """Fields that a model has of its own, below the headings that its source has as comments."""
    title, names = first, list[str]()
    for line in inspect.getsource(model).splitlines():
        if heading := re.fullmatch(r" {4}# --- (.+)", line):
            yield title, names
            title, names = heading[1][0].upper() + heading[1][1:], []
        elif (field := re.match(r" {4}(\w+): ", line)) and field[1] in model.model_fields:
            names.append(field[1])
    yield title, names


def _row(name: str, field: FieldInfo) -> str:
    return f"| `SEQAE_{name.upper()}` | {_default(field)} | {_cell(_with_bounds(field))} |\n"


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "needed"
    if value is None or value == "" or value == ():
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple | dict):
        return f"`{json.dumps(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _with_bounds(field: FieldInfo) -> str:
    ends = [
        text.format(f"{value:,}" if isinstance(value, int) else f"{value:g}")
        for name, text in _ENDS.items()
        for value in [_bound(field, name)]
        if value is not None
    ]
    return f"{field.description} ({', '.join(ends)})" if ends else f"{field.description}"


def _bound(field: FieldInfo, name: str) -> Any:
    return next((value for data in field.metadata if (value := getattr(data, name, None)) is not None), None)


def _cell(text: str) -> str:
    """Text in one cell of a table."""
    return " ".join(text.replace("|", "\\|").split())


def _options() -> set[str]:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    rows = set()
    for command in group.commands.values():
        for parameter in command.params:
            variable, text = parameter.envvar, getattr(parameter, "help", None) or ""
            if isinstance(variable, str):
                rows.add(f"| `{variable}` | `{parameter.opts[0]}` | {_cell(text)} |\n")
    return rows


if __name__ == "__main__":
    PAGE.write_text(page())
