"""Built data sets that machines hand to each other."""

import logging
from pathlib import Path

import pytest

from jobs.errors import StorageUnavailable
from jobs.specs import TrainSpec
from jobs.storage.data_sets import StoredDataSets, load_data
from jobs.storage.folder import FolderStore
from jobs.storage.objects import ObjectInfo
from seqae.data import cache


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStore:
    monkeypatch.setenv("SEQAE_STORAGE", f"file://{tmp_path}/objects")
    return FolderStore(tmp_path / "objects")


def test_what_one_machine_has_built_the_next_fetches(
    storage: FolderStore, spec: TrainSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    built = load_data(spec.data, spec.model, tmp_path / "one")
    names = [info.key.rpartition("/")[2] for info in storage.list("data")]
    assert "manifest.json" in names
    assert "train-images.npy" in names
    fetched = load_data(spec.data, spec.model, tmp_path / "two")
    assert fetched.checksum == built.checksum
    assert "fetched data set" in caplog.text
    assert not [path for path in (tmp_path / "two").iterdir() if "building" in path.name]


def test_a_damaged_one_is_built_here_and_replaced(
    storage: FolderStore, spec: TrainSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    built = load_data(spec.data, spec.model, tmp_path / "one")
    (damaged,) = [info for info in storage.list("data") if info.key.endswith("train-images.npy")]
    storage.put(damaged.key, b"\0" * damaged.size)
    assert load_data(spec.data, spec.model, tmp_path / "two").checksum == built.checksum
    assert "is damaged" in caplog.text
    caplog.clear()
    load_data(spec.data, spec.model, tmp_path / "three")
    assert "is damaged" not in caplog.text


def test_one_without_its_manifest_is_not_taken(storage: FolderStore, tmp_path: Path) -> None:
    storage.put("data/scenes-1/train-images.npy", b"x")
    StoredDataSets(storage).fetch(tmp_path / "scenes-1")
    assert not (tmp_path / "scenes-1").exists()


class _Away(FolderStore):
    def list(self, prefix: str) -> "list[ObjectInfo]":
        raise StorageUnavailable("no answer")

    def put(self, key: str, content: bytes | Path) -> None:
        raise StorageUnavailable("no answer")


def test_without_an_answer_it_is_built_here(spec: TrainSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shared = StoredDataSets(_Away(tmp_path / "objects"))
    data = cache.load_data(spec.data, spec.model, tmp_path / "one", shared=shared)
    assert len(data.train.images) == 32
    assert "is built here" in caplog.text
    assert "other machines build it themselves" in caplog.text


def test_without_a_storage_nothing_is_asked(spec: TrainSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEQAE_STORAGE", raising=False)
    assert len(load_data(spec.data, spec.model, tmp_path).train.images) == 32
