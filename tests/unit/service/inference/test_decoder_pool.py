"""Pictures that are made to be hard: what they cost, and what they cost others."""

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from seqae.config import ModelConfig
from seqae.data.decoding import jpeg_scans
from seqae.data.preprocess import fit
from service.inference import decoder_pool
from service.inference.decoder_pool import DecodedPicture, DecoderPool, RefusedPictureError
from tests.unit.seqae.data.jpegs import with_scans

MODEL = ModelConfig(height=12, width=16, channels=3, attention={"kernel_size": 8})


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 32, height: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def png_of(width: int, height: int, colour_type: int = 6) -> bytes:
    """A PNG of one colour, made without having it in memory."""
    channels = {0: 1, 2: 3, 6: 4}[colour_type]
    packer = zlib.compressobj(1)
    row = bytes(1 + width * channels)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, colour_type, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


Run = Callable[[Callable[[DecoderPool], Awaitable[None]]], None]


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs a test with a pool whose pictures may have 16 megapixels and take half a second."""

    def runner(body: Callable[[DecoderPool], Awaitable[None]]) -> None:
        async def main() -> None:
            pool = DecoderPool(16_000_000, seconds=0.5)
            try:
                await body(pool)
            finally:
                await pool.close()

        asyncio.run(main())

    yield runner
    assert not decoders()


async def refused(pool: DecoderPool, data: bytes) -> str:
    with pytest.raises(RefusedPictureError) as raised:
        await pool.decode(data, MODEL)
    return str(raised.value)


def test_a_picture_comes_out_as_a_model_takes_it(run: Run) -> None:
    async def body(pool: DecoderPool) -> None:
        for picture in (noise(), noise(2000, 1500)):
            found = await pool.decode(encode(picture), MODEL)
            np.testing.assert_array_equal(found.pixels, fit(picture, 12, 16, 3))
            assert found.size == picture.size

    run(body)


def test_the_size_is_that_of_the_picture_as_it_is_shown(run: Run) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6

    async def body(pool: DecoderPool) -> None:
        assert (await pool.decode(encode(noise(), "JPEG", exif=exif), MODEL)).size == (24, 32)

    run(body)


def test_bombs_are_refused_by_their_header(run: Run) -> None:
    """D2: 16 pictures of 50 megapixels took 6.8 GB."""

    async def body(pool: DecoderPool) -> None:
        assert "is 7000 x 7000 pixels, more than 16,000,000" in await refused(pool, png_of(7000, 7000))
        assert "more than 100 progressive scans" in await refused(pool, with_scans(1200))

    run(body)


def test_what_takes_too_long_is_ended_and_the_next_one_is_decoded(run: Run) -> None:
    """D3: 4 JPEGs of 1,200 scans held up everybody for 51 seconds."""
    slow = with_scans(100, side=1500)
    assert jpeg_scans(slow) == 100

    async def body(pool: DecoderPool) -> None:
        began = time.process_time()
        assert "too long" in await refused(pool, slow)
        assert time.process_time() - began < 5
        assert (await pool.decode(encode(noise()), MODEL)).size == (32, 24)
        assert (await pool.decode(encode(noise(2000, 1500)), MODEL)).size == (2000, 1500)

    run(body)


MANY_SEGMENTS = b"\xff\xd8" + b"\xff\xfe\x00\x02" * 200_000
PLAIN_TEXT = b"P3\n1000 1000\n255\n" + b"1 " * 480_000


@pytest.mark.parametrize("slow", [MANY_SEGMENTS, PLAIN_TEXT], ids=["many segments", "plain text"])
def test_what_is_slow_though_its_header_is_small_holds_up_the_others_for_a_moment_only(run: Run, slow: bytes) -> None:
    """D3: the header decides nothing that can't be taken back."""

    async def body(pool: DecoderPool) -> None:
        answers = await asyncio.gather(
            *(pool.decode(slow, MODEL) for _ in range(4)),
            pool.decode(encode(noise()), MODEL),
            return_exceptions=True,
        )
        assert isinstance(answers[-1], DecodedPicture)
        assert all(isinstance(answer, (RefusedPictureError, DecodedPicture)) for answer in answers)

    run(body)


def decoders() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "decoder_process" in command(child)]


def command(process: psutil.Process) -> str:
    """What it runs; empty for one that has ended, or that another test has left to be waited for."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


@pytest.mark.parametrize("kill_child", [True, False])
def test_a_decoder_that_dies_is_replaced_and_no_picture_is_taken_for_another(run: Run, kill_child: bool) -> None:
    """D3: whatever kills it, and whenever."""

    async def body(pool: DecoderPool) -> None:
        await pool.decode(encode(noise()), MODEL)
        for width in (33, 34, 35, 36):
            (decoder,) = decoders()
            victim = decoder.children()[0] if kill_child else decoder
            victim.kill()
            await asyncio.sleep(0.1)
            assert (await pool.decode(encode(noise(width)), MODEL)).size == (width, 24)

    run(body)


def test_a_decoder_that_hangs_is_ended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """D3: CPU time is not all that can be lost."""
    monkeypatch.setattr(decoder_pool, "_GRACE", 2.0)

    async def body(pool: DecoderPool) -> None:
        await pool.decode(encode(noise()), MODEL)
        (decoder,) = decoders()
        decoder.children()[0].suspend()
        assert (await pool.decode(encode(noise(33)), MODEL)).size == (33, 24)

    run(body)


def test_sixteen_bombs_at_once_cost_bounded_memory_and_an_innocent_picture_is_decoded_in_time(run: Run) -> None:
    """D2, D3: just below every limit that is known by the header."""
    bombs = [png_of(4000, 4000), with_scans(100, side=1500), encode(Image.new("CMYK", (4000, 3900)), "JPEG")]
    innocent = encode(noise())
    peak = 0

    async def watch() -> None:
        nonlocal peak
        while True:
            total = 0
            for decoder in decoders():
                for process in (decoder, *decoder.children()):
                    with suppress(psutil.NoSuchProcess):
                        total += process.memory_info().rss
            peak = max(peak, total)
            await asyncio.sleep(0.02)

    async def body(pool: DecoderPool) -> None:
        await pool.decode(innocent, MODEL)
        watching = asyncio.create_task(watch())
        hard = [asyncio.create_task(pool.decode(bombs[at % 3], MODEL)) for at in range(16)]
        await asyncio.sleep(0.1)
        began = time.perf_counter()
        await pool.decode(innocent, MODEL)
        took = time.perf_counter() - began
        answers = await asyncio.gather(*hard, return_exceptions=True)
        watching.cancel()
        assert all(isinstance(answer, (RefusedPictureError, DecodedPicture)) for answer in answers)
        assert took < 2
        assert peak < 1_000_000_000

    run(body)


def test_of_those_that_wait_the_least_work_is_next(run: Run) -> None:
    """D3: a photo does not wait behind all bombs."""
    done: list[str] = []

    async def decode(pool: DecoderPool, name: str, data: bytes) -> None:
        await pool.decode(data, MODEL)
        done.append(name)

    async def body(pool: DecoderPool) -> None:
        async with asyncio.TaskGroup() as group:
            for at in range(4):
                group.create_task(decode(pool, f"large {at}", png_of(3800, 3800, 0)))
            group.create_task(decode(pool, "photo", encode(noise(2000, 1200), "JPEG")))
        assert done.index("photo") <= 1

    run(body)


def test_a_request_that_is_given_up_lets_the_next_one_in(run: Run) -> None:
    async def body(pool: DecoderPool) -> None:
        large = png_of(3000, 3000, 0)
        tasks = [asyncio.create_task(pool.decode(large, MODEL)) for _ in range(3)]
        await asyncio.sleep(0.05)
        for task in tasks[1:]:
            task.cancel()
        await asyncio.wait(tasks)
        assert (await asyncio.wait_for(pool.decode(large, MODEL), 20)).size == (3000, 3000)

    run(body)


def test_memory_is_bounded(run: Run) -> None:
    """D2: whatever a file makes a decoder take."""

    async def body(pool: DecoderPool) -> None:
        await pool.decode(encode(noise()), MODEL)
        (decoder,) = decoders()
        limits = Path(f"/proc/{decoder.children()[0].pid}/limits").read_text()
        (line,) = [line for line in limits.splitlines() if line.startswith("Max address space")]
        assert int(line.split()[3]) < 3_000_000_000

    run(body)


def test_mutated_pictures_end_in_a_picture_or_a_reason(run: Run) -> None:
    """D2 to D6: seeded, and no other exception than ours."""
    generator = np.random.default_rng(1)
    pictures = [(noise(), kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM")]

    async def body(pool: DecoderPool) -> None:
        for picture, kind in pictures:
            whole = np.frombuffer(encode(picture, kind), np.uint8)
            for _ in range(40):
                damaged = whole.copy()
                reach = len(damaged) if generator.random() < 0.5 else min(60, len(damaged))
                damaged[generator.integers(0, reach, 4)] = generator.integers(0, 256, 4)
                try:
                    assert (await pool.decode(damaged.tobytes(), MODEL)).pixels.shape == (12, 16, 3)
                except RefusedPictureError as error:
                    assert str(error)  # noqa: PT017

    run(body)
