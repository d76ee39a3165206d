"""Verb `figure`: makes a figure of the paper from a checkpoint or a job's folder, without a stack."""

import io
from pathlib import Path
from typing import Annotated

import typer

from seqae.errors import Error
from service.cli.files import write_file
from service.cli.home import find_home
from service.cli.options import DataOption, HomeOption, JsonOption
from service.cli.output import print_json

__all__ = ["figure"]


def figure(
    name: Annotated[str, typer.Argument(metavar="FIGURE", help="4 to 10, or `sample`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png file.")],
    checkpoint: Annotated[Path | None, typer.Option(help="A checkpoint's folder.")] = None,
    job: Annotated[
        str | None,
        typer.Option(
            help="A job's id, the beginning of one, or folder, or `latest`: its model and its record of training."
        ),
    ] = None,
    index: Annotated[int, typer.Option(min=0, help="Which scene or image is shown.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of t-SNE and of samples.")] = 0,
    home: HomeOption = None,
    data_dir: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a figure of the paper, or `sample` scenes; 5 and 9 need --job, 4 needs no model."""
    if out.suffix.lower() != ".png":
        raise Error(f"{out}: the name must end in .png")
    if checkpoint is not None and job is not None:
        raise Error("give --checkpoint or --job, not both")
    from seqae.figures.figure import NAMES

    if name not in NAMES:
        raise Error(f"there is no figure {name!r}; there are {', '.join(NAMES)}")
    # This loads torch, which takes seconds: after everything that can be refused at once.
    from jobs.directory.layout import JobFolder
    from jobs.evaluation.model_sources import material_of
    from seqae.figures.make import Material, make_figure

    folder = find_home(home)
    material = Material(folder / "data", data_dir, checkpoint)
    if job is not None:
        material = material_of(JobFolder(_job_folder(folder / "jobs", job)), material)
    made = make_figure(NAMES[name], material, index=index, seed=seed)
    png = io.BytesIO()
    made.image.save(png, "PNG")
    write_file(out, png.getvalue())
    if as_json:
        print_json({"file": str(out), "caption": made.caption, "numbers": dict(made.numbers)})
        return
    typer.echo(made.caption)
    for number, value in made.numbers.items():
        typer.echo(f"  {number} = {value:.6g}")
    typer.echo(str(out))


def _job_folder(jobs_dir: Path, job: str) -> Path:
    """The folder of a job that is named by its id or its beginning, by its path, or as the latest that has trained."""
    if job == "latest":
        trained = [path.parents[2] for path in jobs_dir.glob("*/attempts/*/checkpoints")]
        if not trained:
            raise Error(f"no job in {jobs_dir} has a model")
        return max(trained, key=lambda path: path.stat().st_mtime)
    for folder in (jobs_dir / job, Path(job).absolute()):
        if (folder / "spec.json").is_file():
            return folder
    begun = [path.parent for path in jobs_dir.glob("*/spec.json") if path.parent.name.startswith((job, f"job_{job}"))]
    if len(begun) > 1:
        raise Error(f"{len(begun)} jobs' ids begin with {job}: {', '.join(sorted(path.name for path in begun))}")
    if not begun:
        raise Error(f"there is no job {job} in {jobs_dir}")
    return begun[0]
