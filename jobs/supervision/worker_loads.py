"""Watch over what each worker's share of a batch costs it: workers that ran out of memory, and slow ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from jobs.directory.records import NoteKind
from seqae.optimization.progress import WorkerLoad

__all__ = ["LoadWatch", "Remark"]

_SLOW = 1.5
"""A worker is slow that takes so many times as long for an image as the others do in the median."""

_REPORTS = 3
"""So many reports in a row must say so: one may have been a pause of the machine."""


@dataclass(frozen=True)
class Remark:
    """What is to be noted of a worker."""

    kind: NoteKind
    text: str


class LoadWatch:
    """Compares workers with each other, and with themselves at the report before.

    Args:
        nodes: the name of each worker's machine, by rank.
        pieces: in how many each worker computes its share at first.
    """

    def __init__(self, nodes: Sequence[str], pieces: int = 1) -> None:
        self._nodes = nodes
        self._pieces = [pieces for _ in nodes]
        self._slow_reports = [0 for _ in nodes]

    def look(self, loads: Sequence[WorkerLoad]) -> list[Remark]:
        """What is new since the report before.

        Args:
            loads: of all workers, by rank.
        """
        return [*self._new_pieces(loads), *self._slow_workers(loads)]

    def _new_pieces(self, loads: Sequence[WorkerLoad]) -> list[Remark]:
        found = []
        for rank, (load, before) in enumerate(zip(loads, self._pieces, strict=True)):
            if load.pieces > before:
                what = f"memory ran out on worker {rank} ({self._nodes[rank]})"
                text = (
                    f"{what}: it computes its share of each batch in {load.pieces} pieces; the gradients are the same"
                )
                found.append(Remark(NoteKind.OUT_OF_MEMORY, text))
        self._pieces = [load.pieces for load in loads]
        return found

    def _slow_workers(self, loads: Sequence[WorkerLoad]) -> list[Remark]:
        found = []
        rates = [load.seconds / load.images if load.images else 0.0 for load in loads]
        for rank, rate in enumerate(rates):
            others = [other for at, other in enumerate(rates) if at != rank and other > 0]
            ratio = rate / median(others) if others else 0.0
            self._slow_reports[rank] = self._slow_reports[rank] + 1 if ratio > _SLOW else 0
            if self._slow_reports[rank] == _REPORTS:
                text = f"worker {rank} ({self._nodes[rank]}) takes {ratio:.1f} times as long as the others for an image"
                found.append(Remark(NoteKind.SLOW_WORKER, f"{text}; each step waits for it"))
        return found
