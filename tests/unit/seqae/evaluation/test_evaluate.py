from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seqae.config import ModelConfig, TrainConfig
from seqae.data.cache import Dataset
from seqae.data.scenes import Scenes
from seqae.evaluation.evaluate import Evaluation, evaluate
from seqae.evaluation.scores import object_count, score_owners, tabulate_owners
from seqae.evaluation.write_energy import score_energy, tabulate_energy
from seqae.model import Output, SequentialAutoEncoder
from seqae.segmentation.looks import look_again
from seqae.segmentation.ownership import own_pixels
from tests.untrained import with_random_writes


@pytest.fixture(scope="module")
def config(small_config: Callable[..., TrainConfig]) -> TrainConfig:
    return small_config(data={"test_scenes": 53})


@pytest.fixture(scope="module")
def scenes(config: TrainConfig, small_data: Callable[[TrainConfig], Dataset]) -> Scenes:
    """More than fit into one batch of an evaluation."""
    return small_data(config).test


@pytest.fixture(scope="module")
def model(config: TrainConfig) -> SequentialAutoEncoder:
    """Untrained, but with writes bright enough to be scored."""
    torch.manual_seed(0)
    made = with_random_writes(SequentialAutoEncoder(config.model))
    nn.init.constant_(made.coder.decoder[-1].bias, 0.3)  # type: ignore[arg-type]
    return made


def score(model: SequentialAutoEncoder, scenes: Scenes, **given: Any) -> Evaluation:
    return evaluate(model, scenes, **{"steps": 3, "limit": 1000, "iteration": 7, "epoch": 1.5} | given)


def rebuilt(model: SequentialAutoEncoder, scenes: Scenes) -> tuple[Tensor, Output]:
    image = torch.from_numpy(np.array(scenes.images)).float() / 255
    with torch.no_grad():
        output: Output = model.eval()(image)
    return image, output


def test_errors_are_means_over_all_images(model: SequentialAutoEncoder, scenes: Scenes) -> None:
    image, output = rebuilt(model, scenes)
    found = score(model, scenes)
    assert len(found.step_mse) == 4
    for t, canvas in enumerate(output.canvases):
        assert found.step_mse[t] == pytest.approx(float((image - canvas).square().mean()), rel=1e-5)
    assert found.mse == found.step_mse[-1]
    assert found.empty_mse == pytest.approx(float(image.square().mean()), rel=1e-5)
    assert (found.iteration, found.epoch) == (7, 1.5)


@pytest.mark.parametrize("looks", [0, 1, 2])
def test_segments_are_scored_from_the_writes_and_from_the_looks(
    model: SequentialAutoEncoder, scenes: Scenes, looks: int
) -> None:
    image, output = rebuilt(model, scenes)
    first = own_pixels(image, output, has_background=False)
    with torch.no_grad():
        last = look_again(model, image, output, first, looks)
    found = score(model, scenes, looks=looks).segments
    assert found is not None
    for ownership, scores in ((first, found.of_writes), (last, found.of_looks)):
        supports = ownership.supports.movedim(0, 1).numpy()
        tables = tabulate_owners(ownership.owners.numpy(), scenes, segments=3, supports=supports)
        expected = score_owners(tables).named()
        assert scores.named().keys() == expected.keys()
        for name, each in scores.named().items():
            assert each == pytest.approx(expected[name], rel=1e-4), name
    writes = output.writes[:, :, 0].abs().movedim(0, 1).numpy()
    energy = score_energy(tabulate_energy(writes, scenes, objects=object_count(scenes)))
    assert found.energy.count_accuracy == energy.count_accuracy
    assert found.energy.purity == pytest.approx(energy.purity, rel=1e-4)
    assert (found.of_writes == found.of_looks) is (looks == 0), "a case that can tell"


def test_two_looks_are_taken_unless_told_otherwise(model: SequentialAutoEncoder, scenes: Scenes) -> None:
    assert score(model, scenes) == score(model, scenes, looks=2)
    assert score(model, scenes) != score(model, scenes, looks=1)


def test_a_background_network_changes_what_is_foreground(
    small_config: Callable[..., TrainConfig], scenes: Scenes
) -> None:
    """Nothing but the writes' own change is owned, whatever the background's canvas looks like."""
    torch.manual_seed(0)
    made = SequentialAutoEncoder(small_config(model={"background": {"bottleneck": 4}}).model)  # it writes nothing
    found = score(made, scenes).segments
    assert found is not None
    assert found.of_writes.miou.mean == 0


def test_colours_are_summed(small_config: Callable[..., TrainConfig]) -> None:
    """A red write and a blue one on the same object must not cancel, nor be taken from one channel alone."""

    class Painter(SequentialAutoEncoder):
        """Writes the red and blue of the image with opposite signs, object by object."""

        def forward(self, image: Tensor, steps: int | None = None, noise: Tensor | None = None) -> Output:
            output: Output = super().forward(image, steps, noise)
            left = torch.zeros_like(image)
            left[:, 0, :, :12], left[:, 2, :, :12] = 0.5, -0.5
            right = torch.zeros_like(image)
            right[:, 1, :, :12], right[:, 1, :, 12:] = 0.1, 0.5
            writes = (left, right, torch.zeros_like(image))
            steps_ = zip(output.steps, writes, (left, left + right, left + right), strict=True)
            records = tuple(step._replace(write=write, canvas=canvas.abs()) for step, write, canvas in steps_)
            return output._replace(steps=records)

    masks = np.ones((4, 24, 28), np.uint8)
    masks[:, :, 12:] = 2
    images = np.full((4, 3, 24, 28), 128, np.uint8)
    halves = Scenes(images, masks, np.zeros(masks.shape, np.bool_), counts=np.full(4, 2))
    found = score(Painter(small_config(model={"channels": 3}).model), halves, looks=0)
    assert found.segments is not None
    assert found.segments.of_writes.fg_ari.mean == 1


def test_each_image_is_scored_by_itself(model: SequentialAutoEncoder, scenes: Scenes) -> None:
    image, output = rebuilt(model, scenes)
    found = score(model, scenes).per_image
    assert scenes.counts is not None
    errors = (image - output.canvas).square().mean(dim=(1, 2, 3)).numpy()
    np.testing.assert_allclose(found.mse, errors, rtol=1e-4)
    several = scenes.counts >= 2
    assert several.any()
    assert not several.all()
    np.testing.assert_array_equal(np.isnan(found.fg_ari), ~several)
    alone = [score(model, scenes.part(at, at + 1)) for at in np.flatnonzero(several)[:5]]
    assert [one.segments.of_looks.fg_ari.mean for one in alone if one.segments] == pytest.approx(
        found.fg_ari[several][:5]
    )


def test_the_mean_of_the_images_is_the_mean(model: SequentialAutoEncoder, scenes: Scenes) -> None:
    found = score(model, scenes)
    assert found.segments is not None
    assert found.mse == pytest.approx(found.per_image.mse.mean())
    assert found.segments.of_looks.fg_ari.mean == pytest.approx(np.nanmean(found.per_image.fg_ari))


def test_a_threshold_of_other_images_is_used_as_it_is(model: SequentialAutoEncoder, scenes: Scenes) -> None:
    """F1: the threshold of the counts is chosen on `val`; `test` has no say in it."""
    own, given = score(model, scenes), score(model, scenes, active_share=0.99)
    assert own.segments is not None
    assert given.segments is not None
    assert given.segments.energy.active_share == 0.99
    assert scenes.counts is not None
    assert given.segments.energy.count_accuracy.mean < own.segments.energy.count_accuracy.mean
    assert given.segments.of_looks == own.segments.of_looks


def test_progress_is_told_after_each_batch(model: SequentialAutoEncoder, scenes: Scenes) -> None:
    told: list[tuple[int, int]] = []
    score(model, scenes, progress=lambda done, count: told.append((done, count)))
    assert told == [(50, 53), (53, 53)]


def test_large_models_are_evaluated_a_few_images_at_a_time(
    model: SequentialAutoEncoder, scenes: Scenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without looks: where these are next to equal, rounding decides whose a pixel is, and it depends on the batch.
    whole = score(model, scenes, limit=7, looks=0)
    monkeypatch.setattr("seqae.evaluation.evaluate._BATCH_VALUES", 3 * 3 * 24 * 28 + 1)
    told: list[int] = []
    parts = score(model, scenes, limit=7, looks=0, progress=lambda done, _: told.append(done))
    assert told == [3, 6, 7]
    assert parts.metrics() == pytest.approx(whole.metrics(), rel=1e-4)
    monkeypatch.setattr("seqae.evaluation.evaluate._BATCH_VALUES", 1)
    assert score(model, scenes, limit=2).mse == pytest.approx(score(model, scenes.first(2)).mse)


def test_only_the_first_images_are_used(model: SequentialAutoEncoder, scenes: Scenes) -> None:
    assert score(model, scenes, limit=10) == score(model, scenes.first(10))
    assert score(model, scenes, limit=10).mse != score(model, scenes).mse


def test_fewer_steps(model: SequentialAutoEncoder, scenes: Scenes) -> None:
    assert score(model, scenes, steps=2).step_mse == pytest.approx(score(model, scenes).step_mse[:3])


def test_images_without_masks_are_not_segmented(model: SequentialAutoEncoder, scenes: Scenes) -> None:
    bare = Scenes(scenes.images)
    found = score(model, bare)
    assert found.segments is None
    assert found.mse == score(model, scenes).mse
    assert found.metrics()["objective"] == pytest.approx(found.mse / found.empty_mse)
    assert np.isnan(found.per_image.fg_ari).all()
    assert set(found.metrics()) == {"empty_mse", "mse", "objective", *(f"mse_step_{t}" for t in range(4))}


def test_metrics_are_flat_numbers(model: SequentialAutoEncoder, scenes: Scenes) -> None:
    found = score(model, scenes)
    metrics = found.metrics()
    assert metrics["mse_step_2"] == found.step_mse[2]
    assert found.segments is not None
    looks, writes, energy = found.segments.of_looks, found.segments.of_writes, found.segments.energy
    assert (metrics["fg_ari"], metrics["fg_ari_se"]) == tuple(looks.fg_ari), "what is served has the plain name"
    assert (metrics["fg_ari_writes"], metrics["fg_ari_writes_se"]) == tuple(writes.fg_ari)
    assert (metrics["count_accuracy"], metrics["count_accuracy_se"]) == tuple(energy.count_accuracy)
    assert metrics["fg_ari"] != metrics["fg_ari_writes"]
    assert metrics["touching"] == scenes.touching().mean()
    assert metrics["objective"] == pytest.approx(found.mse / found.empty_mse + 1 - looks.fg_ari.mean)
    assert not any("/" in name for name in metrics), "bare names: the caller knows the split"
    assert all(isinstance(value, float) and np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_comes_back_and_its_statistics_stay(scenes: Scenes, training: bool) -> None:
    made = SequentialAutoEncoder(
        ModelConfig.model_validate(
            {
                "height": 24,
                "width": 28,
                "steps": 2,
                "attention": {"kernel_size": 10},
                "localizer": {"kind": "improved"},
                "coder": {"kind": "variational", "bottleneck": 4},
            }
        )
    ).train(training)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    first = score(made, scenes, steps=2)
    assert made.training is training
    assert score(made, scenes, steps=2) == first, "nothing is drawn at random"
    for name, value in made.state_dict().items():
        torch.testing.assert_close(value, before[name], msg=name)


def test_a_scene_without_objects_is_no_trouble(model: SequentialAutoEncoder, scenes: Scenes) -> None:
    assert scenes.masks is not None
    empty = replace(scenes.first(3), images=np.zeros_like(scenes.images[:3]), masks=np.zeros_like(scenes.masks[:3]))
    empty = replace(empty, counts=np.zeros(3, np.int64))
    assert all(np.isfinite(value) for value in score(model, empty).metrics().values())
