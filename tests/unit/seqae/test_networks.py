"""Figure 2 and Tables 1-3: the sizes as printed, other sizes, and where windows start and go."""

import math
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from seqae.config import AttentionConfig, BackgroundConfig, CoderConfig, LocalizerConfig, ModelConfig
from seqae.networks import AutoEncoder, Background, Localization, Seeker, make_coder, make_localizer

Kind = Literal["seeker", "small", "improved"]
KINDS: tuple[Kind, ...] = ("seeker", "small", "improved")
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def config(
    kind: Kind,
    height: int = 64,
    width: int = 64,
    channels: Literal[1, 3] = 1,
    sizes: tuple[int, ...] = (20,),
    scale: Literal["expected", "chosen"] = "expected",
    support: bool = False,
    **attention: Any,
) -> ModelConfig:
    side = min(height, width, 25)
    return ModelConfig(
        height=height,
        width=width,
        channels=channels,
        attention=AttentionConfig(**{"kernel_size": side} | attention),
        localizer=LocalizerConfig(kind=kind, sizes=sizes, scale=scale, support=support),
    )


def sizes(module: nn.Module, kinds: tuple[type[nn.Module], ...], *given: Tensor) -> list[tuple[int, ...]]:
    """Output size of every layer of some kinds, in the order in which they run."""
    seen: list[tuple[int, ...]] = []
    hooks = [
        layer.register_forward_hook(lambda _layer, _given, out: seen.append(tuple(out.shape[1:])))
        for layer in module.modules()
        if isinstance(layer, kinds)
    ]
    module(*given)
    for hook in hooks:
        hook.remove()
    return seen


def blob(image: Tensor, x: float, y: float, value: float = 1.0, radius: float = 3.0) -> None:
    """Adds a soft spot to an image [1, C, H, W]."""
    rows, columns = torch.arange(image.shape[2])[:, None], torch.arange(image.shape[3])
    image += value * torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * radius**2))


def centre(localizer: nn.Module, error: Tensor) -> tuple[float, float]:
    """Where one image's window is put: x, y."""
    with torch.no_grad():
        window = localizer(error).window
    return float(window.x), float(window.y)


# --- Table 1


class Whole(nn.Module):
    """Encoder and decoder in a row, for the hooks."""

    def __init__(self, coder: AutoEncoder) -> None:
        super().__init__()
        self.coder = coder

    def forward(self, patch: Tensor) -> Tensor:
        return self.coder.decode(self.coder.encode(patch).z)


@pytest.mark.parametrize("bottleneck", [64, 128, 256, 512])
def test_table_1_sizes(bottleneck: int) -> None:
    coder = AutoEncoder(32, 1, CoderConfig(bottleneck=bottleneck))
    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    assert sizes(Whole(coder), layers, torch.rand(2, 1, 32, 32)) == [
        (16, 16, 16),
        (32, 8, 8),
        (64, 4, 4),
        (bottleneck,),
        (1024,),
        (32, 8, 8),
        (16, 16, 16),
        (1, 32, 32),
    ]


def test_region_coder_at_the_kernel_size_of_the_experiments() -> None:
    coder = AutoEncoder(25, 1, CoderConfig())
    assert sizes(Whole(coder), (nn.Conv2d, nn.ConvTranspose2d), torch.rand(1, 1, 25, 25)) == [
        (16, 13, 13),
        (32, 7, 7),
        (64, 4, 4),
        (32, 7, 7),
        (16, 13, 13),
        (1, 25, 25),
    ]


@given(st.integers(8, 70), st.sampled_from([1, 3]))
@settings(deadline=None, max_examples=25)
def test_any_kernel_size_goes_in_and_comes_out(n: int, channels: int) -> None:
    coder = AutoEncoder(n, channels, CoderConfig(bottleneck=5))
    code = coder.encode(torch.rand(2, channels, n, n))
    assert code.z.shape == (2, 5)
    assert code.divergence is None
    assert coder.decode(code.z).shape == (2, channels, n, n)


def test_weights_start_by_he_so_that_a_signal_keeps_its_size() -> None:
    """Of a transposed convolution of stride 2, a quarter of the 3 x 3 weights meets in a pixel."""
    torch.manual_seed(0)
    coder = AutoEncoder(25, 3, CoderConfig())
    checked = 0
    for layer in coder.modules():
        match layer:
            case nn.ConvTranspose2d():
                terms = layer.in_channels * 9 / 4
            case nn.Conv2d():
                terms = layer.in_channels * 9
            case nn.Linear():
                terms = layer.in_features
            case _:
                continue
        assert layer.bias is None or not layer.bias.any()
        if layer is coder.decoder[-2]:
            assert not layer.weight.any(), "writes start at 0"
            continue
        assert layer.weight.std().item() == pytest.approx((2 / terms) ** 0.5, rel=0.15)
        checked += 1
    assert checked == 7


def test_the_decoder_sees_nothing_but_the_code() -> None:
    coder = AutoEncoder(9, 1, CoderConfig(bottleneck=4))
    z = torch.randn(2, 4)
    torch.testing.assert_close(coder.decode(z)[:1], coder.decode(z[:1]))


# --- the variational coder


@pytest.fixture
def variational() -> AutoEncoder:
    torch.manual_seed(0)
    return make_coder(
        ModelConfig(attention=AttentionConfig(kernel_size=12), coder=CoderConfig(kind="variational", bottleneck=6))
    )


def moments(coder: AutoEncoder, patch: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the code."""
    features = coder.encoder(patch).relu().permute(0, 2, 3, 1).flatten(1)
    mean, log_variance = coder.to_code(features).chunk(2, dim=1)
    return mean, (log_variance / 2).exp()


def test_divergence_is_that_from_the_unit_gaussian(variational: AutoEncoder) -> None:
    patch = torch.rand(5, 1, 12, 12)
    mean, deviation = moments(variational, patch)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, deviation), torch.distributions.Normal(0.0, 1.0)
    ).sum(dim=1)
    divergence = variational.encode(patch).divergence
    assert divergence is not None
    torch.testing.assert_close(divergence, expected)


def test_divergence_is_never_negative_and_finite_for_any_code(variational: AutoEncoder) -> None:
    nn.init.zeros_(variational.to_code.weight)
    patch = torch.rand(1, 1, 12, 12)
    for value in (0.0, 1e-3, -1e-3, 3.0, -3.0, 50.0, -50.0, 1e4, -1e4):
        with torch.no_grad():
            variational.to_code.bias[:6] = 0
            variational.to_code.bias[6:] = value
        code = variational.encode(patch)
        assert code.divergence is not None
        assert 0 <= code.divergence.item() < math.inf
        assert bool(code.z.isfinite().all())


def test_log_variances_are_bounded_at_twelve(variational: AutoEncoder) -> None:
    nn.init.zeros_(variational.to_code.weight)
    for value, kept in ((-11.5, -11.5), (-50.0, -12.0), (11.5, 11.5), (50.0, 12.0)):
        with torch.no_grad():
            variational.to_code.bias[:6] = 0
            variational.to_code.bias[6:] = value
        divergence = variational.encode(torch.rand(1, 1, 12, 12)).divergence
        assert divergence is not None
        assert divergence.item() == pytest.approx(6 * 0.5 * (math.exp(kept) - 1 - kept), rel=1e-5)


def test_codes_are_drawn_by_noise_alone(variational: AutoEncoder) -> None:
    patch = torch.rand(1, 1, 12, 12)
    mean, deviation = moments(variational, patch)
    torch.testing.assert_close(variational.eval().encode(patch).z, mean)
    torch.testing.assert_close(variational.train().encode(patch).z, mean)
    many = variational.encode(patch.expand(4000, -1, -1, -1), torch.randn(4000, 6)).z
    torch.testing.assert_close(many.mean(dim=0), mean[0], atol=0.1 * deviation.max().item(), rtol=0)
    torch.testing.assert_close(many.std(dim=0), deviation[0], atol=0, rtol=0.1)


# --- Table 2


def test_table_2_sizes() -> None:
    background = Background(ModelConfig(), BackgroundConfig())
    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    assert sizes(background, layers, torch.rand(2, 1, 64, 64)) == [(4, 32, 32), (16,), (4096,), (1, 64, 64)]


@pytest.mark.parametrize(("height", "width"), [(8, 9), (33, 20), (65, 64)])
def test_background_keeps_any_size_and_colour(height: int, width: int) -> None:
    model = config("seeker", height, width, 3)
    assert Background(model, BackgroundConfig())(torch.rand(2, 3, height, width)).shape == (2, 3, height, width)


# --- localization: Figure 2, Table 3, the seeker


def test_figure_2_layers() -> None:
    """Convolutions and max-pooling with ReLU, then one fully connected layer to the five parameters."""
    network = make_localizer(config("small"))
    kinds = {type(layer) for layer in network.modules() if not list(layer.children())}
    assert kinds == {nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.Linear}
    assert sizes(network, (nn.Linear,), torch.rand(1, 1, 64, 64)) == [(5,)]


def test_table_3_sizes() -> None:
    """The table's own sizes contradict each other: this is the reading in which each follows from the one before."""
    network = make_localizer(config("improved"))
    layers = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.Linear)
    assert sizes(network, layers, torch.rand(2, 1, 64, 64)) == [
        *[(32, 64, 64)] * 4,
        (32, 32, 32),
        *[(64, 32, 32)] * 4,
        (64, 16, 16),
        *[(128, 16, 16)] * 2,
        (128, 8, 8),
        *[(128, 8, 8)] * 2,
        (128, 4, 4),
        (256,),
        (5,),
    ]
    assert sum(isinstance(layer, nn.LeakyReLU) for layer in network.modules()) == 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 31), (50, 33), (64, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_size_gives_a_window_on_the_image(
    kind: Kind, height: int, width: int, channels: Literal[1, 3]
) -> None:
    torch.manual_seed(0)
    network = make_localizer(config(kind, height, width, channels, kernel_size=8))
    located: Localization = network(torch.rand(3, channels, height, width))
    assert all(value.shape == (3,) for value in located.window)
    assert located.embedding.ndim == 2
    assert len(located.embedding) == 3
    assert bool(((located.window.x >= 0) & (located.window.x <= width - 1)).all())
    assert bool(((located.window.y >= 0) & (located.window.y <= height - 1)).all())


@pytest.mark.parametrize("kind", ["small", "improved"])
def test_regressors_start_in_the_middle_at_stride_one(kind: Kind) -> None:
    """At another delta the first writes would be 1 / delta^2 too bright or dim."""
    network = make_localizer(config(kind, 40, 56, log_gamma_max=1.0))
    window = network(torch.rand(2, 1, 40, 56)).window
    for value, expected in zip(window, (27.5, 19.5, 1.0, math.sqrt(0.4 * 0.8), 1.0), strict=True):
        torch.testing.assert_close(value, torch.full((2,), expected))


@pytest.mark.parametrize("kind", ["small", "improved"])
def test_a_regressors_centre_is_squashed_or_cut_off(kind: Kind) -> None:
    for centre, place in (("tanh", math.tanh(0.5)), ("clamp", 0.5)):
        model = config(kind, 40, 56).model_copy(update={"localizer": LocalizerConfig(kind=kind, centre=centre)})
        window = with_head(make_localizer(model), (0.5, -0.5, 0, 0, 0))(torch.rand(2, 1, 40, 56)).window
        torch.testing.assert_close(window.x, torch.full((2,), 27.5 * (1 + place)))
        torch.testing.assert_close(window.y, torch.full((2,), 19.5 * (1 - place)))
        far = with_head(make_localizer(model), (9.0, -9.0, 0, 0, 0))(torch.rand(2, 1, 40, 56)).window
        torch.testing.assert_close(far.x, torch.full((2,), 55.0))
        torch.testing.assert_close(far.y, torch.zeros(2), atol=1e-4, rtol=0)


def test_seeker_starts_at_stride_one_too() -> None:
    window = make_localizer(config("seeker", log_gamma_max=1.0))(torch.rand(2, 1, 64, 64)).window
    torch.testing.assert_close(window.delta, torch.ones(2))
    torch.testing.assert_close(window.gamma, torch.ones(2))


def with_head(network: nn.Module, raw: tuple[float, ...], scale: float = 0.0) -> nn.Module:
    """Makes the last layer say `raw`, plus `scale` times what it sees."""
    head = network.head
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.copy_(scale * torch.ones_like(head.weight))
        head.bias.copy_(torch.tensor(raw))
    return network


@pytest.fixture(scope="module")
def networks() -> dict[tuple[str, str], nn.Module]:
    torch.manual_seed(0)
    tied, free = {"log_gamma_max": 5.0}, {"log_gamma_max": 5.0, "sigma": "free", "sigma_max": 3.1}
    return {
        (kind, name): make_localizer(config(kind, 20, 30, kernel_size=8, **attention))
        for kind in KINDS
        for name, attention in (("tied", tied), ("free", free))
    }


@given(
    kind=st.sampled_from(KINDS),
    sigma=st.sampled_from(["tied", "free"]),
    raw=st.tuples(*[FINITE] * 5),
    scale=st.sampled_from([0.0, 1.0, 1e30, -1e30]),
    size=st.sampled_from([0.0, 1e-30, 1.0, 1e4]),
)
@settings(deadline=None, max_examples=80)
def test_whatever_the_last_layer_says_the_window_is_within_its_bounds(
    networks: dict[tuple[str, str], nn.Module],
    kind: str,
    sigma: str,
    raw: tuple[float, ...],
    scale: float,
    size: float,
) -> None:
    network = with_head(networks[kind, sigma], raw, scale)
    network.zero_grad()
    error = size * torch.rand(2, 1, 20, 30, generator=torch.Generator().manual_seed(1))
    window = network(error).window
    unit = window.delta if sigma == "tied" else 1.0
    low, high = (0.4, 0.8) if sigma == "tied" else (0.4, 3.1)
    for value, least, most in (
        (window.x, 0, 29),
        (window.y, 0, 19),
        (window.delta, 0.37, 1.16),
        (window.sigma / unit, low, high),
        (window.gamma.log(), -5, 5),
    ):
        assert bool(((value >= least - 1e-4) & (value <= most + 1e-4)).all())
    torch.autograd.backward(torch.stack([*window]).sum())
    gradients = [parameter.grad for parameter in network.head.parameters()]  # type: ignore[union-attr]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)


def test_bounds_that_are_equal_fix_the_parameter() -> None:
    fixed = config("seeker", delta_min=1.0, delta_max=1.0, sigma_min=0.5, sigma_max=0.5)
    window = with_head(make_localizer(fixed), (9.0,) * 5)(torch.rand(2, 1, 64, 64)).window
    assert window.delta.tolist() == [1.0, 1.0]
    assert window.sigma.tolist() == [0.5, 0.5]
    assert window.gamma.tolist() == [1.0, 1.0], "log_gamma_max is 0"


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 90)])
def test_seeker_goes_to_the_largest_error(height: int, width: int) -> None:
    torch.manual_seed(0)
    seeker = make_localizer(config("seeker", height, width))
    for faint, strong in (((12, 14), (40, 34)), ((40, 34), (12, 14)), ((10, 36), (width - 12, 10))):
        error = torch.zeros(1, 1, height, width)
        blob(error, *faint, value=0.6)
        blob(error, *strong, value=-1.0)  # too bright counts as much as too dark
        assert math.dist(centre(seeker, error), strong) < 3


def test_seeker_never_looks_between_two_objects() -> None:
    torch.manual_seed(0)
    seeker = make_localizer(config("seeker"))
    for first, second in (((14, 14), (48, 48)), ((20, 32), (44, 32)), ((32, 10), (32, 50)), ((12, 50), (36, 30))):
        error = torch.zeros(1, 1, 64, 64)
        blob(error, *first)
        blob(error, *second)
        at = centre(seeker, error)
        assert min(math.dist(at, first), math.dist(at, second)) < 4


def test_seeker_finds_an_object_in_a_corner() -> None:
    """Near enough for the window, of 25 pixels, to hold it."""
    seeker = make_localizer(config("seeker", 40, 60))
    for place in ((0, 0), (59, 39), (59, 0)):
        error = torch.zeros(1, 1, 40, 60)
        blob(error, *place)
        assert math.dist(centre(seeker, error), place) < 10


def test_seeker_moves_with_the_object() -> None:
    """The centre is an expectation, not one of the cells, which are four pixels apart."""
    seeker = make_localizer(config("seeker"))
    found = []
    for x in torch.arange(28, 36, 0.5).tolist():
        error = torch.zeros(1, 1, 64, 64)
        blob(error, x, 30)
        found.append(centre(seeker, error)[0] - x)
    assert max(map(abs, found)) < 1


SIZES = (12, 20, 28, 36)


def square(image: Tensor, x: int, y: int, side: int) -> None:
    """Adds the outline of a square, two pixels wide, to an image [1, C, H, W]: as much ink for its size as a digit."""
    low, high = -(side // 2), side - side // 2
    image[:, :, y + low : y + high, x + low : x + high] = 1
    image[:, :, y + low + 2 : y + high - 2, x + low + 2 : x + high - 2] = 0


@pytest.mark.parametrize(("side", "stride"), [(10, 0.6), (18, 1.0), (26, 1.4), (32, 1.8)])
def test_the_window_follows_the_size_of_the_object(side: int, stride: float) -> None:
    """Sizes of 12, 20, 28 and 36 pixels make strides of 0.6 to 1.8."""
    seeker = Seeker(config("seeker", sizes=SIZES))
    for place in ((31, 31), (26, 35)):
        error = torch.zeros(1, 1, 64, 64)
        square(error, *place, side)
        assert seeker(error).window.delta.item() == pytest.approx(stride, abs=0.15)
        assert math.dist(centre(seeker, error), place) < 4


def test_two_small_objects_are_not_one_large_one() -> None:
    seeker = Seeker(config("seeker", sizes=SIZES))
    for second in ((46, 30), (30, 46), (43, 43)):
        error = torch.zeros(1, 1, 64, 64)
        square(error, 30, 30, 10)
        square(error, *second, 10)
        assert min(math.dist(centre(seeker, error), at) for at in ((30, 30), second)) < 4
        assert seeker(error).window.delta.item() < 1.0, "no window for both"


def test_a_chosen_size_scales_the_window_and_a_mean_lies_between() -> None:
    between: dict[str, int] = {}
    scales: tuple[Literal["expected", "chosen"], ...] = ("expected", "chosen")
    for scale in scales:
        seeker = Seeker(config("seeker", sizes=SIZES, scale=scale))
        for side in range(10, 31, 2):
            error = torch.zeros(1, 1, 64, 64)
            error[:, :, 32 - side // 2 : 32 + side // 2, 32 - side // 2 : 32 + side // 2] = 1
            delta = seeker(error).window.delta
            between[scale] = between.get(scale, 0) + (min(abs(delta.item() - size / 20) for size in SIZES) > 1e-5)
            seeker.zero_grad()
            torch.autograd.backward(delta.sum())
            assert seeker.score.weight.grad is not None
            assert bool(seeker.score.weight.grad.any()), "sizes are learned from how well their windows do"
    assert between["chosen"] == 0
    assert between["expected"] > 5


@pytest.mark.parametrize("side", [10, 13, 16, 22, 26, 30])
def test_a_support_gives_the_window_the_objects_own_size_and_place(side: int) -> None:
    seeker = Seeker(config("seeker", sizes=(12, 20, 28), support=True))
    error = torch.zeros(1, 1, 64, 64)
    square(error, 29, 34, side)
    window = seeker(error).window
    middle = (side - 1) / 2 - side // 2
    assert window.delta.item() == pytest.approx(side / 20, rel=1e-5)
    assert (window.x.item(), window.y.item()) == pytest.approx((29 + middle, 34 + middle), abs=1e-4)


@pytest.mark.parametrize("side", [8, 34])
def test_no_object_is_far_smaller_or_larger_than_the_sizes(side: int) -> None:
    error = torch.zeros(1, 1, 64, 64)
    square(error, 32, 32, side)
    windows = [Seeker(config("seeker", sizes=(12, 20, 28), support=support))(error).window for support in (True, False)]
    assert [value.item() for value in windows[0]] == [value.item() for value in windows[1]]


def test_two_touching_objects_are_left_to_the_seeker() -> None:
    """Their support is one, and has no place between them."""
    error = torch.zeros(1, 1, 64, 64)
    square(error, 21, 32, 20)
    square(error, 41, 32, 20)
    windows = [Seeker(config("seeker", support=support))(error).window for support in (True, False)]
    assert windows[0].x.item() == windows[1].x.item()
    assert windows[0].delta.item() == windows[1].delta.item() == 1


def test_windows_from_the_support_still_teach_the_seeker() -> None:
    seeker = Seeker(config("seeker", sizes=(12, 20, 28), support=True))
    error = torch.zeros(1, 1, 64, 64)
    square(error, 29, 34, 24)
    window = seeker(error).window
    for value in (window.x, window.y, window.delta):
        seeker.zero_grad()
        torch.autograd.backward(value.sum(), retain_graph=True)
        assert seeker.score.weight.grad is not None
        assert bool(seeker.score.weight.grad.any())


def test_without_a_support_there_is_no_candidate() -> None:
    seeker = Seeker(config("seeker"))
    error = torch.rand(2, 1, 64, 64)
    scores = seeker.score_anchors(error)
    assert seeker.candidate(error, scores.logits) is None
    assert LocalizerConfig.model_validate({"kind": "seeker"}).support is False, "as stored configs have it"


def test_one_size_makes_the_windows_that_no_size_is_named_for() -> None:
    error = torch.rand(3, 1, 64, 64)
    windows = []
    for sizes in ((20,), (28,)):
        torch.manual_seed(0)
        windows.append(Seeker(config("seeker", sizes=sizes))(error).window)
    torch.testing.assert_close(windows[0].delta, torch.ones(3))
    torch.testing.assert_close(windows[1].delta, torch.full((3,), 1.4))


def test_the_head_moves_the_seekers_centre_by_at_most_four_pixels() -> None:
    error = torch.zeros(1, 1, 64, 64)
    blob(error, 30, 36)
    seeker = make_localizer(config("seeker"))
    x, y = centre(seeker, error)
    assert centre(with_head(seeker, (1e3, -1e3, 0, 0, 0)), error) == pytest.approx((x + 4, y - 4), abs=1e-4)


def test_the_seeker_sends_no_gradient_to_the_canvas_before() -> None:
    """A write must be trained by what it leaves, not by where it sends the next window."""
    error = torch.rand(2, 1, 64, 64, requires_grad=True)
    located: Localization = make_localizer(config("seeker"))(error)
    torch.autograd.backward(torch.stack([*located.window]).sum() + located.embedding.sum())
    assert error.grad is None


def test_the_embedding_knows_the_place() -> None:
    """From -1 to 1 over the image, column first."""
    seeker = Seeker(config("seeker", 48, 80))
    with torch.no_grad():
        seeker.hidden.weight.zero_()
        seeker.hidden.bias.fill_(1)  # the features are never below 0
        seeker.hidden.weight[0, 32] = seeker.hidden.weight[1, 33] = 1
    error = torch.zeros(1, 1, 48, 80)
    blob(error, 62, 14)
    located = seeker(error)
    assert located.embedding[0, 0].item() == pytest.approx(2 * located.window.x.item() / 80, rel=1e-5)
    assert located.embedding[0, 1].item() == pytest.approx(2 * located.window.y.item() / 48, rel=1e-5)


def test_seeker_has_an_answer_where_nothing_is_missing() -> None:
    window = make_localizer(config("seeker"))(torch.zeros(1, 1, 64, 64)).window
    assert all(bool(value.isfinite().all()) for value in window)


def test_seekers_cells_are_where_its_features_are() -> None:
    """A cell that is not divided evenly by the image still stays on it."""
    seeker = make_localizer(config("seeker", 9, 30, kernel_size=8))
    assert isinstance(seeker, Seeker)
    seeker(torch.zeros(1, 1, 9, 30))
    features = seeker.stack(torch.zeros(1, 1, 12, 32))  # padded to whole cells
    assert features.shape[2] * features.shape[3] == len(seeker.cell_x) == len(seeker.cell_y)
    assert float(seeker.cell_x.max()) <= 29
    assert float(seeker.cell_y.max()) <= 8


@pytest.mark.parametrize("kind", KINDS)
def test_the_window_teaches_every_parameter(kind: Kind) -> None:
    """The last layers start at zero, so what is before them learns from the second step on."""
    torch.manual_seed(0)
    network = make_localizer(config(kind, 24, 32, kernel_size=8, log_gamma_max=1.0))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    error = torch.rand(4, 1, 24, 32)
    for _ in range(2):
        optimizer.zero_grad()
        located: Localization = network(error)
        torch.autograd.backward(torch.stack([value.square().mean() for value in located.window]).sum())
        optimizer.step()
    without = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


def test_bfloat16_elsewhere_leaves_the_centre_alone() -> None:
    """G5: as a matrix product under autocast it snapped to a quarter of a pixel."""
    seeker = Seeker(config("seeker", sizes=(12, 20)))
    error = torch.zeros(4, 1, 64, 64)
    for at, place in enumerate((20.3, 31.7, 40.1, 50.9)):
        blob(error[at : at + 1], place, 64 - place)
    with torch.no_grad():
        exact = seeker(error).window
        with torch.autocast("cpu", torch.bfloat16):
            rounded = seeker(error).window
    # The features alone are rounded; the head, which starts at 0, takes nothing from them.
    torch.testing.assert_close(rounded.x, exact.x, atol=1e-4, rtol=0)
    torch.testing.assert_close(rounded.y, exact.y, atol=1e-4, rtol=0)
    torch.testing.assert_close(rounded.delta, exact.delta, atol=1e-5, rtol=0)
