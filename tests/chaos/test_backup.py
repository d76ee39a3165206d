"""Backup in the middle of a soak, restored elsewhere: every job ends there as it should. `make chaos`."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from service.db.models import JobRow
from service.job_state import ENDED, State
from service.local.home import HomeLayout
from tests.chaos.audit import audits, zombies
from tests.chaos.deployment import Component, Deployment, running, wait_until
from tests.daemons import Daemons
from tests.postgres import PostgresServer
from tests.tiny import ON_A_CLUSTER

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

JOBS, EPOCHS = 3, 10
CURVE = range(2, 8 * EPOCHS + 1, 2)


def submit(deployment: Deployment, number: int) -> str:
    schedule = ON_A_CLUSTER["schedule"] | {"epochs": EPOCHS}
    spec: dict[str, Any] = ON_A_CLUSTER | {"name": f"soak-{number}", "schedule": schedule}
    return str(deployment.ask(lambda client: client.submit(spec, idempotency_key=f"soak-{number}")).id)


def seqae(*words: str | Path, url: str) -> None:
    """Runs the command line beside the service."""
    command = [sys.executable, "-m", "service.cli.main", *map(str, words)]
    done = subprocess.run(command, env=os.environ | {"SEQAE_DATABASE_URL": url}, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    assert done.returncode == 0


def _iteration(row: JobRow) -> int:
    return 0 if row.progress is None else row.progress.iteration


def soak(deployment: Deployment, archive: Path, url: str) -> list[str]:
    """Jobs that are killed while they train; the backup is taken while one has ended, others run, and others wait."""
    ids = [submit(deployment, number) for number in range(JOBS)]
    wait_until(
        lambda: (
            any(row.state in ENDED for row in deployment.rows(ids).values())
            and any(row.progress is not None and row.state == State.RUNNING for row in deployment.rows(ids).values())
        ),
        "one has ended, and another one runs",
    )
    deployment.kill(Component.WORKER)
    deployment.kill(Component.API)
    # The control plane is down and comes back, workers are started again, and nobody waits for the backup.
    seqae("backup", archive, "--home", deployment.home, url=url)
    states = Counter(row.state.value for row in deployment.rows(ids).values())
    print(f"after the backup: {dict(states)}", flush=True)
    assert len(states) > 1
    deployment.restart(Component.API)
    return ids


def test_a_backup_in_the_middle_of_a_soak_ends_as_it_should(tmp_path: Path, postgres_server: PostgresServer) -> None:
    archive, url = tmp_path / "a.tar", postgres_server.url
    with running(Daemons(HomeLayout(tmp_path / "old")), postgres_server) as before:
        ids = soak(before, archive, url)
        # What happens from here on is not in the archive.
        before.ask(lambda client: client.submit(ON_A_CLUSTER | {"name": "later"}))
    (tmp_path / "old").rename(tmp_path / "gone")
    postgres_server.url = postgres_server.new_database()
    seqae("restore", archive, "--home", tmp_path / "new", url=postgres_server.url)
    with running(Daemons(HomeLayout(tmp_path / "new")), postgres_server) as deployment:
        assert {job.id for job in deployment.ask(lambda client: client.list(limit=50)).items} == set(ids)
        wait_until(lambda: deployment.all_ended(ids), "all jobs have ended", seconds=1800)
        left = zombies(deployment)
        found = audits(deployment, ids, CURVE)
        for audit in found:
            print(audit, flush=True)
        assert left == []
        assert [(audit.state, audit.faults) for audit in found] == [(State.SUCCEEDED, ())] * JOBS
        assert all(row.retries == 0 for row in deployment.rows(ids).values()), "a restore is no error of the jobs' own"
        champion = deployment.tracking.resolve("champion")
        assert champion.job_id in ids
        assert champion.path.is_dir()
