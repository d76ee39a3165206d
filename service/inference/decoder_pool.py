"""Pool of processes that decode uploaded pictures, within limits of memory and time.

Two processes, each with one picture at a time. Every picture goes to the quick one first, the smallest file first; it
looks at the header and decodes what is little work. What is more work, or turns out to be, goes to the other one, the
least work first. So pictures that are made to be hard hold up each other, and not the usual ones.
"""

import asyncio
import heapq
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import anyio.to_thread
import numpy as np

from seqae.config import ModelConfig
from service.inference.decoder_process import Answer, AnswerKind, Order, read_message, write_message

__all__ = ["DecodedPicture", "DecoderPool", "RefusedPictureError"]

_QUICK_WORK = 2_000_000.0  # pixels
_QUICK_BYTES = 1_000_000
_QUICK_SECONDS = 0.1  # of CPU time
_GRACE = 5.0  # seconds
_ROOT = Path(__file__).parents[2]


class RefusedPictureError(Exception):
    """A picture that can't be decoded, or not within the limits. The text says why."""


@dataclass(frozen=True)
class DecodedPicture:
    """A picture as a model takes it."""

    pixels: np.ndarray
    """uint8 [H, W, C] of the model's size."""
    size: tuple[int, int]
    """Width and height of the picture as it is shown, in its own pixels."""


class DecoderPool:
    """Decodes pictures and brings them to a model's size. The processes start when they are needed first.

    Args:
        max_pixels: larger pictures are refused by their header.
        seconds: CPU time that one picture may take.
    """

    def __init__(self, max_pixels: int, seconds: float) -> None:
        self._max_pixels = max_pixels
        self._seconds = seconds
        # What decoders need at most: the picture, its coefficients, and copies of it.
        memory = 256_000_000 + 32 * max_pixels
        self._quick = _Decoder(memory)
        self._thorough = _Decoder(memory)

    async def decode(self, data: bytes, model: ModelConfig) -> DecodedPicture:
        """Decodes a picture; waits for its turn.

        Args:
            data: the file, of a stranger.
            model: whose size the picture is brought to.

        Raises:
            RefusedPictureError: it can't be decoded, or not within the limits.
        """
        work = float("inf")
        if len(data) <= _QUICK_BYTES:
            order = self._order(model, min(_QUICK_SECONDS, self._seconds), _QUICK_WORK)
            answer, pixels = await self._quick.decode(order, data, float(len(data)))
            if answer.kind not in (AnswerKind.TOO_MUCH_WORK, AnswerKind.KILLED):
                return _picture(answer, pixels, model)
            work = answer.work or work
        order = self._order(model, self._seconds, float("inf"))
        return _picture(*await self._thorough.decode(order, data, work), model)

    async def close(self) -> None:
        """Ends the processes."""
        await self._quick.close()
        await self._thorough.close()

    def _order(self, model: ModelConfig, seconds: float, most_work: float) -> Order:
        return Order(0, model.height, model.width, model.channels, self._max_pixels, seconds, most_work)


def _picture(answer: Answer, pixels: bytes, model: ModelConfig) -> DecodedPicture:
    if answer.kind is AnswerKind.PICTURE:
        array = np.frombuffer(pixels, np.uint8).reshape(model.height, model.width, model.channels)
        return DecodedPicture(array, (answer.width, answer.height))
    raise RefusedPictureError(answer.reason or "takes too long to decode, or too much memory")


class _Decoder:
    """One process and those who wait for it."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._turns = _Turns()
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._threads: anyio.CapacityLimiter | None = None

    async def decode(self, order: Order, data: bytes, work: float) -> tuple[Answer, bytes]:
        """Waits for its turn, before those of more work, and has a picture decoded."""
        async with self._turns.turn(work):
            # A thread of its own: those that all routes share may be busy.
            self._threads = self._threads or anyio.CapacityLimiter(1)
            return await anyio.to_thread.run_sync(self._ask, order, data, limiter=self._threads)

    async def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            await anyio.to_thread.run_sync(_end, process)

    def _ask(self, order: Order, data: bytes) -> tuple[Answer, bytes]:
        """Has a picture decoded by the process, which is started again if it is gone."""
        process = self._process
        if process is None or process.poll() is not None:
            if process is not None:
                _end(process)
            process = self._process = _start(self._memory)
        assert process.stdin is not None
        assert process.stdout is not None
        # The kernel counts CPU time; this is for a process that doesn't get any, or hangs.
        order = replace(order, number=next(self._numbers))
        timer = threading.Timer(_GRACE + 5.0 * order.seconds, _kill, (process,))
        timer.start()
        try:
            with suppress(OSError):  # it is gone: then there is no answer either
                write_message(process.stdin, order, data)
            while (message := read_message(process.stdout)) is not None:
                head = json.loads(message[0])
                answer = Answer(**head | {"kind": AnswerKind(head["kind"])})
                if answer.number == order.number:
                    return answer, message[1]
                # A child that was killed while it had nothing to do: the next one has this order.
        finally:
            timer.cancel()
        _end(process)
        self._process = None
        return Answer(AnswerKind.KILLED), b""


def _start(memory: int) -> subprocess.Popen[bytes]:
    # Of the environment only what Python needs, and what the embedded stack finds its processes by: no secrets.
    kept = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SEQAE_STACK_PART")
    environment = {name: value for name, value in os.environ.items() if name in kept or name.startswith("PYTHON")}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), environment.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, "-m", "service.inference.decoder_process", str(memory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        process_group=0,
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and its child at once."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    _kill(process)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    process.wait()


class _Turns:
    """One at a time; of those who wait the one with the least work is next."""

    def __init__(self) -> None:
        self._busy = False
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    @asynccontextmanager
    async def turn(self, work: float) -> AsyncIterator[None]:
        if self._busy:
            future = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (work, next(self._numbers), future))
            try:
                await future
            except asyncio.CancelledError:
                if future.done() and not future.cancelled():
                    self._pass_on()
                raise
        self._busy = True
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)
                return
        self._busy = False
