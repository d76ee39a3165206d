"""Routes of models: `POST /reconstruct`, and which models are served."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar

import anyio
import anyio.to_thread
from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import Response as RawResponse

from jobs.errors import NoModel, TrackingUnavailable
from jobs.interfaces import CHALLENGER, CHAMPION, PREVIOUS, RegisteredModel, VersionInfo
from seqae.config import ModelConfig
from seqae.errors import Error
from service.api.access.principal import PrincipalDep, needs
from service.api.dependencies import AppContext, ContextDep
from service.api.media_types import choose_media_type
from service.api.picture_checks import check, inverted, warnings_header
from service.api.problems import problem_responses, without_addresses
from service.api.renderings import model_ref, render_reconstruction
from service.api.uploads import REQUEST_BODY, Upload, decode, read_upload
from service.db.store import NewEvent
from service.errors import ConflictError, ModelNotFoundError, ModelTimeoutError, OverloadedError
from service.inference.decoder_pool import DecodedPicture
from service.inference.model_pool import LoadedModel, ModelPool
from service.job_state import EventType
from service.schemas.jobs import PromotionView
from service.schemas.models import (
    Invert,
    MediaType,
    ModelStatus,
    MoveRequest,
    MoveView,
    ReconstructionView,
    RegisteredModelView,
    VersionView,
)
from service.scopes import Scope

__all__ = ["OwnerHeader", "ask", "moved", "router"]

log = logging.getLogger(__name__)

router = APIRouter(tags=["models"])
_read, _promote = [needs(Scope.READ)], [needs(Scope.PROMOTE)]

AnswerT = TypeVar("AnswerT")

ModelNamePath = Annotated[str, Path(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="of a registered model")]
VersionPath = Annotated[str, Path(pattern="^[0-9]{1,9}$", description="its number")]
OwnerHeader = Annotated[str, Header(alias="Seqae-Owner", max_length=200, description="who asks, where tokens are off")]
"""Parameter of a route that writes down who asked."""

_OTHER_ANSWERS: dict[str, dict[str, str]] = {kind.value: {} for kind in MediaType if kind is not MediaType.JSON}


@router.post(
    "/reconstruct",
    dependencies=_read,
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
            description="`champion`, NAME, NAME@champion, NAME@challenger, NAME/VERSION, the id of the job that "
            "trained it, or a version number of the default model",
            pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(@(champion|challenger|previous)|/[0-9]{1,9})?$",
        ),
    ] = CHAMPION,
    invert: Annotated[
        Invert,
        Query(description="whether black and white are exchanged before the model sees the picture"),
    ] = Invert.FALSE,
    accept: Annotated[str, Header(description="JSON by default")] = "",
) -> Response:
    """Rebuilds a picture step by step, and tells where the model looked.

    Any size and mode: the largest centred part of the model's aspect is cut out and resized to what the model was
    trained on. `image/gif` answers with an animation, `image/png` with a film strip, `application/x-npz` with arrays.

    `warnings` (in JSON, and as the header `Seqae-Warnings` of every answer that has any) says what speaks against
    trusting the answer: little was explained, much was cropped off, or the picture looks unlike the training data.
    Digits in black on white need `invert=true` or `invert=auto`.
    """
    media_type = choose_media_type(accept)
    inference = _inference(context)
    # Not counted while its body comes in: slow ones would keep all others out.
    upload = await read_upload(request)
    with _admitted(context):
        try:
            async with asyncio.timeout(context.settings.inference_timeout):
                loaded, picture = await _find_and_decode(context, inference, model, upload)
                config = loaded.model.config
                pixels, was_inverted = inverted(picture.pixels, config, invert)
                found = await asyncio.wrap_future(inference.batcher.submit(loaded.model, pixels, picture.size))
        except TimeoutError as error:
            raise ModelTimeoutError("the picture was not decoded, or the model did not answer, in time") from error
        checks = check(found, picture.size, config, was_inverted=was_inverted)
        if checks.explained is not None:
            context.metrics.reconstruct_explained_share.observe(checks.explained)
        body = await anyio.to_thread.run_sync(render_reconstruction, media_type, found, loaded.version, checks)
    headers = {"Vary": "Accept"} | warnings_header(checks.warnings)
    return RawResponse(body, media_type=media_type, headers=headers)


async def _find_and_decode(
    context: AppContext, inference: ModelPool, selector: str, upload: Upload
) -> tuple[LoadedModel, DecodedPicture]:
    """The model, and the picture in its size. A picture that can't be used is said first, also without a model."""
    loaded = inference.find_loaded(selector)
    failure: Error | None = None
    if loaded is None:
        try:
            loaded = await ask(context, lambda: inference.find(selector))
        except Error as error:
            failure = error
    picture = await decode(upload, context.decoders, loaded.model.config.model if loaded else ModelConfig())
    if loaded is None:
        raise failure or ModelNotFoundError(f"there is no model {selector}")
    return loaded, picture


@router.get("/models", dependencies=_read)
async def models(context: ContextDep) -> ModelStatus:
    """All registered models with their champions and why, and what this process serves and has loaded."""
    return await _status(context)


@router.get("/models/{name}", dependencies=_read, responses=problem_responses(404, 503))
async def get_model(name: ModelNamePath, context: ContextDep) -> RegisteredModelView:
    """One registered model: its versions, which of them is the champion, and every decision about that."""
    found = {model.name: model for model in await ask(context, context.tracking.models)}
    if name not in found:
        raise ModelNotFoundError(f"there is no registered model {name} with a version that was made here")
    return _model_view(found[name])


@router.post(
    "/models/{name}/versions/{version}:promote", dependencies=_promote, responses=problem_responses(404, 422, 503)
)
async def promote(
    name: ModelNamePath,
    version: VersionPath,
    context: ContextDep,
    principal: PrincipalDep,
    body: MoveRequest | None = None,
    owner: OwnerHeader = "",
) -> RegisteredModelView:
    """Makes a version the champion, whatever the promotion rule says; every replica serves it within seconds."""
    why, owner = body.why if body else "", principal.owner_or(owner)
    await _move(context, lambda: context.tracking.promote(name, version, owner, why))
    return await moved(context, name, owner, why)


@router.post("/models/{name}:rollback", dependencies=_promote, responses=problem_responses(409, 422, 503))
async def rollback_model(
    name: ModelNamePath,
    context: ContextDep,
    principal: PrincipalDep,
    body: MoveRequest | None = None,
    owner: OwnerHeader = "",
) -> RegisteredModelView:
    """Makes the champion before the champion again."""
    why, owner = body.why if body else "", principal.owner_or(owner)
    await _roll_back(context, name, owner, why)
    return await moved(context, name, owner, why)


@router.post("/models:rollback", dependencies=_promote, responses=problem_responses(409, 503))
async def rollback(context: ContextDep, principal: PrincipalDep, owner: OwnerHeader = "") -> ModelStatus:
    """The same for the model that is served where none is named."""
    champion = _inference(context).champion
    if champion is None:
        raise ConflictError("no champion is served, so there is none to go back from")
    name, owner = champion.version.name, principal.owner_or(owner)
    await _roll_back(context, name, owner, "")
    await moved(context, name, owner, "")
    return await _status(context)


async def _roll_back(context: AppContext, name: str, who: str, why: str) -> None:
    try:
        await ask(context, lambda: context.tracking.rollback(name, who, why))
    except NoModel as error:
        raise ConflictError(str(error)) from error


async def _move(context: AppContext, act: Callable[[], None]) -> None:
    try:
        await ask(context, act)
    except NoModel as error:
        raise ModelNotFoundError(str(error)) from error


async def moved(context: AppContext, name: str, who: str, why: str) -> RegisteredModelView:
    """After a move of the champion's alias: the event of it, and this process serves it at once."""
    model = next((one for one in await ask(context, context.tracking.models) if one.name == name), None)
    champion = None if model is None else model.with_alias(CHAMPION)
    if model is None or champion is None:
        raise ModelNotFoundError(f"{name} has no champion")
    if champion.job_id is not None:
        about = {"model": name, "version": champion.version, "who": who}
        data = {**about, "promoted": True, "reason": why, "against": None}
        event = NewEvent(EventType.PROMOTION, data)
        await anyio.to_thread.run_sync(context.store.add_event, champion.job_id, event)
    if context.inference is not None:
        await ask(context, context.inference.refresh)
    return _model_view(model)


async def ask(context: AppContext, act: Callable[[], AnswerT]) -> AnswerT:
    """Asks the registry in one of a few threads, so that one which hangs never takes those that serve jobs.

    Raises:
        OverloadedError: it takes too long.
    """
    try:
        with anyio.fail_after(context.settings.lookup_timeout):
            return await anyio.to_thread.run_sync(act, abandon_on_cancel=True, limiter=context.lookups)
    except TimeoutError as error:
        raise OverloadedError("the model registry takes its time; try again") from error


def _inference(context: AppContext) -> ModelPool:
    if context.inference is None:
        raise OverloadedError("this process serves no models: SEQAE_INFERENCE is off")
    return context.inference


async def _status(context: AppContext) -> ModelStatus:
    inference = _inference(context)
    detail = without_addresses(inference.detail)
    try:
        registered = await ask(context, context.tracking.models)
    except (TrackingUnavailable, OverloadedError) as error:
        log.warning("the registry does not answer: %s", error)
        registered, detail = [], f"{detail}; the registry does not answer"
    champion, previous = inference.champion, inference.previous
    return ModelStatus(
        champion=model_ref(champion.version) if champion else None,
        previous=model_ref(previous.version) if previous else None,
        loaded=tuple(model_ref(loaded.version) for loaded in inference.others),
        detail=detail,
        models=tuple(_model_view(model) for model in registered),
    )


def _model_view(model: RegisteredModel) -> RegisteredModelView:
    def version_of(alias: str) -> str | None:
        found = model.with_alias(alias)
        return None if found is None else found.version

    return RegisteredModelView(
        name=model.name,
        champion=version_of(CHAMPION),
        challenger=version_of(CHALLENGER),
        previous=version_of(PREVIOUS),
        versions=tuple(_version_view(version) for version in model.versions),
        history=tuple(MoveView(version=one.version, who=one.who, why=one.why, at=one.at) for one in model.history),
    )


def _version_view(version: VersionInfo) -> VersionView:
    promotion = None if version.promotion is None else PromotionView.model_validate(version.promotion.model_dump())
    return VersionView(
        version=version.version,
        run_id=version.run_id,
        job_id=version.job_id,
        metrics=dict(version.metrics),
        aliases=version.aliases,
        created_at=version.created_at,
        promotion=promotion,
    )


@contextmanager
def _admitted(context: AppContext) -> Iterator[None]:
    """Counts a request whose body is there: so many may wait for the model."""
    most = context.settings.inference_queue
    if context.reconstructing >= most:
        raise OverloadedError(f"{most} requests wait for the model already")
    context.reconstructing += 1
    try:
        yield
    finally:
        context.reconstructing -= 1
