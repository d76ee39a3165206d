"""Makes docs/cli.md out of the verbs and their options: `python -m service.cli.reference > docs/cli.md`."""

import sys
from collections.abc import Iterator

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from service.cli.main import app
from service.cli.output import EXIT_STATUSES

__all__ = ["reference"]

_INTRODUCTION = """\
# The command line

Made from the code by `python -m service.cli.reference`; a test compares. After `make demo` or `make test` the program
is `.venv/bin/seqae`, and after `source .venv/bin/activate` it is `seqae`. `seqae --help` lists the verbs,
`seqae submit --help` the options of one, `seqae --version` says which release it is, and `seqae --install-completion`
teaches your shell the verbs, options and ids.

**Jobs** are named by their ids, by the beginning of one that no other has (`job_3f` or `3f`), or as `latest`. Ids are
printed whole, times with their zone, and numbers by the names that they have everywhere: the split before the metric,
as in `val/mse` and `test/fg_ari`.

**The home** is the folder in which a stack keeps everything. It is the one that `--home` names, or the variable
SEQAE_HOME; else the nearest `.seqae` in the current folder or above it that belongs to you, as git finds a repository;
else your own, `seqae` in XDG_DATA_HOME or in `~/.local/share`. To keep a project's jobs with the project, make a
folder `.seqae` in it.

**The service** is that of the stack in the home, or the one that `--url` names.

**Specs** are JSON or YAML 1.2: `yes` and `on` are texts, 2e2 is 200. A field that is there twice is refused, and so is
what JSON can't say, such as a date.

**Errors** are one message on standard error. SEQAE_TRACEBACK=1 adds where it comes from.

`--json` prints JSON alone on standard output, for programs; `events`, `logs` print an object a line.

| exit status | means |
| --- | --- |
"""


def reference() -> str:
    """The page, as Markdown."""
    group = typer.main.get_command(app)
    if not isinstance(group, TyperGroup):
        raise TypeError("seqae has no verbs")
    lines = [f"| {int(status)} | {_text(meaning)} |" for status, meaning in EXIT_STATUSES.items()]
    panel = ""
    for name, command in group.commands.items():
        if not isinstance(command, TyperCommand):
            continue
        if command.rich_help_panel != panel:
            panel = str(command.rich_help_panel)
            lines += ["", f"## {panel}"]
        lines += ["", *_section(name, command)]
    return _INTRODUCTION + "\n".join(lines) + "\n"


def _section(name: str, command: TyperCommand) -> Iterator[str]:
    arguments = [one for one in command.params if isinstance(one, TyperArgument)]
    options = [one for one in command.params if isinstance(one, TyperOption) and not one.hidden]
    words = [_argument(argument) for argument in arguments]
    yield f"### seqae {name}"
    yield ""
    yield f"    seqae {' '.join([name, *words, '[OPTIONS]'])}"
    yield ""
    yield _text(command.help)
    yield ""
    yield "| argument or option | what it is |"
    yield "| --- | --- |"
    for argument in arguments:
        yield f"| `{_argument(argument)}` | {_text(argument.help)} |"
    for option in options:
        yield f"| {_names(option)} | {_text(option.help)}{_facts(option)} |"


def _argument(argument: TyperArgument) -> str:
    label = argument.metavar or argument.name.upper()
    return label if argument.required or label.startswith("[") else f"[{label}]"


def _names(option: TyperOption) -> str:
    # A flag takes no value.
    value = "" if option.is_flag else f" {option.metavar or _kind(option)}"
    return ", ".join(f"`{name}{value}`" for name in option.opts).replace("|", "\\|")


def _kind(option: TyperOption) -> str:
    descriptor = option.type_descriptor
    if descriptor.is_choice:
        return "|".join(map(str, descriptor.choices or ()))
    return {"int": "NUMBER", "float": "NUMBER", "Path": "PATH"}.get(option.bare_type(), "TEXT")


def _facts(option: TyperOption) -> str:
    """A default, and the variable of the environment that may give it."""
    facts = []
    if option.required:
        facts.append("needed")
    elif option.default not in (None, False, ""):
        facts.append(f"default `{option.default}`")
    if option.envvar:
        facts.append(f"or {option.envvar}")
    return f" ({'; '.join(facts)})" if facts else ""


def _text(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
