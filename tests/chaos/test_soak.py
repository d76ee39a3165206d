"""Fifty random kills over twenty jobs: `make chaos`. SEQAE_CHAOS_SEED chooses which."""

import os
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest

from service.job_state import ENDED
from tests.chaos.audit import Verdict, verdicts, zombies
from tests.chaos.plant import PARTS, Plant, wait_until
from tests.tiny import ON_A_CLUSTER

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(5400)]

JOBS, KILLS = 20, 50
EPOCHS = 15
CURVE = range(2, 8 * EPOCHS + 1, 2)
WEIGHTS = {"worker": 4, "driver": 4, "api": 3, "mlflow": 2, "database": 2, "head": 1}
"""How often each part is hit. A head takes all of its jobs with it, and a minute until they are known to be lost."""


@dataclass
class Tally:
    """What was killed, and what jobs were in the middle of."""

    kills: Counter[str] = field(default_factory=Counter)
    states: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, part: str, states: list[str]) -> None:
        self.kills[part] += 1
        self.states[part].update(states)


def submit(plant: Plant, number: int) -> str:
    spec: dict[str, Any] = ON_A_CLUSTER | {
        "name": f"soak-{number}",
        "schedule": ON_A_CLUSTER["schedule"] | {"epochs": EPOCHS},
    }
    return str(plant.ask(lambda client: client.submit(spec, idempotency_key=f"soak-{number}")).id)


def is_due(plant: Plant, ids: list[str], tally: Tally) -> bool:
    """Kills are spread over all of the jobs: so many for each that has ended, and for two that have begun."""
    ended = sum(row.state in ENDED for row in plant.rows(ids).values())
    return sum(tally.kills.values()) < KILLS * (ended + 2) / JOBS


def one_kill(plant: Plant, ids: list[str], rng: random.Random, tally: Tally) -> bool:
    """Kills a part and brings it back; False where the part that was drawn does not run now."""
    part = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    states = [row.state.value for row in plant.rows(ids).values() if row.state not in ENDED]
    if not plant.kill(part):
        return False
    tally.add(part, states)
    print(f"{sum(tally.kills.values()):3} {part:9} {dict(Counter(states))}", flush=True)
    time.sleep(rng.uniform(0, 3))  # away for a while
    plant.bring_back(part)
    return True


def table(tally: Tally, found: list[Verdict], minutes: float) -> str:
    lines = ["| part | kills | jobs were |", "| --- | --- | --- |"]
    for part in PARTS:
        states = ", ".join(f"{state} {count}" for state, count in tally.states[part].most_common())
        lines.append(f"| {part} | {tally.kills[part]} | {states} |")
    lines += ["", "| job | attempts | most iterations repeated | end | faults |", "| --- | --- | --- | --- | --- |"]
    for at, verdict in enumerate(found):
        faults = "; ".join(verdict.faults) or "none"
        lines.append(f"| {at} | {verdict.attempts} | {verdict.repeated} | {verdict.state.value} | {faults} |")
    return "\n".join([*lines, "", f"{minutes:.1f} minutes"])


def test_fifty_kills_over_twenty_jobs(plant: Plant) -> None:
    rng = random.Random(int(os.environ.get("SEQAE_CHAOS_SEED", "0")))
    started = time.monotonic()
    ids = [submit(plant, number) for number in range(JOBS)]
    tally = Tally()
    while sum(tally.kills.values()) < KILLS and not plant.all_ended(ids):
        if is_due(plant, ids, tally) and one_kill(plant, ids, rng, tally):
            time.sleep(rng.uniform(2, 10))
        else:
            time.sleep(0.5)
    wait_until(lambda: plant.all_ended(ids), "all jobs have ended", seconds=1800)
    left = zombies(plant)
    found = verdicts(plant, ids, CURVE)
    kills, lost = sum(tally.kills.values()), sum(verdict.lost for verdict in found)
    doubled = sum(verdict.doubled for verdict in found)
    print(f"\n{table(tally, found, (time.monotonic() - started) / 60)}\n")
    print(*left, sep="\n")
    print(f"chaos: {kills} kills, {len(found)} jobs, {lost} lost, {doubled} doubled, {len(left)} zombies", flush=True)
    assert len(set(ids)) == len(found) == JOBS
    assert kills == KILLS, "the jobs ended before all kills were done"
    assert (lost, doubled, left) == (0, 0, [])
    assert all(row.retries == 0 for row in plant.rows(ids).values()), "no kill counts as the job's own error"
    interval = ON_A_CLUSTER["schedule"]["checkpoint_every"]
    assert max(verdict.repeated for verdict in found) <= interval, "at most one checkpoint's work is repeated"
