"""Files of a figure among an attempt's artifacts: the picture, and its caption and numbers."""

import io
import json

from jobs.directory.files import write_atomically
from jobs.directory.layout import AttemptFolder
from seqae.figures.figure import Figure, FigureName

__all__ = ["write_figure"]


def write_figure(attempt: AttemptFolder, name: FigureName, figure: Figure) -> bytes:
    """Writes `figure-NAME.png` and `figure-NAME.json`.

    Args:
        attempt: whose artifacts they become.
        name: of the figure.
        figure: what was made.

    Returns:
        The picture, as a PNG.
    """
    stream = io.BytesIO()
    figure.image.save(stream, "PNG")
    about = {"figure": name, "caption": figure.caption, "numbers": dict(figure.numbers)}
    write_atomically(attempt.artifacts / f"figure-{name}.png", stream.getvalue())
    write_atomically(attempt.artifacts / f"figure-{name}.json", json.dumps(about, indent=2) + "\n")
    return stream.getvalue()
