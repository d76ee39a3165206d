"""Splits of a data set: what is learned from, what is chosen on, and what is reported."""

from typing import Literal

__all__ = ["SPLITS", "Split"]

Split = Literal["train", "val", "test"]
"""`train` is learned from; everything is chosen on `val`; `test` is looked at once, at the end, and reported."""

SPLITS: tuple[Split, ...] = ("train", "val", "test")
