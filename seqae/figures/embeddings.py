"""Figure 8: t-SNE of the localization network's embeddings of a number that moves along three lines."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from seqae.data.digits import SIDE, Digits, cut_digit
from seqae.errors import FigureError
from seqae.figures.canvases import reconstruct
from seqae.figures.figure import Figure
from seqae.figures.layout import INK, new_plot, rendered
from seqae.model import SequentialAutoEncoder
from seqae.rendering.panels import BLUE, PURPLE, VERMILION

__all__ = ["GROUPS", "Trajectory", "make_trajectory", "separation", "trajectory_embeddings"]

Group = Literal["lower", "right", "diag"]
GROUPS: tuple[Group, ...] = ("lower", "right", "diag")
"""The paper's groups, in the order in which they are numbered."""

_COLOURS = (BLUE, VERMILION, PURPLE)
_GAP = 2  # pixels between the 3 and the 6
_NEIGHBOURS = 5
_FOLDS = 5

Points = NDArray[np.floating]


@dataclass(frozen=True)
class Trajectory:
    """Images of one number at the places of a path, by the lines of the path."""

    images: NDArray[np.uint8]
    """[M, C, H, W]."""

    places: NDArray[np.float64]
    """[M, 2]: column and row of the number's middle, pixels."""

    groups: NDArray[np.int64]
    """[M]: which of GROUPS."""


def make_trajectory(digits: Digits, height: int, width: int, channels: int, scale: float = 1.0) -> Trajectory:
    """The number 36 moved, pixel by pixel, along the sides of the lower right triangle of an image.

    The sides are the lower border, the right border, and the diagonal between their far ends; the three corners are
    left out, since each would belong to two groups.

    Args:
        digits: the first 3 and the first 6 of them are used.
        height: H, pixels.
        width: W, pixels.
        channels: C; the number is white.
        scale: side of a digit's image, as a share of MNIST's 28 pixels.

    Raises:
        FigureError: there is no room to move the number about.
    """
    number = _number(digits, scale)
    right, bottom = width - number.shape[1], height - number.shape[0]
    if min(right, bottom) < 2 * _FOLDS:
        size = f"{number.shape[1]} x {number.shape[0]}"
        raise FigureError(f"36 is {size} pixels, which leaves no room to move it about in {width} x {height}")
    corners = ((0, bottom), (right, bottom), (right, 0), (0, bottom))
    lines = [_line(start, end) for start, end in pairwise(corners)]
    places = np.concatenate(lines)  # [M, 2]: left, top
    images = np.zeros((len(places), channels, height, width), np.uint8)
    for image, (left, top) in zip(images, places, strict=True):
        image[:, top : top + number.shape[0], left : left + number.shape[1]] = number
    middle = places + (np.array([number.shape[1], number.shape[0]]) - 1) / 2
    groups = np.repeat(np.arange(len(GROUPS)), [len(line) for line in lines])
    return Trajectory(images, middle, groups)


def _line(start: tuple[int, int], end: tuple[int, int]) -> NDArray[np.int64]:
    """The pixels between two, without them, [n, 2]."""
    count = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    share = np.arange(1, count)[:, None] / count
    return np.asarray(np.rint(np.array(start) + share * (np.array(end) - np.array(start))), np.int64)


def _number(digits: Digits, scale: float) -> NDArray[np.uint8]:
    """36, both digits cut to their ink and centred on one line: uint8 [h, w]."""
    inks = []
    for label in (3, 6):
        found = np.flatnonzero(digits.labels == label)
        if not len(found):
            raise FigureError(f"there is no {label} among the digits")
        inks.append(cut_digit(digits.images[found[0]], round(SIDE * scale)))
    height = max(ink.shape[0] for ink in inks)
    number = np.zeros((height, inks[0].shape[1] + _GAP + inks[1].shape[1]), np.uint8)
    for ink, left in zip(inks, (0, inks[0].shape[1] + _GAP), strict=True):
        top = (height - ink.shape[0]) // 2
        number[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return number


def separation(points: Points, groups: NDArray[np.int64]) -> tuple[float, float]:
    """How well groups of points separate.

    Args:
        points: [M, D].
        groups: [M].

    Returns:
        The silhouette, -1 to 1, which compares distances within a group with those to the next one; and the share of
        points that their 5 nearest neighbours among the other folds of 5 put into the right group.
    """
    if np.ptp(points, axis=0).max() == 0:
        return 0.0, float(np.bincount(groups).max() / len(groups))  # all in one place: the largest group is guessed
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    accuracy = cross_val_score(KNeighborsClassifier(_NEIGHBOURS), points, groups, cv=folds).mean()
    return float(silhouette_score(points, groups)), float(accuracy)


def trajectory_embeddings(model: SequentialAutoEncoder, trajectory: Trajectory, seed: int = 0) -> Figure:
    """Figure 8: t-SNE of the first step's localization embeddings, and the window's centre at that step.

    Groups of points on lines can't have a silhouette near 1, so the numbers give that of the true places as well.

    Args:
        model: its localization network is looked at.
        trajectory: from `make_trajectory`, in the model's size.
        seed: of t-SNE.
    """
    output, _ = reconstruct(model, trajectory.images, 1)
    first = output.steps[0]
    embedding = first.embedding.float().numpy()
    centres = np.stack([first.window.x.numpy(), first.window.y.numpy()], axis=1)
    plane = _plane(embedding, seed)
    numbers = {
        "points": float(len(embedding)),
        "largest_group": float(np.bincount(trajectory.groups).max() / len(embedding)),
    }
    for name, points in (("embedding", embedding), ("tsne", plane), ("centre", centres), ("place", trajectory.places)):
        numbers[f"silhouette_{name}"], numbers[f"knn_{name}"] = separation(points, trajectory.groups)
    plot = new_plot(9.0, 4.2, columns=2)
    left, right = plot.axes
    _scatter(left, plane, trajectory.groups)
    left.set_title(_title("t-SNE of the embedding", numbers, "tsne"), color=INK, fontsize=10)
    left.set(xticks=[], yticks=[])  # distances between clusters of a t-SNE mean nothing
    left.legend(frameon=False, fontsize=9)
    _scatter(right, centres, trajectory.groups)
    right.plot(*trajectory.places.T, color="#b8bcc6", linewidth=1, zorder=0)
    right.set_title(_title("centre of the first window", numbers, "centre"), color=INK, fontsize=10)
    height, width = trajectory.images.shape[2:]
    right.set(xlim=(0, width - 1), ylim=(height - 1, 0), aspect="equal", xlabel="pixels")
    caption = (
        "The number 36 moved along the lower border, the right border and the diagonal: t-SNE of the localization "
        "network's embeddings (Figure 8), and where the first window went; the line is the number's own path. "
        f"Silhouette {numbers['silhouette_embedding']:.2f} in the embedding, {numbers['silhouette_tsne']:.2f} in the "
        f"plane ({numbers['silhouette_place']:.2f} for the true places)."
    )
    return Figure(rendered(plot), caption, numbers)


def _plane(points: Points, seed: int) -> Points:
    """t-SNE of points [M, D] to [M, 2]."""
    if np.ptp(points, axis=0).max() == 0:
        return np.zeros((len(points), 2))  # all in one place, which has no axes to start from
    perplexity = min(30.0, (len(points) - 1) / 3)
    return np.asarray(TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(points))


def _scatter(axes: Axes, points: Points, groups: NDArray[np.int64]) -> None:
    for group, (name, colour) in enumerate(zip(GROUPS, _COLOURS, strict=True)):
        x, y = points[groups == group].T
        axes.scatter(x, y, s=14, color=colour, label=name, alpha=0.8, linewidths=0)


def _title(text: str, numbers: dict[str, float], key: str) -> str:
    return f"{text}\nsilhouette {numbers[f'silhouette_{key}']:.2f}, 5-NN accuracy {numbers[f'knn_{key}']:.2f}"
