import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seqae.checkpoints import checkpoint
from seqae.checkpoints.manifest import FORMAT_VERSION, verify
from seqae.config import ModelConfig, TrainConfig
from seqae.errors import CheckpointError
from seqae.model import SequentialAutoEncoder
from tests.untrained import with_random_writes

FILES = ["config.json", "manifest.json", "model.safetensors", "trainer.pt"]


@pytest.fixture(scope="module")
def model(changed_config: TrainConfig) -> SequentialAutoEncoder:
    torch.manual_seed(3)
    return with_random_writes(SequentialAutoEncoder(changed_config.model))


@pytest.fixture
def save(model: SequentialAutoEncoder, changed_config: TrainConfig, tmp_path: Path) -> Callable[..., Path]:
    """Writes a checkpoint of a model, and says where."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "checkpoints" / "12"
        usual: dict[str, Any] = {
            "iteration": 12,
            "metrics": {"val/mse": 0.25},
            "trainer_state": {"optimizer": {"step": 5}},
        }
        given = usual | changes
        checkpoint.save(path, given.pop("model", model), given.pop("config", changed_config), **given)
        return path

    return write


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_what_is_written_is_read(
    save: Callable[..., Path], model: SequentialAutoEncoder, changed_config: TrainConfig
) -> None:
    path = save()
    assert names(path) == FILES
    assert names(path.parent) == ["12"], "no draft is left"
    assert checkpoint.read_config(path) == changed_config, "every field, each other than its default"
    loaded = checkpoint.load_model(path)
    assert not loaded.training
    assert loaded.config == changed_config.model
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    image = torch.rand(1, 3, 20, 30)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image).canvas, model.eval()(image).canvas)
    assert checkpoint.load_trainer_state(path) == {"optimizer": {"step": 5}}


def test_manifest_says_what_is_there(save: Callable[..., Path]) -> None:
    path = save()
    manifest = verify(path)
    assert (manifest.iteration, manifest.metrics) == (12, {"val/mse": 0.25})
    assert manifest.format_version == FORMAT_VERSION
    assert sorted(manifest.files) == [name for name in FILES if name != "manifest.json"]
    for name, entry in manifest.files.items():
        assert entry.bytes == (path / name).stat().st_size


def test_a_checkpoint_to_be_served_needs_no_trainer(save: Callable[..., Path]) -> None:
    path = save(trainer_state=None)
    assert sorted(verify(path).files) == ["config.json", "model.safetensors"]
    checkpoint.load_model(path)
    with pytest.raises(CheckpointError, match=r"trainer\.pt"):
        checkpoint.load_trainer_state(path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for read in (checkpoint.read_config, checkpoint.load_model, checkpoint.load_trainer_state):
        with pytest.raises(CheckpointError, match="nowhere"):
            read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"\xff", b'{"format_version": 1, "config": {"seed": -1}}']
)
def test_a_config_that_is_none_is_named(save: Callable[..., Path], content: bytes) -> None:
    path = save()
    (path / "config.json").write_bytes(content)
    for read in (checkpoint.read_config, checkpoint.load_model):
        with pytest.raises(CheckpointError, match=r"config\.json"):
            read(path)


@pytest.mark.parametrize("content", [b"", b"not a tensor file", "half"])
def test_weights_that_are_none_are_named(save: Callable[..., Path], content: bytes | str) -> None:
    path = save()
    file = path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        checkpoint.load_model(path)


def test_weights_of_another_model_are_refused(save: Callable[..., Path], changed_config: TrainConfig) -> None:
    other = SequentialAutoEncoder(ModelConfig())
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        checkpoint.load_model(save(model=other, config=changed_config))


def test_a_trainer_state_that_would_run_code_is_refused(save: Callable[..., Path]) -> None:
    """Anyone may hand over a checkpoint; unpickling it must not be able to do things."""

    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (Path("harm"),))

    path = save()
    torch.save({"optimizer": Harmful()}, path / "trainer.pt")
    with pytest.raises(CheckpointError, match=r"trainer\.pt"):
        checkpoint.load_trainer_state(path)


def test_another_format_version_is_refused_and_named(save: Callable[..., Path]) -> None:
    file = save() / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 99}))
    with pytest.raises(CheckpointError, match=f"version 99, this release reads {FORMAT_VERSION}"):
        checkpoint.read_config(file.parent)


def test_a_checkpoint_replaces_the_one_before(save: Callable[..., Path]) -> None:
    save()
    path = save(iteration=13, trainer_state=None)
    assert verify(path).iteration == 13
    assert names(path) == [name for name in FILES if name != "trainer.pt"]


def test_a_failure_while_writing_leaves_the_old_one_and_no_draft(save: Callable[..., Path]) -> None:
    path = save()
    with pytest.raises(Exception, match="pickle"):
        save(iteration=13, trainer_state={"optimizer": lambda: None})
    assert verify(path).iteration == 12
    assert names(path.parent) == ["12"]


@pytest.mark.parametrize("error", [RuntimeError("fenced"), KeyboardInterrupt()])
def test_before_commit_can_cancel(save: Callable[..., Path], error: BaseException) -> None:
    """A worker that was told to stop in the meantime commits nothing."""
    path = save()
    seen: list[list[str]] = []

    def cancel() -> None:
        seen.extend(names(draft) for draft in path.parent.iterdir() if draft != path)
        raise error

    with pytest.raises(type(error)):
        save(iteration=13, before_commit=cancel)
    assert seen == [FILES], "asked when all is written"
    assert verify(path).iteration == 12
    assert names(path.parent) == ["12"]


def test_a_draft_left_by_a_killed_process_is_no_trouble(save: Callable[..., Path]) -> None:
    """The same process id may come again."""

    def leave() -> None:
        for draft in path.parent.glob(".*"):
            draft.rename(draft.with_name("kept"))

    path = save()
    with pytest.raises(FileNotFoundError):
        save(before_commit=leave)
    drafts: list[str] = []
    save(before_commit=lambda: drafts.extend(names(path.parent)))
    draft = next(name for name in drafts if name.startswith("."))
    (path.parent / "kept").rename(path.parent / draft)
    (path.parent / draft / "rubbish").write_text("left over")
    assert names(save(iteration=14)) == FILES
    assert names(path.parent) == ["12"]
