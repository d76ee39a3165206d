"""Verb `spec`: prints a job spec with every field explained."""

from typing import Annotated, Literal

import typer

from service.cli.options import JsonOption
from service.cli.output import print_json

__all__ = ["spec"]


def spec(
    kind: Annotated[Literal["train", "tune", "figure", "evaluate"], typer.Option(help="Of jobs.")] = "train",
    as_json: JsonOption = False,
) -> None:
    """Print a spec with every field, its default and its bounds, as commented YAML; with --json its JSON schema."""
    from service.cli.spec_template import json_schema, template

    if as_json:
        print_json(json_schema(kind))
    else:
        typer.echo(template(kind), nl=False)
