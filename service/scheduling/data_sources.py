"""Check of a spec's paths at submission: whether its images lie where this stack may read them."""

from pathlib import Path

from jobs.specs import AnySpec, TuneSpec, VerifySpec
from seqae.config import ImagesConfig
from seqae.data.paths import AllowedRoots
from seqae.errors import DataError
from service.errors import FieldProblem

__all__ = ["check"]


def check(spec: AnySpec, data_dir: Path | None) -> tuple[tuple[FieldProblem, ...], tuple[str, ...]]:
    """What is wrong with the paths of a spec's images, and what can't be seen from here.

    Args:
        spec: with its defaults filled in.
        data_dir: the data folder of this stack, if it has one. The control plane may not see it: then only the way to
            a file is checked, and not whether it is there.

    Returns:
        The problems, and warnings.
    """
    train, at = (spec.base, "#/base/data") if isinstance(spec, TuneSpec) else (spec, "#/data")
    data = None if isinstance(train, VerifySpec) else train.data
    if not isinstance(data, ImagesConfig):
        return (), ()
    roots = AllowedRoots.configured(data_dir)
    problems, warnings = [], []
    for field, path in (("path", data.path), ("annotations", data.annotations)):
        if path is None:
            continue
        if not Path(path).is_absolute() and data_dir is None:
            cure = "start it with `seqae up --data-dir FOLDER` (SEQAE_DATA_DIR)"
            problems.append(FieldProblem(f"{at}/{field}", f"is relative, and this stack has no data folder: {cure}"))
        elif data_dir is not None and not data_dir.is_dir() and not Path(path).is_absolute():
            warnings.append(f"the data folder is not seen from here, so data/{field} was not looked for")
        else:
            try:
                roots.locate(path, f"data/{field}")
            except DataError as error:
                problems.append(FieldProblem(f"{at}/{field}", str(error)))
    return tuple(problems), tuple(warnings)
