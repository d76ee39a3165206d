"""Pictures in, frames and attention out: with a real model, small and untrained."""

import base64
import json
import threading
import time
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from jobs.backends.fakes import FakeTracking
from jobs.errors import TrackingUnavailable
from jobs.interfaces import ModelVersion
from seqae.checkpoints import checkpoint
from seqae.config import TrainConfig
from seqae.model import SequentialAutoEncoder
from seqae.reconstruction import Reconstruction
from service.db.store import Store
from service.inference.model_pool import ModelPool
from service.job_state import EventType
from service.settings import Settings
from tests.reports import make_report
from tests.unit.service.conftest import MakeApp, Serve
from tests.untrained import with_random_writes

CONFIG = TrainConfig.model_validate(
    {
        "model": {"height": 16, "width": 16, "steps": 3, "attention": {"kernel_size": 8}, "coder": {"bottleneck": 4}},
        "data": {"min_scale": 0.5, "max_scale": 0.5},
    }
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model that was never trained."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "1"
    checkpoint.save(
        path, with_random_writes(SequentialAutoEncoder(CONFIG.model)), CONFIG, iteration=1, metrics={"val/mse": 0.1}
    )
    return path


def register(tracking: FakeTracking, job_id: str, path: Path, mse: float, model: str = "digits") -> None:
    run, report = tracking.create_run(job_id, "digits", "train", {}), make_report(mse)
    tracking.register(job_id, run.run_id, model, path, report.scores.metrics, report)


def wait_until_served(inference: ModelPool, version: str) -> None:
    while inference.champion is None or inference.champion.version.version != version:
        assert inference.wait_for_round(60), inference.detail


@pytest.fixture
def client(make_app: MakeApp, serve: Serve, tracking: FakeTracking, settings: Settings, trained: Path) -> httpx.Client:
    """A client of a server that serves version 1, and knows a version 2."""
    register(tracking, "job_000000000001", trained, 0.1)
    register(tracking, "job_000000000002", trained, 0.2)
    inference = ModelPool(tracking, settings)
    found = serve(make_app(inference))
    wait_until_served(inference, "1")
    return found


@pytest.fixture
def bare(make_app: MakeApp, serve: Serve) -> httpx.Client:
    """A client of a server without a model."""
    return serve(make_app())


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(width: int = 40, height: int = 30) -> Image.Image:
    image = Image.new("L", (width, height))
    image.paste(255, (width // 2, height // 4, width // 2 + 6, height // 4 + 6))
    return image


def send(client: httpx.Client, data: bytes, accept: str = "*/*", **query: str) -> httpx.Response:
    return client.post("/reconstruct", files={"file": ("scene", data)}, headers={"accept": accept}, params=query)


def opened(text: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(text)))


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return dict(answer.json())


# --- answers


def test_json(client: httpx.Client) -> None:
    answer = send(client, encode(scene()))
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["model"] == {
        "name": "digits",
        "version": "1",
        "run_id": "run-job_000000000001",
        "job_id": "job_000000000001",
        "metrics": {"test/mse": pytest.approx(0.1), "test/empty_mse": 1.0},
    }
    assert len(found["frames"]) == CONFIG.model.steps + 1
    assert len(found["error"]) == CONFIG.model.steps + 1
    assert len(found["steps"]) == CONFIG.model.steps
    assert {opened(frame).size for frame in [found["input"], *found["frames"]]} == {(16, 16)}
    assert [step["error"] for step in found["steps"]] == found["error"][1:]


def test_a_step_is_told_in_pixels_of_the_picture_and_of_the_model(client: httpx.Client) -> None:
    width, height = 96, 64  # the centred square is 64 wide and begins at 16; the model's image is 16 wide
    for step in send(client, encode(scene(width, height))).json()["steps"]:
        inside = step["in_model"]
        # Pixel centres: 0 is the centre of the first pixel, so both sides move by a half.
        assert step["x"] + 0.5 == pytest.approx(16 + 4 * (inside["x"] + 0.5))
        assert step["y"] + 0.5 == pytest.approx(4 * (inside["y"] + 0.5))
        assert step["stride"] == pytest.approx(4 * inside["stride"])
        assert step["sigma"] == pytest.approx(4 * inside["sigma"])
        assert step["window"]["left"] == pytest.approx(16 + 4 * inside["window"]["left"])
        assert step["window"]["bottom"] == pytest.approx(4 * inside["window"]["bottom"])
        middle = (step["window"]["left"] + step["window"]["right"]) / 2
        assert step["x"] + 0.5 == pytest.approx(middle)


def test_gif_png_and_npz(client: httpx.Client) -> None:
    data = encode(scene())
    gif = send(client, data, "image/gif")
    assert gif.headers["content-type"] == "image/gif"
    with Image.open(BytesIO(gif.content)) as animation:
        assert animation.format == "GIF"
        assert getattr(animation, "n_frames", 1) == CONFIG.model.steps + 1
    png = send(client, data, "image/png")
    assert png.headers["content-type"] == "image/png"
    with Image.open(BytesIO(png.content)) as strip:
        assert strip.width > 3 * strip.height / 2
    npz = send(client, data, "application/x-npz")
    with np.load(BytesIO(npz.content), allow_pickle=False) as arrays:
        assert arrays["frames"].shape == (4, 16, 16, 1)
        assert arrays["window"].shape == (3, 4)
        assert arrays["patch_written"].shape == (3, 8, 8, 1)
        assert list(arrays["model"]) == ["digits", "1", "run-job_000000000001"]
    assert problem(send(client, data, "text/html"), 406)


def test_base64_in_json_gives_the_same(client: httpx.Client) -> None:
    data = encode(scene())
    text = base64.b64encode(data).decode()
    expected = send(client, data).json()
    assert client.post("/reconstruct", json={"image": text}).json() == expected
    assert client.post("/reconstruct", json={"image": f"data:image/png;base64,{text}"}).json() == expected


def test_a_version_or_a_job_can_be_asked_for(client: httpx.Client) -> None:
    data = encode(scene())
    assert send(client, data, model="2").json()["model"]["version"] == "2"
    assert send(client, data, model="job_000000000002").json()["model"]["version"] == "2"
    assert send(client, data, model="champion").json()["model"]["version"] == "1"
    assert client.get("/models").json()["loaded"][0]["version"] == "2"
    for unknown in ("77", "latest", "digits/77", "other@champion"):
        problem(send(client, data, model=unknown), 404)
    problem(send(client, data, model="job_0000000000ff"), 404)
    for nonsense in ("", "../1", "a b", "x'", "digits/x", "digits@other", "1" * 150, "\x00"):
        assert problem(send(client, data, model=nonsense), 422)["errors"][0]["parameter"] == "model"


def rainbow() -> Image.Image:
    ramp = np.linspace(0, 255, 30 * 40 * 4).reshape(30, 40, 4).astype(np.uint8)
    return Image.fromarray(ramp)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16"])
def test_every_mode_of_png(client: httpx.Client, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.linspace(0, 65535, 1200).reshape(30, 40).astype(np.uint16))
    elif mode == "PA":
        image = rainbow().quantize(16)
        image.info["transparency"] = 3
    else:
        image = rainbow().convert("L").convert(mode) if mode == "1" else rainbow().convert(mode)
    assert send(client, encode(image)).status_code == 200


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        ("WEBP", "RGBA"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("TIFF", "F"),
        ("TIFF", "RGBA"),
        ("PPM", "RGB"),
    ],
)
def test_other_formats(client: httpx.Client, kind: str, mode: str) -> None:
    colour = rainbow().convert("RGB")
    image = colour.convert("L").convert("F") if mode == "F" else colour.convert(mode)
    assert send(client, encode(image, kind)).status_code == 200


def test_a_mode_that_only_goes_through_rgb(client: httpx.Client) -> None:
    assert send(client, encode(Image.new("LAB", (40, 30)), "TIFF")).status_code == 200


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (7, 3), (1600, 1200)])
def test_any_size(client: httpx.Client, size: tuple[int, int]) -> None:
    assert send(client, encode(Image.new("L", size, 128))).status_code == 200


def test_exif_rotation_counts(client: httpx.Client) -> None:
    picture = scene(96, 64)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    turned = encode(picture.transpose(Image.Transpose.ROTATE_90), exif=exif)
    found, expected = send(client, turned).json(), send(client, encode(picture)).json()
    assert found["input"] == expected["input"]
    assert found["steps"] == expected["steps"]


# --- warnings


def warnings_of(client: httpx.Client, image: Image.Image, **query: str) -> tuple[dict[str, Any], str]:
    """The answer in JSON, and all its warnings in one text; those of the header are the same."""
    answer = send(client, encode(image), **query)
    assert answer.status_code == 200, answer.text
    found = dict(answer.json())
    assert json.loads(answer.headers.get("seqae-warnings", "[]")) == found["warnings"]
    return found, "; ".join(found["warnings"])


def test_how_much_was_explained(client: httpx.Client) -> None:
    """F10: 200 with rubbish, and no word of it."""
    found, text = warnings_of(client, scene(16, 16))
    empty = np.square(np.asarray(opened(found["input"])) / 255).mean()
    assert found["explained"] == pytest.approx(1 - found["error"][-1] / empty)
    assert found["explained"] < 0.5, "the model was never trained"
    assert "of the picture was explained" in text
    found, text = warnings_of(client, Image.new("L", (16, 16)))
    assert found["explained"] is None
    assert "black" in text


def test_what_was_cropped(client: httpx.Client) -> None:
    """F10: a strip of 256 x 64 loses three quarters."""
    assert "75% of the 256 x 64 picture was cropped off left and right" in warnings_of(client, scene(256, 64))[1]
    assert "75% of the 64 x 256 picture was cropped off top and bottom" in warnings_of(client, scene(64, 256))[1]
    assert "cropped" not in warnings_of(client, scene(64, 62))[1]
    assert "enlarged from 3 x 3" in warnings_of(client, scene(3, 3))[1]


def test_black_on_white_can_be_inverted(client: httpx.Client) -> None:
    """F10: the model knows bright digits on black only."""
    plain, _ = warnings_of(client, scene(16, 16))
    negative = ImageOps.invert(scene(16, 16))
    found, text = warnings_of(client, negative)
    assert "the background is bright" in text
    assert "invert=auto" in text
    assert not found["inverted"]
    for invert in ("true", "auto"):
        found, text = warnings_of(client, negative, invert=invert)
        assert found["inverted"]
        assert (found["input"], found["steps"]) == (plain["input"], plain["steps"])
        assert "bright" not in text
    found, _ = warnings_of(client, scene(16, 16), invert="auto")
    assert not found["inverted"]
    assert problem(send(client, encode(negative), invert="perhaps"), 422)["errors"][0]["parameter"] == "invert"


def test_pictures_carry_their_warnings_in_a_header(client: httpx.Client) -> None:
    """F10: an animation has no field for them."""
    for kind in ("image/gif", "image/png", "application/x-npz"):
        answer = send(client, encode(scene(256, 64)), kind)
        assert "cropped off" in answer.headers["seqae-warnings"]


# --- bad input


def test_damaged_bytes_never_crash(client: httpx.Client) -> None:
    generator = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [("PNG", {}), ("JPEG", {"exif": exif}), ("GIF", {}), ("TIFF", {}), ("BMP", {}), ("WEBP", {"exif": exif})]
    for kind, options in kinds:
        whole = np.frombuffer(encode(rainbow().convert("RGB"), kind, **options), dtype=np.uint8)
        for _ in range(15):
            damaged = whole.copy()
            damaged[generator.integers(0, len(whole), 8)] = generator.integers(0, 256, 8)
            assert send(client, damaged.tobytes()).status_code in (200, 422)


# --- without a model, and with too much to do


def test_no_model_yet_says_how_to_get_one(bare: httpx.Client) -> None:
    answer = send(bare, encode(scene()))
    assert "POST a job to /jobs" in problem(answer, 503)["detail"]
    assert "retry-after" in answer.headers
    assert bare.get("/models").json()["champion"] is None


def test_a_bad_picture_is_the_clients_fault_with_or_without_a_model(bare: httpx.Client) -> None:
    problem(send(bare, b"no image"), 422)


def test_ready_without_a_model(bare: httpx.Client) -> None:
    ready = bare.get("/readyz")
    assert ready.status_code == 200, ready.text
    assert ready.json()["parts"]["model"]["ok"] is False


class SlowModel:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.config = CONFIG
        self.may_run = threading.Event()
        self.running = threading.Event()

    def reconstruct_arrays(
        self, inputs: np.ndarray, sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Reconstruction]:
        if sizes is not None:  # the check before it is served has none
            self.running.set()
            assert self.may_run.wait(30)
        return [Reconstruction(image, image[None], (), (0.5,), image[:, :, 0]) for image in inputs]


@pytest.fixture
def slow() -> Iterator[SlowModel]:
    model = SlowModel()
    yield model
    model.may_run.set()


def test_while_the_model_is_busy_the_service_answers_and_refuses_too_much(
    make_app: MakeApp, serve: Serve, tracking: FakeTracking, settings: Settings, slow: SlowModel
) -> None:
    register(tracking, "job_000000000001", Path("anywhere"), 0.1)
    limits = settings.model_copy(update={"inference_queue": 2})
    inference = ModelPool(tracking, limits, lambda _: slow)
    app = make_app(inference, inference_queue=2)
    client = serve(app)
    wait_until_served(inference, "1")
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(send(client, encode(scene())).status_code)

    senders = [threading.Thread(target=ask) for _ in range(2)]
    for sender in senders:
        sender.start()
    assert slow.running.wait(30)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        assert client.get("/healthz").status_code == 200
        times.append(time.perf_counter() - began)
    assert sorted(times)[10] < 0.5
    while app.state.context.reconstructing < 2:
        assert client.get("/healthz").status_code == 200
    refused = send(client, encode(scene()))
    assert "wait for the model" in problem(refused, 503)["detail"]
    assert "retry-after" in refused.headers
    slow.may_run.set()
    for sender in senders:
        sender.join(30)
    assert statuses == [200, 200]


def test_a_model_that_hangs_is_given_up(
    make_app: MakeApp, serve: Serve, tracking: FakeTracking, settings: Settings, slow: SlowModel
) -> None:
    register(tracking, "job_000000000001", Path("anywhere"), 0.1)
    inference = ModelPool(tracking, settings, lambda _: slow)
    client = serve(make_app(inference, inference_timeout=0.2))
    wait_until_served(inference, "1")
    assert "in time" in problem(send(client, encode(scene())), 503)["detail"]
    slow.may_run.set()


def test_rollback_over_http(
    make_app: MakeApp, serve: Serve, tracking: FakeTracking, settings: Settings, slow: SlowModel
) -> None:
    slow.may_run.set()
    inference = ModelPool(tracking, settings, lambda _: slow)
    client = serve(make_app(inference))
    problem(client.post("/models:rollback"), 409)
    register(tracking, "job_000000000001", Path("anywhere"), 0.2)
    wait_until_served(inference, "1")
    register(tracking, "job_000000000002", Path("anywhere"), 0.1)
    wait_until_served(inference, "2")
    assert client.post("/models:rollback").json()["champion"]["version"] == "1"
    assert json.loads(send(client, encode(scene())).content)["model"]["version"] == "1"


def test_models_say_who_is_the_champion_and_why(client: httpx.Client) -> None:
    """F1: nothing is served, or not, without a word on why."""
    [model] = client.get("/models").json()["models"]
    assert (model["name"], model["champion"], model["challenger"], model["previous"]) == ("digits", "1", "2", None)
    second, first = model["versions"]
    assert (first["aliases"], second["aliases"]) == (["champion"], ["challenger"])
    assert "first version" in first["promotion"]["reason"]
    assert (second["promotion"]["promoted"], second["promotion"]["against"]) == (False, "digits/1")
    assert "not better than digits/1" in second["promotion"]["reason"]
    assert client.get("/models/digits").json() == model
    problem(client.get("/models/other"), 404)


def test_a_person_may_promote_and_roll_back(client: httpx.Client, store: Store) -> None:
    data, who = encode(scene()), {"Seqae-Owner": "ann"}
    promoted = client.post("/models/digits/versions/2:promote", json={"why": "sharper"}, headers=who).json()
    assert (promoted["champion"], promoted["previous"], promoted["challenger"]) == ("2", "1", None)
    newest = promoted["history"][0]
    assert (newest["version"], newest["who"], newest["why"]) == ("2", "ann", "sharper")
    assert send(client, data).json()["model"]["version"] == "2", "this process serves it at once"
    assert client.post("/models/digits:rollback").json()["champion"] == "1"
    assert send(client, data, model="digits").json()["model"]["version"] == "1"
    events = [(event.job_id, event.data) for event in store.events() if event.type == EventType.PROMOTION]
    assert [job_id for job_id, _ in events] == ["job_000000000002", "job_000000000001"]
    assert (events[0][1]["who"], events[0][1]["reason"], events[0][1]["version"]) == ("ann", "sharper", "2")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/models/digits/versions/7:promote", None, 404),
        ("/models/other/versions/1:promote", None, 404),
        ("/models/digits/versions/x:promote", None, 422),
        ("/models/digits/versions/1:promote", {"why": "x" * 501}, 422),
        ("/models/digits/versions/1:promote", {"because": "x"}, 422),
        ("/models/other:rollback", None, 409),
        ("/models/digits:rollback", None, 409),
    ],
)
def test_what_can_not_be_moved_is_a_problem(
    client: httpx.Client, path: str, body: dict[str, str] | None, status: int
) -> None:
    problem(client.post(path, json=body), status)


def test_a_registry_that_hangs_holds_up_nobody_else(
    make_app: MakeApp, serve: Serve, tracking: FakeTracking, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A6: 45 requests for a model that MLflow does not find in time, and `GET /jobs` is answered all the same."""
    goes_on = threading.Event()

    def hang(selector: str) -> ModelVersion:
        assert goes_on.wait(60)
        raise TrackingUnavailable(f"no answer on {selector}")

    monkeypatch.setattr(tracking, "resolve", hang)
    client = serve(make_app(ModelPool(tracking, settings), lookup_timeout=1.0))
    statuses: list[int] = []

    def ask() -> None:
        with httpx.Client(base_url=client.base_url, timeout=60, trust_env=False) as own:
            statuses.append(send(own, encode(scene()), model="999999").status_code)

    threads = [threading.Thread(target=ask) for _ in range(45)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    assert client.get("/jobs").status_code == 200
    assert time.monotonic() - began < 5
    for thread in threads:
        thread.join(60)
    goes_on.set()
    assert statuses == [503] * 45
