"""The server that is fuzzed, as a process whose memory is measured."""

import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

__all__ = ["ServerProcess", "running_server"]

_START_SECONDS = 90.0
_STOP_SECONDS = 15.0
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class ServerProcess:
    """A server that answers."""

    url: str
    port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def lives(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def memory(self) -> int:
        """Resident memory, in bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def tracebacks(self) -> Counter[str]:
        """Tracebacks in its log, by their last line: what nobody expected, even where no answer shows it."""
        blocks = self.log.read_text(errors="replace").split("Traceback (most recent call last):\n")[1:]
        ends = (re.search(r"^\S.*$", block, re.MULTILINE) for block in blocks)
        return Counter(end[0][:300] if end else "?" for end in ends)


@contextmanager
def running_server(folder: Path) -> Iterator[ServerProcess]:
    """Runs a server on a free port of this machine, with a home of its own.

    Args:
        folder: for its home and its log.
    """
    log, home, port = folder / "server.log", folder / "home", _free_port()
    home.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEQAE_")}
    environment |= {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.fuzz.target", str(home), str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_it_serves(url, process, log)
        yield ServerProcess(url, port, process, log)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_serves(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            status = httpx.get(f"{url}/models", timeout=5, trust_env=False)
            if status.is_success and status.json()["champion"] is not None:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")
