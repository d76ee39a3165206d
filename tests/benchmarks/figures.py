"""Measured values of a benchmark, and the table that they are printed in."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measured value, and what it is compared with."""

    part: str
    name: str
    value: float
    unit: str
    ratio: float | None = None
    """value / reference, or how many times faster: `against` says which. None where there is nothing to compare."""
    against: str = ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(figures: Iterable[Figure]) -> str:
    """All figures, one a line, columns aligned."""
    header = ("part", "figure", "value", "unit", "ratio", "against")
    rows: list[Sequence[str]] = [header]
    for figure in figures:
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f} x"
        rows.append((figure.part, figure.name, _number(figure.value), figure.unit, ratio, figure.against))
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in (2, 4) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def as_json(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    return [asdict(figure) for figure in figures]
