import errno
from pathlib import Path

import pytest
import torch
from ray.exceptions import OutOfMemoryError as RayOutOfMemoryError
from ray.exceptions import RayActorError
from torch.distributed import DistBackendError, DistNetworkError

from jobs.error_classes import classify, out_of_memory_kills
from jobs.errors import DiskFullError, ErrorClass, OutOfMemoryError, WorkersLostError
from seqae.errors import CheckpointError, DataError, DivergedError


def _caused_by_full_disk() -> Exception:
    error = RuntimeError("safetensors: write failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DataError("no such folder"), ErrorClass.DATA),
        (DivergedError("the loss is nan"), ErrorClass.DIVERGED),
        (OSError(errno.ENOSPC, "No space left on device"), ErrorClass.DISK_FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ErrorClass.DISK_FULL),
        (RuntimeError("I/O error: No space left on device (os error 28)"), ErrorClass.DISK_FULL),
        (_caused_by_full_disk(), ErrorClass.DISK_FULL),
        (DiskFullError("no space"), ErrorClass.DISK_FULL),
        (MemoryError(), ErrorClass.OUT_OF_MEMORY),
        (OutOfMemoryError("too large"), ErrorClass.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), ErrorClass.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), ErrorClass.OUT_OF_MEMORY),
        (RayOutOfMemoryError("killed due to the node running low on memory"), ErrorClass.OUT_OF_MEMORY),
        (RayActorError(error_msg="Worker exit type: NODE_OUT_OF_MEMORY"), ErrorClass.OUT_OF_MEMORY),
        (RayActorError(error_msg="killed by SIGKILL by OOM killer due to high memory"), ErrorClass.INFRASTRUCTURE),
        (WorkersLostError("gone"), ErrorClass.INFRASTRUCTURE),
        (RayActorError(), ErrorClass.INFRASTRUCTURE),
        (DistNetworkError("timed out"), ErrorClass.INFRASTRUCTURE),
        (DistBackendError("NCCL error"), ErrorClass.INFRASTRUCTURE),
        (RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), ErrorClass.INFRASTRUCTURE),
        (ConnectionResetError(), ErrorClass.INFRASTRUCTURE),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ErrorClass.INTERNAL),
        (OSError(errno.EACCES, "Permission denied"), ErrorClass.INTERNAL),
        (CheckpointError("of a run with another config"), ErrorClass.INTERNAL),
        (KeyError("gloom"), ErrorClass.INTERNAL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_classes(error: Exception, expected: ErrorClass) -> None:
    assert classify(error).error_class is expected


@pytest.mark.parametrize(
    ("text", "expected", "explanation"),
    [
        ("NCCL error: unhandled system error, NCCL version 2.30", ErrorClass.INFRASTRUCTURE, "NCCL_SOCKET_IFNAME"),
        ("NCCL error: remote process exited or there was a network error", ErrorClass.INFRASTRUCTURE, "another worker"),
        ("[Rank 1] Watchdog caught collective operation timeout: NCCL", ErrorClass.INFRASTRUCTURE, "did not come"),
        ("NCCL error: unhandled cuda error", ErrorClass.INFRASTRUCTURE, "nvidia-smi"),
        ("NCCL error: invalid usage: Duplicate GPU detected", ErrorClass.INTERNAL, "two workers share a GPU"),
        ("The NVIDIA driver on your system is too old (found version 11040)", ErrorClass.INTERNAL, "update it"),
        ("No CUDA GPUs are available", ErrorClass.INTERNAL, "sees no GPU"),
    ],
)
def test_faults_around_gpus_are_explained_and_those_that_stay_are_not_repeated(
    text: str, expected: ErrorClass, explanation: str
) -> None:
    for error in (DistBackendError(f"{text}\nmore"), RuntimeError(f"{text}\nmore")):
        found = classify(error)
        if isinstance(error, DistBackendError) or "NCCL" in text or expected is ErrorClass.INTERNAL:
            assert found.error_class is expected
        first, _, rest = found.message.partition("\n")
        assert first.startswith(f"{type(error).__name__}: {text} (")
        assert explanation in first
        assert rest == "more"


def test_the_message_says_which_error_and_is_bounded() -> None:
    assert classify(DataError("no such folder")).message == "DataError: no such folder"
    assert len(classify(ValueError("x" * 100_000)).message) == 4000


def test_only_a_lost_machine_and_a_damaged_checkpoint_are_not_the_jobs_own_fault() -> None:
    others = {ErrorClass.INFRASTRUCTURE, ErrorClass.PREEMPTED, ErrorClass.CHECKPOINT}
    assert {each for each in ErrorClass if not each.is_users} == others


def test_the_machines_count_of_processes_killed_for_memory(tmp_path: Path) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 12\noom_kill 3\noom_kill_other 9\n")
    assert out_of_memory_kills(counters) == 3
    counters.write_text("nr_free_pages 12\n")
    assert out_of_memory_kills(counters) == 0
    assert out_of_memory_kills(tmp_path / "none") == 0
