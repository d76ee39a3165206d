"""GPUs as NVML tells of them, with a library that is none."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.directory.records import NoteKind
from jobs.supervision.gpus import GpuReading, GpuWatch, Nvml, find_sensor, gpu_row, pack, unpack


class NvmlError(Exception):
    pass


class FakeNvml:
    """A machine with one GPU.

    Args:
        silent: what the device does not tell.
    """

    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    NVMLError: type[Exception] = NvmlError

    def __init__(self, *silent: str, has_driver: bool = True) -> None:
        self.silent = silent
        self.has_driver = has_driver

    def _tell(self, what: str, value: Any) -> Any:
        if what in self.silent:
            raise NvmlError("Not Supported")
        return value

    def nvmlInit(self) -> None:
        if not self.has_driver:
            raise NvmlError("Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-1"
        return "handle"

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        return self._tell("memory", SimpleNamespace(used=20e9, total=80e9))

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        return self._tell("utilization", SimpleNamespace(gpu=97))

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        return int(self._tell("power", 412_000))

    def nvmlDeviceGetTotalEccErrors(self, handle: Any, kind: int, counter: int) -> int:
        assert (kind, counter) == (1, 0)
        return int(self._tell("errors", 2))


def uuid_of(device: str) -> str:
    assert device == "cuda:0"
    return "GPU-1"


def sensor_of(nvml: FakeNvml) -> Any:
    load: Callable[[], Nvml] = lambda: nvml  # noqa: E731 -- mypy holds the fake against the protocol here
    return find_sensor("cuda:0", uuid_of, load)


def test_a_gpu_tells_its_memory_use_power_and_errors() -> None:
    reading = sensor_of(FakeNvml()).read()
    assert reading == GpuReading(20e9, 80e9, 97, 412, 2)
    assert gpu_row([None, reading]) == {
        "system/gpu_1_memory_usage_megabytes": 20_000,
        "system/gpu_1_memory_usage_percentage": 25,
        "system/gpu_1_utilization_percentage": 97,
        "system/gpu_1_power_usage_watts": 412,
        "system/gpu_1_uncorrected_errors": 2,
    }


@pytest.mark.parametrize("silent", ["memory", "utilization", "power", "errors"])
def test_what_a_device_does_not_tell_is_0(silent: str) -> None:
    whole, reading = sensor_of(FakeNvml()).read(), sensor_of(FakeNvml(silent)).read()
    told = [field for field in vars(whole) if getattr(whole, field) == getattr(reading, field)]
    assert 3 <= len(told) < 5
    assert gpu_row([reading])


def test_nothing_is_asked_without_a_gpu_a_library_or_a_driver() -> None:
    def load() -> Nvml:
        raise ImportError("pynvml")

    assert find_sensor("cpu", uuid_of, load) is None
    assert find_sensor("cuda:0", uuid_of, load) is None
    assert sensor_of(FakeNvml(has_driver=False)) is None


def test_readings_survive_being_added_up_over_workers() -> None:
    reading = GpuReading(1.0, 2.0, 3.0, 4.0, 5.0)
    assert unpack(pack(reading)) == reading
    assert unpack(pack(None)) is None
    assert len(pack(None)) == len(pack(reading))


def test_an_idle_gpu_is_named_once() -> None:
    watch = GpuWatch(["a", "b"])
    busy, idle = GpuReading(1, 2, 90, 300, 0), GpuReading(1, 2, 1, 60, 0)
    assert watch.look([busy, idle]) == watch.look([busy, idle]) == []
    (remark,) = watch.look([busy, idle])
    assert remark.kind is NoteKind.IDLE_GPU
    assert remark.text == "the GPU of worker 1 (b) is idle: a kernel ran in 1% of the time"
    assert watch.look([busy, idle]) == []
    assert watch.look([]) == [], "on CPUs"


def test_errors_of_memory_are_named_when_they_come_and_not_those_of_before() -> None:
    watch = GpuWatch(["a"])
    assert watch.look([GpuReading(1, 2, 90, 300, 7)]) == []
    (remark,) = watch.look([GpuReading(1, 2, 90, 300, 8)])
    assert remark.kind is NoteKind.GPU_ERRORS
    assert "8 errors of memory that could not be corrected" in remark.text
    assert watch.look([GpuReading(1, 2, 90, 300, 8)]) == []
