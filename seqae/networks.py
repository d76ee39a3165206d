"""Networks: localization (Figure 2, Table 3, and the seeker), region coder (Table 1), background (Table 2).

Each kind of network has one interface, and is chosen by name from its config:
`make_localizer(...)(error) -> Localization`, `make_coder(...)` with `encode(patch) -> Code` and `decode(z) -> patch`.
"""

import math
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqae.attention import Window
from seqae.config import AttentionConfig, BackgroundConfig, CoderConfig, ModelConfig
from seqae.localization.support import Square, bounding_square, connected_support, square_isolation

__all__ = ["Background", "Code", "Coder", "Localization", "Localizer", "make_coder", "make_localizer"]


REFERENCE_SIZE = (
    20  # pixels: side of the objects that the config's bounds of delta are meant for, as MNIST's digits are
)


class Localization(NamedTuple):
    """Output of a localization network: where the next write goes."""

    window: Window
    embedding: Tensor  # [B, E], the features that the window was read off


class Localizer(Protocol):
    """Eq. 2: an error image [B, C, H, W] in, a window out."""

    def __call__(self, error: Tensor) -> Localization:
        """The window of the next write for error images [B, C, H, W]."""


def _bounded_log(raw: Tensor, low: float, high: float, start: float) -> Tensor:
    """Maps any number to low..high on a logarithmic scale; 0 maps to `start`, or the bound next to it."""
    if low == high:
        return torch.full_like(raw, low)
    share = (math.log(start) - math.log(low)) / (math.log(high) - math.log(low))
    share = min(max(share, 0.02), 0.98)
    offset = math.log(share / (1 - share))
    return torch.exp(math.log(low) + math.log(high / low) * torch.sigmoid(raw + offset))


def _window_shape(raw: Tensor, config: AttentionConfig, scale: float | Tensor = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """delta, sigma and gamma, each [B], from raw numbers [B, 3]; zeros mean delta = `scale` and gamma = 1."""
    delta = scale * _bounded_log(raw[:, 0], config.delta_min, config.delta_max, 1.0)
    middle = math.sqrt(config.sigma_min * config.sigma_max)
    sigma = _bounded_log(raw[:, 1], config.sigma_min, config.sigma_max, middle)
    if config.sigma == "tied":
        sigma = sigma * delta
    gamma = torch.ones_like(delta)  # a constant has no gradient to compute
    if config.log_gamma_max > 0:
        gamma = torch.exp(config.log_gamma_max * torch.tanh(raw[:, 2]))
    return delta, sigma, gamma


def _zero_initialize(layer: nn.Linear) -> nn.Linear:
    """Initializes a last layer to 0, so that every window starts at its default."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _he_initialize(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
    """He's initialization; torch's default shrinks the signal of each layer to 0.4, and training starts slowly."""
    fan = layer.weight[0].numel() if not isinstance(layer, nn.ConvTranspose2d) else layer.weight[:, 0].numel() / 4
    nn.init.normal_(layer.weight, std=math.sqrt(2 / fan))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class _Regressor(nn.Module):
    """A stack of convolutions, then a fully connected layer to the five parameters (Figure 2, Table 3)."""

    def __init__(self, stack: nn.Sequential, features: int, config: ModelConfig, hidden: int | None) -> None:
        super().__init__()
        self.config = config
        self.stack = stack
        self.embed = nn.Linear(features, hidden) if hidden else None
        self.head = _zero_initialize(nn.Linear(hidden or features, 5))

    def forward(self, error: Tensor) -> Localization:
        embedding = self.stack(error).flatten(1)
        if self.embed is not None:
            embedding = F.leaky_relu(self.embed(embedding), 0.01)
        raw = self.head(embedding).float()
        is_clamped = self.config.localizer.centre == "clamp"
        place = raw[:, :2].clamp(-1, 1) if is_clamped else torch.tanh(raw[:, :2])  # -1 to 1 over the image
        x = (self.config.width - 1) / 2 * (1 + place[:, 0])
        y = (self.config.height - 1) / 2 * (1 + place[:, 1])
        return Localization(Window(x, y, *_window_shape(raw[:, 2:], self.config.attention)), embedding)


def _small(config: ModelConfig) -> _Regressor:
    """Figure 2: convolutions and max-pooling with ReLU, then a fully connected layer. Any image of 8 pixels and up."""
    layers: list[nn.Module] = []
    channels: int = config.channels
    for width in (16, 32, 32):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    features = channels * (config.height // 8) * (config.width // 8)
    return _Regressor(nn.Sequential(*layers), features, config, hidden=None)


def _improved(config: ModelConfig) -> _Regressor:
    """Table 3: six convolutions with batch norm and Leaky ReLU, max-pooling, fully connected 256.

    The table's sizes contradict each other; read as 32, 32, pool, 64, 64, pool, 128, pool, 128, pool: 128x4x4 at
    64 pixels.
    """
    layers: list[nn.Module] = []
    channels: int = config.channels
    for width, pool in ((32, False), (32, True), (64, False), (64, True), (128, True), (128, True)):
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.01)]
        if pool:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        channels = width
    features = channels * math.ceil(config.height / 16) * math.ceil(config.width / 16)
    return _Regressor(nn.Sequential(*layers), features, config, hidden=256)


class AnchorScores(NamedTuple):
    """Features of an error image's cells and logits of its anchors. An anchor is a cell and one of S sizes."""

    features: Tensor  # [B, rows * columns, 32]
    logits: Tensor  # [B, S * rows * columns]


class Candidate(NamedTuple):
    """The square around the connected support of the error at a seeker's peak, and where it is the better one."""

    square: Square
    is_better: Tensor  # [B] of bool


class Place(NamedTuple):
    """Where a seeker's anchors say that an object is."""

    weights: Tensor  # [B, anchors], of the anchors near the peak, summing to 1
    x: Tensor  # [B], pixels
    y: Tensor  # [B], pixels
    log_scale: Tensor  # [B], logarithm of the object's side / 20 pixels


class Seeker(nn.Module):
    """Localization network: scores anchors by centre-surround contrast, reads the window off the features of the best.

    The image is cut into cells of 4 x 4 pixels. An anchor is a cell and one of the config's sizes. Its logit is ten
    times its isolation (the error in a square of that size around the cell, less four times what a frame around the
    square holds, so that a square which cuts an object loses), plus a learned part that starts at 0. A softmax over the
    anchors near the peak gives centre and size as expectations, so both are differentiable, and the centre never lies
    between two objects; the same weights pool the features for the rest. The size may be the peak's instead.

    With `support` there is a second candidate: the square around the error that hangs together with what is at the
    peak. It is taken where it explains more of the error, by its side, than the anchors' square.
    """

    STRIDE = 4
    RADIUS = 2  # cells around the peak that take part
    SURROUND_WEIGHT = 4.0  # weight of the error in the frame of one cell around the square
    # A square twice as large must hold 2 ** 1.5 times the error: more than two objects have, less than one as large.
    SIZE_EXPONENT = 1.5
    SUPPORT_SIDES = (0.75, 1.15)  # a support is an object from this share of the smallest size to this of the largest
    OFFSET = 4.0  # pixels: how far the head may move the centre
    SHARPNESS = 10.0

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.stack = nn.Sequential(
            nn.Conv2d(config.channels, 32, 2 * self.STRIDE, stride=self.STRIDE, padding=self.STRIDE // 2),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
        )
        sizes = config.localizer.sizes
        self.sides = [size // self.STRIDE for size in sizes]  # cells
        self.score = _zero_initialize(nn.Linear(32, len(sizes), bias=False))  # a softmax would not see the bias
        self.hidden = nn.Linear(32 + 2, 64)
        self.head = _zero_initialize(nn.Linear(64, 5))
        rows, columns = math.ceil(config.height / self.STRIDE), math.ceil(config.width / self.STRIDE)
        # Centre of each anchor in pixels, [S * cells]: a cell of stride 4 is centred 1.5 pixels after its first one.
        size, y, x = torch.meshgrid(torch.tensor(sizes), torch.arange(rows), torch.arange(columns), indexing="ij")
        self.register_buffer("cell_x", (x.flatten() * self.STRIDE + 1.5).clamp(max=config.width - 1), persistent=False)
        self.register_buffer("cell_y", (y.flatten() * self.STRIDE + 1.5).clamp(max=config.height - 1), persistent=False)
        self.register_buffer("log_scale", (size.flatten() / REFERENCE_SIZE).log(), persistent=False)
        self.cell_x: Tensor
        self.cell_y: Tensor
        self.log_scale: Tensor

    def padded(self, error: Tensor) -> Tensor:
        """Error images [B, C, H, W] with zeros on the right and below, up to whole cells; without a gradient.

        A write is not trained by where it leads the next one; it also saves backward work.
        """
        bottom, right = -error.shape[2] % self.STRIDE, -error.shape[3] % self.STRIDE
        return F.pad(error.detach(), (0, right, 0, bottom))

    def isolation(self, error: Tensor) -> Tensor:
        """Centre-surround contrast [B, anchors]: the error in each square, less what lies in a frame around it."""
        cells = F.avg_pool2d(error.abs().mean(dim=1, keepdim=True), self.STRIDE)
        inside, mass = [], []
        for side in self.sides:
            scale = side**-self.SIZE_EXPONENT
            within = F.avg_pool2d(cells, side, 1, side // 2) * (scale * side**2)
            around = F.avg_pool2d(cells, side + 2, 1, side // 2 + 1) * (scale * (side + 2) ** 2)
            inside.append(within)
            mass.append((1 + self.SURROUND_WEIGHT) * within - self.SURROUND_WEIGHT * around)
        most = torch.cat(inside, dim=1).flatten(1).amax(dim=1, keepdim=True)
        return torch.cat(mass, dim=1).flatten(1) / most.clamp(min=1e-8)

    def score_anchors(self, error: Tensor) -> AnchorScores:
        """Every anchor's logit, and every cell's features, for error images [B, C, H, W]."""
        error = self.padded(error)
        # ReLU of what the product takes as it is: torch.compile then keeps that alone, and no mask, which is slow.
        features = F.relu(self.stack(error).permute(0, 2, 3, 1).flatten(0, 2))  # [B * cells, 32]
        return self.scores_of(features, self.isolation(error))

    def scores_of(self, features: Tensor, isolation: Tensor) -> AnchorScores:
        """Every anchor's logit, out of the features of all cells [B * cells, 32] and `isolation` [B, anchors]."""
        # A 1 x 1 convolution, as a matrix product: its backward pass is cheaper.
        learned = self.score(features).view(len(isolation), -1, len(self.sides)).mT.flatten(1).float()
        return AnchorScores(features.view(len(isolation), -1, 32), learned + self.SHARPNESS * isolation)

    def forward(self, error: Tensor) -> Localization:
        scores = self.score_anchors(error)
        return self.locate(scores, self.candidate(error, scores.logits))

    def place(self, logits: Tensor) -> Place:
        """Centre and size, as expectations over the best anchor and those around it, out of logits [B, anchors]."""
        peak = logits.detach().argmax(dim=1, keepdim=True)
        reach = (self.RADIUS + 0.5) * self.STRIDE
        near = ((self.cell_x - self.cell_x[peak]).abs() < reach) & ((self.cell_y - self.cell_y[peak]).abs() < reach)
        weights = logits.masked_fill(~near, -torch.inf).softmax(dim=1)  # [B, anchors]
        # Sums of products, which autocast leaves in float32: matrix products in bfloat16 would snap the centre to a
        # quarter of a pixel.
        x, y = (weights * self.cell_x).sum(dim=1), (weights * self.cell_y).sum(dim=1)
        log_scale = (weights * self.log_scale).sum(dim=1)
        if self.config.localizer.scale == "chosen":  # a mean of two sizes may fit neither
            log_scale = self.log_scale[peak.squeeze(1)] + (log_scale - log_scale.detach())
        return Place(weights, x, y, log_scale)

    @torch.no_grad()
    def candidate(self, error: Tensor, logits: Tensor) -> Candidate | None:
        """The support's square for error images [B, C, H, W], given their logits; None where the config asks for none.

        It is better where it is no smaller or larger than objects are, has the peak in it, and its error, by the side,
        is more than the isolation of the anchors' square. What else lies in the square does not count: a stroke that
        stands beside other objects is not part of them.
        """
        if not self.config.localizer.support:
            return None
        strength = error.float().abs().mean(dim=1)
        place = self.place(logits)
        support = connected_support(strength, place.x, place.y)
        square = bounding_square(support)
        sizes = self.config.localizer.sizes
        least, most = self.SUPPORT_SIDES[0] * sizes[0], self.SUPPORT_SIDES[1] * sizes[-1]
        away = torch.maximum((square.x - place.x).abs(), (square.y - place.y).abs())
        fits = (square.side >= least) & (square.side <= most) & (away <= square.side / 2)
        explained = (strength * support).sum(dim=(1, 2)) / square.side.clamp(min=1).pow(self.SIZE_EXPONENT)
        own = square_isolation(
            strength,
            Square(place.x, place.y, REFERENCE_SIZE * place.log_scale.exp()),
            frame=self.STRIDE,
            surround_weight=self.SURROUND_WEIGHT,
            size_exponent=self.SIZE_EXPONENT,
        )
        return Candidate(square, fits & (explained > own))

    def locate(self, scores: AnchorScores, candidate: Candidate | None = None) -> Localization:
        """The window at the best anchor and those around it, or at the candidate where that is better.

        A candidate's values take the place of the expectations', whose gradients stay.
        """
        features, logits = scores
        weights, x, y, log_scale = self.place(logits)
        if candidate is not None:
            square, is_better = candidate
            sizes = (square.side.clamp(min=1) / REFERENCE_SIZE).log()
            x, y, log_scale = (
                torch.where(is_better, given + (own - own.detach()), own)
                for own, given in ((x, square.x), (y, square.y), (log_scale, sizes))
            )
        of_cells = weights.view(len(weights), len(self.sides), -1).sum(dim=1)
        pooled = (of_cells.to(features.dtype).unsqueeze(1) @ features).squeeze(1)
        place = torch.stack((2 * x / self.config.width - 1, 2 * y / self.config.height - 1), dim=1)
        embedding = F.relu(self.hidden(torch.cat((pooled, place.to(pooled.dtype)), dim=1)))
        raw = self.head(embedding).float()
        offset = self.OFFSET * torch.tanh(raw[:, :2])
        x = (x + offset[:, 0]).clamp(0, self.config.width - 1)
        y = (y + offset[:, 1]).clamp(0, self.config.height - 1)
        scale = log_scale.exp()
        return Localization(Window(x, y, *_window_shape(raw[:, 2:], self.config.attention, scale)), embedding)


def make_localizer(config: ModelConfig) -> nn.Module:
    """The localization network that the config names; it satisfies `Localizer`."""
    match config.localizer.kind:
        case "seeker":
            return Seeker(config)
        case "small":
            return _small(config)
        case "improved":
            return _improved(config)


class Code(NamedTuple):
    """A patch's code, z_t of Eq. 4."""

    z: Tensor  # [B, Z]
    divergence: Tensor | None  # [B], KL divergence from the unit Gaussian; None where the coder is not variational


class Coder(Protocol):
    """The region coder: Eq. 4 and 5."""

    def encode(self, patch: Tensor, noise: Tensor | None = None) -> Code:
        """Eq. 4: the code of patches [B, C, N, N]; `noise` [B, Z] is for a coder that is variational."""

    def decode(self, z: Tensor) -> Tensor:
        """Eq. 5: codes [B, Z] -> patches [B, C, N, N]."""


class _Bias(nn.Module):
    """Bias per channel, apart from the transposed convolution before it: oneDNN takes up to twice as long for both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] in and out."""
        return x + self.bias[:, None, None]


class AutoEncoder(nn.Module):
    """Region coder of Table 1: three convolutions, a bottleneck, three transposed convolutions.

    N = 32 gives the sizes of the table.

    With `variational` the encoder gives a mean and a log variance, and training samples z by them.
    """

    def __init__(self, kernel_size: int, channels: int, config: CoderConfig) -> None:
        super().__init__()
        self.variational = config.kind == "variational"
        sizes = [kernel_size]
        for _ in range(3):
            sizes.append(math.ceil(sizes[-1] / 2))  # 25 -> 13 -> 7 -> 4
        widths = (channels, 16, 32, 64)
        self.deepest = (sizes[3], sizes[3], widths[3])
        flat = math.prod(self.deepest)
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        for at in range(3):
            encoder += [nn.Conv2d(widths[at], widths[at + 1], 3, stride=2, padding=1), nn.ReLU()]
            extra = sizes[at] - (2 * sizes[at + 1] - 1)  # mirrors the size that the convolution halved
            up = nn.ConvTranspose2d(
                widths[at + 1], widths[at], 3, stride=2, padding=1, output_padding=extra, bias=False
            )
            decoder = [nn.ReLU(), up, _Bias(widths[at]), *decoder]
        self.encoder = nn.Sequential(*encoder[:-1])
        self.to_code = nn.Linear(flat, config.bottleneck * (2 if self.variational else 1))
        self.from_code = nn.Linear(config.bottleneck, flat)
        self.decoder = nn.Sequential(*decoder)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                _he_initialize(layer)
        # Writes start at 0: as noise they would answer each other, and at T 48 the first gradient would be infinite.
        nn.init.zeros_(self.decoder[-2].get_parameter("weight"))

    def encode(self, patch: Tensor, noise: Tensor | None = None) -> Code:
        """Eq. 4: [B, C, N, N] -> z [B, Z].

        Args:
            patch: as it was read.
            noise: normal numbers [B, Z], by which a variational coder samples z; without them z is the mean.
        """
        # Channels last, as the convolutions leave them: no copy. ReLU comes after that, as in `Seeker.score_anchors`.
        out = self.to_code(F.relu(self.encoder(patch).permute(0, 2, 3, 1).flatten(1)))
        if not self.variational:
            return Code(out, None)
        mean, log_variance = out.float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-12, 12)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
        z = mean if noise is None else mean + noise * (0.5 * log_variance).exp()
        return Code(z, divergence)

    def decode(self, z: Tensor) -> Tensor:
        """Eq. 5: z [B, Z] -> [B, C, N, N]."""
        out: Tensor = self.decoder(self.from_code(z).view(-1, *self.deepest).permute(0, 3, 1, 2))
        return out


def make_coder(config: ModelConfig) -> AutoEncoder:
    """The region coder that the config names; it satisfies `Coder`."""
    return AutoEncoder(config.attention.kernel_size, config.channels, config.coder)


class Background(nn.Module):
    """Background network of Table 2: conv to 4 x H/2 x W/2, fully connected to the code and back, transposed conv."""

    def __init__(self, config: ModelConfig, background: BackgroundConfig) -> None:
        super().__init__()
        half = (math.ceil(config.height / 2), math.ceil(config.width / 2))
        self.grid = (4, *half)
        flat = math.prod(self.grid)
        self.down = nn.Conv2d(config.channels, 4, 3, stride=2, padding=1)
        self.to_code = nn.Linear(flat, background.bottleneck)
        self.from_code = nn.Linear(background.bottleneck, flat)
        extra = (config.height - (2 * half[0] - 1), config.width - (2 * half[1] - 1))
        self.up = nn.ConvTranspose2d(4, config.channels, 3, stride=2, padding=1, output_padding=extra)

    def forward(self, image: Tensor) -> Tensor:
        """[B, C, H, W] -> the canvas of step 0, [B, C, H, W]."""
        code = self.to_code(F.relu(self.down(image)).flatten(1))
        out: Tensor = self.up(F.relu(self.from_code(code)).reshape(-1, *self.grid))
        return out
