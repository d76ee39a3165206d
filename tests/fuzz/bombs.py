"""Pictures that are made to be hard, sixteen at once, against a server in a process of its own.

python -m tests.fuzz.bombs [--images FOLDER]     prints a line for each kind; exit status 1 where a limit is passed

Measured are the memory of the server with its decoders, and how long a usual picture waits meanwhile.
"""

import argparse
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import psutil
from PIL import Image

from tests.fuzz.server import ServerProcess, running_server
from tests.unit.seqae.data.jpegs import with_scans

__all__ = ["BOMBS", "Finding", "attack", "main", "png_of"]

MOST_MEMORY = 1_500_000_000
MOST_SECONDS = 2.0


def png_of(width: int, height: int, channels: int = 4) -> bytes:
    """A black PNG, made without having it in memory."""
    packer = zlib.compressobj(1)
    row = bytes(1 + width * channels)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    colours = {1: 0, 3: 2, 4: 6}[channels]

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, colours, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _photo() -> bytes:
    buffer = BytesIO()
    Image.effect_noise((4000, 3900), 30).convert("RGB").save(buffer, "JPEG", quality=60, progressive=True)
    return buffer.getvalue()


BOMBS: Mapping[str, bytes] = {
    "50 megapixels": png_of(7070, 7070),
    "16 megapixels": png_of(4000, 4000),
    "1,200 scans": with_scans(1200, side=4000, spread=0),
    "100 scans": with_scans(100, side=1400, spread=0),
    "many segments": b"\xff\xd8" + b"\xff\xfe\x00\x02" * 200_000,
    "plain text": b"P3\n1000 1000\n255\n" + b"1 " * 480_000,
}
"""By what is hard about them: over a limit, just below it, or slow though the header is small."""


@dataclass(frozen=True)
class Finding:
    """What sixteen pictures of one kind did."""

    peak: int
    """Most resident memory of the server and its decoders, in bytes."""
    waited: float
    """Seconds that a usual picture took meanwhile, the longest."""
    statuses: tuple[int, ...]
    """HTTP statuses of the hard ones."""

    @property
    def holds(self) -> bool:
        """Whether all limits were kept."""
        return self.peak < MOST_MEMORY and self.waited < MOST_SECONDS and max(self.statuses) <= 503


def attack(server: ServerProcess, bomb: bytes, count: int = 16) -> Finding:
    """Sends a picture many times at once, and usual ones meanwhile.

    Args:
        server: which is attacked.
        bomb: the picture.
        count: how many at once.
    """
    usual = png_of(64, 64, 1)
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        process = psutil.Process(server.process.pid)
        while not ended.wait(0.02):
            total = 0
            for each in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    total += each.memory_info().rss
            peak = max(peak, total)

    def send(data: bytes) -> tuple[int, float]:
        began = time.perf_counter()
        answer = httpx.post(f"{server.url}/reconstruct", files={"file": ("x", data)}, timeout=120, trust_env=False)
        return answer.status_code, time.perf_counter() - began

    status, _ = send(usual)
    if status != httpx.codes.OK:
        raise RuntimeError(f"the server answers a usual picture with {status}")
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(count) as senders:
            hard = [senders.submit(send, bomb) for _ in range(count)]
            waited = 0.0
            while not all(each.done() for each in hard):
                status, seconds = send(usual)
                waited = max(waited, seconds if status == httpx.codes.OK else float("inf"))
            return Finding(peak, waited, tuple(each.result()[0] for each in hard))
    finally:
        ended.set()
        watcher.join()


def main() -> int:
    """Attacks with every kind, and prints what came of it; 1 where a limit was passed."""
    parser = argparse.ArgumentParser(description="Sends pictures that are made to be hard, sixteen at once.")
    parser.add_argument("--images", type=Path, help="folder of further pictures")
    given = parser.parse_args()
    bombs = {**BOMBS, "progressive photo": _photo()}
    if given.images is not None:
        bombs |= {path.name: path.read_bytes() for path in sorted(given.images.iterdir()) if path.is_file()}
    held = True
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder)) as server:
        for name, bomb in bombs.items():
            found = attack(server, bomb)
            statuses = sorted(set(found.statuses))
            took = f"{found.peak / 1e6:,.0f} MB, a usual picture waited {found.waited:.2f} s"
            print(f"bombs: 16 x {name}: {took}, {statuses}", flush=True)
            held = held and found.holds
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
