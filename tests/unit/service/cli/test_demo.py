"""What the demo says, writes and leaves behind, with a service that answers at once in place of the real stack."""

import io
import json
import threading
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import pytest
from PIL import Image
from rich.console import Console

from jobs.specs import TrainSpec, TuneSpec
from seqae.config import MnistScenesConfig
from service.cli.demo import Demo, demo_spec
from service.job_state import Desired, State
from service.local.home import DaemonName
from service.local.stack import Stack
from service.schemas.jobs import ErrorView, JobView

SPEC = TrainSpec(name="small", data=MnistScenesConfig(train_scenes=4, test_scenes=6))
GOOD = {
    "test/empty_mse": 0.05,
    "test/mse": 0.004,
    "test/mse_step_0": 0.05,
    "test/mse_step_1": 0.004,
    "test/fg_ari": 0.95,
    "val/fg_ari": 0.99,
}


def _job(state: State, metrics: dict[str, float] | None = None, error: str | None = None) -> JobView:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    return JobView(
        id="job_0123456789ab",
        name="small",
        kind="train",
        state=state,
        desired=Desired.RUN,
        owner="",
        attempt=1,
        retries=0,
        losses=0,
        priority=0,
        retry_of=None,
        created_at=now,
        started_at=now,
        finished_at=now,
        progress=None,
        error=None if error is None else ErrorView(error_class="data", message=error),
        metrics=metrics,
        mlflow_url="http://127.0.0.1:1/#/experiments/1/runs/abc",
        model=None,
        spec=SPEC,
    )


def _film(media_type: str) -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (8, 6), (40 * number, 0, 0)) for number in range(3)]
    kind = media_type.removeprefix("image/")
    more: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": 50} if kind == "gif" else {}
    frames[0].save(stream, kind, **more)
    return stream.getvalue()


class Service:
    """Answers the demo's requests, and writes them down."""

    def __init__(self, jobs: list[JobView]) -> None:
        self.requests: list[str] = []
        self.jobs = jobs
        """What each question for the job gets; the last one for ever."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                self._answer()

            def _answer(self) -> None:
                service.requests.append(f"{self.command} {self.path}")
                if self.path.startswith("/reconstruct"):
                    body = _film(self.headers["Accept"])
                else:
                    job = service.jobs.pop(0) if len(service.jobs) > 1 else service.jobs[0]
                    body = job.model_dump_json(by_alias=True).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


class ReadyStack(Stack):
    """A stack whose control plane is the service above."""

    def __init__(self, home: Path, service: Service) -> None:
        super().__init__(home)
        self._port = service.server.server_address[1]
        self.ended: list[tuple[DaemonName, ...]] = []

    def up(self, *, takeover: bool = False) -> tuple[DaemonName, ...]:
        self.layout.home.mkdir(exist_ok=True)
        self.layout.state.write_text(json.dumps({"ports": {"api": self._port}}))
        return (DaemonName.API,)

    def down(self, only: Collection[DaemonName] | None = None) -> None:
        self.ended.append(tuple(only or ()))


class Shown:
    """A demo that has run."""

    def __init__(self, demo: Demo, stack: ReadyStack, service: Service, out: Path, printed: io.StringIO) -> None:
        self.demo, self.stack, self.service, self.out = demo, stack, service, out
        self._printed = printed

    @property
    def lines(self) -> list[str]:
        return self._printed.getvalue().splitlines()


class Show(Protocol):
    """Makes a demo whose service answers with these jobs."""

    def __call__(self, jobs: list[JobView], printed: io.StringIO | None = None) -> Shown: ...


class Interrupted(io.StringIO):
    """A terminal at which somebody presses Ctrl-C when the job is queued."""

    def write(self, text: str) -> int:
        if "queued" in text:
            raise KeyboardInterrupt
        return super().write(text)


@pytest.fixture
def show(tmp_path: Path) -> Iterator[Show]:
    servers = []

    def make(jobs: list[JobView], printed: io.StringIO | None = None) -> Shown:
        service = Service(jobs)
        thread = threading.Thread(target=service.server.serve_forever)
        thread.start()
        servers.append((service.server, thread))
        printed, out = printed or io.StringIO(), tmp_path / "pictures"
        stack = ReadyStack(tmp_path / "home", service)
        demo = Demo(stack, None, out, Console(file=printed, width=80))
        return Shown(demo, stack, service, out, printed)

    yield make
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_good_job_ends_with_pictures_a_report_and_the_line_that_says_so(show: Show) -> None:
    shown = show([_job(State.QUEUED), _job(State.SUCCEEDED, GOOD)])
    assert shown.demo.run(SPEC, keep=False) == 0
    gif = shown.out / "job_0123456789ab.gif"
    assert shown.lines[-1] == f"demo: job job_0123456789ab SUCCEEDED, error down 92%, frames: {gif}"
    text = "\n".join(shown.lines)
    for expected in ("0.05000", "0.00400", "0.950", "http://127.0.0.1:1/#/experiments/1/runs/abc"):
        assert expected in text
    with Image.open(gif) as film, Image.open(gif.with_suffix(".png")) as strip:
        assert (film.size, getattr(film, "n_frames", 1)) == ((16, 12), 3)  # four films, two in a row
        assert strip.size == (8, 24)
    report = json.loads(gif.with_suffix(".json").read_text())
    assert report["job"]["metrics"] == GOOD
    assert "scikit-learn" in report["data"]["source"]
    assert report["seconds"].keys() == {"stack", "data", "job", "pictures"}
    assert shown.stack.ended == [("api",)]
    pictures = [request for request in shown.service.requests if "/reconstruct" in request]
    assert len(pictures) == 8
    assert all("model=job_0123456789ab" in request for request in pictures)


def _without(metric: str) -> dict[str, float]:
    return {name: value for name, value in GOOD.items() if name != metric}


@pytest.mark.parametrize(
    "metrics", [GOOD | {"test/mse": 0.0101}, GOOD | {"test/fg_ari": 0.89}, _without("test/fg_ari")]
)
def test_a_model_below_the_mark_is_told_and_fails(show: Show, metrics: dict[str, float]) -> None:
    shown = show([_job(State.SUCCEEDED, metrics)])
    assert shown.demo.run(SPEC, keep=False) == 1
    assert any("not as good as it should be" in line for line in shown.lines)
    assert shown.lines[-1].startswith("demo: job job_0123456789ab SUCCEEDED, error down ")


def test_a_search_is_not_held_to_the_mark(show: Show) -> None:
    spec = demo_spec("bundled", tune=True)
    assert isinstance(spec, TuneSpec)
    small = spec.model_copy(update={"base": spec.base.model_copy(update={"data": SPEC.data})})
    assert show([_job(State.SUCCEEDED, {**GOOD, "test/fg_ari": 0.2})]).demo.run(small, keep=False) == 0


def test_a_failed_job_fails_with_its_reason(show: Show) -> None:
    shown = show([_job(State.FAILED, error="no digits there")])
    assert shown.demo.run(SPEC, keep=False) == 1
    assert shown.lines[-1] == "demo: job job_0123456789ab FAILED: no digits there"
    assert shown.stack.ended == [("api",)]
    assert not shown.out.exists()


def test_keep_leaves_the_stack_up(show: Show) -> None:
    shown = show([_job(State.SUCCEEDED, GOOD)])
    assert shown.demo.run(SPEC, keep=True) == 0
    assert shown.stack.ended == []
    assert "seqae down" in shown.lines[-2]


def test_ctrl_c_cancels_the_job_and_ends_what_was_started(show: Show) -> None:
    shown = show([_job(State.QUEUED)], Interrupted())
    with pytest.raises(KeyboardInterrupt):
        shown.demo.run(SPEC, keep=False)
    assert shown.service.requests[-1] == "POST /jobs/job_0123456789ab/cancel"
    assert shown.stack.ended == [("api",)]


def test_the_demo_trains_on_two_workers_and_searches_with_four_trials() -> None:
    train, tune = demo_spec("mnist", tune=False), demo_spec("bundled", tune=True)
    assert isinstance(train, TrainSpec)
    assert isinstance(tune, TuneSpec)
    assert train.scaling.max_workers == 2
    assert isinstance(train.data, MnistScenesConfig)
    assert train.data.digits == "mnist"
    assert tune.trials == 4
