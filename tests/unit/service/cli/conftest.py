"""The verbs in this process, against a service that is a function."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from service.cli.main import app
from service.job_state import Desired, State
from service.schemas.jobs import JobView, ModelView, Page, PromotionView, WaitingView

Answer = Callable[[httpx.Request], httpx.Response]
Run = Callable[..., Result]

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def make_job(number: int, state: State = State.QUEUED, **changes: Any) -> JobView:
    """A job whose id begins with `job_` and its number."""
    plain: dict[str, Any] = {
        "id": f"job_{number:x}0123456789a"[:16],
        "name": "small",
        "kind": "train",
        "state": state,
        "desired": Desired.RUN,
        "owner": "",
        "attempt": 1,
        "retries": 0,
        "losses": 0,
        "priority": 0,
        "retry_of": None,
        "created_at": AT,
        "started_at": AT,
        "finished_at": AT.replace(minute=8),
        "progress": None,
        "error": None,
        "metrics": None,
        "mlflow_url": None,
        "model": None,
        "spec": {"name": "small"},
    }
    return JobView.model_validate(plain | changes)


def succeeded(number: int, *, promoted: bool) -> JobView:
    """A job with a model."""
    reason = "0.1 better than seqae/1" if promoted else "not better than seqae/1"
    return make_job(
        number,
        State.SUCCEEDED,
        metrics={"test/mse": 0.00412, "test/fg_ari": 0.954, "test/count_accuracy": 0.91},
        model=ModelView(name="seqae", version="2"),
        promotion=PromotionView(promoted=promoted, reason=reason, against="seqae/1", scores={}),
    )


def waiting(number: int) -> JobView:
    """A job that runs, and waits for a machine."""
    missing = "1 of 2 workers has a place"
    return make_job(number, State.RUNNING, waiting=WaitingView(reason="workers", missing=missing, since=AT))


def as_json(view: Any, status: int = 200) -> httpx.Response:
    """An answer with a wire model, or with plain data."""
    content = view.model_dump_json(by_alias=True) if hasattr(view, "model_dump_json") else json.dumps(view)
    return httpx.Response(status, content=content, headers={"Content-Type": "application/json"})


def unknown(request: httpx.Request) -> httpx.Response:
    """The answer for an address at which there is nothing."""
    problem = {"type": "urn:x", "title": "t", "status": 404, "detail": f"no {request.url.path}", "instance": "/"}
    return as_json(problem, 404)


class FakeService:
    """A service with some jobs, which writes down what it is asked."""

    def __init__(self) -> None:
        self.jobs: list[JobView] = []
        """Newest first."""
        self.answers: dict[str, Answer] = {}
        """What else it answers, by method and path."""
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answers a request."""
        self.requests.append(request)
        path = request.url.path
        if (answer := self.answers.get(f"{request.method} {path}")) is not None:
            return answer(request)
        if request.method == "GET" and path == "/jobs":
            start, limit = int(request.url.params.get("cursor", 0)), int(request.url.params["limit"])
            following = str(start + limit) if start + limit < len(self.jobs) else None
            return as_json(Page(items=tuple(self.jobs[start : start + limit]), next_cursor=following))
        for job in self.jobs:
            if request.method == "GET" and path == f"/jobs/{job.id}":
                return as_json(job)
        return unknown(request)

    @property
    def asked(self) -> list[str]:
        """Methods and paths of the requests, in order."""
        return [f"{request.method} {request.url.path}" for request in self.requests]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FakeService:
    """The service that every client in this process has."""
    fake = FakeService()
    real = httpx.Client

    def make(**options: Any) -> httpx.Client:
        return real(**options | {"transport": httpx.MockTransport(fake)})

    monkeypatch.setattr("service.client.httpx.Client", make)
    monkeypatch.setattr("service.client.time.sleep", lambda _: None)
    return fake


@pytest.fixture
def run(service: FakeService) -> Run:
    """Runs a verb; errors of ours are in `Result.exception`, as `main` would find them."""

    def call(*arguments: str, typed: str | None = None) -> Result:
        return CliRunner(env={"SEQAE_URL": "http://service.test", "SEQAE_OWNER": ""}).invoke(
            app, list(arguments), input=typed
        )

    return call
