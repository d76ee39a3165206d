import pytest
import torch

from jobs.specs import TrainSpec
from seqae.model import SequentialAutoEncoder
from service.scheduling.estimates import images, iterations, memory_bytes
from service.scheduling.resources import Demand


@pytest.mark.parametrize(("epochs", "scenes", "batch"), [(5, 10_000, 25), (0.1, 30, 64), (1.5, 999, 10)])
def test_iterations_are_those_that_the_trainer_makes(epochs: float, scenes: int, batch: int) -> None:
    given = {"name": "a", "data": {"kind": "mnist_scenes", "train_scenes": scenes}}
    spec = TrainSpec.model_validate(given | {"schedule": {"epochs": epochs, "batch_size": batch}})
    assert iterations(spec) == spec.schedule.iterations(scenes)


def test_how_many_images_a_folder_has_is_not_known_before() -> None:
    spec = TrainSpec.model_validate({"name": "a", "data": {"kind": "images", "path": "coco", "train_images": 500}})
    assert images(spec) is None
    assert iterations(spec) == spec.schedule.iterations(500)


def kept_for_the_backward_pass(spec: TrainSpec) -> int:
    """Bytes of one batch's graph, by counting."""
    model = SequentialAutoEncoder(spec.model)
    model.two_phase = False  # otherwise the seeker keeps as much, out of autograd's sight
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = torch.rand(spec.schedule.batch_size, spec.model.channels, spec.model.height, spec.model.width)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = model(images)
    assert output is not None  # keeps the graph alive until it is counted
    return sum(kept.values())


@pytest.mark.parametrize("kind", ["seeker", "small", "improved"])
def test_memory_grows_as_the_graph_does(kind: str) -> None:
    base = {"name": "a", "data": {"kind": "mnist_scenes", "train_scenes": 1}}
    specs = [
        TrainSpec.model_validate(base | {"model": {"localizer": {"kind": kind}}, "schedule": {"batch_size": batch}})
        for batch in (2, 10)
    ]
    alone = Demand(workers=1, cpus=1, gpus=0)
    estimated = memory_bytes(specs[1], alone) - memory_bytes(specs[0], alone)
    counted = kept_for_the_backward_pass(specs[1]) - kept_for_the_backward_pass(specs[0])
    assert estimated == pytest.approx(counted, rel=0.35)
