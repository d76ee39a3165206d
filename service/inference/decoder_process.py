"""Process that decodes uploaded pictures: `python -m service.inference.decoder_process`, see `decoder_pool`.

The bytes of a picture are a stranger's, and the decoders are C. So this process has nothing of value in its memory,
may use so much memory and no more, and each picture so much CPU time: the kernel ends it at the limit, wherever it is.
A child does the work, so that the next one is there at once, forked with everything imported.
"""

import json
import os
import resource
import signal
import struct
import sys
import warnings
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from mmap import mmap
from typing import IO, BinaryIO

import numpy as np
from PIL import Image

from seqae.data.decoding import jpeg_scans, open_picture, reason_of
from seqae.data.preprocess import fit, orientation

__all__ = ["Answer", "AnswerKind", "Order", "main", "read_message", "write_message"]

_HEADER = struct.Struct(">II")
_TEXT_FORMATS = (b"P1", b"P2", b"P3")  # read by a loop in Python
_TEXT_WORK = 20.0  # pixels a byte


@dataclass(frozen=True)
class Order:
    """What is to be done with a picture, whose bytes follow."""

    number: int
    """Which the answer repeats, so that no picture is taken for another one."""
    height: int
    """Of the result, pixels."""
    width: int
    channels: int
    max_pixels: int
    """Larger pictures are refused by their header."""
    seconds: float
    """CPU time."""
    most_work: float
    """A picture that costs more, by its header, is not decoded; see `Answer.work`."""


class AnswerKind(StrEnum):
    """How it went."""

    PICTURE = "picture"
    """The pixels follow, uint8 [height, width, channels]."""
    REFUSED = "refused"
    """`reason` says why."""
    TOO_MUCH_WORK = "too_much_work"
    """Nothing was decoded."""
    KILLED = "killed"
    """At a limit, or by a fault of a decoder."""


@dataclass(frozen=True)
class Answer:
    """What came of an order; pixels may follow."""

    kind: AnswerKind
    number: int = 0
    """Of the order."""
    reason: str = ""
    width: int = 0
    """Of the picture as it is shown, in its own pixels."""
    height: int = 0
    work: float = 0.0
    """Pixels that are to be decoded, counted again for each scan of a JPEG; as many as take as long as its text."""


def write_message(stream: IO[bytes], head: Order | Answer, data: bytes = b"") -> None:
    """Writes a head and what follows it."""
    text = json.dumps(asdict(head)).encode()
    stream.write(_HEADER.pack(len(text), len(data)))
    stream.write(text)
    stream.write(data)
    stream.flush()


def read_message(stream: IO[bytes]) -> tuple[bytes, bytes] | None:
    """The JSON of a head, and what follows it; None at the end."""
    lengths = stream.read(_HEADER.size)
    if len(lengths) < _HEADER.size:
        return None
    text_length, data_length = _HEADER.unpack(lengths)
    text, data = stream.read(text_length), stream.read(data_length)
    return (text, data) if len(data) == data_length else None


def main() -> int:
    """Answers orders on stdin until its end.

    Its argument is the most bytes of memory that it may take beyond what it has at the start.
    """
    # Ctrl-C is for the service, which then closes stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # decoders print warnings
        os.dup2(quiet, stream)
    Image.init()
    Image.MAX_IMAGE_PIXELS = None  # the order has the limit
    warnings.simplefilter("ignore")
    _limit(int(sys.argv[1]))
    # Shared with the child, which writes the number of the order that it works on.
    current = memoryview(mmap(-1, 8)).cast("q")
    while True:
        worker = os.fork()
        if worker == 0:
            _work(orders, answers, current)
            os._exit(0)
        _, status = os.waitpid(worker, 0)
        if status == 0:
            return 0
        write_message(answers, Answer(AnswerKind.KILLED, current[0]))


def _limit(memory: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        present = int(file.read().split()[0]) * resource.getpagesize()
    for kind, most in (
        (resource.RLIMIT_AS, present + memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _work(orders: BinaryIO, answers: BinaryIO, current: memoryview) -> None:
    while (message := read_message(orders)) is not None:
        order = Order(**json.loads(message[0]))
        current[0] = order.number
        # SIGPROF ends the process unless it is handled, also in the middle of a decoder.
        signal.setitimer(signal.ITIMER_PROF, order.seconds)
        answer, pixels = _answer(order, message[1])
        signal.setitimer(signal.ITIMER_PROF, 0)
        write_message(answers, replace(answer, number=order.number), pixels)


def _answer(order: Order, data: bytes) -> tuple[Answer, bytes]:
    try:
        image = open_picture(data)
        width, height = image.size
        if width * height > order.max_pixels:
            reason = f"is {width} x {height} pixels, more than {order.max_pixels:,}"
            return Answer(AnswerKind.REFUSED, reason=reason), b""
        work = float(width * height * max(1, jpeg_scans(data) if image.format in ("JPEG", "MPO") else 1))
        if data[:2] in _TEXT_FORMATS:
            work += len(data) * _TEXT_WORK
        if work > order.most_work:
            return Answer(AnswerKind.TOO_MUCH_WORK, work=work), b""
        pixels: np.ndarray = fit(image, order.height, order.width, order.channels)
        if orientation(image) >= 5:  # turned by a quarter
            width, height = height, width
        return Answer(AnswerKind.PICTURE, width=width, height=height, work=work), pixels.tobytes()
    except Exception as error:  # noqa: BLE001
        # Decoders raise many kinds for damaged bytes; whatever it is, the picture is at fault.
        return Answer(AnswerKind.REFUSED, reason=f"can't be decoded: {reason_of(error)}"), b""


if __name__ == "__main__":
    sys.exit(main())
