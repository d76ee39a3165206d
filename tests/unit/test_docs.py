"""Documentation names only what exists: files, modules, links, make targets, verbs and options of `seqae`, settings."""

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from service.cli.main import app
from service.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TOP = ("seqae", "jobs", "service", "deploy", "tests", "docs")
CODE = ("seqae", "jobs", "service", "tests")

FENCED = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^(?: {4}).*\n)+", re.MULTILINE)
INLINE = re.compile(r"`((?:[^`\n]|\n(?!\n))+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


# --- what a page says


def _code(text: str) -> list[str]:
    """Pieces of code on a page: spans, lines of fenced blocks and of indented ones, without shell comments."""
    blocks = list(FENCED.findall(text))
    prose = FENCED.sub("", text)
    blocks += INDENTED.findall(prose)
    lines = [line for block in blocks for line in block.splitlines()]
    spans = INLINE.findall(INDENTED.sub("", prose))
    return [re.split(r"(?:^|\s)# ", piece)[0] for piece in [*lines, *spans]]


def _words(text: str) -> Iterator[str]:
    for piece in _code(text):
        yield from (word.strip("'\",;:()[]").removesuffix(".") for word in piece.split())


def _commands(text: str) -> Iterator[list[str]]:
    """Calls of `seqae`, from the verb on, and options that follow it."""
    for piece in _code(text):
        for found in re.finditer(r"(?:^|[\s/;])seqae ([^;|&]+)", piece):
            yield found.group(1).split()


# --- what exists


@cache
def _files() -> frozenset[str]:
    hidden = {".git", ".venv", ".seqae", "__pycache__"}
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return frozenset(path.as_posix() for path in found if not hidden & set(path.parts))


@cache
def _sources() -> str:
    """Text of all sources; not of this file, which has names in it that must not exist."""
    here = Path(__file__).relative_to(ROOT).as_posix()
    names = [name for name in _files() - {here} if name.startswith(CODE) and name.endswith((".py", ".html"))]
    return "\n".join((ROOT / name).read_text() for name in [*sorted(names), "Makefile"])


def _expanded(pattern: str) -> list[str]:
    """Alternatives in braces, as a shell reads them."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [path for one in found.group(1).split(",") for path in _expanded(before + one + after)]


def _exists(path: str) -> bool:
    return all(any(ROOT.glob(one.rstrip("/"))) for one in _expanded(path))


def _is_defined(dotted: str) -> bool:
    """Whether a dotted name is a module of ours, or something that a module of ours defines."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:length])
        file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if base.is_dir() and length == len(parts):
            return True
        if file.is_file():
            return _has_member(ast.parse(file.read_text()).body, parts[length:])
    return False


def _has_member(body: list[ast.stmt], names: list[str]) -> bool:
    if not names:
        return True
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == names[0]:
            return _has_member(node.body, names[1:])
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == names[0] for target in targets):
            return len(names) == 1
    return False


@cache
def _verbs() -> dict[str, set[str]]:
    """Verbs of the command line, and the options of each."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in group.commands.items()
    }


@cache
def _root_options() -> set[str]:
    """Options of `seqae` itself."""
    group = typer.main.get_command(app)
    return {option for parameter in group.params for option in parameter.opts} | {"--help"}


@cache
def _targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@cache
def _anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# --- what is wrong


def wrong_paths(text: str, _where: Path) -> list[str]:
    """Paths from the repository's root, and names of folders and source files alone, that do not exist."""
    wrong = []
    names = {part for name in _files() for part in name.split("/")}
    for word in _words(text):
        path = word.partition("::")[0]
        if path.partition("/")[0] in TOP and "/" in path:
            wrong += [] if _exists(path) else [path]
        elif re.fullmatch(r"[\w-]+(\.(py|toml|md|html|mako)|/)", path):
            wrong += [] if path.rstrip("/") in names else [path]
    return wrong


def wrong_records(text: str, _where: Path) -> list[str]:
    """Files of the job folder and the like, which no source names."""
    found = {word for word in _words(text) if re.fullmatch(r"\w+\.jsonl?", word)}
    return sorted(word for word in found if word not in _sources())


def wrong_modules(text: str, _where: Path) -> list[str]:
    """Dotted names of ours that are neither a module, nor something in one, nor a name that the sources write."""
    found = {word.removesuffix("()") for word in _words(text) if word.partition(".")[0] in CODE}
    dotted = {word for word in found if re.fullmatch(r"\w+(\.\w+)+", word)}
    return sorted(word for word in dotted if not _is_defined(word) and f'"{word}"' not in _sources())


def wrong_links(text: str, where: Path) -> list[str]:
    """Relative links, and places in their targets, that lead nowhere."""
    wrong = []
    for target in LINK.findall(FENCED.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (where.parent / path).resolve() if path else where
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            wrong.append(target)
    return wrong


def wrong_targets(text: str, _where: Path) -> list[str]:
    """Targets that the Makefile does not have."""
    pattern = r"(?:^|[\s;])make (?:[A-Z]+=\S+ )*([a-z]+)"
    return [target for piece in _code(text) for target in re.findall(pattern, piece) if target not in _targets()]


def wrong_verbs(text: str, _where: Path) -> list[str]:
    """Verbs and options that the command line does not have."""
    wrong = []
    for verb, *arguments in _commands(text):
        options = {word.partition("=")[0] for word in arguments if word.startswith("-")}
        if verb.startswith("-"):
            wrong += [] if verb in _root_options() else [verb]
        elif verb not in _verbs():
            wrong.append(verb)
        else:
            wrong += [f"{verb} {option}" for option in sorted(options - _verbs()[verb] - {"--help"})]
    return wrong


def wrong_variables(text: str, _where: Path) -> list[str]:
    """Environment variables that are neither settings nor named in the sources."""
    settings = {f"SEQAE_{field.upper()}" for field in Settings.model_fields}
    found = set(re.findall(r"SEQAE_[A-Z_]*[A-Z]", text))
    return sorted(name for name in found if name not in settings and name not in _sources())


Check = Callable[[str, Path], list[str]]
CHECKS: dict[Check, tuple[str, list[str]]] = {
    wrong_paths: (
        "`seqae/model.py`, `seqae/{model,modle}.py`, `data/`, `date/`, `old.py`",
        ["seqae/{model,modle}.py", "date/", "old.py"],
    ),
    wrong_records: ("`control.json`, `controls.json`", ["controls.json"]),
    wrong_modules: (
        "`python -m jobs.train`, `seqae.config.Config`, `seqae.config.Cnofig`\n\n    python -m tests.absent\n",
        ["seqae.config.Cnofig", "tests.absent"],
    ),
    wrong_links: (
        "[a](docs/load.md) ![b](docs/none.png) [c](README.md#start) [d](README.md#end) [e](https://example.org/x)",
        ["docs/none.png", "README.md#end"],
    ),
    wrong_targets: (
        "`make test`; they make fun. `make tset`\n\n    make PYTHON=python3 dmeo  # make believe\n",
        ["dmeo", "tset"],
    ),
    wrong_verbs: (
        "`seqae up`, `.venv/bin/seqae pu`, `seqae logs latest --tial 3; seqae show x`, `seqae --verison`",
        ["pu", "logs --tial", "--verison"],
    ),
    wrong_variables: ("SEQAE_HOME, SEQAE_HOEM", ["SEQAE_HOEM"]),
}
"""By check: a page with errors on it, and what the check says of it."""


def test_all_pages_are_there() -> None:
    assert all(path.is_file() for path in PAGES)
    assert len(list((ROOT / "docs/decisions").glob("0*.md"))) >= 10


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_check_finds_what_is_wrong(check: Check) -> None:
    text, wrong = CHECKS[check]
    assert check(text, ROOT / "README.md") == wrong


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_names_only_what_exists(page: Path, check: Check) -> None:
    assert check(page.read_text(), page) == []


def test_every_decision_is_listed_and_says_why() -> None:
    index = (ROOT / "docs/decisions/README.md").read_text()
    numbers = []
    for path in sorted((ROOT / "docs/decisions").glob("0*.md")):
        text = path.read_text()
        assert f"]({path.name})" in index
        numbers.append(int(path.name[:4]))
        assert text.startswith(f"# {numbers[-1]}. ")
        assert [line for line in text.splitlines() if line.startswith("## ")] == [
            "## Context",
            "## Decision",
            "## Consequences",
        ]
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_verb_and_every_target_is_on_a_page() -> None:
    text = "\n".join(path.read_text() for path in PAGES)
    verbs = {command[0] for command in _commands(text)}
    named = {word for piece in _code(text) for word in re.findall(r"[a-z]+", piece)}
    assert _verbs().keys() - verbs - named == set()
    assert {target for target in _targets() - {"help"} if f"make {target}" not in text} == set()
