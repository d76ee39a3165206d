"""Pool of loaded models: follows the registry's champion, and keeps a few others that were asked for.

The only module of the service that loads torch, and not before it must.
"""

import logging
import math
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jobs.errors import NoModel
from jobs.interfaces import ModelVersion, Tracking
from jobs.periodic_thread import PeriodicThread
from seqae.checkpoints.manifest import verify
from seqae.errors import CheckpointError, Error
from service.errors import ConflictError, ModelLoadingError, ModelNotFoundError
from service.inference.batcher import Batcher, Model
from service.settings import Settings

__all__ = ["CHAMPION", "LoadedModel", "ModelPool", "load_checkpoint"]

_log = logging.getLogger(__name__)

CHAMPION = "champion"
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


class ModelPool:
    """Keeps the champion of the registry loaded, and a few others that were asked for.

    A thread asks the registry every few seconds. A new champion is loaded and checked beside the old one, then put in
    its place in one step; when it is damaged, the old one stays. Another thread runs the models (see `batcher`).

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
        self._rejected: tuple[str, str] | None = None
        """Name and version of a champion that a rollback, or its own damage, keeps from being served."""
        self._pinned = False
        self._detail = "the registry has not been asked yet"
        self._others: tuple[LoadedModel, ...] = ()
        """The one used last is last. Replaced as a whole, so that it may be read at any time."""
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
        """The champion before, which a rollback goes back to."""
        return self._previous

    @property
    def pinned(self) -> bool:
        """Whether a rollback keeps the registry's champion from being served."""
        return self._pinned

    @property
    def detail(self) -> str:
        """How the newest request to the registry went, in words."""
        return self._detail

    @property
    def others(self) -> tuple[LoadedModel, ...]:
        """Loaded models besides the champion, which were asked for lately."""
        return self._others

    def find(self, selector: str) -> LoadedModel:
        """The model for a selector. Blocks while one is loaded.

        Args:
            selector: "champion", a version number or a job's id.

        Raises:
            NoModel: there is no champion yet.
            ModelLoadingError: there is one, but it is not loaded yet.
            ModelNotFoundError: no registered model has this version or comes from this job.
            CheckpointError: its files are damaged.
            TrackingUnavailable: the registry does not answer.
        """
        if selector == CHAMPION:
            return self._find_champion()
        champion = self._champion
        if champion is not None and selector in (champion.version.version, champion.version.job_id):
            return champion
        # One at a time: two requests for the same version load it once.
        with self._loading:
            return self._find_other(selector)

    def rollback(self) -> None:
        """Serves the champion before again, until the registry has yet another one.

        Raises:
            ConflictError: no earlier champion is loaded.
        """
        with self._changed:
            if self._champion is None or self._previous is None:
                raise ConflictError("no earlier champion is loaded to go back to")
            self._rejected = _key(self._champion.version)
            self._champion, self._previous = self._previous, self._champion
            self._pinned = True

    def wait_for_round(self, timeout: float) -> bool:
        """Waits until the registry has been asked once more from now on; whether that came in time."""
        with self._changed:
            seen = self._rounds
            return self._changed.wait_for(lambda: self._rounds > seen, timeout)

    def _find_champion(self) -> LoadedModel:
        if self._champion is not None:
            return self._champion
        try:
            found = self._tracking.resolve(CHAMPION)
        except NoModel as error:
            raise NoModel(f"there is no model yet; {_HOW_TO_GET_ONE}") from error
        if _key(found) == self._rejected:
            raise NoModel(f"the only champion can't be served ({self._detail}); {_HOW_TO_GET_ONE}")
        raise ModelLoadingError(f"version {found.version} of {found.name} is being loaded")

    def _find_other(self, selector: str) -> LoadedModel:
        known = {name: loaded for loaded in self._others for name in (loaded.version.version, loaded.version.job_id)}
        loaded = known.get(selector)
        if loaded is None:
            try:
                version = self._tracking.resolve(selector)
            except NoModel as error:
                raise ModelNotFoundError(str(error)) from error
            loaded = self._load_checked(version)
        rest = tuple(other for other in self._others if other is not loaded)
        self._others = (*rest, loaded)[-self._settings.inference_models :]
        return loaded

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
        except NoModel:
            return f"no model yet: {_HOW_TO_GET_ONE}" if self._champion is None else "the registry has no champion"
        current = self._champion
        if current is not None and _key(found) == _key(current.version):
            self._rejected, self._pinned = None, False
            return f"version {found.version} of {found.name}"
        if _key(found) == self._rejected:
            return self._detail if not self._pinned else f"version {found.version} is passed over after a rollback"
        try:
            loaded = self._load_checked(found)
        except CheckpointError:
            # Its files won't change: trying again every few seconds would only fill the log.
            self._rejected = _key(found)
            raise
        with self._changed:
            self._previous, self._champion = self._champion, loaded
            self._rejected, self._pinned = None, False
        _log.info("champion: now version %s of %s", found.version, found.name)
        return f"version {found.version} of {found.name}"

    def _limit_threads(self) -> None:
        # A fake model needs no torch, and torch takes seconds to import.
        if "torch" in sys.modules:
            import torch

            torch.set_num_threads(self._settings.inference_threads)

    def _load_checked(self, version: ModelVersion) -> LoadedModel:
        model = self._load(version.path)
        _check(model, version)
        return LoadedModel(version, model)


def _key(version: ModelVersion) -> tuple[str, str]:
    return version.name, version.version


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
