"""Model and loss as one module: what a training step differentiates."""

import torch
from torch import Tensor, nn

from seqae.compute.variant import Precision, given_variant
from seqae.config import TrainConfig
from seqae.copy_paste import DRAWS, copy_paste_losses
from seqae.losses import Losses, total_loss
from seqae.model import Output, SequentialAutoEncoder
from seqae.optimization.random_numbers import normals

__all__ = ["TrainingLoss"]


class TrainingLoss(nn.Module):
    """Model and loss as one module, so that torch.compile sees the whole step.

    Args:
        model: that is trained.
        config: of the run.
    """

    def __init__(self, model: SequentialAutoEncoder, config: TrainConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.precision: Precision = given_variant(config.schedule).precision

    def draws(self, steps: int) -> int:
        """How many uniform numbers `forward` uses for each image, with T = `steps`."""
        pastes = DRAWS if self.config.loss.pastes else 0
        coder = self.config.model.coder
        # Box and Muller's transform gives two at once.
        codes = steps + 1 if pastes else steps
        noise = 2 * ((codes * coder.bottleneck + 1) // 2) if coder.kind == "variational" else 0
        return pastes + noise

    def forward(self, image: Tensor, steps: int, drawn: Tensor | None = None) -> Losses:
        """The losses of images [B, C, H, W] in 0..1, means over them.

        Args:
            image: a batch, or a part of one that `seqae.optimization.batches.split` made.
            steps: T.
            drawn: uniform numbers, [B, `draws`]; left out, they come from torch's generator.
        """
        if drawn is None:
            drawn = torch.rand(len(image), self.draws(steps), device=image.device)
        loss = self.config.loss
        pastes = DRAWS if loss.pastes else 0
        noise = self._noise(drawn[:, pastes:])
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            output: Output = self.model(image, steps, noise)
            pasted = None
            if loss.pastes:
                last = None if noise is None else noise[steps]
                drawn = drawn[:, :pastes]
                pasted = copy_paste_losses(self.model, image, output, drawn, loss.separation_target, last)
        return total_loss(image, output, loss, pasted)

    def _noise(self, uniform: Tensor) -> Tensor | None:
        """The noise of as many codes as the numbers suffice for, [codes, B, Z]; None where the coder has none."""
        coder = self.config.model.coder
        if coder.kind != "variational":
            return None
        codes = uniform.shape[1] // coder.bottleneck
        return normals(uniform)[:, : codes * coder.bottleneck].view(-1, codes, coder.bottleneck).transpose(0, 1)
