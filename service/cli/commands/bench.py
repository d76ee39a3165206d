"""Verb `bench`: the scoreboard of this model and other methods on the same scenes, without a stack."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from seqae.errors import Error
from service.cli.home import find_home
from service.cli.options import DataOption, HomeOption, JsonOption
from service.cli.output import print_json

__all__ = ["bench"]

NameT = TypeVar("NameT", bound=StrEnum)

_SCENES = "mnist,overlap,seven,sprites,tetrominoes"
_METHODS = "ours,paper,draw,air,slot-attention,components,kmeans"


class _Digits(StrEnum):
    """Where digits come from, as in `data.digits`."""

    MNIST = "mnist"
    BUNDLED = "bundled"


def bench(
    on: Annotated[str, typer.Option(metavar="NAMES", help="Scenes, joined by commas; also air-setting.")] = _SCENES,
    methods: Annotated[str, typer.Option(metavar="NAMES", help="Methods, joined by commas.")] = _METHODS,
    minutes: Annotated[float, typer.Option(min=0.001, help="Of training, for each method on each scenes.")] = 30.0,
    iterations: Annotated[int | None, typer.Option(min=1, help="Optimizer steps, in place of minutes.")] = None,
    evaluations: Annotated[int, typer.Option(min=1, help="On `val`, while a method trains; early ones closer.")] = 15,
    val_scenes: Annotated[int, typer.Option(min=2, help="Scenes of `val` in each of them.")] = 300,
    test_scenes: Annotated[int, typer.Option(min=2, help="Scenes of `test` at the end.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and batches; scenes stay the same.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="That compute; with one, minutes are CPU time.")] = 1,
    digits: Annotated[_Digits, typer.Option(help="The real MNIST, found or downloaded, or scikit-learn's.")] = (
        _Digits.MNIST
    ),
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for results.jsonl and pictures.")] = Path("bench"),
    home: HomeOption = None,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare this model with other methods: same scenes, same scores, same core; needs `seqae[bench]` for AIR."""
    folder = find_home(home)
    # This loads torch, which takes seconds.
    from seqae.peers.runs import Budget
    from seqae.peers.scoreboard import Places, Selection, fill, table
    from seqae.peers.settings import MethodName, SceneSet

    source: Literal["mnist", "bundled"] = "mnist" if digits is _Digits.MNIST else "bundled"
    selection = Selection(
        scenes=_named(SceneSet, on, "--on"),
        methods=_named(MethodName, methods, "--methods"),
        budget=Budget(minutes, iterations, evaluations, val_scenes, test_scenes),
        seed=seed,
        threads=threads,
        digits=source,
    )
    places = Places(out, folder / "data", data_dir)
    results = fill(selection, places, lambda line: typer.echo(line, err=True))
    if as_json:
        print_json([result.line() for result in results])
        return
    typer.echo(table(results))
    typer.echo(f"{out / 'results.jsonl'}; pictures beside it")


def _named(kind: type[NameT], given: str, option: str) -> tuple[NameT, ...]:
    """Names joined by commas, each once, in the order given."""
    names = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    known = [str(name) for name in kind]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise Error(f"{option}: there is no {unknown[0] if unknown else 'name'!r}; there are {', '.join(known)}")
    return tuple(kind(name) for name in names)
