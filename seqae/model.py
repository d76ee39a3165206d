"""The sequential auto-encoder: Eq. 1-6. A step is one function of the error image, and returns a named record."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from seqae.attention import Filters, Window, make_filters, read, write
from seqae.compute.two_phase_seeker import TwoPhaseSeeker
from seqae.config import ModelConfig
from seqae.networks import Background, Localizer, Seeker, make_coder, make_localizer

__all__ = ["Output", "SequentialAutoEncoder", "Step"]


class Step(NamedTuple):
    """Record of one step, for losses, figures, metrics and `/reconstruct`."""

    canvas: Tensor  # [B, C, H, W], after the write
    write: Tensor  # [B, C, H, W], what was added
    patch_read: Tensor  # [B, C, N, N], read off the error image
    patch_written: Tensor  # [B, C, N, N], as decoded
    window: Window
    filters: Filters
    code: Tensor  # [B, Z]
    divergence: Tensor | None  # [B], of a variational code
    embedding: Tensor  # [B, E], the localization network's


class Output(NamedTuple):
    """Record of a whole reconstruction."""

    start: Tensor  # [B, C, H, W], the canvas before the first write: zeros, or the background
    steps: tuple[Step, ...]
    looks: TwoPhaseSeeker | None = None  # what found the windows, where one backward pass is shared by all of them

    @property
    def canvas(self) -> Tensor:
        """The last canvas, [B, C, H, W]."""
        return self.steps[-1].canvas if self.steps else self.start

    @property
    def canvases(self) -> Tensor:
        """Every canvas c_0..c_T, [T+1, B, C, H, W]."""
        return torch.stack([self.start, *(step.canvas for step in self.steps)])

    @property
    def writes(self) -> Tensor:
        """Every write, [T, B, C, H, W]."""
        return torch.stack([step.write for step in self.steps])

    @property
    def windows(self) -> Window:
        """Every window, each field [T, B]."""
        return Window(*(torch.stack(values) for values in zip(*(step.window for step in self.steps), strict=True)))


class SequentialAutoEncoder(nn.Module):
    """The model: rebuilds an image by attended writes onto a canvas.

    Attributes:
        checkpoint_activations: makes each step's activations again in the backward pass, in place of keeping them.
        two_phase: lets all looks of a seeker share one backward pass where that can be done: when all activations are
            kept, and not compiled. The gradients are the same.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = False
        self.two_phase = True
        self.localizer = make_localizer(config)
        self.coder = make_coder(config)
        self.background = Background(config, config.background) if config.background else None
        # How oneDNN and cuDNN want convolutions: the seeker's take a fifth less time on a CPU with two threads.
        self.to(memory_format=torch.channels_last)

    def step(self, image: Tensor, canvas: Tensor, noise: Tensor | None = None, locate: Localizer | None = None) -> Step:
        """One write.

        Args:
            image: [B, C, H, W] in float32.
            canvas: likewise, before the write.
            noise: [B, Z], by which a variational coder samples its code.
            locate: finds the window in place of the localization network.
        """
        attention = self.config.attention
        error = image - canvas  # Eq. 1
        window, embedding = (locate or self.localizer)(error)  # Eq. 2
        filters = make_filters(window, attention.kernel_size, self.config.height, self.config.width)
        patch = read(error, filters)  # Eq. 3
        code = self.coder.encode(patch, noise)  # Eq. 4
        decoded = self.coder.decode(code.z).float()  # Eq. 5
        written = write(decoded, filters, attention.write_gain)
        return Step(
            canvas=canvas + written,  # Eq. 6
            write=written,
            patch_read=patch,
            patch_written=decoded,
            window=window,
            filters=filters,
            code=code.z,
            divergence=code.divergence,
            embedding=embedding,
        )

    def _recomputed_step(self, image: Tensor, canvas: Tensor, noise: Tensor | None = None) -> Step:
        """`step` under activation checkpointing: the backward pass computes everything in between again."""
        given: dict[str, Any] = {"preserve_rng_state": False}  # what is random is handed in
        if any(isinstance(module, _BatchNorm) for module in self.localizer.modules()):
            given["context_fn"] = self._forward_and_again
        step: Step = checkpoint(self.step, image, canvas, noise, use_reentrant=False, **given)
        return step

    def _forward_and_again(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), self._frozen_statistics()

    @contextmanager
    def _frozen_statistics(self) -> Iterator[None]:
        """Keeps batch norm's running statistics as they are, while a batch is computed a second time."""
        norms = [module for module in self.modules() if isinstance(module, _BatchNorm)]
        usual = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
            # A copy counts on in its place: the synchronized kind does not take None.
            norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
        try:
            yield
        finally:
            for norm, (momentum, batches) in zip(norms, usual, strict=True):
                norm.momentum, norm.num_batches_tracked = momentum, batches

    def forward(self, image: Tensor, steps: int | None = None, noise: Tensor | None = None) -> Output:
        """Reconstructs images.

        Args:
            image: [B, C, H, W] in 0..1.
            steps: T, if not the config's (progressive training, 2.6).
            noise: normal numbers [T or more, B, Z], by which a variational coder samples its codes; without them they
                are the means.
        """
        start = self.background(image).float() if self.background is not None else torch.zeros_like(image)
        canvas = start
        records = []
        # torch.compile makes its own choice of what to keep, and its partitioner (2.14) fails on one made by hand.
        again = self.checkpoint_activations and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        count = self.config.steps if steps is None else steps
        looks = None if again else self._looks(count, len(image))
        step = self._recomputed_step if again else partial(self.step, locate=looks.look if looks else None)
        for t in range(count):
            record = step(image, canvas, None if noise is None else noise[t])
            canvas = record.canvas
            records.append(record)
        return Output(start, tuple(records), looks)

    def _looks(self, steps: int, batch: int) -> TwoPhaseSeeker | None:
        # torch.compile can't trace what is filled in later, and fuses most of what would be saved.
        if not (self.two_phase and torch.is_grad_enabled()) or torch.compiler.is_compiling():
            return None
        return TwoPhaseSeeker(self.localizer, steps, batch) if isinstance(self.localizer, Seeker) else None
