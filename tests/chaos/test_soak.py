"""Soak test with fifty random kills over twenty jobs: `make chaos`. SEQAE_CHAOS_SEED chooses which."""

import os
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest

from service.job_state import ENDED
from tests.chaos.audit import JobAudit, audits, zombies
from tests.chaos.deployment import Component, Deployment, wait_until
from tests.tiny import ON_A_CLUSTER

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(5400)]

JOBS, KILLS = 20, 50
EPOCHS = 40
CURVE = range(2, 8 * EPOCHS + 1, 2)
WEIGHTS = {
    Component.WORKER: 4,
    Component.DRIVER: 4,
    Component.API: 3,
    Component.MLFLOW: 2,
    Component.DATABASE: 2,
    Component.HEAD: 1,
}
"""Chances of each component. A head takes all of its jobs with it, and a minute until they are known to be lost."""


@dataclass
class KillCounts:
    """Kills by component, and the states that jobs were in."""

    kills: Counter[Component] = field(default_factory=Counter)
    states: dict[Component, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, component: Component, states: list[str]) -> None:
        self.kills[component] += 1
        self.states[component].update(states)


def submit(deployment: Deployment, number: int) -> str:
    spec: dict[str, Any] = ON_A_CLUSTER | {
        "name": f"soak-{number}",
        "schedule": ON_A_CLUSTER["schedule"] | {"epochs": EPOCHS},
    }
    return str(deployment.ask(lambda client: client.submit(spec, idempotency_key=f"soak-{number}")).id)


def is_due(deployment: Deployment, ids: list[str], counts: KillCounts) -> bool:
    """Kills are spread over all of the jobs: so many for each that has ended, and for two that have begun."""
    ended = sum(row.state in ENDED for row in deployment.rows(ids).values())
    return sum(counts.kills.values()) < KILLS * (ended + 2) / JOBS


def one_kill(deployment: Deployment, ids: list[str], rng: random.Random, counts: KillCounts) -> bool:
    """Kills a part and brings it back; False where the part that was drawn does not run now."""
    component = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    states = [row.state.value for row in deployment.rows(ids).values() if row.state not in ENDED]
    if not deployment.kill(component):
        return False
    counts.add(component, states)
    print(f"{sum(counts.kills.values()):3} {component:9} {dict(Counter(states))}", flush=True)
    time.sleep(rng.uniform(0, 3))  # away for a while
    deployment.restart(component)
    return True


def table(counts: KillCounts, found: list[JobAudit], minutes: float) -> str:
    lines = ["| part | kills | jobs were |", "| --- | --- | --- |"]
    for component in Component:
        states = ", ".join(f"{state} {count}" for state, count in counts.states[component].most_common())
        lines.append(f"| {component} | {counts.kills[component]} | {states} |")
    lines += ["", "| job | attempts | most iterations repeated | end | faults |", "| --- | --- | --- | --- | --- |"]
    for at, audit in enumerate(found):
        faults = "; ".join(audit.faults) or "none"
        lines.append(f"| {at} | {audit.attempts} | {audit.repeated} | {audit.state.value} | {faults} |")
    return "\n".join([*lines, "", f"{minutes:.1f} minutes"])


def test_fifty_kills_over_twenty_jobs(deployment: Deployment) -> None:
    rng = random.Random(int(os.environ.get("SEQAE_CHAOS_SEED", "0")))
    started = time.monotonic()
    ids = [submit(deployment, number) for number in range(JOBS)]
    counts = KillCounts()
    while sum(counts.kills.values()) < KILLS and not deployment.all_ended(ids):
        if is_due(deployment, ids, counts) and one_kill(deployment, ids, rng, counts):
            time.sleep(rng.uniform(2, 10))
        else:
            time.sleep(0.5)
    wait_until(lambda: deployment.all_ended(ids), "all jobs have ended", seconds=1800)
    left = zombies(deployment)
    found = audits(deployment, ids, CURVE)
    kills, lost = sum(counts.kills.values()), sum(audit.lost for audit in found)
    doubled = sum(audit.doubled for audit in found)
    print(f"\n{table(counts, found, (time.monotonic() - started) / 60)}\n")
    print(*left, sep="\n")
    print(f"chaos: {kills} kills, {len(found)} jobs, {lost} lost, {doubled} doubled, {len(left)} zombies", flush=True)
    assert len(set(ids)) == len(found) == JOBS
    assert kills == KILLS, "the jobs ended before all kills were done"
    assert (lost, doubled, left) == (0, 0, [])
    assert all(row.retries == 0 for row in deployment.rows(ids).values()), "no kill counts as the job's own error"
    interval = ON_A_CLUSTER["schedule"]["checkpoint_every"]
    assert max(audit.repeated for audit in found) <= interval, "at most one checkpoint's work is repeated"
