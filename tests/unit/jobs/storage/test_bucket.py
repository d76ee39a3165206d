"""A bucket whose service is slow, busy, silent, or does what it was asked without saying so."""

from pathlib import Path

import pytest

from jobs.errors import StorageRefused, StorageUnavailable
from jobs.storage.bucket import BucketStore, Timeouts
from tests.object_storage import BUCKET, Fault, S3Server


def test_busy_and_silent_services_are_asked_again(bucket: BucketStore, s3: S3Server) -> None:
    s3.fail("PUT", Fault.BUSY, Fault.BUSY)
    bucket.put("a", b"1")
    s3.fail("GET", Fault.BUSY, Fault.SILENCE)
    found = bucket.get("a")
    assert found is not None
    assert found.content == b"1"
    assert s3.faults == []


def test_a_service_that_stays_away_is_unavailable(bucket: BucketStore, s3: S3Server) -> None:
    s3.is_down = True
    for ask in (lambda: bucket.put("a", b"1"), lambda: bucket.get("a"), lambda: bucket.list("")):
        with pytest.raises(StorageUnavailable):
            ask()
    with pytest.raises(StorageUnavailable):
        bucket.put_if_absent("a", b"1")


def test_a_claim_whose_answer_was_lost_is_ours(bucket: BucketStore, s3: S3Server) -> None:
    s3.fail("PUT", Fault.LOST_ANSWER)
    assert bucket.put_if_absent("claim", b"mine")
    assert s3.faults == []
    assert not bucket.put_if_absent("claim", b"others")


def test_a_matching_write_whose_answer_was_lost_is_ours(bucket: BucketStore, s3: S3Server) -> None:
    bucket.put("control", b"1")
    known = bucket.get("control")
    assert known is not None
    s3.fail("PUT", Fault.LOST_ANSWER)
    assert bucket.put_if_match("control", b"2", known.etag)
    assert s3.faults == []
    assert not bucket.put_if_match("control", b"3", known.etag)


def test_a_slow_answer_is_waited_for(bucket: BucketStore, s3: S3Server) -> None:
    bucket.put("a", b"1")
    s3.fail("GET", Fault.SLOW)
    assert bucket.get("a") is not None


def test_a_download_that_is_cut_off_leaves_the_file_as_it_was(
    bucket: BucketStore, s3: S3Server, tmp_path: Path
) -> None:
    bucket.put("weights", b"new" * 100_000)
    target = tmp_path / "weights"
    target.write_bytes(b"old")
    s3.fail("GET", *[Fault.CUT] * 3)
    try:
        assert bucket.download("weights", target)
    except StorageUnavailable:
        assert target.read_bytes() == b"old"
    else:
        assert target.read_bytes() == b"new" * 100_000
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


@pytest.mark.usefixtures("s3")
def test_a_missing_bucket_is_named() -> None:
    missing = BucketStore("s3://no-such-bucket/prefix", Timeouts(retries=0))
    for ask in (lambda: missing.put("a", b"1"), lambda: missing.get("a"), lambda: missing.list("")):
        with pytest.raises(StorageRefused, match="no such bucket"):
            ask()


def test_a_refusal_names_its_code_and_quotes_nothing(bucket: BucketStore, s3: S3Server) -> None:
    s3.fail("PUT", *[Fault.FORBIDDEN] * 5)
    with pytest.raises(StorageRefused) as caught:
        bucket.put("a", b"1")
    assert str(caught.value) == "no permission, or wrong credentials (AccessDenied)"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.usefixtures("s3")
def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    # Machines in a cloud are asked for their role; here nobody answers.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StorageRefused, match="AWS_ACCESS_KEY_ID"):
        BucketStore(f"s3://{BUCKET}", Timeouts(connect=1, read=1, retries=0)).put("a", b"1")
