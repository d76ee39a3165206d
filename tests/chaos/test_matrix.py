"""Every component is killed while a job is in every state in which it matters: `make chaos`."""

import time
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from jobs.directory.records import Phase
from service.job_state import ENDED, State
from tests.chaos.audit import audits, zombies
from tests.chaos.deployment import Component, Deployment, wait_until
from tests.tiny import ON_A_CLUSTER

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

EPOCHS = 20
CURVE = range(2, 8 * EPOCHS + 1, 2)
_TRIES = 8  # jobs that may run through a short state unseen, until one is caught in it

ON_THE_WAY = (State.QUEUED, State.SUBMITTING, State.STARTING, State.RUNNING, State.FINALIZING)
LIVE = (*ON_THE_WAY, State.RETRY_WAIT, State.PAUSING, State.CANCELLING)
CASES: dict[Component, tuple[State, ...]] = {
    Component.API: LIVE,
    Component.DATABASE: LIVE,
    Component.MLFLOW: LIVE,
    Component.HEAD: LIVE,
    Component.DRIVER: (State.STARTING, State.RUNNING, State.PAUSING),
    Component.WORKER: (State.RUNNING, State.PAUSING),
}
"""A driver or a worker that does not run can't be killed."""


def submit(deployment: Deployment) -> str:
    key = uuid4().hex
    spec: dict[str, Any] = ON_A_CLUSTER | {"name": "matrix", "schedule": ON_A_CLUSTER["schedule"] | {"epochs": EPOCHS}}
    return str(deployment.ask(lambda client: client.submit(spec, idempotency_key=key)).id)


def reach(deployment: Deployment, job_id: str, state: State) -> None:
    """Waits for a state, nudging the job towards it, or until the job has passed it unseen."""
    if state in (State.PAUSING, State.CANCELLING, State.RETRY_WAIT):
        wait_until(lambda: trains(deployment, job_id), "it trains")
        if state is State.PAUSING:
            deployment.ask(lambda client: client.pause(job_id))
        elif state is State.CANCELLING:
            deployment.ask(lambda client: client.cancel(job_id))
        else:
            deployment.kill(Component.DRIVER, job_id)
    order = [*ON_THE_WAY, *ENDED]
    while (now := deployment.state(job_id)) is not state:
        if now in ENDED or now is State.PAUSED:
            return
        if state in order and now in order and order.index(now) > order.index(state):
            return
        time.sleep(0.002)


def trains(deployment: Deployment, job_id: str) -> bool:
    job = deployment.ask(lambda client: client.get(job_id))
    # While data is made, images are counted.
    return job.progress is not None and job.progress.phase == Phase.TRAINING and job.progress.iteration >= 12


def case(deployment: Deployment, component: Component, state: State) -> str:
    """Kills the component in the state, and returns the job that had to survive it."""
    for _ in range(_TRIES):
        job_id = submit(deployment)
        if state is State.RUNNING:
            wait_until(partial(trains, deployment, job_id), "it trains")
        reach(deployment, job_id, state)
        while deployment.state(job_id) is state:  # its driver may come a moment after the state
            if deployment.kill(component, job_id):
                return job_id
        end(deployment, job_id)
    raise AssertionError(f"no job was caught in {state} with a {component} to kill")


def end(deployment: Deployment, job_id: str) -> None:
    """Waits for the end of a job, resuming it where it was paused."""

    def has_stopped() -> bool:
        return deployment.all_ended([job_id]) or deployment.state(job_id) is State.PAUSED

    wait_until(has_stopped, f"the end of {job_id}")
    if deployment.state(job_id) is State.PAUSED:
        deployment.ask(lambda client: client.resume(job_id))
        wait_until(lambda: deployment.all_ended([job_id]), f"the end of {job_id}, resumed")


@pytest.mark.parametrize("component", CASES)
def test_a_component_is_killed_in_every_state(deployment: Deployment, component: Component) -> None:
    survived = []
    for state in CASES[component]:
        started = time.monotonic()
        job_id = case(deployment, component, state)
        deployment.restart(component)
        end(deployment, job_id)
        found = deployment.state(job_id)
        print(f"{component:9} {state:10} -> {found} in {time.monotonic() - started:.0f} s", flush=True)
        assert found is (State.CANCELLED if state is State.CANCELLING else State.SUCCEEDED)
        if found is State.SUCCEEDED:
            survived.append(job_id)
    assert all(row.retries == 0 for row in deployment.rows(survived).values()), "no kill counts as the job's own error"
    for audit in audits(deployment, survived, CURVE):
        assert audit.faults == (), audit
        assert audit.repeated <= ON_A_CLUSTER["schedule"]["checkpoint_every"], audit
    assert zombies(deployment) == []
