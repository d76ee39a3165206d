"""Pool of loaded models: follows the registry's champion, and keeps a few others that were asked for.

The only module of the service that loads torch, and not before it must.
"""

import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from jobs.errors import NoModel
from jobs.interfaces import CHAMPION, ModelKey, ModelVersion, Tracking
from jobs.periodic_thread import PeriodicThread
from seqae.checkpoints.manifest import verify
from seqae.errors import CheckpointError, Error
from service.errors import ModelLoadingError, ModelNotFoundError, OverloadedError
from service.inference.batcher import Batcher, Model
from service.settings import Settings

__all__ = ["LoadedModel", "ModelPool", "load_checkpoint"]

_log = logging.getLogger(__name__)

_MOST_ANSWERS = 1000
_HOW_TO_GET_ONE = "train one: POST a job to /jobs (`seqae submit`, or `seqae demo`); its model is served when it ends"


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory that has passed its check, and its version in the registry."""

    version: ModelVersion
    model: Model


def load_checkpoint(path: Path) -> Model:
    """Verifies a checkpoint folder and loads it onto the CPU.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    from seqae.reconstructor import Reconstructor

    verify(path)
    return Reconstructor.from_checkpoint(path)


@dataclass(frozen=True)
class _Answer:
    """What the registry said of a selector."""

    expires: float
    """By the monotonic clock."""
    key: ModelKey | None
    problem: str
    """Why there is no model."""


class ModelPool:
    """Keeps the champion of the default model loaded, and a few other models that were asked for.

    A thread asks the registry every few seconds. A new champion is loaded and checked beside the old one, then put in
    its place in one step; when it is damaged or gone, the old one stays. Another thread runs the models (see
    `batcher`). What the registry has said of another selector is believed for as long, so that a move of an alias is
    seen by all replicas within that time, and a selector that nothing answers to is not asked for again at once.

    Args:
        tracking: the registry.
        settings: batch size, queue length and so on.
        load: from a checkpoint folder to a model; the tests give another.
    """

    def __init__(self, tracking: Tracking, settings: Settings, load: Callable[[Path], Model] = load_checkpoint) -> None:
        self.batcher = Batcher(settings.inference_batch, settings.inference_linger, self._limit_threads)
        self._tracking = tracking
        self._settings = settings
        self._load = load
        self._champion: LoadedModel | None = None
        self._previous: LoadedModel | None = None
        self._rejected: ModelKey | None = None
        """A champion that can't be served: trying again every few seconds would only fill the log."""
        self._detail = "the registry has not been asked yet"
        self._others: tuple[LoadedModel, ...] = ()
        """The one used last is last. Replaced as a whole, so that it may be read at any time."""
        self._answers: dict[str, _Answer] = {}
        """What the registry said lately, by selector."""
        self._loading = threading.Lock()
        self._changed = threading.Condition()
        self._rounds = 0
        self._watcher = PeriodicThread("champion", settings.champion_poll, self._watch)

    def start(self) -> None:
        """Starts both threads."""
        self.batcher.start()
        self._watcher.start()

    def stop(self) -> None:
        """Ends both threads; what waits for an answer gets it first."""
        # The watcher may be in the middle of a download; it is a daemon and holds nothing that needs an end.
        self._watcher.stop(timeout=1.0)
        self.batcher.stop()

    # --- what is served

    @property
    def champion(self) -> LoadedModel | None:
        """The model that is served unless another one is asked for; None before the first is loaded."""
        return self._champion

    @property
    def previous(self) -> LoadedModel | None:
        """The champion that was served before."""
        return self._previous

    @property
    def detail(self) -> str:
        """How the newest look at the registry went, in words."""
        return self._detail

    @property
    def others(self) -> tuple[LoadedModel, ...]:
        """Those besides the champion that were asked for lately."""
        return self._others

    def find_loaded(self, selector: str) -> LoadedModel | None:
        """The model for a selector, if it is loaded and known to be the right one; asks nobody, never blocks.

        Raises:
            ModelNotFoundError: the registry has said so a moment ago.
        """
        if selector == CHAMPION:
            return self._champion
        answer = self._answers.get(selector)
        if answer is None or answer.expires <= time.monotonic():
            return None
        if answer.key is None:
            raise ModelNotFoundError(answer.problem)
        loaded = self._with_key(answer.key)
        if loaded is not None:
            self._keep(loaded)
        return loaded

    def find(self, selector: str) -> LoadedModel:
        """The model for a selector; see `Tracking.resolve` for what they are. Blocks while one is looked up or loaded.

        Raises:
            NoModel: there is no champion yet.
            ModelLoadingError: there is one, but it is not loaded yet.
            ModelNotFoundError: no registered model answers to the selector, or its files are gone or damaged.
            OverloadedError: others are being looked up, and the registry takes its time.
            TrackingUnavailable: the registry does not answer.
        """
        loaded = self.find_loaded(selector)
        if loaded is not None:
            return loaded
        if selector == CHAMPION:
            self._explain_missing_champion()
        # One at a time: two requests for the same version load it once.
        if not self._loading.acquire(timeout=self._settings.lookup_timeout):
            raise OverloadedError("models are being looked up, and the registry takes its time")
        try:
            return self.find_loaded(selector) or self._look_up(selector)
        finally:
            self._loading.release()

    def refresh(self) -> None:
        """Asks the registry now: after its aliases were moved from here."""
        self._answers = {}
        self._watch()

    def wait_for_round(self, timeout: float) -> bool:
        """Waits until the registry has been asked once more from now on; whether that came in time."""
        with self._changed:
            seen = self._rounds
            return self._changed.wait_for(lambda: self._rounds > seen, timeout)

    def _explain_missing_champion(self) -> NoReturn:
        try:
            found = self._tracking.resolve(CHAMPION)
        except NoModel as error:
            raise NoModel(f"there is no model yet; {_HOW_TO_GET_ONE}") from error
        if found.key == self._rejected:
            raise NoModel(f"the only champion can't be served ({self._detail}); {_HOW_TO_GET_ONE}")
        raise ModelLoadingError(f"version {found.version} of {found.name} is being loaded")

    def _look_up(self, selector: str) -> LoadedModel:
        try:
            version = self._tracking.resolve(selector)
            loaded = self._with_key(version.key) or self._load_checked(version)
        except (NoModel, CheckpointError) as error:
            self._remember(selector, None, str(error))
            raise ModelNotFoundError(str(error)) from error
        self._remember(selector, version.key)
        self._keep(loaded)
        return loaded

    def _with_key(self, key: ModelKey) -> LoadedModel | None:
        champion = self._champion
        known = (*self._others, champion) if champion is not None else self._others
        return next((loaded for loaded in known if loaded.version.key == key), None)

    def _keep(self, loaded: LoadedModel) -> None:
        """Makes a model the one that was used last."""
        if loaded is self._champion:
            return
        rest = tuple(other for other in self._others if other is not loaded)
        self._others = (*rest, loaded)[-self._settings.inference_models :]

    def _remember(self, selector: str, key: ModelKey | None, problem: str = "") -> None:
        now = time.monotonic()
        fresh = {name: answer for name, answer in self._answers.items() if answer.expires > now}
        if len(fresh) >= _MOST_ANSWERS:
            fresh = {}
        self._answers = fresh | {selector: _Answer(now + self._settings.champion_poll, key, problem)}

    # --- the watcher

    def _watch(self) -> None:
        """One round: asks the registry, and tells how it went to whoever waits for it."""
        try:
            self._detail = self._follow_champion()
        except Error as error:
            # The registry or the checkpoint; both are reported by /readyz and tried again next time.
            if self._detail != str(error):
                _log.warning("champion: %s", error)
            self._detail = str(error)
        except Exception as error:
            # Whatever a library raises.
            self._detail = f"{type(error).__name__}: see the log"
            raise
        finally:
            with self._changed:
                self._rounds += 1
                self._changed.notify_all()

    def _follow_champion(self) -> str:
        """Asks the registry once for its champion and loads a new one; says in words how it went."""
        try:
            found = self._tracking.resolve(CHAMPION)
        except NoModel as error:
            if self._champion is None:
                return f"no model yet: {_HOW_TO_GET_ONE} ({error})"
            served = self._champion.version.key.label
            return f"the registry has no champion that can be served ({error}); {served} is served on"
        current, name = self._champion, found.key.label
        if current is not None and found.key == current.version.key:
            self._rejected = None
            return f"version {found.version} of {found.name}"
        if found.key == self._rejected:
            return self._detail
        try:
            loaded = self._with_key(found.key) or self._load_checked(found)
        except CheckpointError:
            self._rejected = found.key
            raise
        with self._changed:
            self._previous, self._champion, self._rejected = current, loaded, None
            if current is not None:
                self._keep(current)
        _log.info("champion: now %s", name)
        return f"version {found.version} of {found.name}"

    def _limit_threads(self) -> None:
        # A fake model needs no torch, and torch takes seconds to import.
        if "torch" in sys.modules:
            from seqae.compute.cpu_threads import set_threads

            set_threads(self._settings.inference_threads)

    def _load_checked(self, version: ModelVersion) -> LoadedModel:
        model = self._load(version.path)
        _check(model, version)
        return LoadedModel(version, model)


def _check(model: Model, version: ModelVersion) -> None:
    """Runs a model once on a fixed picture.

    Raises:
        CheckpointError: what comes out can't be right.
    """
    shape = model.config.model.height, model.config.model.width, model.config.model.channels
    golden = np.random.default_rng(0).integers(0, 256, (1, *shape), dtype=np.uint8)
    found = model.reconstruct_arrays(golden)[0]
    steps = [value for step in found.steps for value in (step.x, step.y, step.stride, step.sigma, step.gamma)]
    what = f"version {version.version} of {version.name}"
    if found.frames.shape != (len(found.steps) + 1, *shape):
        raise CheckpointError(f"{what} makes frames of shape {found.frames.shape}")
    if not all(math.isfinite(value) for value in [*found.error, *steps]):
        raise CheckpointError(f"{what} makes numbers that are not finite")
