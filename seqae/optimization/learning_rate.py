"""One-cycle learning rate, and changes of its peak."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["one_cycle", "set_peak"]


def one_cycle(done: int, iterations: int, warmup: float) -> float:
    """One-cycle learning rate as a share of its peak: a linear rise from 1/25 in the warm-up, then half a cosine to 0.

    torch's OneCycleLR divides by zero where the warm-up is one iteration long, so short runs would fail.

    Args:
        done: optimizer steps so far.
        iterations: of the whole run.
        warmup: share of them in which it rises.
    """
    rise = warmup * iterations
    if done < rise:
        return 1 / 25 + (1 - 1 / 25) * done / rise
    return 0.5 * (1 + math.cos(math.pi * (done - rise) / max(iterations - rise, 1)))


def set_peak(optimizer: Optimizer, scheduler: LambdaLR, peak: float, share: float) -> None:
    """Sets the peak of the learning rate, at the same point of its cycle.

    Args:
        optimizer: whose rate it is.
        scheduler: of the optimizer.
        peak: the new one.
        share: of the peak that the rate is now, `one_cycle`.
    """
    scheduler.base_lrs = [peak for _ in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["initial_lr"], group["lr"] = peak, peak * share
