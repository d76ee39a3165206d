"""Micro-batching: one thread runs the models, and requests that wait at the same time share a batch. No torch here."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from seqae.config import TrainConfig
from seqae.reconstruction import Reconstruction

__all__ = ["Batcher", "Model"]

_log = logging.getLogger(__name__)


class Model(Protocol):
    """Interface of a model that is served: `seqae.reconstructor.Reconstructor`, or a fake."""

    @property
    def config(self) -> TrainConfig:
        """The configuration that it was trained with, which gives the size of its images."""

    def reconstruct_arrays(
        self, inputs: np.ndarray, sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Reconstruction]:
        """Reconstructs a batch.

        Args:
            inputs: uint8 [B, H, W, C] of the model's size.
            sizes: (width, height) of the picture behind each; that of the model's image when left out.
        """


@dataclass
class _Request:
    model: Model
    image: np.ndarray  # uint8 [H, W, C]
    size: tuple[int, int]
    answer: Future[Reconstruction] = field(default_factory=Future)


class Batcher:
    """Runs models in a thread of its own.

    Args:
        most: images in one batch.
        linger: seconds that a request waits for others to join it.
        prepare: called in the thread before the first batch.
    """

    def __init__(self, most: int, linger: float, prepare: Callable[[], None]) -> None:
        self._most = most
        self._linger = linger
        self._prepare = prepare
        self.on_batch: Callable[[int], object] = lambda _images: None
        """Called in the thread with the number of images that a model is about to get at once."""
        self._waiting: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Answers what waits, then ends the thread."""
        self._waiting.put(None)
        self._thread.join()

    def submit(self, model: Model, image: np.ndarray, size: tuple[int, int]) -> Future[Reconstruction]:
        """Queues an image; cancelling the future saves the work.

        Args:
            model: what is to run on it.
            image: uint8 [H, W, C] of the model's size.
            size: (width, height) of the picture behind it.

        Returns:
            The reconstruction, or whatever the model raised.
        """
        request = _Request(model, image, size)
        self._waiting.put(request)
        return request.answer

    def _work(self) -> None:
        prepared = False
        while (first := self._waiting.get()) is not None:
            if not prepared:
                self._prepare()
                prepared = True
            requests, ended = self._collect(first)
            for model in {id(request.model): request.model for request in requests}.values():
                _run(model, [request for request in requests if request.model is model], self.on_batch)
            if ended:
                return

    def _collect(self, first: _Request) -> tuple[list[_Request], bool]:
        """The requests of one batch, and whether the thread is to end after it."""
        requests = [first]
        deadline = time.monotonic() + self._linger
        while len(requests) < self._most:
            try:
                following = self._waiting.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if following is None:
                return requests, True
            requests.append(following)
        return requests, False


def _run(model: Model, requests: list[_Request], on_batch: Callable[[int], object]) -> None:
    live = [request for request in requests if request.answer.set_running_or_notify_cancel()]
    if not live:
        return
    on_batch(len(live))
    try:
        answers = model.reconstruct_arrays(
            np.stack([request.image for request in live]), [request.size for request in live]
        )
    except Exception as error:  # noqa: BLE001
        # The thread must outlive whatever a model does; each request gets the error, which its route answers with 500.
        _log.exception("the model failed on a batch of %d", len(live))
        for request in live:
            request.answer.set_exception(error)
        return
    for request, answer in zip(live, answers, strict=True):
        request.answer.set_result(answer)
