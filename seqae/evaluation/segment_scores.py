"""Segmentation scores of a model on one split: by its writes, by its looks, and by the writes' energy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqae.data.scenes import Scenes
from seqae.evaluation.names import before_looks, standard_error_of
from seqae.evaluation.scores import OwnerScores, OwnerTables, Score, mean_score, score_owners, tabulate_owners
from seqae.evaluation.write_energy import EnergyScores, EnergyTables, score_energy, tabulate_energy
from seqae.segmentation.ownership import Ownership

__all__ = ["SegmentScores", "SegmentTables", "score_tables", "tabulate"]

_SHOWN_BEFORE_LOOKS = ("fg_ari", "miou")


@dataclass(frozen=True)
class SegmentScores:
    """How well the segments match the objects."""

    of_writes: OwnerScores
    """Each pixel belongs to the strongest active write."""

    of_looks: OwnerScores
    """The same after looking again: what is served, and what models are compared by."""

    energy: EnergyScores
    """Scores of the writes without an owner for each pixel."""

    touching: Score
    """Share of the images whose objects touch: how hard the scenes are."""

    def metrics(self) -> dict[str, float]:
        """Flat numbers under bare names; those before the looks and the standard errors have an ending."""
        scores = self.of_looks.named() | {"count_accuracy": self.energy.count_accuracy}
        scores |= {before_looks(name): self.of_writes.named()[name] for name in _SHOWN_BEFORE_LOOKS}
        flat = {"touching": self.touching.mean}
        for name, score in scores.items():
            flat[name] = score.mean
            if score.standard_error is not None:
                flat[standard_error_of(name)] = score.standard_error
        energy = self.energy
        return flat | {
            "purity": energy.purity,
            "completeness": energy.completeness,
            "active_share": energy.active_share,
        }


@dataclass(frozen=True)
class SegmentTables:
    """All that the scores need of images."""

    of_writes: OwnerTables
    of_looks: OwnerTables
    energy: EnergyTables
    touching: NDArray[np.bool_]
    """[M]"""

    @classmethod
    def joined(cls, parts: Sequence["SegmentTables"]) -> "SegmentTables":
        """Tables of parts of the images laid end to end; all must have been made for as many objects."""
        return cls(
            of_writes=OwnerTables.joined([part.of_writes for part in parts]),
            of_looks=OwnerTables.joined([part.of_looks for part in parts]),
            energy=EnergyTables.joined([part.energy for part in parts]),
            touching=np.concatenate([part.touching for part in parts]),
        )


def tabulate(of_writes: Ownership, of_looks: Ownership, scenes: Scenes, *, objects: int) -> SegmentTables:
    """Tables of some images.

    Args:
        of_writes: ownership by the writes of a reconstruction.
        of_looks: ownership after looking again.
        scenes: these images, with their masks.
        objects: K, of all scenes that are scored together.

    Raises:
        ValueError: the scenes have no masks.
    """
    return SegmentTables(
        of_writes=_owner_tables(of_writes, scenes, objects),
        of_looks=_owner_tables(of_looks, scenes, objects),
        energy=tabulate_energy(of_writes.strengths.movedim(0, 1).cpu().numpy(), scenes, objects=objects),
        touching=scenes.touching(),
    )


def score_tables(tables: SegmentTables, active_share: float | None = None) -> SegmentScores:
    """Scores the images whose tables these are.

    Args:
        tables: of all the images.
        active_share: of the counts, chosen on other images; left out, each half of these chooses for the other.
    """
    return SegmentScores(
        of_writes=score_owners(tables.of_writes),
        of_looks=score_owners(tables.of_looks),
        energy=score_energy(tables.energy, active_share),
        touching=mean_score(tables.touching),
    )


def _owner_tables(found: Ownership, scenes: Scenes, objects: int) -> OwnerTables:
    return tabulate_owners(
        found.owners.cpu().numpy(),
        scenes,
        segments=len(found.strengths),
        supports=None if scenes.amodal is None else found.supports.movedim(0, 1).cpu().numpy(),
        objects=objects,
    )
