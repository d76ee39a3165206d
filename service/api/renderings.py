"""Serializers of a reconstruction: JSON, an animated GIF, a film strip as PNG, or arrays as npz."""

import base64
from collections.abc import Mapping
from io import BytesIO

import numpy as np

from jobs.interfaces import ModelVersion
from seqae.reconstruction import AttentionStep, Reconstruction
from seqae.rendering import frames
from service.api.picture_checks import NO_CHECKS, PictureChecks
from service.schemas.models import Box, MediaType, ModelRef, PixelStep, ReconstructionView, StepView

__all__ = ["model_ref", "render_reconstruction"]


def model_ref(version: ModelVersion) -> ModelRef:
    """The wire model of a version in the registry."""
    return ModelRef(
        name=version.name,
        version=version.version,
        run_id=version.run_id,
        job_id=version.job_id,
        metrics=dict(version.metrics),
    )


def render_reconstruction(
    media_type: MediaType, found: Reconstruction, version: ModelVersion, checks: PictureChecks = NO_CHECKS
) -> bytes:
    """The body of the answer, of the given media type.

    Args:
        media_type: what the client accepts.
        found: the reconstruction.
        version: of the model that made it.
        checks: what is said of it, in JSON; other types have the header.
    """
    match media_type:
        case MediaType.JSON:
            return _view(found, version, checks).model_dump_json().encode()
        case MediaType.GIF:
            return frames.animation(found)
        case MediaType.PNG:
            return frames.png(np.asarray(frames.filmstrip(found)))
        case MediaType.NPZ:
            return _npz(found, version)


def _view(found: Reconstruction, version: ModelVersion, checks: PictureChecks) -> ReconstructionView:
    height, width = found.input.shape[:2]
    return ReconstructionView(
        model=model_ref(version),
        width=width,
        height=height,
        input=_png(found.input),
        frames=tuple(_png(frame) for frame in found.frames),
        steps=tuple(_step(step, int((found.owners == at).sum())) for at, step in enumerate(found.steps, start=1)),
        error=found.error,
        owners=_png(found.owners),
        explained=checks.explained,
        inverted=checks.inverted,
        warnings=checks.warnings,
    )


def _png(array: np.ndarray) -> str:
    return base64.b64encode(frames.png(array)).decode("ascii")


def _step(step: AttentionStep, pixels: int) -> StepView:
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
        active=step.active,
        pixels=pixels,
    )


def _box(edges: tuple[float, float, float, float]) -> Box:
    left, top, right, bottom = edges
    return Box(left=left, top=top, right=right, bottom=bottom)


def _npz(found: Reconstruction, version: ModelVersion) -> bytes:
    steps = found.steps
    arrays: Mapping[str, np.ndarray] = {
        "input": found.input,
        "frames": found.frames,
        "error": np.array(found.error),
        "x": np.array([step.x for step in steps]),
        "y": np.array([step.y for step in steps]),
        "stride": np.array([step.stride for step in steps]),
        "sigma": np.array([step.sigma for step in steps]),
        "gamma": np.array([step.gamma for step in steps]),
        "window": np.array([step.window for step in steps]),
        "source_window": np.array([step.source_window for step in steps]),
        "patch_read": np.array([step.patch_read for step in steps]),
        "patch_written": np.array([step.patch_written for step in steps]),
        "active": np.array([step.active for step in steps], np.bool_),
        "owners": found.owners,
        "model": np.array([version.name, version.version, version.run_id]),
    }
    buffer = BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
