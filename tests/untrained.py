"""Models to test with that nobody trained."""

from torch import nn

from seqae.model import SequentialAutoEncoder


def awake(model: SequentialAutoEncoder) -> SequentialAutoEncoder:
    """Gives a new model, whose writes are all 0, some that are not."""
    nn.init.normal_(model.coder.decoder[-2].get_parameter("weight"), std=0.3)
    return model
