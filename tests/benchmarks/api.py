"""Load generator for the API: a control plane in a process of its own, and clients that all submit at once."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
from sqlalchemy import insert

from jobs.specs import job_spec
from service.clock import utc_now
from service.db.models import JobRow
from service.db.store import Store, new_job_id
from service.job_state import Desired, State
from service.local.ports import free_port

__all__ = ["Answer", "Api", "Memory", "fill", "read_pages", "running_api", "submit_all"]

_NOBODY = "http://127.0.0.1:1"
"""Where neither a cluster nor MLflow listens: jobs are taken and wait."""

_REPEATS_EVERY = 5
"""One job in so many is posted twice with the same key, as a client does that lost the first answer."""

_SETTLED_SECONDS = 3.0
"""What has not grown for so long has loaded everything."""


@dataclass(frozen=True)
class Memory:
    """Memory of a process, in MB."""

    rss: float
    pss: float
    """Pages shared with other processes count in part."""


@dataclass(frozen=True)
class Api:
    """A running API: its URL and its process."""

    url: str
    process: psutil.Process

    def memory(self) -> Memory:
        full = self.process.memory_full_info()
        return Memory(full.rss / 1e6, getattr(full, "pss", full.rss) / 1e6)

    def cpu(self) -> float:
        """Seconds of CPU time that it has taken so far: the same on a busy machine as on an idle one."""
        times = self.process.cpu_times()
        return times.user + times.system

    def settled(self) -> Memory:
        """When it has loaded what it loads after its start, such as MLflow's client."""
        memory, since = self.memory(), time.monotonic()
        while time.monotonic() - since < _SETTLED_SECONDS:
            time.sleep(0.2)
            now = self.memory()
            if now.rss > memory.rss + 1:
                memory, since = now, time.monotonic()
        return memory


@dataclass(frozen=True)
class Answer:
    """Answer to one request for a job."""

    owner: str
    key: str
    status: int
    body: dict[str, Any]
    seconds: float


@contextmanager
def running_api(home: Path, database_url: str, **settings: object) -> Iterator[Api]:
    """Starts `python -m service.__main__` without a cluster and without a model.

    Args:
        home: an empty folder.
        database_url: of an empty database.
        settings: other fields of `service.settings.Settings`.
    """
    port = free_port(None, set())
    given = {"home": home, "database_url": database_url, "port": port, "inference": False}
    given |= {"ray_url": _NOBODY, "mlflow_url": _NOBODY} | settings
    environment = os.environ | {f"SEQAE_{name.upper()}": str(value) for name, value in given.items()}
    with (home / "api.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "service.__main__"], env=environment, stdout=log, stderr=log)
    try:
        api = Api(f"http://127.0.0.1:{port}", psutil.Process(process.pid))
        deadline = time.monotonic() + 120
        while not _answers(api.url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the API does not start: {(home / 'api.log').read_text()}")
            time.sleep(0.1)
        yield api
    finally:
        process.terminate()
        process.wait(timeout=60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def submit_all(api: Api, jobs: int, clients: int, every: float | None = None) -> list[Answer]:
    """Submits jobs from clients that start together, each its own owner with a connection of its own.

    Args:
        api: takes them.
        jobs: of all clients together.
        clients: at the same time.
        every: seconds from one job of a client to its next, each client at a moment of its own; None: no pause.

    Returns:
        An answer for each request, those repeated with the same key included.
    """
    return asyncio.run(_submit_all(api, jobs, clients, every))


async def _submit_all(api: Api, jobs: int, clients: int, every: float | None) -> list[Answer]:
    each = jobs // clients
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_client(api, f"client {number}", _moments(each, number / clients, every)))
            for number in range(clients)
        ]
    return [answer for task in tasks for answer in task.result()]


def _moments(jobs: int, share: float, every: float | None) -> list[float]:
    """When a client submits each job, in seconds from its start; it begins at a share of its pause."""
    return [0.0 if every is None else every * (number + share) for number in range(jobs)]


async def _client(api: Api, owner: str, moments: list[float]) -> list[Answer]:
    answers, began = [], time.perf_counter()
    async with httpx.AsyncClient(base_url=api.url, timeout=120, trust_env=False) as client:
        for number, moment in enumerate(moments):
            await asyncio.sleep(max(0.0, began + moment - time.perf_counter()))
            key = uuid4().hex
            posts = [_submit(client, owner, key, number) for _ in range(2 if number % _REPEATS_EVERY == 0 else 1)]
            answers += await asyncio.gather(*posts)
    return answers


async def _submit(client: httpx.AsyncClient, owner: str, key: str, number: int) -> Answer:
    began = time.perf_counter()
    spec = {"name": f"load {number}", "schedule": {"epochs": 3}}
    answer = await client.post("/jobs", json=spec, headers={"Idempotency-Key": key, "Seqae-Owner": owner})
    return Answer(owner, key, answer.status_code, answer.json(), time.perf_counter() - began)


def fill(store: Store, number: int) -> None:
    """Puts jobs into the table as they would be after a long life: most have succeeded."""
    spec = job_spec.validate_python({"name": "scenes", "schedule": {"epochs": 3}}).model_dump(mode="json")
    common: dict[str, Any] = {"name": "scenes", "kind": "train", "owner": "ann", "spec": spec, "desired": Desired.RUN}
    common |= dict.fromkeys(("priority", "retries", "losses", "losses_in_row", "best_iteration"), 0)
    common |= dict.fromkeys(("created_at", "queued_at", "updated_at", "state_since"), utc_now())
    common |= {"version": 1, "attempt": 1, "cleaned_up": True, "metrics": {"test/mse": 0.01, "test/fg_ari": 0.9}}
    states = [State.SUCCEEDED] * 97 + [State.FAILED, State.CANCELLED, State.PAUSED]
    rows = [common | {"id": new_job_id(), "state": states[index % 100]} for index in range(number)]
    with store.database.write() as session:
        session.execute(insert(JobRow), rows)


def read_pages(api: Api, **query: str | int) -> tuple[list[str], list[float]]:
    """Reads the list of jobs to its end.

    Returns:
        The ids, and the seconds that each page took.
    """
    ids, seconds = [], []
    cursor: str | None = ""
    with httpx.Client(base_url=api.url, timeout=120, trust_env=False) as client:
        while cursor is not None:
            began = time.perf_counter()
            answer = client.get("/jobs", params=query | ({"cursor": cursor} if cursor else {}))
            seconds.append(time.perf_counter() - began)
            page = answer.raise_for_status().json()
            ids += [job["id"] for job in page["items"]]
            cursor = page["next_cursor"]
    return ids, seconds
