"""Settings of CPU threads that compute: their number, and denormal numbers as zeros.

A denormal number is one below 1.2e-38, and many processors multiply it fifteen times slower. Whether they count as
zeros is a flag of each thread, which a new thread takes over from the one that starts it. So it is set before the
first computation, at which OpenMP starts its threads; what ran earlier keeps its own.
"""

import torch

__all__ = ["flush_denormals", "set_threads"]


def flush_denormals() -> None:
    """Makes denormal numbers count as zeros, in this thread and in those that it starts from now on.

    On a processor that can't, nothing happens; results differ by less than rounding.
    """
    torch.set_flush_denormal(True)


def set_threads(count: int) -> None:
    """Sets how many threads compute, and makes denormal numbers count as zeros in all of them.

    Args:
        count: 1 or more.
    """
    flush_denormals()
    torch.set_num_threads(count)
