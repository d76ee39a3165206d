"""The MLflow server as the control plane sees it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.backends.fakes import FakeTracking
from jobs.errors import NoModel, NoRun, TrackingUnavailable
from jobs.interfaces import RunStatus
from service.upstream.tracking_server import TrackingServer

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_every_call_reaches_the_tracking_server() -> None:
    tracking = FakeTracking()
    server = TrackingServer(tracking, lambda: NOW, rest=2.0)
    run = server.create_run("job_a", "name", "train", {"seed": 1})
    trial = server.create_trial_run(run.run_id, 3, {"seed": 2})
    server.ship(Path("/jobs/job_a"), run.run_id)
    made = server.register("job_a", run.run_id, "m", Path("/c"), {"test/mse": 0.1}, None)
    assert server.resolve("champion") == made.version
    assert server.models() == tracking.models()
    other = server.create_run("job_b", "name", "train", {})
    server.register("job_b", other.run_id, "m", Path("/c"), {}, None)
    server.promote("m", "2", "ann", "why")
    assert server.resolve("m").job_id == "job_b"
    server.rollback("m", "ann", "why")
    assert server.resolve("m").job_id == "job_a"
    server.close_run(other.run_id, RunStatus.FINISHED)
    assert [one.run_id for one in server.open_runs()] == [run.run_id]
    server.close_run(run.run_id, RunStatus.FINISHED)
    assert tracking.runs[run.run_id].shipped == [Path("/jobs/job_a")]
    assert tracking.runs[trial.run_id].status == RunStatus.FINISHED


def test_after_a_call_without_an_answer_nobody_asks_for_a_moment() -> None:
    tracking, now = FakeTracking(), NOW
    server = TrackingServer(tracking, lambda: now, rest=2.0)
    tracking.unreachable = True
    with pytest.raises(TrackingUnavailable):
        server.open_runs()
    tracking.unreachable = False
    for call in (
        lambda: server.create_run("job_a", "name", "train", {}),
        lambda: server.create_trial_run("run", 3, {}),
        lambda: server.ship(Path("/x"), "run"),
        lambda: server.register("job_a", "run", "m", Path("/c"), {}, None),
        server.models,
        lambda: server.promote("m", "1", "", ""),
        lambda: server.rollback("m", "", ""),
        lambda: server.resolve("champion"),
        lambda: server.close_run("run", RunStatus.FAILED),
        server.open_runs,
    ):
        with pytest.raises(TrackingUnavailable):
            call()
    assert tracking.runs == {}, "nobody was asked"
    now += timedelta(seconds=2)
    assert server.open_runs() == []


def test_an_answer_is_no_outage() -> None:
    server = TrackingServer(FakeTracking(), lambda: NOW, rest=2.0)
    with pytest.raises(NoRun):
        server.close_run("unknown", RunStatus.FAILED)
    with pytest.raises(NoModel):
        server.resolve("champion")
    assert server.open_runs() == []
