"""Random number generators of devices."""

import torch

__all__ = ["generator_of"]


def generator_of(device: torch.device) -> torch.Generator:
    """The generator that operations on a device draw from."""
    if device.type != "cuda":
        return torch.default_generator
    torch.cuda.init()  # type: ignore[no-untyped-call]  # torch does not annotate it
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
