"""What every object storage must do: the same tests for a folder and for a bucket."""

import os
import threading
from pathlib import Path

import pytest

from jobs.errors import StorageRefused
from jobs.storage.objects import ObjectStore, is_safe_key


def _content(store: ObjectStore, key: str) -> bytes | None:
    found = store.get(key)
    return None if found is None else found.content


def test_what_was_put_is_got_and_replaced(store: ObjectStore) -> None:
    assert store.get("jobs/a/spec.json") is None
    store.put("jobs/a/spec.json", b"one")
    first = store.get("jobs/a/spec.json")
    store.put("jobs/a/spec.json", b"two")
    second = store.get("jobs/a/spec.json")
    assert first is not None
    assert second is not None
    assert (first.content, second.content) == (b"one", b"two")
    assert first.etag != second.etag


def test_a_file_goes_there_and_back(store: ObjectStore, tmp_path: Path) -> None:
    content = os.urandom(6_000_000)  # more than one part of an upload
    (tmp_path / "weights").write_bytes(content)
    store.put("a/weights", tmp_path / "weights")
    assert store.download("a/weights", tmp_path / "new" / "weights")
    assert (tmp_path / "new" / "weights").read_bytes() == content
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["weights"]


def test_an_object_that_is_not_there_leaves_the_file_alone(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"kept")
    assert not store.download("a/none", tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == b"kept"


def test_absent_means_absent(store: ObjectStore) -> None:
    assert store.put_if_absent("claim", b"mine")
    assert not store.put_if_absent("claim", b"others")
    assert _content(store, "claim") == b"mine"


def test_a_repeated_conditional_write_has_succeeded(store: ObjectStore) -> None:
    store.put("claim", b"before")
    known = store.get("claim")
    assert known is not None
    assert store.put_if_match("claim", b"mine", known.etag)
    assert store.put_if_match("claim", b"mine", known.etag)
    assert store.put_if_absent("claim", b"mine")


def test_match_means_the_same_version(store: ObjectStore) -> None:
    store.put("control", b"1")
    old = store.get("control")
    assert old is not None
    store.put("control", b"2")
    assert not store.put_if_match("control", b"3", old.etag)
    assert _content(store, "control") == b"2"
    assert not store.put_if_match("nothing/here", b"3", old.etag)
    assert store.get("nothing/here") is None


def test_one_of_many_writers_wins(store: ObjectStore) -> None:
    won: list[int] = []

    def claim(number: int) -> None:
        if store.put_if_absent("claim", b"writer %d" % number):
            won.append(number)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert _content(store, "claim") == b"writer %d" % won[0]


def test_a_list_has_what_is_below_a_folder(store: ObjectStore) -> None:
    for key in ("jobs/a/2", "jobs/a/1/deep", "jobs/ab/1", "jobs/b"):
        store.put(key, key.encode())
    listed = store.list("jobs/a")
    assert [(info.key, info.size) for info in listed] == [("jobs/a/1/deep", 13), ("jobs/a/2", 8)]
    assert [info.key for info in store.list("")] == ["jobs/a/1/deep", "jobs/a/2", "jobs/ab/1", "jobs/b"]
    assert store.list("none") == []
    found = store.get("jobs/a/2")
    assert found is not None
    assert listed[1].etag == found.etag


def test_a_list_tells_a_new_version_by_its_etag(store: ObjectStore) -> None:
    store.put("a/b", b"1")
    (before,) = store.list("a")
    store.put("a/b", b"2")
    (after,) = store.list("a")
    assert before.etag != after.etag


def test_deleted_objects_are_gone_and_deleting_again_is_fine(store: ObjectStore) -> None:
    for key in ("a/1", "a/2", "b"):
        store.put(key, b"x")
    store.delete(["a/1", "a/2", "a/none"])
    store.delete(["a/1"])
    assert [info.key for info in store.list("")] == ["b"]


def test_a_name_may_have_blanks_and_letters_of_any_language(store: ObjectStore) -> None:
    store.put("artifacts/Übersicht 100%.txt", b"x")
    assert [info.key for info in store.list("artifacts")] == ["artifacts/Übersicht 100%.txt"]
    assert _content(store, "artifacts/Übersicht 100%.txt") == b"x"


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.hidden", "a\\b", "a\0b"])
def test_odd_keys_are_refused(store: ObjectStore, key: str) -> None:
    assert not is_safe_key(key)
    with pytest.raises(StorageRefused):
        store.put(key, b"x")
    with pytest.raises(StorageRefused):
        store.get(key)
