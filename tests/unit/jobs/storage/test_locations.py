"""Addresses of storages, and the check that one works."""

from pathlib import Path

import pytest

from jobs.errors import StorageRefused
from jobs.storage.folder import FolderStore
from jobs.storage.locations import check_location, check_storage, open_storage
from jobs.storage.objects import ObjectStore


@pytest.mark.parametrize("url", ["s3://b", "s3://b/p/q/", "gs://b/p", "az://c/p", "file:///srv/seqae"])
def test_addresses_are_taken_without_a_slash_at_the_end(url: str) -> None:
    assert check_location(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "b/p",
        "s3://",
        "s3:/b",
        "ftp://b",
        "s3://key:word@b/p",
        "s3://b/p?x=1",
        "s3://b#f",
        "file://host/a",
        "file:///",
    ],
)
def test_other_addresses_are_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match=r"must be s3://|more than a bucket") as caught:
        check_location(url)
    assert "word" not in str(caught.value)
    with pytest.raises(StorageRefused, match="SEQAE_STORAGE"):
        open_storage(url)


def test_a_storage_that_works_passes_and_is_left_as_it_was(store: ObjectStore) -> None:
    check_storage(store)
    assert store.list("") == []


def test_a_folder_is_opened_with_its_quoted_signs(tmp_path: Path) -> None:
    open_storage(f"file://{tmp_path}/a%20b").put("key", b"1")
    assert (tmp_path / "a b" / "key").read_bytes() == b"1"


class _Unconditional(FolderStore):
    def put_if_absent(self, key: str, content: bytes) -> bool:
        self.put(key, content)
        return True


def test_a_storage_without_conditional_writes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageRefused, match="conditional writes"):
        check_storage(_Unconditional(tmp_path))


def test_a_folder_that_can_not_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageRefused, match="Not a directory"):
        check_storage(open_storage(f"file://{tmp_path}/file/below"))
