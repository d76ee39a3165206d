"""Which of several workers' errors counts. That workers are started, lost and replaced is tested on a real cluster."""

import pytest
import ray
from ray.exceptions import RayActorError
from ray.train import TrainingFailedError
from ray.train.torch import TorchConfig
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from jobs.errors import DiskFullError, FencedError, PreemptedError, WorkersLostError
from jobs.training.ray_fit import _cause_of, _process_group
from seqae.errors import DivergedError

BROKEN = RuntimeError("[gloo] Connection closed by peer")


def _of_workers(*errors: Exception) -> TrainingFailedError:
    wrapped = {rank: UserExceptionWithTraceback(error, "trace") for rank, error in enumerate(errors)}
    return WorkerGroupError("some failed", wrapped)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ((DivergedError("nan"), BROKEN), DivergedError),
        ((BROKEN, DiskFullError("full")), DiskFullError),
        ((BROKEN, FencedError("stale")), FencedError),
        ((DivergedError("nan"), FencedError("stale")), FencedError),
        ((BROKEN, PreemptedError("SIGTERM")), PreemptedError),
        ((BROKEN,), WorkersLostError),
        ((RayActorError(), BROKEN), WorkersLostError),
    ],
    ids=str,
)
def test_the_workers_own_error_counts_before_the_connections_it_broke(
    errors: tuple[Exception, ...], expected: type[Exception]
) -> None:
    assert type(_cause_of(_of_workers(*errors))) is expected


def test_a_lost_controller_is_like_lost_workers() -> None:
    assert isinstance(_cause_of(ControllerError(RayActorError())), WorkersLostError)


def test_the_process_groups_set_up_travels_to_the_cluster_and_is_rays_own_otherwise() -> None:
    """Ray pickles it by value; that SIGTERM becomes a notice in the workers is tested on a real cluster."""
    made = ray.cloudpickle.loads(ray.cloudpickle.dumps(_process_group("gloo")))
    assert made.backend == "gloo"
    assert isinstance(made, TorchConfig)
    assert issubclass(made.backend_cls, TorchConfig().backend_cls)
