"""Verbs of models: `models`, `promote`, `rollback`, `reconstruct`, `evaluate` and `verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from seqae.errors import Error
from service.cli.commands.jobs import finish
from service.cli.files import read_file, write_file
from service.cli.options import (
    HomeOption,
    JsonOption,
    OwnerOption,
    UrlOption,
    WhyOption,
    connect,
    resolve_job,
    resolve_model,
    user_name,
)
from service.cli.output import ExitStatus, format_metric, format_time, print_json, print_model, print_table, printable

if TYPE_CHECKING:
    from service.schemas.models import ModelStatus, RegisteredModelView, VersionView

__all__ = ["evaluate", "models", "promote", "reconstruct", "rollback", "verify"]

_MOST_IMAGE_BYTES = 100_000_000
"""The service has a lower limit of its own, and says so."""

_METRICS = ("test/mse", "test/fg_ari", "test/count_accuracy")
_MOVES_SHOWN = 5


def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this one, with all its versions.")] = None,
    home: HomeOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the registered models: which version of each is served, and why."""
    with connect(home, url) as client:
        if name is None:
            status = client.models()
            if as_json:
                print_model(status)
            else:
                _print_status(status)
        else:
            model = client.model(name)
            if as_json:
                print_model(model)
            else:
                _print_versions(model)


def _print_status(status: "ModelStatus") -> None:
    rows = []
    for model in status.models:
        champion = next((version for version in model.versions if version.version == model.champion), None)
        metrics = [format_metric(champion.metrics if champion else None, metric) for metric in _METRICS]
        rows.append((model.name, model.champion or "-", model.challenger or "-", *metrics, _why(model, champion)))
    if rows:
        print_table(("model", "champion", "challenger", *_METRICS, "why"), rows)
    elif status.champion is None:
        typer.echo("there is no model yet: `seqae submit` trains one")
    served = "nothing" if status.champion is None else f"{status.champion.name}/{status.champion.version}"
    typer.echo(f"served where no model is named: {served}; {status.detail}")


def _why(model: "RegisteredModelView", champion: "VersionView | None") -> str:
    """Why the champion is that: the last move of a person, or what was decided when its job ended."""
    moves = [move for move in model.history if move.version == model.champion]
    if moves and moves[0].who:
        return f"{moves[0].who}: {moves[0].why or 'no reason given'}"
    if champion is None:
        return "no version was promoted"
    return champion.promotion.reason if champion.promotion else (moves[0].why if moves else "")


def _print_versions(model: "RegisteredModelView") -> None:
    rows = [
        (
            version.version,
            ", ".join(version.aliases) or "-",
            format_time(version.created_at),
            version.job_id or "not made here",
            *(format_metric(version.metrics, metric) for metric in _METRICS),
            version.promotion.reason if version.promotion else "",
        )
        for version in model.versions
    ]
    print_table(("version", "is", "created", "job", *_METRICS, "why"), rows)
    for move in model.history[:_MOVES_SHOWN]:
        by = move.who or "the promotion rule"
        about = f"{model.name}/{move.version} made champion by {by}: {move.why or '-'}"
        typer.echo(f"{format_time(move.at)}  {printable(about)}")


def promote(
    version: Annotated[
        str, typer.Argument(metavar="NAME/VERSION", help="Such as seqae-mnist_scenes/3; with --trial a search.")
    ],
    trial: Annotated[
        int | None, typer.Option("--trial", min=0, help="The model of this trial of a search that has ended.")
    ] = None,
    why: WhyOption = "",
    owner: OwnerOption = "",
    home: HomeOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version, or with --trial a trial of a search, the champion of its model, whatever the rule says."""
    if trial is not None:
        with connect(home, url) as client:
            job_id = resolve_job(client, version)
            made = client.promote_trial(job_id, trial, why=why, owner=user_name(owner))
            _print_champion(made, as_json=as_json)
        return
    name, slash, number = version.rpartition("/")
    if not (name and slash and number.isascii() and number.isdecimal()):
        raise Error(f"{version!r} is no version: NAME/VERSION is expected, such as seqae-mnist_scenes/3")
    with connect(home, url) as client:
        _print_champion(client.promote(name, number, why=why, owner=user_name(owner)), as_json=as_json)


def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of a registered model.")],
    why: WhyOption = "",
    owner: OwnerOption = "",
    home: HomeOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the champion before the champion again."""
    with connect(home, url) as client:
        _print_champion(client.rollback(name, why=why, owner=user_name(owner)), as_json=as_json)


def _print_champion(model: "RegisteredModelView", *, as_json: bool) -> None:
    if as_json:
        print_model(model)
    else:
        typer.echo(f"{model.name}/{model.champion} is the champion; before it was {model.previous or 'none'}")


def reconstruct(
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An image of any size and kind.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A .gif, .png (film strip), .npz or .json file.")],
    model: Annotated[str, typer.Option(help="`champion`, NAME, NAME@challenger, NAME/VERSION, or a job.")] = "champion",
    invert: Annotated[
        Literal["false", "true", "auto"], typer.Option(help="Exchange black and white first; auto: if it looks so.")
    ] = "false",
    home: HomeOption = None,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a model rebuild an image, step by step. What speaks against trusting the result is said, too."""
    from service.schemas.models import Invert, MediaType

    media_types = {".gif": MediaType.GIF, ".png": MediaType.PNG, ".npz": MediaType.NPZ, ".json": MediaType.JSON}
    media_type = media_types.get(out.suffix.lower())
    if media_type is None:
        raise Error(f"{out}: the name must end in one of {', '.join(media_types)}")
    content = read_file(image, _MOST_IMAGE_BYTES)
    with connect(home, url) as client:
        model = resolve_model(client, model)
        warnings: list[str] = []
        made = client.render(content, media_type, model=model, invert=Invert(invert), on_warning=warnings.append)
    write_file(out, made)
    if as_json:
        print_json({"file": str(out), "model": model, "warnings": warnings})
        return
    typer.echo(str(out))
    for warning in warnings:
        typer.echo(f"note: {printable(warning)}", err=True)


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="`champion`, NAME, NAME@challenger, NAME/VERSION, or a job.")
    ] = "champion",
    data: Annotated[
        Path | None, typer.Option("--data", help="YAML or JSON file with a spec's `data`; by default the model's own.")
    ] = None,
    scenes: Annotated[int | None, typer.Option("--scenes", min=1, help="At most so many test images.")] = None,
    figure: Annotated[list[str] | None, typer.Option("--figure", help="4 to 10, or sample; repeat it.")] = None,
    name: Annotated[str, typer.Option("--name", help="What people call the job.")] = "evaluation",
    home: HomeOption = None,
    url: UrlOption = None,
    owner: OwnerOption = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Submit a job that evaluates a model on the test images of any data set; prints the job's id."""
    from service.cli.spec_file import read_spec

    spec: dict[str, Any] = {"kind": "evaluate", "name": name}
    if data is not None:
        given = read_spec(data)
        # A whole spec will do: its data are meant.
        spec["data"] = given["data"] if isinstance(given.get("data"), dict) else given
    if scenes is not None:
        spec["scenes"] = scenes
    if figure:
        spec["figures"] = [int(one) if one.isdecimal() else one for one in figure]
    with connect(home, url) as client:
        spec["model"] = resolve_model(client, model)
        finish(client, client.submit(spec, owner=owner), wait=wait, as_json=as_json)


def verify(
    job: Annotated[str, typer.Argument(metavar="JOB", help="A training run: its id, or `latest`.")],
    start: Annotated[
        int | None, typer.Option("--from", min=0, help="Iteration to begin at, or at the checkpoint before it.")
    ] = None,
    reports: Annotated[int, typer.Option("--reports", min=1, help="How many logged reports to compare.")] = 3,
    tolerance: Annotated[float, typer.Option("--tolerance", help="Largest relative deviation.")] = 0.01,
    home: HomeOption = None,
    url: UrlOption = None,
    owner: OwnerOption = "",
    as_json: JsonOption = False,
) -> None:
    """Train a part of a run again and compare it with what was logged. The exit status is 0 when it is the same."""
    with connect(home, url) as client:
        verified = resolve_job(client, job)
        spec: dict[str, Any] = {"kind": "verify", "name": f"verify {verified}"[:100], "job": verified}
        spec |= {"reports": reports, "tolerance": tolerance}
        if start is not None:
            spec["start"] = start
        submitted = client.submit(spec, owner=owner)
        finish(client, submitted, wait=True, as_json=as_json)
        metrics = client.get(submitted.id).metrics or {}
    agrees = metrics.get("verify/agrees") == 1.0
    if not as_json:
        begin, last = metrics.get("verify/start", 0.0), metrics.get("verify/last", 0.0)
        deviation = metrics.get("verify/largest_deviation", 0.0)
        verdict = "as logged" if agrees else "NOT as logged"
        typer.echo(f"{verdict}: iterations {begin:.0f} to {last:.0f} deviate by {deviation:.2g} at most")
    if not agrees:
        raise typer.Exit(ExitStatus.FAILED)
