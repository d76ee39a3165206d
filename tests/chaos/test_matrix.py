"""Every part is killed while a job is in every state in which it matters: `make chaos`."""

import time
from typing import Any
from uuid import uuid4

import pytest

from service.job_state import ENDED, State
from tests.chaos.audit import verdicts, zombies
from tests.chaos.plant import Plant, wait_until
from tests.tiny import ON_A_CLUSTER

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

EPOCHS = 20
CURVE = range(2, 8 * EPOCHS + 1, 2)
_TRIES = 8  # jobs that may run through a short state unseen, until one is caught in it

ON_THE_WAY = (State.QUEUED, State.SUBMITTING, State.STARTING, State.RUNNING, State.FINALIZING)
LIVE = (*ON_THE_WAY, State.RETRY_WAIT, State.PAUSING, State.CANCELLING)
CASES: dict[str, tuple[State, ...]] = {
    "api": LIVE,
    "database": LIVE,
    "mlflow": LIVE,
    "head": LIVE,
    "driver": (State.STARTING, State.RUNNING, State.PAUSING),
    "worker": (State.RUNNING, State.PAUSING),
}
"""A driver or a worker that does not run can't be killed."""


def submit(plant: Plant) -> str:
    key = uuid4().hex
    spec: dict[str, Any] = ON_A_CLUSTER | {"name": "matrix", "schedule": ON_A_CLUSTER["schedule"] | {"epochs": EPOCHS}}
    return str(plant.ask(lambda client: client.submit(spec, idempotency_key=key)).id)


def reach(plant: Plant, job_id: str, state: State) -> None:
    """Waits for a state, nudging the job towards it, or until the job has passed it unseen."""
    if state in (State.PAUSING, State.CANCELLING, State.RETRY_WAIT):
        wait_until(lambda: trains(plant, job_id), "it trains")
        if state is State.PAUSING:
            plant.ask(lambda client: client.pause(job_id))
        elif state is State.CANCELLING:
            plant.ask(lambda client: client.cancel(job_id))
        else:
            plant.kill("driver", job_id)
    order = [*ON_THE_WAY, *ENDED]
    while (now := plant.state(job_id)) is not state:
        if now in ENDED or now is State.PAUSED:
            return
        if state in order and now in order and order.index(now) > order.index(state):
            return
        time.sleep(0.002)


def trains(plant: Plant, job_id: str) -> bool:
    job = plant.ask(lambda client: client.get(job_id))
    # While data is made, images are counted.
    return job.progress is not None and job.progress.phase == "training" and job.progress.iteration >= 12


def case(plant: Plant, part: str, state: State) -> str:
    """Kills the part in the state, and returns the job that had to survive it."""
    for _ in range(_TRIES):
        job_id = submit(plant)
        if state is State.RUNNING:
            wait_until(lambda job=job_id: trains(plant, job), "it trains")
        reach(plant, job_id, state)
        while plant.state(job_id) is state:  # its driver may come a moment after the state
            if plant.kill(part, job_id):
                return job_id
        end(plant, job_id)
    raise AssertionError(f"no job was caught in {state} with a {part} to kill")


def end(plant: Plant, job_id: str) -> None:
    """Waits for the end of a job, resuming it where it was paused."""
    wait_until(lambda: plant.all_ended([job_id]) or plant.state(job_id) is State.PAUSED, f"the end of {job_id}")
    if plant.state(job_id) is State.PAUSED:
        plant.ask(lambda client: client.resume(job_id))
        wait_until(lambda: plant.all_ended([job_id]), f"the end of {job_id}, resumed")


@pytest.mark.parametrize("part", CASES)
def test_a_part_is_killed_in_every_state(plant: Plant, part: str) -> None:
    survived = []
    for state in CASES[part]:
        started = time.monotonic()
        job_id = case(plant, part, state)
        plant.bring_back(part)
        end(plant, job_id)
        found = plant.state(job_id)
        print(f"{part:9} {state:10} -> {found} in {time.monotonic() - started:.0f} s", flush=True)
        assert found is (State.CANCELLED if state is State.CANCELLING else State.SUCCEEDED)
        if found is State.SUCCEEDED:
            survived.append(job_id)
    assert all(row.retries == 0 for row in plant.rows(survived).values()), "no kill counts as the job's own error"
    for verdict in verdicts(plant, survived, CURVE):
        assert verdict.faults == (), verdict
        assert verdict.repeated <= ON_A_CLUSTER["schedule"]["checkpoint_every"], verdict
    assert zombies(plant) == []
