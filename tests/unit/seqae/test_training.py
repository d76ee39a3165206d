import itertools
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from seqae.checkpoints.checkpoint import load_model
from seqae.config import ImagesConfig, MnistScenesConfig, ModelConfig, TrainConfig
from seqae.data.cache import Dataset
from seqae.data.digits import bundled_digits
from seqae.data.mnist_scenes import make_scenes
from seqae.data.scenes import Scenes
from seqae.errors import CheckpointError, DivergedError
from seqae.evaluation.evaluate import Evaluation, evaluate
from seqae.losses import Losses
from seqae.model import SequentialAutoEncoder
from seqae.optimization.progress import Progress
from seqae.training import Trainer, with_synchronized_batch_norm

Make = Callable[..., TrainConfig]
Data = Callable[[TrainConfig], Dataset]

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "variational": {"coder": {"kind": "variational"}},
    "batch norm": {"localizer": {"kind": "improved"}},
    "colour and background": {"channels": 3, "background": {"bottleneck": 4}},
}


@pytest.fixture
def make(small_config: Make, small_data: Data) -> Callable[..., Trainer]:
    """Makes a trainer of a small model: 6 iterations of 5 images.

    Keywords of the trainer itself start with `_`, and so does
    a loss that no config may ask for.
    """

    def trainer(**parts: Any) -> Trainer:
        own = {key.removeprefix("_"): parts.pop(key) for key in list(parts) if key.startswith("_")}
        unbounded = own.pop("loss", {})
        config = small_config(**parts)
        config = config.model_copy(update={"loss": config.loss.model_copy(update=unbounded)})
        wrap = own.pop("wrap", None)
        made = Trainer(config, own.pop("data", None) or small_data(config), **own)
        if wrap is not None:
            made.module = wrap(made.module)
        return made

    return trainer


def reports(trainer: Trainer, until: int | None = None) -> list[Progress]:
    """What it says of each iteration, up to one of them."""
    found = []
    for report in trainer.run():
        if isinstance(report, Progress):
            found.append(report)
            if report.iteration == until:
                break
    return found


def losses(trainer: Trainer, until: int | None = None) -> list[float]:
    return [report.loss for report in reports(trainer, until)]


class Spy(nn.Module):
    """Notes what the trainer gives to the module that computes the loss."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.batches: list[list[int]] = []
        self.steps: list[int] = []
        self.drawn: list[Tensor] = []

    def forward(self, image: Tensor, steps: int, drawn: Tensor) -> Losses:
        self.batches.append((image[:, 0, 0, 0] * 255).round().int().tolist())
        self.steps.append(steps)
        self.drawn.append(drawn)
        out: Losses = self.module(image, steps, drawn)
        return out


def spy(trainer: Trainer) -> Spy:
    """The module of a trainer that was made with `_wrap=Spy`."""
    assert isinstance(trainer.module, Spy)
    return trainer.module


def numbered(count: int, config: TrainConfig) -> Dataset:
    """Images whose intensity is their number."""
    shape = (count, config.model.channels, config.model.height, config.model.width)
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones(shape, np.uint8)
    return Dataset(Scenes(images), Scenes(images[:3]), Scenes(images[:3]), "numbers", "", "")


# --- the same results, whoever runs it and however often it is interrupted


def test_a_seed_decides_everything(make: Callable[..., Trainer]) -> None:
    first = losses(make(seed=1))
    assert len(first) == 6
    torch.rand(7)  # random numbers drawn elsewhere don't matter
    assert losses(make(seed=1)) == first
    assert losses(make(seed=2))[0] != first[0]


@pytest.mark.parametrize("parts", [{}, {"loss": {"alpha_separation": 0, "alpha_location": 0}}])
def test_every_iteration_image_and_seed_has_numbers_of_its_own(
    make: Callable[..., Trainer], parts: dict[str, Any]
) -> None:
    drawn: list[tuple[float, ...]] = []
    for seed in (1, 2):
        found: list[list[tuple[float, ...]]] = []
        for _ in range(2):
            trainer = make(_wrap=Spy, seed=seed, model={"coder": {"kind": "variational"}}, **parts)
            losses(trainer)
            found.append([tuple(row.tolist()) for numbers in spy(trainer).drawn for row in numbers])
            torch.rand(5)  # numbers drawn elsewhere don't matter
        assert found[0] == found[1]
        drawn += found[0]
    assert len(set(drawn)) == len(drawn) == 2 * 6 * 5
    assert len({number for row in drawn for number in row}) > 0.99 * sum(len(row) for row in drawn)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(
    make: Callable[..., Trainer], tmp_path: Path, variant: str
) -> None:
    """Optimizer, learning rate, noise of the code, data order, growth and batch statistics included."""
    parts: dict[str, Any] = {
        "model": {"steps": 3} | VARIANTS[variant],
        "schedule": {"epochs": 2, "growth": [{"iteration": 0, "steps": 2}, {"iteration": 6, "steps": 3}]},
    }
    whole = make(**parts)
    expected = reports(whole)

    interrupted = make(**parts)
    losses(interrupted, until=4)
    interrupted.save(tmp_path / "4")
    losses(interrupted, until=5)  # what came after the checkpoint is lost
    torch.manual_seed(99)

    resumed = make(**parts)
    resumed.load(tmp_path / "4")
    assert resumed.iteration == 4
    found = reports(resumed)
    assert [report.loss for report in found] == pytest.approx([report.loss for report in expected[4:]], rel=1e-6)
    assert [report.learning_rate for report in found] == [report.learning_rate for report in expected[4:]]
    assert [report.epoch for report in found] == [report.epoch for report in expected[4:]]
    for name, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, whole.model.state_dict()[name], rtol=1e-6, atol=1e-7, msg=name)
    assert resumed.evaluation == whole.evaluation


def test_a_finished_run_has_nothing_left_to_do(make: Callable[..., Trainer], tmp_path: Path) -> None:
    trainer = make()
    losses(trainer)
    trainer.save(tmp_path / "6")
    again = make()
    again.load(tmp_path / "6")
    assert list(again.run()) == []


def test_a_resumed_run_keeps_the_newest_evaluation_until_the_next(make: Callable[..., Trainer], tmp_path: Path) -> None:
    schedule = {"evaluate_every": 2}
    trainer = make(schedule=schedule)
    losses(trainer, until=2)
    metrics = trainer.save(tmp_path / "2").metrics
    assert metrics["val/mse"] > 0
    resumed = make(schedule=schedule)
    resumed.load(tmp_path / "2")
    losses(resumed, until=3)
    assert resumed.save(tmp_path / "3").metrics == metrics


def test_evaluations_are_on_val_and_say_so(make: Callable[..., Trainer], tmp_path: Path) -> None:
    """F1: the best checkpoint was chosen on the test images that were then reported."""
    trainer = make()
    losses(trainer)
    given: dict[str, Any] = {"steps": trainer.steps_now(), "limit": 500, "iteration": 6, "epoch": trainer.epoch}
    of_val, of_test = (evaluate(trainer.model, scenes, **given) for scenes in (trainer.data.val, trainer.data.test))
    assert of_val.mse != of_test.mse
    assert trainer.evaluate() == of_val == trainer.evaluation
    metrics = trainer.save(tmp_path / "6").metrics
    assert metrics == {f"val/{name}": value for name, value in of_val.metrics().items()}


def test_another_config_is_not_resumed(make: Callable[..., Trainer], tmp_path: Path) -> None:
    make(seed=1).save(tmp_path / "0")
    other = make(seed=2)
    before = {name: value.clone() for name, value in other.model.state_dict().items()}
    with pytest.raises(CheckpointError, match="another config"):
        other.load(tmp_path / "0")
    assert all(torch.equal(value, before[name]) for name, value in other.model.state_dict().items())


def test_a_model_may_go_on_with_other_weights_and_another_learning_rate(
    make: Callable[..., Trainer], tmp_path: Path
) -> None:
    before = make(schedule={"learning_rate": 1e-3})
    for _ in range(2):
        before.train_step()
    before.save(tmp_path / "2")
    changed = {"schedule": {"learning_rate": 5e-3}, "loss": {"alpha_mseot": 3}}
    with pytest.raises(CheckpointError, match="another config"):
        make(**changed).load(tmp_path / "2")
    with pytest.raises(CheckpointError, match="another config"):
        make(seed=2, **changed).load(tmp_path / "2", other_settings=True)
    after = make(**changed)
    after.load(tmp_path / "2", other_settings=True)
    assert after.iteration == 2
    assert all(torch.equal(value, before.model.state_dict()[name]) for name, value in after.model.state_dict().items())
    # At the same point of the cycle, whose peak is its own.
    (own,), (old,) = after.optimizer.param_groups, before.optimizer.param_groups
    assert own["lr"] == pytest.approx(5 * old["lr"])
    after.train_step()
    before.train_step()
    assert own["lr"] == pytest.approx(5 * old["lr"])


def test_a_run_starts_from_another_runs_weights_with_an_optimizer_of_its_own(
    make: Callable[..., Trainer], tmp_path: Path
) -> None:
    before = make(seed=2)
    reports(before, until=4)
    before.save(tmp_path / "4")
    (tmp_path / "4" / "trainer.pt").write_bytes(b"of no use here")
    trainer = make(seed=3, loss={"alpha_presence": 0.5}, model={"steps": 2}, schedule={"learning_rate": 1e-3})
    fresh = make(seed=3)
    with pytest.raises(CheckpointError, match=r"trainer\.pt: 14 bytes"):
        trainer.start_from(tmp_path / "4")
    before.save(tmp_path / "4")
    assert trainer.start_from(tmp_path / "4") == 4
    assert trainer.iteration == 0
    assert not trainer.optimizer.state_dict()["state"]
    for name, value in trainer.model.state_dict().items():
        assert value.equal(before.model.state_dict()[name]), name
    assert any(not value.equal(fresh.model.state_dict()[name]) for name, value in before.model.state_dict().items())
    assert len(reports(trainer)) == trainer.iterations


def test_weights_of_another_architecture_are_not_started_from(make: Callable[..., Trainer], tmp_path: Path) -> None:
    make(model={"coder": {"bottleneck": 3}}).save(tmp_path / "0")
    with pytest.raises(CheckpointError, match=r"another model\.coder\.bottleneck \(3; this run's is 16\)"):
        make().start_from(tmp_path / "0")


def test_a_damaged_checkpoint_is_not_resumed(make: Callable[..., Trainer], tmp_path: Path) -> None:
    make().save(tmp_path / "0")
    file = tmp_path / "0" / "trainer.pt"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"trainer\.pt"):
        make().load(tmp_path / "0")


def test_weights_with_a_flipped_bit_are_not_resumed(make: Callable[..., Trainer], tmp_path: Path) -> None:
    """They can be loaded; only the hash tells."""
    make().save(tmp_path / "0")
    file = tmp_path / "0" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    load_model(tmp_path / "0")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        make().load(tmp_path / "0")


# --- the data


def test_every_image_comes_once_in_an_epoch_in_another_order(make: Callable[..., Trainer], small_config: Make) -> None:
    config = small_config()
    trainer = make(_data=numbered(35, config), _wrap=Spy, schedule={"epochs": 3})
    losses(trainer)
    epochs = np.array(spy(trainer).batches).reshape(3, 35).tolist()
    for epoch in epochs:
        assert sorted(epoch) == list(range(35))
    assert len({tuple(epoch) for epoch in [*epochs, sorted(epochs[0])]}) == 4


def test_the_seed_decides_the_order(make: Callable[..., Trainer], small_config: Make) -> None:
    orders = []
    for seed in (1, 1, 2):
        trainer = make(_data=numbered(35, small_config()), _wrap=Spy, seed=seed)
        losses(trainer)
        orders.append(spy(trainer).batches)
    assert orders[0] == orders[1] != orders[2]


def test_epochs_that_do_not_divide_into_batches_run_into_each_other(
    make: Callable[..., Trainer], small_config: Make
) -> None:
    trainer = make(_data=numbered(7, small_config()), _wrap=Spy, schedule={"epochs": 4})
    losses(trainer)
    order = [image for batch in spy(trainer).batches for image in batch]
    assert trainer.iterations == round(4 * 7 / 5) == 6
    assert [len(batch) for batch in spy(trainer).batches] == [5] * 6
    for first in range(0, 28, 7):
        assert sorted(order[first : first + 7]) == list(range(7))


def _views(small_config: Make, seed: int = 0, start: int = 0, **how: Any) -> list[list[int]]:
    """What a run without pasting sees of a folder's images, each growing to the right: their first pixel."""
    alone = small_config(seed=seed, loss={"alpha_separation": 0, "alpha_location": 0})
    config = alone.model_copy(update={"data": ImagesConfig(path="photos", **how)})
    images = np.broadcast_to(np.arange(100, 128, dtype=np.uint8), (30, 1, 24, 28))
    trainer = Trainer(config, Dataset(Scenes(images), Scenes(images), Scenes(images), "ramps", "", ""))
    trainer.module = Spy(trainer.module)
    trainer.iteration = start
    losses(trainer)
    return spy(trainer).batches


def test_images_of_a_folder_are_varied_where_that_is_asked_for(small_config: Make) -> None:
    assert _views(small_config) == [[100] * 5] * 6
    flipped = _views(small_config, flip=True)
    assert {pixel for batch in flipped for pixel in batch} == {100, 127}
    cropped = _views(small_config, crop=0.5)
    assert len({pixel for batch in cropped for pixel in batch}) > 5
    assert _views(small_config, crop=0.5) == cropped
    assert _views(small_config, crop=0.5, seed=1) != cropped
    assert _views(small_config, crop=0.5, start=4) == cropped[4:], "a resumed run sees what it would have seen"


def test_a_batch_may_be_larger_than_the_training_set(make: Callable[..., Trainer], small_config: Make) -> None:
    trainer = make(_data=numbered(3, small_config()), _wrap=Spy, schedule={"batch_size": 8, "epochs": 3})
    losses(trainer)
    assert [len(batch) for batch in spy(trainer).batches] == [8]


# --- several workers


class Workers:
    """Several workers in as many threads, which add tensors up between them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.barrier = threading.Barrier(count, timeout=60)
        self.given: list[Tensor] = [torch.empty(0)] * count

    def all_reduce(self, rank: int) -> Callable[[Tensor], None]:
        def add_up(values: Tensor) -> None:
            self.given[rank] = values.clone()
            self.barrier.wait()
            values.copy_(torch.stack(self.given).sum(dim=0))
            self.barrier.wait()

        return add_up

    def make(self, make: Callable[..., Trainer], **parts: Any) -> list[Trainer]:
        shared = {"_world": self.count} | parts
        return [make(_rank=rank, _all_reduce=self.all_reduce(rank), **shared) for rank in range(self.count)]

    def run(self, work: Callable[[int], list[float]]) -> list[list[float]]:
        """What each rank's work gives."""
        found: list[list[float]] = [[] for _ in range(self.count)]

        def guarded(rank: int) -> None:
            try:
                found[rank] = work(rank)
            except BaseException:
                self.barrier.abort()  # or the others would wait
                raise

        threads = [threading.Thread(target=guarded, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


ALONE = {"alpha_separation": 0, "alpha_location": 0}
"""Without pasting: objects are pasted at whole pixels, so that a rounding, which Adam enlarges, may move one."""


@pytest.mark.parametrize("variant", ["plain", "variational", "small localizer"])
@pytest.mark.parametrize("world", [2, 3])
def test_several_workers_train_the_model_that_one_would(make: Callable[..., Trainer], variant: str, world: int) -> None:
    """A batch of 5 is shared unevenly, and still counts as one batch of 5."""
    model = {**VARIANTS, "small localizer": {"localizer": {"kind": "small"}}}[variant]
    parts: dict[str, Any] = {"model": model, "schedule": {"learning_rate": 1e-3}, "loss": ALONE}
    one = make(_wrap=Spy, **parts)
    alone = losses(one)
    workers = Workers(world)
    several = workers.make(make, _wrap=Spy, **parts)
    found = workers.run(lambda rank: losses(several[rank]))

    for whole, *shares in zip(*(spy(trainer).batches for trainer in (one, *several)), strict=True):
        assert [len(share) for share in shares] == {2: [2, 3], 3: [1, 2, 2]}[world]
        assert [image for share in shares for image in share] == whole
    for losses_of_rank in found:
        assert losses_of_rank == pytest.approx(alone, rel=1e-4), "each knows the whole batch's losses"
    for name, value in several[0].model.state_dict().items():
        for other in several[1:]:
            assert torch.equal(value, other.model.state_dict()[name]), "the workers' models stay the same"
        # Adam divides by the gradient's size, so rounding shows where a gradient is next to nothing.
        torch.testing.assert_close(value, one.model.state_dict()[name], atol=2e-4, rtol=1e-3, msg=name)


def gradient_of(trainer: Trainer) -> Tensor:
    """Of the next step, before clipping."""
    found: list[Tensor] = []

    def note(*_: object) -> None:
        grads = [parameter.grad for parameter in trainer.model.parameters()]
        found.append(torch.cat([grad.flatten() for grad in grads if grad is not None]).clone())

    handle = trainer.optimizer.register_step_pre_hook(note)
    trainer.train_step()
    handle.remove()
    return found[0]


@pytest.mark.parametrize(
    "variant",
    [{}, {"coder": {"kind": "variational"}}, VARIANTS["colour and background"], {"localizer": {"sizes": [12, 20]}}],
)
@pytest.mark.parametrize("pieces", [1, 2])
def test_gradients_are_the_same_on_any_number_of_workers(
    make: Callable[..., Trainer], tmp_path: Path, variant: dict[str, Any], pieces: int
) -> None:
    """At a new model and at one that has learnt a little; 7 images are shared out as 7, as 3 and 4, as 3, 2 and 2."""
    parts: dict[str, Any] = {"model": variant, "schedule": {"batch_size": 7, "grad_clip": 1e6}}
    start = make(**parts)
    for iteration in (0, 3):
        while start.iteration < iteration:
            start.train_step()
        start.save(tmp_path / str(iteration))
        check_gradients(lambda **given: make(**given, **parts), tmp_path / str(iteration), pieces)


def check_gradients(make: Callable[..., Trainer], checkpoint: Path, pieces: int = 1) -> None:
    """Those of 2 and 3 workers are those of one, at the weights of a checkpoint."""
    one = make()
    one.load(checkpoint)
    expected = gradient_of(one)
    for world in (2, 3):
        workers = Workers(world)
        several = workers.make(make, _pieces=pieces)
        for trainer in several:
            trainer.load(checkpoint)
        found = [torch.empty(0)] * world

        def work(rank: int, several: list[Trainer] = several, found: list[Tensor] = found) -> list[float]:
            found[rank] = gradient_of(several[rank])
            return []

        workers.run(work)
        for gradient in found:
            assert float((gradient - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.slow
def test_gradients_of_the_default_config_are_the_same_on_any_number_of_workers(tmp_path: Path) -> None:
    """At iterations 0, 1 and 100."""
    config = TrainConfig.model_validate({"data": {"train_scenes": 5000, "test_scenes": 10, "val_scenes": 10}})
    scenes = make_scenes(MnistScenesConfig(train_scenes=500), 64, 64, 1, bundled_digits().train, "train")
    data = Dataset(scenes, scenes.first(5), scenes.first(5), "bundled digits", "", "")

    def trainer(**parts: Any) -> Trainer:
        return Trainer(config, data, **{key.removeprefix("_"): value for key, value in parts.items()})

    start = trainer()
    for iteration in (0, 1, 100):
        while start.iteration < iteration:
            start.train_step()
        start.save(tmp_path / str(iteration))
        check_gradients(trainer, tmp_path / str(iteration))


def test_a_worker_without_images_changes_nothing(make: Callable[..., Trainer]) -> None:
    """A batch of 1, two workers: one of them has nothing to learn from."""
    schedule = {"batch_size": 1, "epochs": 0.1, "learning_rate": 1e-3}
    alone = losses(make(schedule=schedule))
    workers = Workers(2)
    both = workers.make(make, schedule=schedule)
    assert workers.run(lambda rank: losses(both[rank]))[0] == pytest.approx(alone, rel=1e-4)
    assert len(alone) == 3


def test_several_workers_need_a_way_to_add_up(make: Callable[..., Trainer]) -> None:
    with pytest.raises(ValueError, match="add up"):
        make(_world=2)


def test_a_request_to_one_worker_stops_all_of_them_after_the_same_step(make: Callable[..., Trainer]) -> None:
    schedule = {"log_every": 100}
    workers = Workers(2)
    both = workers.make(make, schedule=schedule)
    both[1].optimizer.register_step_post_hook(lambda *_: both[1].request_stop() if both[1].iteration == 1 else None)
    found: list[list[Progress]] = [[], []]

    def work(rank: int) -> list[float]:
        found[rank] = reports(both[rank])
        return []

    workers.run(work)
    for of_rank in found:
        assert [(report.iteration, report.stopping) for report in of_rank] == [(3, True)]


def test_a_run_that_was_stopped_between_two_reports_goes_on_with_the_same_curve(
    make: Callable[..., Trainer], tmp_path: Path
) -> None:
    schedule = {"log_every": 3, "epochs": 2}
    whole = reports(make(schedule=schedule))
    stopped = make(schedule=schedule)
    stopped.optimizer.register_step_post_hook(lambda *_: stopped.request_stop() if stopped.iteration == 2 else None)
    first = reports(stopped)
    stopped.save(tmp_path / "4")
    assert [(report.iteration, report.stopping) for report in first] == [(3, False), (4, True)]
    resumed = make(schedule=schedule)
    resumed.load(tmp_path / "4")
    second = reports(resumed)
    found = {report.iteration: report.loss for report in (*first[:1], *second)}
    assert found == pytest.approx({report.iteration: report.loss for report in whole}, rel=1e-6)


class Limited(nn.Module):
    """A device on which no more than so many images find room."""

    def __init__(self, module: nn.Module, most: int, error: Exception) -> None:
        super().__init__()
        self.module, self.most, self.error = module, most, error

    def forward(self, image: Tensor, steps: int, drawn: Tensor) -> Losses:
        if len(image) > self.most:
            raise self.error
        out: Losses = self.module(image, steps, drawn)
        return out


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_a_batch_without_room_is_computed_in_pieces_with_the_same_gradient(
    make: Callable[..., Trainer], error: Exception
) -> None:
    schedule = {"batch_size": 9, "grad_clip": 1e6}
    expected = gradient_of(make(schedule=schedule))
    cramped = make(_wrap=lambda module: Limited(module, 3, error), schedule=schedule)
    assert float((gradient_of(cramped) - expected).norm() / expected.norm()) < 1e-5
    (report, *_) = reports(cramped)
    assert [load.pieces for load in report.workers] == [4], "and goes on so"
    assert report.workers[0].seconds > 0


def test_a_batch_whose_smallest_piece_has_no_room_fails(make: Callable[..., Trainer]) -> None:
    for error in (*OUT_OF_MEMORY, RuntimeError("something else")):
        with pytest.raises(type(error), match=str(error)[:20]):
            make(_wrap=lambda module, error=error: Limited(module, 1, error)).train_step()


def test_halving_the_learning_rate_lasts(make: Callable[..., Trainer], tmp_path: Path) -> None:
    usual = rates(make())
    halved = make()
    reports(halved, until=2)
    halved.halve_learning_rate()
    halved.save(tmp_path / "2")
    again = make()
    again.load(tmp_path / "2")
    assert again.halvings == 1
    assert rates(again) == pytest.approx([rate / 2 for rate in usual[2:]])


def test_workers_on_gpus_share_the_statistics_of_batch_norm() -> None:
    def norms(device: str, world: int) -> tuple[set[type[_BatchNorm]], set[str]]:
        model = SequentialAutoEncoder(ModelConfig.model_validate({"localizer": {"kind": "improved"}}))
        model = with_synchronized_batch_norm(model, torch.device(device), world)
        found = {type(module) for module in model.modules() if isinstance(module, _BatchNorm)}
        return found, set(model.state_dict())

    assert norms("cuda", 2)[0] == {nn.SyncBatchNorm}
    assert norms("cuda", 1)[0] == norms("cpu", 2)[0] == {nn.BatchNorm2d}
    assert norms("cuda", 2)[1] == norms("cpu", 1)[1], "a checkpoint fits both"


def test_synchronized_batch_norm_takes_activations_that_are_made_again() -> None:
    """G4: while a batch is computed again it must not count twice, and the synchronized kind insists on a counter."""
    config = ModelConfig.model_validate(
        {"height": 16, "width": 16, "localizer": {"kind": "improved"}, "steps": 2, "attention": {"kernel_size": 8}}
    )
    states = []
    for synchronized in (False, True):
        torch.manual_seed(0)
        model = SequentialAutoEncoder(config)
        model = with_synchronized_batch_norm(model, torch.device("cuda"), 2) if synchronized else model
        model.checkpoint_activations = True
        torch.autograd.backward(model(torch.rand(3, 1, 16, 16)).windows.x.sum())
        states.append(model.state_dict())
        counters = [value for name, value in states[-1].items() if name.endswith("num_batches_tracked")]
        assert [int(value) for value in counters] == [2] * 6
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, msg=name)


def test_training_on_a_cpu_leaves_gpus_alone(make: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    """G7: Ray may not hide the GPUs of a machine from jobs that asked for none."""

    def touched(*_: object, **__: object) -> None:
        raise AssertionError("a CPU job uses the GPU")

    for name in ("manual_seed_all", "manual_seed", "get_rng_state", "set_rng_state", "init", "device_count"):
        monkeypatch.setattr(torch.cuda, name, touched)
    make().train_step()


def test_only_the_first_worker_evaluates(make: Callable[..., Trainer]) -> None:
    schedule = {"batch_size": 6, "evaluate_every": 2, "epochs": 1}
    kinds = [
        [
            (type(report), report.iteration)
            for report in make(_rank=rank, _world=2, _all_reduce=lambda _: None, schedule=schedule).run()
        ]
        for rank in range(2)
    ]
    assert [at for kind, at in kinds[0] if kind is Evaluation] == [2, 4, 5]
    assert all(kind is Progress for kind, _ in kinds[1])
    assert [at for kind, at in kinds[0] if kind is Progress] == [at for _, at in kinds[1]], "they report together"


# --- the schedule


def test_progressive_training_adds_steps(make: Callable[..., Trainer]) -> None:
    """2.6: T grows at the iterations given."""
    growth = [{"iteration": 0, "steps": 1}, {"iteration": 2, "steps": 2}, {"iteration": 5, "steps": 3}]
    trainer = make(_wrap=Spy, schedule={"growth": growth, "evaluate_every": 2})
    seen = {report.iteration: len(report.step_mse) - 1 for report in trainer.run() if isinstance(report, Evaluation)}
    assert spy(trainer).steps == [1, 1, 2, 2, 2, 3]
    assert seen == {2: 2, 4: 2, 6: 3}, "evaluated at the T that training goes on with"


def test_without_growth_every_iteration_makes_all_steps(make: Callable[..., Trainer]) -> None:
    trainer = make(_wrap=Spy)
    losses(trainer)
    assert spy(trainer).steps == [3] * 6


def rates(trainer: Trainer) -> list[float]:
    """The learning rate of each optimizer step."""
    found: list[float] = []
    trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: found.append(optimizer.param_groups[0]["lr"]))
    losses(trainer)
    return found


def test_learning_rate_rises_straight_then_falls_as_half_a_cosine(make: Callable[..., Trainer]) -> None:
    found = rates(make(schedule={"epochs": 20 / 6, "learning_rate": 0.004, "warmup": 0.25}))
    assert len(found) == 20
    rise = [0.004 * (1 / 25 + 24 / 25 * done / 5) for done in range(5)]
    fall = [0.004 * 0.5 * (1 + math.cos(math.pi * done / 15)) for done in range(15)]
    assert found == pytest.approx(rise + fall)
    assert max(found) == pytest.approx(0.004)


@pytest.mark.parametrize(("epochs", "warmup"), [(1 / 6, 0.05), (1 / 6, 0.99), (2 / 6, 0.5), (1, 0)])
def test_short_runs_have_a_learning_rate_too(make: Callable[..., Trainer], epochs: float, warmup: float) -> None:
    found = rates(make(schedule={"epochs": epochs, "warmup": warmup, "learning_rate": 0.002}))
    assert len(found) == round(6 * epochs)
    assert all(0 < rate <= 0.002 for rate in found)


def test_reports_come_when_asked_for(make: Callable[..., Trainer]) -> None:
    trainer = make(schedule={"epochs": 2, "log_every": 5, "evaluate_every": 4, "checkpoint_every": 6})
    found = list(trainer.run())
    progress = {report.iteration: report for report in found if isinstance(report, Progress)}
    assert list(progress) == [4, 5, 6, 8, 10, 12]
    assert [at for at, report in progress.items() if report.checkpoint_due] == [6, 12]
    assert [report.iteration for report in found if isinstance(report, Evaluation)] == [4, 8, 12]
    assert found[-1] is progress[12], "the evaluation of an iteration comes before its progress"
    last, middle = progress[12], progress[6]
    assert (middle.epoch, middle.epochs, middle.iterations) == (1, 2, 12)
    assert last.eta_seconds == 0 < middle.eta_seconds
    assert last.images_per_second > 0
    assert (trainer.iteration, trainer.epoch) == (12, 2)


def test_a_report_is_the_mean_since_the_one_before(make: Callable[..., Trainer]) -> None:
    every, third = losses(make()), losses(make(schedule={"log_every": 3}))
    assert third == pytest.approx([sum(every[:3]) / 3, sum(every[3:]) / 3], rel=1e-5)


def test_speed_and_time_left_are_those_since_the_report_before(
    make: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()  # on a clock that ticks when it is read: at the start and end of each report's time
    monkeypatch.setattr("seqae.training.time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    found = reports(make(schedule={"log_every": 2}))
    assert [report.images_per_second for report in found] == [2 * 5 / 1] * 3
    assert [report.eta_seconds for report in found] == [4 * 5 / 10, 2 * 5 / 10, 0]


def test_the_gradient_is_clipped(make: Callable[..., Trainer]) -> None:
    norms: list[float] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [value.grad for group in optimizer.param_groups for value in group["params"]]
        norms.append(math.sqrt(sum(float(grad.square().sum()) for grad in gradients if grad is not None)))

    trainer = make(schedule={"grad_clip": 0.01})
    trainer.optimizer.register_step_pre_hook(note)
    found = reports(trainer)
    assert all(report.gradient_norm > 0.01 for report in found), "before clipping"
    assert norms == pytest.approx([0.01] * 6, rel=1e-3)


def test_training_is_in_training_mode_whatever_was_done_to_the_model(make: Callable[..., Trainer]) -> None:
    trainer = make(model=VARIANTS["batch norm"])
    trainer.model.eval()
    before = {name: value.clone() for name, value in trainer.model.named_buffers() if name.endswith("running_mean")}
    losses(trainer, until=1)
    after = dict(trainer.model.named_buffers())
    assert len(before) == 6
    assert not any(torch.equal(value, after[name]) for name, value in before.items())


# --- what can go wrong, and whether it learns at all


def test_the_first_gradient_is_finite_at_any_number_of_steps(make: Callable[..., Trainer]) -> None:
    """Writes that are noise answer each other: with a decoder that did not start at 0 it was infinite at T 48."""
    trainer = make(model={"steps": 64, "height": 64, "width": 64, "attention": {"kernel_size": 25}})
    with torch.no_grad():
        assert not trainer.model(trainer.images[:2].float() / 255).writes.any()
    first = next(trainer.run())
    assert isinstance(first, Progress)
    assert math.isfinite(first.gradient_norm)


def test_a_loss_that_is_not_finite_ends_the_run(make: Callable[..., Trainer]) -> None:
    trainer = make(_loss={"alpha_mseot": 1e300}, schedule={"log_every": 2})
    with pytest.raises(DivergedError, match="iteration 2"):
        list(trainer.run())


def test_a_gradient_that_is_not_finite_ends_the_run(make: Callable[..., Trainer]) -> None:
    """The loss may still be finite when its gradient is not; the weights are gone then, and must not be saved."""
    trainer = make(_loss={"alpha_mseot": 1e38}, model={"attention": {"log_gamma_max": 1.0}}, schedule={"epochs": 1 / 6})
    with pytest.raises(DivergedError, match="iteration 1"):
        list(trainer.run())


@pytest.fixture
def tiny(make: Callable[..., Trainer]) -> Callable[..., Trainer]:
    """A run of 50 iterations on five scenes of one digit."""

    def trainer(**parts: Any) -> Trainer:
        model = {"steps": 2, "attention": {"kernel_size": 12}} | parts.pop("model", {})
        schedule = {"epochs": 50, "log_every": 10} | parts.pop("schedule", {})
        data = {"train_scenes": 5, "test_scenes": 5, "max_digits": 1}
        return make(data=data, model=model, schedule=schedule, **parts)

    return trainer


def on_training_images(trainer: Trainer) -> Evaluation:
    trainer.data = replace(trainer.data, val=trainer.data.train)
    return trainer.evaluate()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_few_scenes_are_learnt(tiny: Callable[..., Trainer], precision: str) -> None:
    trainer = tiny(schedule={"precision": precision})
    before = on_training_images(trainer)
    found = losses(trainer)
    after = on_training_images(trainer)
    assert found[-1] < 0.35 * found[0]
    assert after.mse < 0.3 * after.empty_mse < before.mse
    assert max(after.step_mse[1:]) < 0.5 * after.step_mse[0], "the first write helps, and no other spoils it"


@pytest.mark.parametrize("variant", ["variational", "batch norm", "colour and background"])
def test_every_kind_of_model_learns(tiny: Callable[..., Trainer], variant: str) -> None:
    found = losses(tiny(model=VARIANTS[variant]))
    assert found[-1] < 0.9 * found[0]


def test_bfloat16_computes_nearly_the_same(make: Callable[..., Trainer]) -> None:
    exact, rounded = losses(make()), losses(make(schedule={"precision": "bfloat16"}))
    assert rounded != exact
    assert rounded[0] == pytest.approx(exact[0], rel=0.02)
    assert rounded[1] == pytest.approx(exact[1], rel=0.1), "after a step of the optimizer"
