"""Purity of the separation loss's targets: how much of them is a neighbour's ink, with and without what others own.

    python -m tests.benchmarks.separation_targets --checkpoint experiments/default-0/checkpoint --row overlap

draws one step of each scene of `val`, as training does, and compares the patch that the separation loss would ask for
with what the same window reads of the object alone. The object is the one that holds most of the write's energy.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from seqae.attention import read
from seqae.checkpoints.checkpoint import load_model
from seqae.compute.cpu_threads import set_threads
from seqae.config import TrainConfig
from seqae.copy_paste import sample_steps
from seqae.data.cache import load_data
from seqae.data.scenes import Scenes
from seqae.model import SequentialAutoEncoder
from seqae.tensors import intensities
from tests.benchmarks.rows import ROWS

_BATCH = 25


class Purity(NamedTuple):
    """Of each scene's target: shares [scenes] of its energy, and of the object's."""

    foreign: Tensor  # of the target that is not the object's
    lost: Tensor  # of the object that the target lacks


@torch.no_grad()
def purity(model: SequentialAutoEncoder, scenes: Scenes, target: Literal["window", "object"]) -> Purity:
    """The targets of one batch of scenes, against their amodal masks."""
    assert scenes.amodal is not None
    assert scenes.counts is not None
    image = intensities(torch.from_numpy(scenes.images.copy()))
    torch.manual_seed(0)
    found = sample_steps(image, model(image), torch.rand(len(image)), target)
    objects = int(scenes.counts.max())
    bits = torch.from_numpy(scenes.amodal.astype("int64"))[:, None] >> torch.arange(objects)[:, None, None] & 1
    energies = (found.write.square().sum(dim=1, keepdim=True) * bits).sum(dim=(2, 3))  # [B, K]
    mask = bits[torch.arange(len(bits)), energies.argmax(dim=1)].unsqueeze(1)
    alone = read(found.error * mask, found.filters)
    difference = found.patch - alone
    wanted, all_of_it = (patch.square().sum(dim=(1, 2, 3)).clamp(min=1e-8) for patch in (alone, found.patch))
    foreign, lost = (part.clamp(min=0).square().sum(dim=(1, 2, 3)) for part in (difference, -difference))
    return Purity(foreign / all_of_it, lost / wanted)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--row", choices=ROWS, default="overlap", help="whose scenes")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--cache-dir", type=Path, default=Path("experiments/data"))
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("SEQAE_DATA_DIR"))
    given = parser.parse_args()
    set_threads(1)
    config = TrainConfig.model_validate(ROWS[given.row].overrides)
    val = load_data(config.data, config.model, given.cache_dir, given.data_dir).val.first(given.scenes)
    model = load_model(given.checkpoint)
    targets: tuple[Literal["window", "object"], ...] = ("window", "object")
    print("| target | foreign ink over 1% | over 5% | mean foreign | mean lost |\n| --- | --- | --- | --- | --- |")
    for target in targets:
        parts = [purity(model, val.part(first, first + _BATCH), target) for first in range(0, len(val.images), _BATCH)]
        foreign, lost = (torch.cat(values) for values in zip(*parts, strict=True))
        some, much = ((foreign > share).float().mean() for share in (0.01, 0.05))
        print(f"| `{target}` | {some:.1%} | {much:.1%} | {foreign.mean():.4f} | {lost.mean():.4f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
