from pathlib import Path

import pytest

from jobs.interfaces import Capacity, NodeCapacity, ProcessState, Submission


def test_the_cluster_has_what_its_machines_have() -> None:
    capacity = Capacity((NodeCapacity(cpus=8, gpus=2), NodeCapacity(cpus=4, gpus=0)))
    assert (capacity.cpus, capacity.gpus) == (12, 2)


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers"),
    [(1, 0, 11), (4, 0, 2), (5, 0, 1), (1, 1, 2), (1, 0.5, 4), (9, 0, 0), (1, 3, 0), (0.5, 0, 23)],
)
def test_a_worker_fits_on_one_machine_or_not_at_all(cpus: float, gpus: float, workers: int) -> None:
    capacity = Capacity((NodeCapacity(cpus=7.5, gpus=2), NodeCapacity(cpus=4, gpus=0)))
    assert capacity.workers(cpus, gpus) == workers


def test_an_attempt_is_named_after_its_job() -> None:
    assert Submission("job_a", 3, "train", Path("/jobs/job_a")).submission_id == "job_a-3"


def test_which_states_are_the_end() -> None:
    over = {state for state in ProcessState if state.is_terminal()}
    assert over == {ProcessState.STOPPED, ProcessState.SUCCEEDED, ProcessState.FAILED}
