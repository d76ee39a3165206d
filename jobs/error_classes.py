"""Classification of exceptions: the error class of a failed attempt, which decides whether it is retried."""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.directory.records import Failure
from jobs.errors import (
    DiskFullError,
    ErrorClass,
    OutOfMemoryError,
    PreemptedError,
    StorageRefused,
    StorageUnavailable,
    TrackingUnavailable,
    WorkersLostError,
)
from seqae.errors import DataError, DivergedError

__all__ = ["classify", "is_disk_full", "is_out_of_memory", "is_outage_of_disk", "out_of_memory_kills"]

# EFBIG: a limit on the size of files stands for a full disk.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Of a file system as a whole, or of this machine.
_OUTAGE = (errno.EIO, errno.ESTALE, errno.EROFS, errno.ENOTCONN, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE)

# torch and ray report these by text or by classes that are not importable without them.
_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")
_MEMORY_TYPES = ("OutOfMemoryError",)
# How Ray reports that its own memory monitor has killed a process. (It guesses at the system's in every report.)
_MEMORY_DEATHS = ("NODE_OUT_OF_MEMORY", "running low on memory")
_LOST = (WorkersLostError, ConnectionError, TrackingUnavailable, StorageUnavailable, StorageRefused)
_CONNECTION_WORDS = ("Connection closed by peer", "Connection reset by peer", "Connection refused", "gloo", "NCCL")
_CONNECTION_TYPES = (
    "DistError",
    "DistBackendError",
    "DistNetworkError",
    "DistStoreError",
    "RayActorError",
    "ActorDiedError",
    "ActorUnavailableError",
    "NodeDiedError",
    "OwnerDiedError",
    "ObjectLostError",
    "WorkerCrashedError",
    "WorkerHealthCheckFailedError",
    "WorkerHealthCheckTimeoutError",
    "WorkerGroupStartupFailedError",
    "WorkerGroupStartupTimeoutError",
    "ControllerError",
    "RaySystemError",
)


@dataclass(frozen=True)
class _GpuFault:
    """A fault of CUDA or NCCL that its own text explains badly."""

    signs: tuple[str, ...]
    """Parts of the text by which it is known."""
    explanation: str
    is_permanent: bool = False
    """Whether the next attempt would meet it again."""


_GPU_FAULTS = (
    _GpuFault(
        ("driver version is insufficient", "NVIDIA driver on your system is too old"),
        "the machine's NVIDIA driver is older than this PyTorch needs: update it",
        is_permanent=True,
    ),
    _GpuFault(
        ("No CUDA GPUs are available", "no CUDA-capable device", "Found no NVIDIA driver"),
        "the worker sees no GPU: the machine has no driver, or the container was given none",
        is_permanent=True,
    ),
    _GpuFault(
        ("Duplicate GPU detected", "ncclInvalidUsage", "invalid usage"),
        "two workers share a GPU, which NCCL refuses: give each worker a whole one",
        is_permanent=True,
    ),
    _GpuFault(
        ("Watchdog caught collective operation timeout",),
        "a worker did not come to the same step in time: it hangs, or its machine is gone",
    ),
    _GpuFault(
        ("ncclRemoteError", "remote process exited or there was a network error"),
        "another worker ended, or the network between the machines failed: see that one's log",
    ),
    _GpuFault(
        ("ncclSystemError", "unhandled system error"),
        "the workers can't reach each other: a firewall between the machines, the wrong interface "
        "(NCCL_SOCKET_IFNAME), or a container with too little /dev/shm",
    ),
    _GpuFault(
        ("ncclUnhandledCudaError", "unhandled cuda error"),
        "a GPU failed under NCCL: `nvidia-smi` and the kernel's log (Xid) on that machine say how",
    ),
)


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception, or what caused it, says that no more can be written."""
    return any(
        isinstance(link, DiskFullError)
        or (isinstance(link, OSError) and link.errno in _DISK_FULL)
        # torch and safetensors wrap the system's error in text.
        or "No space left on device" in str(link)
        for link in _chain(error)
    )


def is_outage_of_disk(error: BaseException) -> bool:
    """Whether an exception says that the disk is full, or fails for everybody, rather than that one file is odd."""
    return is_disk_full(error) or any(
        isinstance(link, MemoryError) or (isinstance(link, OSError) and link.errno in _OUTAGE) for link in _chain(error)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that main or GPU memory ran out."""
    if isinstance(error, MemoryError | OutOfMemoryError) or _is_named(error, _MEMORY_TYPES):
        return True
    if _is_named(error, _CONNECTION_TYPES):
        return any(word in str(error) for word in _MEMORY_DEATHS)
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _MEMORY_WORDS)


def out_of_memory_kills(counters: Path = Path("/proc/vmstat")) -> int:
    """How many processes this machine has killed for want of memory since it started; 0 where it does not say.

    To the cluster such a worker is just lost.

    Args:
        counters: the kernel's file of counters.
    """
    if not counters.is_file():
        return 0
    found = (line.split() for line in counters.read_text().splitlines() if line.startswith("oom_kill "))
    return next((int(value) for _, value in found), 0)


def classify(error: BaseException) -> Failure:
    """The error of a failed attempt: its class, and a message of 4000 characters at most.

    Args:
        error: what the attempt raised.
    """
    fault = _gpu_fault(error)
    hint = f" ({fault.explanation})" if fault else ""
    first, newline, rest = str(error).partition("\n")
    return Failure(error_class=_class_of(error), message=f"{type(error).__name__}: {first}{hint}{newline}{rest}"[:4000])


def _gpu_fault(error: BaseException) -> _GpuFault | None:
    text = str(error)
    return next((fault for fault in _GPU_FAULTS if any(sign in text for sign in fault.signs)), None)


def _class_of(error: BaseException) -> ErrorClass:
    if isinstance(error, DataError):
        return ErrorClass.DATA
    if isinstance(error, PreemptedError) or _is_named(error, ("PreemptionError",)):
        return ErrorClass.PREEMPTED
    if isinstance(error, DivergedError):
        return ErrorClass.DIVERGED
    if is_disk_full(error):
        return ErrorClass.DISK_FULL
    if is_out_of_memory(error):
        return ErrorClass.OUT_OF_MEMORY
    fault = _gpu_fault(error)
    if fault is not None and fault.is_permanent:
        return ErrorClass.INTERNAL
    if _is_lost_connection(error):
        return ErrorClass.INFRASTRUCTURE
    return ErrorClass.INTERNAL


def _is_lost_connection(error: BaseException) -> bool:
    if isinstance(error, _LOST):
        return True
    if _is_named(error, _CONNECTION_TYPES):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _CONNECTION_WORDS)


def _is_named(error: BaseException, names: tuple[str, ...]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and its causes."""
    while error is not None:
        yield error
        error = error.__cause__
