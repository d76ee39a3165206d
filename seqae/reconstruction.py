"""Records of a reconstruction: what a model made of one picture, in numpy, without tensors; notebooks show them."""

import base64
from dataclasses import dataclass

import numpy as np

__all__ = ["AttentionStep", "Reconstruction"]

Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class AttentionStep:
    """One write: its attention window, and what was read and written. Lengths are pixels of the model's image."""

    x: float
    """Column of the window's centre."""
    y: float
    """Row of the window's centre."""
    stride: float
    """delta, pixels between two kernels."""
    sigma: float
    """Standard deviation of a kernel."""
    gamma: float
    """Intensity, no unit."""
    window: Box
    """What the kernels tile; it may reach over the edge."""
    source_window: Box
    """The same, in pixels of the picture that was given."""
    error: float
    """Mean squared error of the canvas after this write; intensities are 0..1."""
    patch_read: np.ndarray
    """uint8 [N, N, C], off the error image: 0 where the canvas is too bright."""
    patch_written: np.ndarray
    """uint8 [N, N, C]."""
    active: bool
    """Whether this write may own pixels: it has enough of the energy of all writes."""


@dataclass(frozen=True)
class Reconstruction:
    """All that the model did with one picture."""

    input: np.ndarray
    """uint8 [H, W, C]: the picture as the model saw it."""
    frames: np.ndarray
    """uint8 [T+1, H, W, C]: the canvas before the first write and after each."""
    steps: tuple[AttentionStep, ...]
    error: tuple[float, ...]
    """Mean squared error of each frame, T+1 of them; intensities are 0..1."""
    owners: np.ndarray
    """uint8 [H, W]: the step that each pixel belongs to, counted from 1, after looking again; 0 is background."""

    def _repr_png_(self) -> bytes:
        """The film strip, which Jupyter shows for an object with this method."""
        # Only here, so that whoever wants the records alone needs no PIL.
        from seqae.rendering import frames

        return frames.png(np.asarray(frames.filmstrip(self)))

    def _repr_html_(self) -> str:
        """The film strip above a line with the error at the start and at the end; what Jupyter prefers."""
        writes, first, last = len(self.steps), self.error[0], self.error[-1]
        text = f"mean squared error {first:.3g} before the first write, {last:.3g} after {writes}"
        picture = base64.b64encode(self._repr_png_()).decode("ascii")
        return f'<figure><img alt="Film strip: {text}" src="data:image/png;base64,{picture}"><p>{text}</p></figure>'
