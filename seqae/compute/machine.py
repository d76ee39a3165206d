"""Description of the machine and of the versions that a measured number comes from."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

__all__ = ["cores", "machine"]


def machine() -> dict[str, Any]:
    """Processor, cores, load and versions, as they go beside every result."""
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "load": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
