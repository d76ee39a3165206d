"""Untrained models that write something."""

from torch import nn

from seqae.model import SequentialAutoEncoder


def with_random_writes(model: SequentialAutoEncoder) -> SequentialAutoEncoder:
    """Gives a new model, whose writes are all 0, writes that are not; returns it."""
    nn.init.normal_(model.coder.decoder[-2].get_parameter("weight"), std=0.3)
    return model
