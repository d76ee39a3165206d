"""Routes of models: `POST /reconstruct`, and which models are served."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import Response as RawResponse
from PIL import Image

from seqae.data.preprocess import fit
from service.api.dependencies import AppContext, ContextDep
from service.api.media_types import choose_media_type
from service.api.problems import problem_responses
from service.api.renderings import model_ref, render_reconstruction
from service.api.uploads import REQUEST_BODY, Upload, decode, read_upload
from service.errors import ModelTimeoutError, OverloadedError, SlowBodyError
from service.inference.batcher import Model
from service.inference.model_pool import CHAMPION, ModelPool
from service.schemas.models import MediaType, ModelStatus, ReconstructionView

__all__ = ["router"]

router = APIRouter(tags=["models"])

_OTHER_ANSWERS: dict[str, dict[str, str]] = {kind.value: {} for kind in MediaType if kind is not MediaType.JSON}


@router.post(
    "/reconstruct",
    openapi_extra={"requestBody": REQUEST_BODY},
    response_model=ReconstructionView,
    responses={200: {"content": _OTHER_ANSWERS}, **problem_responses(400, 404, 406, 408, 413, 415, 422, 503)},
)
async def reconstruct(
    request: Request,
    context: ContextDep,
    model: Annotated[
        str,
        Query(
            description="`champion`, a version number, or the id of the job that trained it",
            pattern="^(champion|[0-9]{1,9}|job_[a-z0-9]{12})$",
        ),
    ] = CHAMPION,
    accept: Annotated[str, Header(description="JSON by default")] = "",
) -> Response:
    """Rebuilds a picture step by step, and tells where the model looked.

    Any size and mode: the largest centred part of the model's aspect is cut out and resized to what the model was
    trained on. `image/gif` answers with an animation, `image/png` with a film strip, `application/x-npz` with arrays.
    """
    media_type = choose_media_type(accept)
    inference = _inference(context)
    with _admitted(context):
        upload = await _receive(request, context)
        picture = await anyio.to_thread.run_sync(
            decode, upload, context.settings.max_image_pixels, limiter=context.decoders
        )
        loaded = await anyio.to_thread.run_sync(inference.find, model)
        image = await anyio.to_thread.run_sync(_fit, upload, picture, loaded.model, limiter=context.decoders)
        waiting = asyncio.wrap_future(inference.batcher.submit(loaded.model, image, picture.size))
        try:
            found = await asyncio.wait_for(waiting, context.settings.inference_timeout)
        except TimeoutError as error:
            raise ModelTimeoutError("the model did not answer in time") from error
        body = await anyio.to_thread.run_sync(render_reconstruction, media_type, found, loaded.version)
    return RawResponse(body, media_type=media_type, headers={"Vary": "Accept"})


@router.get("/models")
def models(context: ContextDep) -> ModelStatus:
    """What this process serves: the champion, the one before it, and others that were asked for lately."""
    return _status(_inference(context))


@router.post("/models:rollback", responses=problem_responses(409))
def rollback(context: ContextDep) -> ModelStatus:
    """Serves the champion before again, until the registry has yet another one."""
    inference = _inference(context)
    inference.rollback()
    return _status(inference)


def _inference(context: AppContext) -> ModelPool:
    if context.inference is None:
        raise OverloadedError("this process serves no models: SEQAE_INFERENCE is off")
    return context.inference


def _status(inference: ModelPool) -> ModelStatus:
    champion, previous = inference.champion, inference.previous
    return ModelStatus(
        champion=model_ref(champion.version) if champion else None,
        previous=model_ref(previous.version) if previous else None,
        pinned=inference.pinned,
        loaded=tuple(model_ref(loaded.version) for loaded in inference.others),
        detail=inference.detail,
    )


@contextmanager
def _admitted(context: AppContext) -> Iterator[None]:
    """Counts a request before its body is read, so that waiting bodies can't fill the memory."""
    most = context.settings.inference_queue
    if context.reconstructing >= most:
        raise OverloadedError(f"{most} requests wait for the model already")
    context.reconstructing += 1
    try:
        yield
    finally:
        context.reconstructing -= 1


async def _receive(request: Request, context: AppContext) -> Upload:
    try:
        async with asyncio.timeout(context.settings.body_timeout):
            return await read_upload(request)
    except TimeoutError as error:
        raise SlowBodyError("the body did not arrive in time") from error


def _fit(upload: Upload, picture: Image.Image, model: Model) -> np.ndarray:
    size = model.config.model
    try:
        return fit(picture, size.height, size.width, size.channels)
    except Exception as error:
        # A rare mode that can't be converted is the picture's fault, whatever PIL raises for it.
        raise upload.error(f"can't be converted: {error}") from error
