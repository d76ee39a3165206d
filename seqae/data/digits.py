"""Sources of handwritten digits: scikit-learn's, or the real MNIST. One never stands in for the other."""

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seqae.data.boxes import tight_box
from seqae.errors import DataError

__all__ = ["SIDE", "DigitSource", "Digits", "bundled_digits", "cut_digit", "load_digits", "mnist_digits"]

SIDE = 28
"""Pixels along one side of a digit's image; the digit itself is about 20 pixels high, as in MNIST."""

_MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True)
class Digits:
    """Digits of one split: images uint8 [n, 28, 28], black background, and labels int64 [n] in 0..9."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class DigitSource:
    """Digits of the three splits, disjoint, and words that say what they are."""

    train: Digits
    val: Digits
    test: Digits
    description: str


def load_digits(kind: Literal["bundled", "mnist"], cache_dir: Path, data_dir: Path | None = None) -> DigitSource:
    """The digits called `kind`.

    Raises:
        DataError: MNIST is neither in `data_dir` nor in the cache, and could not be downloaded; or a file is damaged.
    """
    return bundled_digits() if kind == "bundled" else mnist_digits(cache_dir, data_dir)


def bundled_digits() -> DigitSource:
    """scikit-learn's 1,797 digits of 8 x 8, enlarged to MNIST's format; the last sixth, by other writers, is the test.

    A value of an 8 x 8 digit counts the ink in a 4 x 4 block of the original bitmap. So the enlarged digit is the ink's
    share of each place, and raising its contrast around one half gives back strokes with edges as sharp as MNIST's.
    """
    from sklearn.datasets import load_digits as load_bundled  # takes a second to import

    bundled = load_bundled()
    images = np.stack([_enlarge(small) for small in bundled.images])
    labels = bundled.target.astype(np.int64)
    split = len(images) - len(images) // 6
    train, val = _without_val(Digits(images[:split], labels[:split]), "scikit-learn")
    test = Digits(images[split:], labels[split:])
    return DigitSource(train, val, test, f"scikit-learn's bundled digits ({_counts(train, val, test)})")


def _without_val(given: Digits, source: str) -> tuple[Digits, Digits]:
    """The training digits without their last tenth, and that tenth, as `val`.

    The last ones, since digits lie in the order of their writers: `val` has writers that training hardly shows.

    Raises:
        DataError: there are fewer than ten.
    """
    split = len(given.labels) - len(given.labels) // 10
    if split == len(given.labels):
        raise DataError(f"{source} has {len(given.labels)} training digits; ten or more are needed")
    train, val = (Digits(given.images[part], given.labels[part]) for part in (np.s_[:split], np.s_[split:]))
    return train, val


def _counts(train: Digits, val: Digits, test: Digits) -> str:
    return (
        f"{len(train.labels):,} digits to learn from, {len(val.labels):,} to choose by, {len(test.labels):,} to test on"
    )


def _enlarge(small: NDArray[np.float64]) -> NDArray[np.uint8]:
    """An 8 x 8 digit of values 0..16 as 28 x 28 of values 0..255, the digit 20 pixels high, in the middle."""
    ink = Image.fromarray((small * (255 / 16)).astype(np.uint8)).resize((20, 20), Image.Resampling.BICUBIC)
    sharp = np.clip((np.asarray(ink).astype(np.int32) - 64) * 2, 0, 255).astype(np.uint8)
    return np.pad(sharp, (SIDE - 20) // 2)


def cut_digit(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A digit's image resized to `side` pixels, and of that the tight box around its ink: uint8 [h, w].

    Args:
        image: uint8 [28, 28], black background.
        side: of the whole image, before it is cut.
    """
    if side != SIDE:
        # Bilinear: a filter that rings would leave a faint frame, and the box would not be tight.
        image = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
    left, top, right, bottom = tight_box(image)
    return image[top:bottom, left:right]


def mnist_digits(
    cache_dir: Path, data_dir: Path | None = None, download: Callable[[Path], None] | None = None
) -> DigitSource:
    """The real MNIST: from `data_dir`, else from `cache_dir`, else downloaded by torchvision into `cache_dir`.

    One process at a time may do this with the same `cache_dir`.

    Args:
        cache_dir: where packed files are unpacked and downloads are kept, in the folder `digits`.
        data_dir: folder with `MNIST/raw/*-ubyte` or `*-ubyte.gz`; it may be read-only.
        download: puts MNIST below the folder it is given; torchvision's by default.

    Raises:
        DataError: it can't be had, or a file is damaged. The text names the folder.
    """
    kept = cache_dir / "digits"
    root = _find_mnist(data_dir, kept)
    if root is None:
        try:
            (download or _download)(kept)
        except (OSError, RuntimeError) as error:
            looked = " and ".join(str(folder / "MNIST" / "raw") for folder in (data_dir, kept) if folder)
            raise DataError(f"MNIST is not in {looked}, and downloading it failed: {error}") from error
        root = kept
    given, test = (_read_mnist(root, train=train) for train in (True, False))
    train, val = _without_val(given, f"MNIST in {root}")
    return DigitSource(train, val, test, f"MNIST ({_counts(train, val, test)}) in {root}")


def _find_mnist(data_dir: Path | None, kept: Path) -> Path | None:
    """The folder above `MNIST/raw` with all four files unpacked, after unpacking them where that is needed."""
    for root in (data_dir, kept):
        if root is not None and all((root / "MNIST" / "raw" / name).is_file() for name in _MNIST_FILES):
            return root
    if data_dir is None:
        return None
    packed = [data_dir / "MNIST" / "raw" / f"{name}.gz" for name in _MNIST_FILES]
    if not all(path.is_file() for path in packed):
        return None
    for path in packed:
        _unpack(path, kept / "MNIST" / "raw" / path.stem)
    return kept


def _unpack(packed: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.unfinished")
    try:
        with gzip.open(packed) as source, unfinished.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        unfinished.unlink()
        raise DataError(f"{packed} is damaged: {error}") from error
    unfinished.replace(target)


def _download(root: Path) -> None:
    from torchvision.datasets import MNIST

    # torchvision takes any file that is there for a whole one; so an interrupted download must not leave one in `root`.
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="download-", dir=root) as fresh:
        MNIST(fresh, download=True)
        (root / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)
        for name in _MNIST_FILES:
            (Path(fresh) / "MNIST" / "raw" / name).replace(root / "MNIST" / "raw" / name)


def _read_mnist(root: Path, *, train: bool) -> Digits:
    from torchvision.datasets import MNIST  # imports torch

    try:
        split = MNIST(str(root), train=train)
        images, labels = split.data.numpy(), split.targets.numpy()
    except (OSError, RuntimeError, ValueError, KeyError, AssertionError, IndexError) as error:
        raise DataError(f"MNIST in {root / 'MNIST' / 'raw'} can't be read: {error}") from error
    if images.shape[1:] != (SIDE, SIDE) or len(images) != len(labels) or not len(images):
        raise DataError(f"MNIST in {root / 'MNIST' / 'raw'} is damaged: {images.shape} images, {labels.shape} labels")
    return Digits(images, labels.astype(np.int64))
