"""Gradients of a global batch: over the pieces that a worker's memory asks for, and over all workers.

The gradient is that of the mean over the global batch: each piece counts by its share of the images, and the workers'
sums are added up. One addition over all workers carries the gradients, the losses, and the workers' requests to stop.
"""

import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from seqae.losses import Losses
from seqae.optimization.batches import split

__all__ = ["AllReduce", "GradientAccumulation", "LateFlag", "add_up", "is_out_of_memory"]

AllReduce = Callable[[Tensor], object]
"""Adds a tensor up over all workers, in place; every worker calls it with a tensor of the same shape."""

_CPU_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
"""How torch says, in a RuntimeError, that main memory did not suffice."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that a GPU's memory or main memory did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_MEMORY)


class GradientAccumulation:
    """Accumulation of the gradients of a worker's share of a batch, in as many pieces as its memory asks for.

    Args:
        device: of the model.
        pairs: images lend each other objects, so pairs of them stay together.
        pieces: to begin with; they double where memory runs out.
    """

    def __init__(self, device: torch.device, *, pairs: bool, pieces: int = 1) -> None:
        self.pieces = pieces
        self._device = device
        self._pairs = pairs
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0

    def accumulate(
        self,
        rows: range,
        batch_size: int,
        losses_of: Callable[[range], Losses],
        parameters: Iterable[nn.Parameter],
    ) -> Tensor:
        """Computes the gradients of some images' part in the mean over the batch, into the parameters' `grad`.

        Args:
            rows: places of the worker's images in the global batch.
            batch_size: images of the global batch.
            losses_of: the losses of some of them, means over these.
            parameters: whose `grad` is made.

        Returns:
            The images' part in each of the batch's `Losses`, in their order.

        Raises:
            Exception: what `losses_of` raised; of want of memory only once the pieces can't be smaller.
        """
        given = list(parameters)
        largest = max(1, len(rows) // (2 if self._pairs else 1))
        while True:
            for parameter in given:
                parameter.grad = None
            try:
                return self._timed(rows, batch_size, losses_of)
            except Exception as error:
                if not is_out_of_memory(error) or self.pieces >= largest:
                    raise
            # Out here the exception is gone, and with it what its frames kept alive.
            self.pieces = min(2 * self.pieces, largest)
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def take_seconds(self) -> float:
        """Seconds that the gradients took since the call before, the waiting for other workers not counted."""
        for started, ended in self._spans:
            ended.synchronize()
            self._seconds += started.elapsed_time(ended) / 1e3
        seconds, self._seconds, self._spans = self._seconds, 0.0, []
        return seconds

    def _timed(self, rows: range, batch_size: int, losses_of: Callable[[range], Losses]) -> Tensor:
        if self._device.type != "cuda":
            started = time.perf_counter()
            summed = self._in_pieces(rows, batch_size, losses_of)
            self._seconds += time.perf_counter() - started
            return summed
        events = _event(enable_timing=True), _event(enable_timing=True)
        events[0].record()
        summed = self._in_pieces(rows, batch_size, losses_of)
        events[1].record()
        self._spans.append(events)
        return summed

    def _in_pieces(self, rows: range, batch_size: int, losses_of: Callable[[range], Losses]) -> Tensor:
        # With more workers than images one of them has none; it must take part, so it gets one that does not count.
        pieces = [piece for piece in split(rows, self.pieces, pairs=self._pairs) if piece] or [range(1)]
        summed: Tensor | None = None
        for piece in pieces:
            losses = losses_of(piece)
            weight = len(piece) / batch_size if rows else 0.0
            torch.autograd.backward(losses.total * weight)
            # A copy: CUDA graphs write the next step's losses to the same place.
            part = torch.stack(losses).detach() * weight
            summed = part if summed is None else summed + part
        assert summed is not None
        return summed


def add_up(all_reduce: AllReduce, parameters: Iterable[nn.Parameter], others: Tensor) -> Tensor:
    """Adds up gradients over all workers, and a few numbers with them, in one operation.

    Args:
        all_reduce: does it.
        parameters: whose `grad` becomes the sum; one that has none counts as zeros.
        others: the numbers, [n], on the same device.

    Returns:
        Their sums, [n].
    """
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), others])
    all_reduce(flat)
    *summed, sums = torch.split(flat, [gradient.numel() for gradient in gradients] + [len(others)])
    for gradient, value in zip(gradients, summed, strict=True):
        # Into the same memory: a fused optimizer takes it to be laid out as the parameter is, channels last or not.
        gradient.copy_(value.view_as(gradient))
    return sums


def _event(*, enable_timing: bool = False) -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=enable_timing)  # type: ignore[no-untyped-call]  # torch does not annotate it


class LateFlag:
    """Flag that is computed on a device; a GPU's is read one step late, since reading it at once would make it wait."""

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None

    def update(self, value: Tensor) -> bool:
        """Takes the newest value, a scalar, and returns whether the newest that can be read is more than 0."""
        if value.device.type != "cuda":
            return bool(value > 0)
        before = self._pending
        copy, event = torch.empty((), pin_memory=True), _event()
        copy.copy_(value, non_blocking=True)
        event.record()
        self._pending = copy, event
        if before is None:
            return False
        before[1].synchronize()
        return bool(before[0] > 0)
