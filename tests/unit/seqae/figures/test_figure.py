from typing import get_args

from seqae.figures.figure import NAMES, FigureName


def test_names_are_written_as_people_write_them() -> None:
    assert NAMES == {"4": 4, "5": 5, "6": 6, "7": 7, "8": 8, "9": 9, "10": 10, "sample": "sample"}
    assert set(NAMES.values()) == set(get_args(FigureName))
