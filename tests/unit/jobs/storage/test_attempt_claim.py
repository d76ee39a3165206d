"""Which process runs the newest attempt."""

import threading

import pytest

from jobs.directory.records import Control, Want
from jobs.errors import FencedError, FolderError
from jobs.storage.attempt_claim import AttemptClaim, issue_stored_control, read_stored_control
from jobs.storage.bucket import BucketStore
from jobs.storage.objects import ObjectStore
from tests.object_storage import Fault, S3Server

PREFIX = "jobs/job_1"


def test_a_newer_attempt_takes_over(store: ObjectStore) -> None:
    first, second = AttemptClaim(store, PREFIX, 1), AttemptClaim(store, PREFIX, 2)
    first.take()
    first.check()
    second.take()
    second.check()
    for act in (first.check, first.take):
        with pytest.raises(FencedError):
            act()


def test_the_same_attempt_does_not_run_twice(store: ObjectStore) -> None:
    claim = AttemptClaim(store, PREFIX, 1)
    claim.take()
    claim.take()
    with pytest.raises(FencedError, match="another process"):
        AttemptClaim(store, PREFIX, 1).take()
    claim.check()


def test_the_control_plane_fences_without_an_attempt(store: ObjectStore) -> None:
    claim = AttemptClaim(store, PREFIX, 1)
    issue_stored_control(store, PREFIX, Control(attempt=1))
    claim.take()
    issue_stored_control(store, PREFIX, Control(attempt=2))
    with pytest.raises(FencedError, match="attempt 2"):
        claim.check()


def test_one_of_many_processes_claims(store: ObjectStore) -> None:
    taken: list[int] = []

    def claim(number: int) -> None:
        try:
            AttemptClaim(store, PREFIX, 1).take()
        except FencedError:
            return
        taken.append(number)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_a_claim_whose_answer_is_lost_holds(bucket: BucketStore, s3: S3Server) -> None:
    claim = AttemptClaim(bucket, PREFIX, 1)
    s3.fail("PUT", Fault.LOST_ANSWER, Fault.LOST_ANSWER)
    claim.take()
    claim.check()
    assert s3.faults == []


def test_an_older_control_replaces_no_newer_one(store: ObjectStore) -> None:
    assert read_stored_control(store, PREFIX) is None
    newer = Control(attempt=3, want=Want.CANCEL)
    assert issue_stored_control(store, PREFIX, newer) == newer
    assert issue_stored_control(store, PREFIX, Control(attempt=2)) == newer
    assert read_stored_control(store, PREFIX) == newer
    paused = Control(attempt=3, want=Want.PAUSE)
    assert issue_stored_control(store, PREFIX, paused) == paused


def test_a_damaged_control_is_written_anew_and_a_damaged_claim_is_told(store: ObjectStore) -> None:
    store.put(f"{PREFIX}/control.json", b"{")
    with pytest.raises(FolderError):
        read_stored_control(store, PREFIX)
    assert issue_stored_control(store, PREFIX, Control(attempt=1)) == Control(attempt=1)
    store.put(f"{PREFIX}/claim.json", b"{")
    with pytest.raises(FolderError, match=r"claim\.json"):
        AttemptClaim(store, PREFIX, 1).take()
