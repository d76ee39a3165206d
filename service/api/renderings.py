"""A reconstruction as JSON, GIF, PNG or npz, and which of them a client accepts."""

import base64
from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from jobs.interfaces import ModelVersion
from seqae.rendering import frames
from service.errors import NotAcceptableError
from service.schemas.models import Box, ModelRef, PixelStep, ReconstructionView, StepView

if TYPE_CHECKING:
    from seqae.reconstructor import AttentionStep, Reconstruction

__all__ = ["MEDIA_TYPES", "choose_media_type", "model_ref", "render_reconstruction"]

JSON, GIF, PNG, NPZ = "application/json", "image/gif", "image/png", "application/x-npz"
MEDIA_TYPES = (JSON, GIF, PNG, NPZ)
"""What a reconstruction can be answered as; earlier ones win where the client doesn't mind."""


def choose_media_type(accept: str) -> str:
    """The best of MEDIA_TYPES for an Accept header; an empty one accepts all.

    Raises:
        NotAcceptableError: the client accepts none.
    """
    ranges = [_range(part) for part in (accept or "*/*").split(",")]

    def quality(media_type: str) -> float:
        matching = [(pattern.count("*"), weight) for pattern, weight in ranges if _matches(pattern, media_type)]
        # The most specific range counts, even when it says 0.
        return min(matching, key=lambda match: match[0])[1] if matching else 0.0

    best = max(MEDIA_TYPES, key=quality)
    if quality(best) <= 0:
        raise NotAcceptableError(f"this address answers with {', '.join(MEDIA_TYPES)}")
    return best


def _range(text: str) -> tuple[str, float]:
    pattern, *parameters = (part.strip().lower() for part in text.split(";"))
    weight = next((value for key, _, value in (part.partition("=") for part in parameters) if key == "q"), "1")
    try:
        return pattern, float(weight)
    except ValueError:
        return pattern, 1.0


def _matches(pattern: str, media_type: str) -> bool:
    main, _, _ = media_type.partition("/")
    return pattern in (media_type, f"{main}/*", "*/*")


def model_ref(version: ModelVersion) -> ModelRef:
    return ModelRef(
        name=version.name,
        version=version.version,
        run_id=version.run_id,
        job_id=version.job_id,
        metrics=dict(version.metrics),
    )


def render_reconstruction(media_type: str, found: "Reconstruction", version: ModelVersion) -> bytes:
    """The body of the answer in one of MEDIA_TYPES."""
    if media_type == JSON:
        return _view(found, version).model_dump_json().encode()
    if media_type == GIF:
        return frames.animation(found)
    if media_type == PNG:
        return frames.png(np.asarray(frames.filmstrip(found)))
    return _npz(found, version)


def _view(found: "Reconstruction", version: ModelVersion) -> ReconstructionView:
    height, width = found.input.shape[:2]
    return ReconstructionView(
        model=model_ref(version),
        width=width,
        height=height,
        input=_png(found.input),
        frames=tuple(_png(frame) for frame in found.frames),
        steps=tuple(_step(step) for step in found.steps),
        error=found.error,
    )


def _png(array: np.ndarray) -> str:
    return base64.b64encode(frames.png(array)).decode("ascii")


def _step(step: "AttentionStep") -> StepView:
    window, source = step.window, step.source_window
    # Both boxes hold the same window, so their widths give the scale; edges are half a pixel from centres.
    scale = (source[2] - source[0]) / (window[2] - window[0])
    return StepView(
        x=source[0] + (step.x + 0.5 - window[0]) * scale - 0.5,
        y=source[1] + (step.y + 0.5 - window[1]) * scale - 0.5,
        stride=step.stride * scale,
        sigma=step.sigma * scale,
        window=_box(source),
        gamma=step.gamma,
        error=step.error,
        in_model=PixelStep(x=step.x, y=step.y, stride=step.stride, sigma=step.sigma, window=_box(window)),
    )


def _box(edges: tuple[float, float, float, float]) -> Box:
    left, top, right, bottom = edges
    return Box(left=left, top=top, right=right, bottom=bottom)


def _npz(found: "Reconstruction", version: ModelVersion) -> bytes:
    steps = found.steps
    arrays: Mapping[str, np.ndarray] = {
        "input": found.input,
        "frames": found.frames,
        "error": np.array(found.error),
        **{name: np.array([getattr(step, name) for step in steps]) for name in _STEP_FIELDS},
        "model": np.array([version.name, version.version, version.run_id]),
    }
    buffer = BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


_STEP_FIELDS = ("x", "y", "stride", "sigma", "gamma", "window", "source_window", "patch_read", "patch_written")
