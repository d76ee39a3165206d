"""Examples of requests and answers of access tokens, sessions and the audit log."""

from datetime import UTC, datetime, timedelta
from typing import Any

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

__all__ = ["access_examples"]

_AT = datetime(2026, 11, 25, 9, 30, tzinfo=UTC)
_SECRET = "seqae_" + "x" * 43


def access_examples() -> dict[str, tuple[str, Any]]:
    """Title and value of each, by name."""
    token = TokenView(
        id="tok_1f0c3a5b7d9e",
        name="laptop",
        owner="ada",
        scopes=(Scope.SUBMIT.value,),
        created_at=_AT,
        created_by="grace",
        expires_at=_AT + timedelta(days=90),
        revoked_at=None,
        last_used_at=None,
    )
    entry = AuditEntry(
        id=7,
        at=_AT,
        who="ada",
        token_id=token.id,
        address="192.0.2.7",
        action="POST /jobs/{job_id}/cancel",
        target="/jobs/job_4f7k2m9q1x3z/cancel",
        status=None,
        changed={"job": "job_4f7k2m9q1x3z", "from": "RUNNING", "to": "CANCELLING"},
    )
    session = SessionView(owner="ada", scopes=(Scope.SUBMIT,), needs_tokens=True)
    everything = SessionView(owner="", scopes=tuple(Scope), needs_tokens=False)
    return {
        "token_new": ("Shown once", TokenCreated(token=token, secret=_SECRET)),
        "tokens": ("One", (token,)),
        "tokens_none": ("None yet", ()),
        "token_revoked": ("It has ended", token.model_copy(update={"revoked_at": _AT + timedelta(days=1)})),
        "token_user": ("For somebody who trains", NewToken(owner="ada", name="laptop", days=90)),
        "token_reader": ("For a dashboard", NewToken(owner="wall", scopes=(Scope.READ,))),
        "token_admin": ("For whoever looks after it", NewToken(owner="grace", scopes=(Scope.ADMIN,), days=30)),
        "session": ("With a token", session),
        "session_open": ("Where tokens are off", everything),
        "session_token": ("A token of this service", SessionRequest(token=_SECRET)),
        "session_admin": ("Any other", SessionRequest(token="seqae_" + "y" * 43)),
        "session_web": ("A token of an identity provider", SessionRequest(token="eyJhbGciOiJSUzI1NiJ9.e30.c2ln")),
        "audit": ("A job was cancelled", AuditPage(items=(entry,), next_before=7)),
        "audit_none": ("Nothing yet", AuditPage(items=(), next_before=None)),
    }
