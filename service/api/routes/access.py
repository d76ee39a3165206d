"""Routes of access: tokens, the page's session, and the audit log."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response, status
from fastapi.concurrency import run_in_threadpool

from service.api.access.authentication import COOKIE
from service.api.access.principal import OPEN, Principal, PrincipalDep, needs, public
from service.api.dependencies import AppContext, ContextDep
from service.api.problems import problem_responses
from service.db.access.tokens import token_view
from service.db.audit import current_actor
from service.db.column_types import wire_safe
from service.schemas.access import (
    AuditEntry,
    AuditPage,
    NewToken,
    SessionRequest,
    SessionView,
    TokenCreated,
    TokenView,
)
from service.scopes import Scope

__all__ = ["router"]

router = APIRouter(tags=["access"], responses=problem_responses(503))

_admin = [needs(Scope.ADMIN)]


@router.post(
    "/tokens", status_code=status.HTTP_201_CREATED, dependencies=_admin, responses=problem_responses(400, 413, 422)
)
def create_token(wanted: NewToken, context: ContextDep, principal: PrincipalDep, response: Response) -> TokenCreated:
    """Makes a token. Its secret is in this answer and nowhere else."""
    row, secret = context.tokens.create(
        wanted.owner, wanted.scopes, name=wanted.name, days=wanted.days, by=principal.owner_or("")
    )
    response.headers["Location"] = f"/tokens/{row.id}"
    response.headers["Cache-Control"] = "no-store"
    return TokenCreated(token=token_view(row), secret=secret)


@router.get("/tokens", dependencies=_admin)
def list_tokens(context: ContextDep) -> tuple[TokenView, ...]:
    """Every token, newest first, without its secret."""
    return tuple(token_view(row) for row in context.tokens.all())


@router.delete("/tokens/{token_id}", dependencies=_admin, responses=problem_responses(404))
async def revoke_token(token_id: str, context: ContextDep) -> TokenView:
    """Ends a token at once; other processes of the service refuse it two seconds later. Asking again is harmless."""
    row = await run_in_threadpool(context.tokens.revoke, token_id)
    if context.authenticator is not None:
        context.authenticator.forget()
    return token_view(row)


@router.get("/session", dependencies=[needs(Scope.READ)])
async def show_session(context: ContextDep, principal: PrincipalDep) -> SessionView:
    """Who asks, and what they may do."""
    return _session_view(context, principal)


@router.post("/session", dependencies=[public()], responses=problem_responses(400, 401, 413, 422))
async def begin_session(
    wanted: SessionRequest, request: Request, response: Response, context: ContextDep
) -> SessionView:
    """Has the browser keep a token for this page: in a cookie that no script can read and no other site can use."""
    if context.authenticator is None:
        return _session_view(context, OPEN)
    principal = await context.authenticator.identify_secret(wanted.token)
    actor = current_actor.get()
    if actor is not None:
        actor.who, actor.token_id = principal.owner_or(""), principal.token_id
    response.set_cookie(
        COOKIE, wanted.token, httponly=True, samesite="strict", secure=request.url.scheme == "https", path="/"
    )
    response.headers["Cache-Control"] = "no-store"
    return _session_view(context, principal)


@router.delete("/session", status_code=status.HTTP_204_NO_CONTENT, dependencies=[public()], response_class=Response)
async def end_session() -> Response:
    """Has the browser forget the token."""
    response = Response(status_code=status.HTTP_204_NO_CONTENT)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", path="/")
    return response


@router.get("/audit", dependencies=_admin, responses=problem_responses(422))
def show_audit(
    context: ContextDep,
    before: Annotated[int | None, Query(ge=1, le=2**62, description="`next_before` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="rows on a page, 1 to 500")] = 100,
) -> AuditPage:
    """Who changed what, or was refused to, newest first, in pages."""
    rows = context.audit.page(before, limit + 1)
    entries = tuple(
        AuditEntry(
            id=row.id,
            at=row.at,
            who=row.who,
            token_id=row.token_id,
            address=row.address,
            action=row.action,
            target=row.target,
            status=row.status,
            changed=wire_safe(row.changed),
        )
        for row in rows[:limit]
    )
    return AuditPage(items=entries, next_before=entries[-1].id if len(rows) > limit else None)


def _session_view(context: AppContext, principal: Principal) -> SessionView:
    return SessionView(
        owner=principal.owner_or(""),
        scopes=tuple(scope for scope in Scope if scope in principal.scopes),
        needs_tokens=context.settings.needs_tokens,
    )
