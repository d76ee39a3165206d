"""GPUs of a training run: what NVML says of each worker's device, and what of that is worth a note.

NVIDIA's library is read through nvidia-ml-py (the extra `gpu`), which is imported only where a worker trains on a GPU.
"""

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jobs.directory.records import NoteKind
from jobs.supervision.worker_loads import Remark

__all__ = ["GpuReading", "GpuSensor", "GpuWatch", "Nvml", "find_sensor", "gpu_row", "pack", "unpack"]

logger = logging.getLogger(__name__)

_IDLE_PERCENT = 5.0
"""A GPU that is busy for less of the time is idle."""

_REPORTS = 3
"""So many reports in a row must say so."""

_MEGABYTE = 1e6


class Nvml(Protocol):
    """What is used of the module `pynvml`."""

    NVML_MEMORY_ERROR_TYPE_UNCORRECTED: int
    NVML_VOLATILE_ECC: int
    NVMLError: type[Exception]

    def nvmlInit(self) -> object:  # noqa: N802 -- NVIDIA's names
        """Loads the library."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:  # noqa: N802
        """A device."""

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: N802
        """Its memory, with `used` and `total` in bytes."""

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:  # noqa: N802
        """With `gpu`: percent of the time since the sample before in which a kernel ran."""

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:  # noqa: N802
        """Milliwatts."""

    def nvmlDeviceGetTotalEccErrors(self, handle: Any, kind: int, counter: int) -> int:  # noqa: N802
        """Errors of memory since the driver was loaded."""


@dataclass(frozen=True)
class GpuReading:
    """What a GPU says of itself; what it does not tell is 0."""

    memory_used: float
    """Bytes, of all processes."""
    memory_total: float
    """Bytes."""
    utilization: float
    """Percent of the time in which a kernel ran."""
    power: float
    """Watts."""
    errors: float
    """Errors of memory that could not be corrected, since the driver was loaded."""


class GpuSensor:
    """One GPU, read by NVML.

    Args:
        nvml: the library.
        uuid: of the device, such as "GPU-...".

    Raises:
        Exception: of the type `nvml.NVMLError`: there is no driver, or no such device.
    """

    def __init__(self, nvml: Nvml, uuid: str) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)

    def read(self) -> GpuReading:
        """What it says now. Not every device tells everything."""
        nvml, handle = self._nvml, self._handle
        uncorrected = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        return GpuReading(
            memory_used=self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used),
            memory_total=self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).total),
            utilization=self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
            power=self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle)) / 1e3,
            errors=self._ask(lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, *uncorrected)),
        )

    def _ask(self, question: Callable[[], float]) -> float:
        try:
            return float(question())
        except self._nvml.NVMLError:
            return 0.0


def find_sensor(device: str, uuid_of: Callable[[str], str], load: Callable[[], Nvml] | None = None) -> GpuSensor | None:
    """The sensor of a worker's GPU; None on a CPU, without nvidia-ml-py, and where NVML does not work.

    Args:
        device: as torch names it.
        uuid_of: the UUID of a device.
        load: imports NVML; the package's own when left out.
    """
    if not device.startswith("cuda"):
        return None
    try:
        nvml: Nvml = load() if load is not None else importlib.import_module("pynvml")
    except ImportError:
        logger.info("without nvidia-ml-py nothing but its memory is known of the GPU")
        return None
    try:
        return GpuSensor(nvml, uuid_of(device))
    except nvml.NVMLError as error:
        logger.warning("NVML does not tell of the GPU: %s", error)
        return None


def pack(reading: GpuReading | None) -> list[float]:
    """A reading as numbers that can be added up over workers; None becomes zeros."""
    if reading is None:
        return [0.0] * 6
    return [1.0, reading.memory_used, reading.memory_total, reading.utilization, reading.power, reading.errors]


def unpack(values: Sequence[float]) -> GpuReading | None:
    """What `pack` was given."""
    return GpuReading(*values[1:]) if values[0] else None


def gpu_row(readings: Sequence[GpuReading | None]) -> dict[str, float]:
    """System metrics by the names under which MLflow shows them; GPUs are numbered by rank."""
    row = {}
    for rank, reading in enumerate(readings):
        if reading is not None:
            of = f"system/gpu_{rank}"
            row[f"{of}_memory_usage_megabytes"] = reading.memory_used / _MEGABYTE
            row[f"{of}_memory_usage_percentage"] = 100 * reading.memory_used / max(reading.memory_total, 1.0)
            row[f"{of}_utilization_percentage"] = reading.utilization
            row[f"{of}_power_usage_watts"] = reading.power
            row[f"{of}_uncorrected_errors"] = reading.errors
    return row


class GpuWatch:
    """Watch over GPUs that are idle, and over errors of their memory.

    Args:
        nodes: the name of each worker's machine, by rank.
    """

    def __init__(self, nodes: Sequence[str]) -> None:
        self._nodes = nodes
        self._idle_reports = [0 for _ in nodes]
        self._errors: list[float | None] = [None for _ in nodes]

    def look(self, readings: Sequence[GpuReading | None]) -> list[Remark]:
        """What is new since the report before.

        Args:
            readings: by rank; empty where nothing trains on a GPU.
        """
        found = []
        for rank, reading in enumerate(readings):
            if reading is not None:
                found += self._look_at(rank, reading)
        return found

    def _look_at(self, rank: int, reading: GpuReading) -> list[Remark]:
        found, whose = [], f"the GPU of worker {rank} ({self._nodes[rank]})"
        is_idle = reading.utilization < _IDLE_PERCENT
        self._idle_reports[rank] = self._idle_reports[rank] + 1 if is_idle else 0
        if self._idle_reports[rank] == _REPORTS:
            text = f"{whose} is idle: a kernel ran in {reading.utilization:.0f}% of the time"
            found.append(Remark(NoteKind.IDLE_GPU, text))
        before = self._errors[rank]
        if before is not None and reading.errors > before:
            text = f"{whose} has {reading.errors:.0f} errors of memory that could not be corrected: take it out of use"
            found.append(Remark(NoteKind.GPU_ERRORS, text))
        self._errors[rank] = reading.errors
        return found
