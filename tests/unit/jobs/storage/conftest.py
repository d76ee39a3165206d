"""Object storages: a folder, and a bucket of an S3 server in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.storage.bucket import BucketStore, Timeouts
from jobs.storage.folder import FolderStore
from jobs.storage.objects import ObjectStore
from tests.object_storage import BUCKET, S3Server, running_s3


@pytest.fixture(scope="module")
def _server() -> Iterator[S3Server]:
    with running_s3() as server:
        yield server


@pytest.fixture
def s3(_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server; no fault of another test is left in it."""
    for name, value in _server.environment.items():
        monkeypatch.setenv(name, value)
    _server.faults.clear()
    _server.is_down = False
    yield _server
    _server.faults.clear()
    _server.is_down = False


@pytest.fixture
def bucket(s3: S3Server, tmp_path: Path) -> BucketStore:
    """An empty prefix of the bucket; requests fail fast."""
    return BucketStore(f"s3://{BUCKET}/{tmp_path.name}", Timeouts(connect=1, read=0.5, retries=2))


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty storage of each kind."""
    if request.param == "folder":
        return FolderStore(tmp_path / "objects")
    made = request.getfixturevalue("bucket")
    assert isinstance(made, BucketStore)
    return made
