"""Two-phase training of the seeker: all looks of a batch of images share one backward pass.

Nothing flows back through the seeker into the error images, so a look can be taken without autograd. What it would
have recorded, the activations of its convolutions, is kept, and once the gradients of all windows are known, one
backward pass over all looks together gives those of the weights: the same numbers in fewer, larger operations.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from seqae.attention import Window
from seqae.localization.support import Square
from seqae.networks import AnchorScores, Candidate, Localization, Seeker

__all__ = ["TwoPhaseSeeker"]


class TwoPhaseSeeker:
    """Looks of a seeker at the error images of one batch, with a common backward pass.

    Args:
        seeker: whose parameters get the gradients.
        steps: T; so many looks give windows, and one more may give logits.
        batch: images, B.
    """

    def __init__(self, seeker: Seeker, steps: int, batch: int) -> None:
        # The graph refers to the activations, and this to the graph: one object for both would be a cycle, and keep
        # the memory of a step until the garbage collector comes.
        self._looks = _Looks(seeker)
        shapes = (steps, batch, 5), (batch, len(seeker.cell_x))
        windows, self._logits = _Gradients.apply(self._looks, *shapes, *seeker.parameters())
        self._windows: list[Tensor] = list(windows.unbind())

    def look(self, error: Tensor) -> Localization:
        """As `Seeker.forward`, for error images [B, C, H, W]; at most `steps` times, before `logits`."""
        with torch.no_grad():
            window, embedding = self._looks.locate(error)
            values = torch.stack(window, dim=1)
        # The addends are 0: through them the gradients arrive.
        return Localization(Window(*(values + self._windows[self._looks.count - 1]).unbind(dim=1)), embedding)

    def logits(self, error: Tensor) -> Tensor:
        """The logits of `Seeker.score_anchors`, [B, anchors]; once, after all looks."""
        with torch.no_grad():
            logits = self._looks.score(error).logits
        summed: Tensor = logits + self._logits
        return summed


class _Looks:
    """Activations of all looks, and the backward pass through them."""

    def __init__(self, seeker: Seeker) -> None:
        self.seeker = seeker
        self._kept: list[tuple[Tensor, ...]] = []
        """Of each look: what the three convolutions took, the features [B * cells, 32], and the isolation."""
        self._candidates: list[Candidate] = []
        """Of each look that gave windows, where the seeker has such."""
        device = seeker.cell_x.device.type
        is_cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        self._autocast = torch.get_autocast_dtype(device) if is_cast else None

    @property
    def count(self) -> int:
        """Looks taken so far."""
        return len(self._kept)

    def score(self, error: Tensor) -> AnchorScores:
        """As `Seeker.score_anchors`, without a gradient; keeps the activations."""
        first, _, second, _, third = self.seeker.stack
        padded = self.seeker.padded(error)
        # In place: nothing needs what comes before a ReLU.
        one = first(padded).relu_()
        two = second(one).relu_()
        features = third(two).permute(0, 2, 3, 1).flatten(0, 2).relu_()
        isolation = self.seeker.isolation(padded)
        self._kept.append((padded, one, two, features, isolation))
        return self.seeker.scores_of(features, isolation)

    def locate(self, error: Tensor) -> Localization:
        """As `Seeker.forward`, without a gradient; keeps the activations."""
        scores = self.score(error)
        candidate = self.seeker.candidate(error, scores.logits)
        if candidate is not None:
            self._candidates.append(candidate)
        return self.seeker.locate(scores, candidate)

    def gradients(self, of_windows: Tensor | None, of_logits: Tensor | None) -> dict[nn.Parameter, Tensor]:
        """Gradients of the seeker's parameters, given those of the windows [T, B, 5] and of the logits [B, anchors]."""
        # A GPU wants one large product; a CPU wants what fits its caches, and no copies.
        size = len(self._kept) if self.seeker.cell_x.is_cuda else 1
        parts = [self._kept[at : at + size] for at in range(0, len(self._kept), size)]
        found, gradient = self._small_gradients(of_windows, of_logits)
        if gradient is None:
            return found
        for kept, of_features in zip(parts, gradient.chunk(len(parts)), strict=True):
            joined = kept[0] if len(kept) == 1 else tuple(torch.cat(values) for values in zip(*kept, strict=True))
            for parameter, value in self._convolution_gradients(joined, of_features).items():
                found[parameter] = found[parameter].add_(value) if parameter in found else value
        return found

    def _small_gradients(
        self, of_windows: Tensor | None, of_logits: Tensor | None
    ) -> tuple[dict[nn.Parameter, Tensor], Tensor | None]:
        """Gradients of the layers after the convolutions, and that of the features, [looks * B * cells, 32]."""
        leaf = torch.cat([kept[3] for kept in self._kept]).requires_grad_()
        isolation = torch.cat([kept[4] for kept in self._kept])
        layers = (self.seeker.score, self.seeker.hidden, self.seeker.head)
        small = [parameter for layer in layers for parameter in layer.parameters() if parameter.requires_grad]
        outputs, grads = [], []
        with torch.enable_grad(), self._same_autocast():
            # A view: torch's module trackers (its FLOP counter's) fail on a module whose input is a leaf.
            scores = self.seeker.scores_of(leaf.view_as(leaf), isolation)
            if of_windows is not None:
                looked = of_windows.shape[0] * of_windows.shape[1]
                part = AnchorScores(scores.features[:looked], scores.logits[:looked])
                outputs.append(torch.stack(self.seeker.locate(part, self._candidate()).window, dim=1))
                grads.append(of_windows.flatten(0, 1))
            if of_logits is not None:
                outputs.append(scores.logits[-len(of_logits) :])
                grads.append(of_logits)
        of_leaf, *of_small = torch.autograd.grad(outputs, [leaf, *small], grads, allow_unused=True)
        found = {parameter: grad for parameter, grad in zip(small, of_small, strict=True) if grad is not None}
        return found, of_leaf

    def _candidate(self) -> Candidate | None:
        """Those of all looks that gave windows, one after the other; each field [looks * B]."""
        if not self._candidates:
            return None
        squares, are_better = zip(*self._candidates, strict=True)
        return Candidate(Square(*(torch.cat(values) for values in zip(*squares, strict=True))), torch.cat(are_better))

    def _convolution_gradients(self, kept: tuple[Tensor, ...], of_features: Tensor) -> dict[nn.Parameter, Tensor]:
        """Gradients of the three convolutions, given that of the features of the looks at hand."""
        padded, one, two, features, _ = kept
        gradient = torch.ops.aten.threshold_backward(of_features, features.detach(), 0)
        gradient = gradient.view(len(two), two.shape[2], two.shape[3], -1).permute(0, 3, 1, 2)
        found: dict[nn.Parameter, Tensor] = {}
        for at, given in ((4, two), (2, one), (0, padded)):
            layer: nn.Conv2d = self.seeker.stack[at]  # type: ignore[assignment]  # so it was built
            gradient, of_weight, of_bias = _convolution_gradients(layer, given, gradient, at > 0)
            found |= dict(zip(layer.parameters(), (of_weight, of_bias), strict=True))
            if at > 0:
                gradient = torch.ops.aten.threshold_backward(gradient, given, 0)
        return found

    def _same_autocast(self) -> AbstractContextManager[object]:
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(self.seeker.cell_x.device.type, self._autocast)


def _convolution_gradients(
    layer: nn.Conv2d, given: Tensor, gradient: Tensor, of_input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a convolution's input (if asked for), weight and bias; the latter two in the weight's type."""
    weight = layer.weight.detach()
    of_given, of_weight, of_bias = torch.ops.aten.convolution_backward(
        gradient,
        given.to(gradient.dtype),  # under autocast the convolution took it so
        weight.to(gradient.dtype),
        [len(weight)],
        layer.stride,
        layer.padding,
        layer.dilation,
        False,
        [0, 0],
        1,
        [of_input, True, True],
    )
    return of_given, of_weight.to(weight.dtype), of_bias.to(weight.dtype)


class _Gradients(torch.autograd.Function):
    """Zeros that are added to what all looks found; autograd calls it back once, with the gradients of all of it."""

    @staticmethod
    def forward(
        ctx: Any, looks: _Looks, windows: tuple[int, ...], logits: tuple[int, ...], *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.looks = looks
        ctx.set_materialize_grads(False)
        return parameters[0].new_zeros(windows), parameters[0].new_zeros(logits)

    @staticmethod
    def backward(ctx: Any, of_windows: Tensor | None, of_logits: Tensor | None) -> Any:
        looks: _Looks = ctx.looks
        found = looks.gradients(of_windows, of_logits)
        return (None, None, None, *(found.get(parameter) for parameter in looks.seeker.parameters()))
