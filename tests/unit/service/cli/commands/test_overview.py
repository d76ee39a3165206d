"""`top`, `disk` and `retention`, against a service that is a function."""

import json

import pytest

from service.cli.commands.overview import _show_live
from service.client import Client
from service.job_state import State
from service.schemas.disk import (
    DiskPart,
    DiskView,
    JobDisk,
    OwnerDisk,
    RetentionLimits,
    RetentionRemoval,
    RetentionReport,
    RetentionView,
)
from service.schemas.health import PartStatus, Readiness
from service.schemas.jobs import JobView, ProgressView
from tests.unit.service.cli.conftest import AT, FakeService, Run, as_json, make_job, unknown, waiting


def _running(number: int, workers: int, gpus: float) -> JobView:
    progress = ProgressView(phase="training", iteration=5, iterations=9, epoch=0.5, epochs=1, workers=workers)
    spec = {"kind": "train", "name": "small", "scaling": {"workers": workers, "gpus_per_worker": gpus}}
    return make_job(number, State.RUNNING, progress=progress, spec=spec)


@pytest.fixture
def busy(service: FakeService) -> FakeService:
    parts = {
        "database": PartStatus(ok=True, detail="answers"),
        "cluster": PartStatus(ok=False, detail="2 machines, 8 CPUs, 4 GPUs"),
    }
    service.answers["GET /readyz"] = lambda _: as_json(Readiness(ready=False, parts=parts), 503)
    service.jobs = [make_job(3), waiting(2), _running(1, 2, 1)]
    return service


def test_a_pipe_gets_one_snapshot(run: Run, busy: FakeService) -> None:
    """Section 3: jobs, workers and GPUs; the numbers are those of the service."""
    lines = run("top").stdout.splitlines()
    assert lines[0].endswith("NOT READY")
    assert lines[1:3] == ["  database: answers", "  cluster: NOT READY, 2 machines, 8 CPUs, 4 GPUs"]
    assert lines[3] == "jobs: 1 QUEUED, 2 RUNNING; workers: 2; GPUs they hold: 2"
    assert lines[5].split() == ["id", "state", "workers", "GPUs", "progress", "kind", "name", "now"]
    assert [line.split()[0] for line in lines[6:]] == [job.id for job in busy.jobs]
    assert lines[8].split()[2:5] == ["2", "2", "5/9"]
    assert "1 of 2 workers has a place" in lines[7]
    states = busy.requests[0].url.params.get_list("state")
    assert "RUNNING" in states
    assert not {"SUCCEEDED", "FAILED", "CANCELLED", "UNKNOWN"} & set(states)
    plain = json.loads(run("top", "--once", "--json").stdout)
    assert len(plain["jobs"]) == 3
    assert plain["ready"]["parts"]["cluster"]["ok"] is False


def test_the_live_table_outlasts_the_service(
    busy: FakeService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Until Ctrl-C, which is its usual end."""
    looks = 0

    def wait(_: float) -> None:
        nonlocal looks
        looks += 1
        busy.answers["GET /jobs"] = unknown
        if looks == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("service.cli.commands.overview.time.sleep", wait)
    _show_live(Client("http://service.test"), 1.0)
    printed = capsys.readouterr().out
    assert busy.jobs[0].id in printed or "no /jobs" in printed
    assert looks == 3


def test_who_uses_the_disk(run: Run, service: FakeService) -> None:
    """C7: sizes, quotas and ages, by kind, owner and job."""
    view = DiskView(
        home="/home/x/.seqae",
        total_bytes=10**12,
        free_bytes=25 * 10**10,
        parts=(DiskPart(kind="jobs", bytes=1_500_000, files=7, quota_bytes=10**9, newest=AT),),
        owners=(OwnerDisk(owner="ann", jobs=2, bytes=1_500_000),),
        jobs=(
            JobDisk(
                id=make_job(1).id,
                name="small",
                owner="ann",
                state="",
                bytes=1_500_000,
                checkpoint_bytes=1_000_000,
                film_strip_bytes=5_000,
                log_bytes=12,
            ),
        ),
        measured_at=AT,
    )
    service.answers["GET /disk"] = lambda _: as_json(view)
    printed = run("disk").stdout
    assert "250.0 GB of 1.0 TB are free" in printed
    assert "1.5 MB  1.0 GB  7" in printed
    assert make_job(1).id in printed
    assert json.loads(run("disk", "--json").stdout)["owners"][0]["owner"] == "ann"


def test_what_is_over_a_limit(run: Run, service: FakeService) -> None:
    limits = RetentionLimits(days=0, jobs=0, jobs_per_owner=5, bytes=10**9, bytes_per_owner=0)
    removal = RetentionRemoval(job=make_job(1).id, owner="ann", removed="job", bytes=2_000_000, why="over the limit: x")
    report = RetentionReport(at=AT, jobs=3, bytes=5, removals=())
    view = RetentionView(limits=limits, removals=(removal,), jobs=1, bytes=2_000_000, reports=(report,))
    service.answers["GET /retention"] = lambda _: as_json(view)
    printed = run("retention").stdout
    assert "limits on ended jobs: 5 jobs of an owner, 1.0 GB in all" in printed
    assert "last removed at" in printed
    assert "would be removed: 1 jobs, 2.0 MB" in printed
    assert "over the limit: x" in printed
    assert json.loads(run("retention", "--json").stdout)["removals"][0]["owner"] == "ann"
    service.answers["GET /retention"] = unknown
    service.answers["POST /retention:apply"] = lambda _: as_json(view)
    assert "\nremoved: 1 jobs" in run("retention", "--apply").stdout


def test_without_limits_it_is_said_how_to_set_some(run: Run, service: FakeService) -> None:
    none = RetentionLimits(days=0, jobs=0, jobs_per_owner=0, bytes=0, bytes_per_owner=0)
    view = RetentionView(limits=none, removals=(), jobs=0, bytes=0, reports=())
    service.answers["GET /retention"] = lambda _: as_json(view)
    printed = run("retention").stdout
    assert "none; SEQAE_MAX_ENDED_JOBS" in printed
    assert "nothing is over a limit" in printed
