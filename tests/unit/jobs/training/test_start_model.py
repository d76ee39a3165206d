"""The weights that a run starts from, copied into its folder."""

import tempfile
from pathlib import Path

import pytest
from safetensors.torch import load_file

from jobs.backends.fakes import FakeTracking
from jobs.directory.layout import JobFolder
from jobs.directory.records import NoteKind, Result, StartRecord
from jobs.driver import DriverContext
from jobs.errors import NoModel, TrackingUnavailable
from jobs.specs import TrainSpec
from jobs.training.start_model import copy_start_model
from jobs.training.worker import DistributedContext, TrainingTask, train
from seqae.checkpoints.manifest import verify
from seqae.errors import CheckpointError
from tests.tiny import TINY


def spec_of(trained: JobFolder, start_from: str | None) -> TrainSpec:
    """The run of a folder once more, from other weights and another seed."""
    spec = trained.read_spec()
    assert isinstance(spec, TrainSpec)
    return spec.model_copy(update={"start_from": start_from, "seed": 5})


@pytest.fixture
def result(trained: JobFolder) -> Result:
    found = trained.attempt(1).read_result()
    assert found is not None
    return found


@pytest.fixture
def tracking(trained: JobFolder, result: Result) -> FakeTracking:
    """A registry whose champion is the trained model."""
    made = FakeTracking()
    run = made.create_run("job_trained", "tiny", "train", {})
    made.register("job_trained", run.run_id, "m", trained.path / str(result.checkpoint), {}, None)
    return made


@pytest.fixture
def context(trained: JobFolder, cache_dir: Path, tracking: FakeTracking) -> DriverContext:
    """Of the first attempt of a job beside the trained one."""
    folder = JobFolder(Path(tempfile.mkdtemp(prefix="job_next_", dir=trained.path.parent)))
    attempt = folder.attempt(1)
    attempt.path.mkdir(parents=True)
    return DriverContext(folder, attempt, cache_dir, None, tracking, None)


@pytest.mark.parametrize(("selector", "label"), [("job_trained", "job_trained"), ("m@champion", "m/1"), ("1", "m/1")])
def test_the_weights_are_copied_without_the_state_of_their_training(
    context: DriverContext, trained: JobFolder, result: Result, selector: str, label: str
) -> None:
    path = copy_start_model(context, spec_of(trained, selector))
    assert path == context.folder.start
    assert sorted(verify(path).files) == ["config.json", "model.safetensors"]
    source = trained.path / str(result.checkpoint)
    theirs, own = (load_file(folder / "model.safetensors") for folder in (source, path))
    assert theirs.keys() == own.keys()
    assert all(value.equal(own[name]) for name, value in theirs.items())
    assert context.folder.read_start() == StartRecord(model=label, iteration=verify(source).iteration)
    (note,) = context.attempt.notes()
    assert note.kind is NoteKind.STARTED_FROM
    assert label in note.text


def test_a_later_attempt_starts_from_the_same_weights_whatever_has_moved(
    context: DriverContext, trained: JobFolder, tracking: FakeTracking
) -> None:
    spec = spec_of(trained, "m@champion")
    first = copy_start_model(context, spec)
    tracking.aliases.clear()
    tracking.unreachable = True
    assert copy_start_model(context, spec) == first
    assert len(context.attempt.notes()) == 1


def test_a_copy_that_was_cut_short_is_made_again(context: DriverContext, trained: JobFolder) -> None:
    context.folder.start.mkdir()
    (context.folder.start / "config.json").write_text("{")
    path = copy_start_model(context, spec_of(trained, "job_trained"))
    assert path is not None
    verify(path)


def test_without_a_selector_nothing_is_copied(context: DriverContext, trained: JobFolder) -> None:
    assert copy_start_model(context, spec_of(trained, None)) is None
    assert not context.folder.start.exists()


def test_what_is_not_there_is_an_error(context: DriverContext, trained: JobFolder, tracking: FakeTracking) -> None:
    with pytest.raises(NoModel):
        copy_start_model(context, spec_of(trained, "m/2"))
    empty = JobFolder(trained.path.parent / "job_empty")
    empty.write_spec(trained.read_spec())
    with pytest.raises(NoModel, match="job_empty has no checkpoint yet"):
        copy_start_model(context, spec_of(trained, "job_empty"))
    tracking.unreachable = True
    with pytest.raises(TrackingUnavailable):
        copy_start_model(context, spec_of(trained, "m"))
    assert context.folder.read_start() is None


def test_a_run_starts_from_the_copy_once_and_then_goes_on_from_its_own_checkpoints(
    context: DriverContext, trained: JobFolder, cache_dir: Path
) -> None:
    folder = context.folder
    spec = spec_of(trained, "job_trained")
    folder.write_spec(spec)
    start = copy_start_model(context, spec)
    task = TrainingTask(folder.path, folder.path, 1, cache_dir, None, start=start)
    result = train(task, DistributedContext())
    assert result.iterations == 12
    losses = {row.step: row.metrics["train/loss"] for row in folder.history() if "train/loss" in row.metrics}
    theirs = {row.step: row.metrics["train/loss"] for row in trained.history() if "train/loss" in row.metrics}
    assert losses[1] < theirs[1], "trained weights know more than fresh ones"
    again = train(TrainingTask(folder.path, folder.path, 2, cache_dir, None, start=start), DistributedContext())
    assert again.iterations == 12
    assert [note.kind for note in folder.attempt(2).notes()].count(NoteKind.RESUMED) == 1


def test_weights_that_do_not_fit_end_the_run(context: DriverContext, trained: JobFolder, cache_dir: Path) -> None:
    folder = context.folder
    start = copy_start_model(context, spec_of(trained, "job_trained"))
    folder.write_spec(TrainSpec.model_validate(TINY | {"model": TINY["model"] | {"coder": {"bottleneck": 5}}}))
    with pytest.raises(CheckpointError, match=r"another model\.coder\.bottleneck \(4; this run's is 5\)"):
        train(TrainingTask(folder.path, folder.path, 1, cache_dir, None, start=start), DistributedContext())
