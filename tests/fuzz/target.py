"""The server that is fuzzed: the real app and HTTP server on a fake cluster and registry, with a real, tiny model.

Run as a process of its own: `python -m tests.fuzz.target HOME PORT`.
"""

import logging
import sys
from pathlib import Path

import torch
from starlette.applications import Starlette

import service.__main__ as entry
from jobs.backends.fakes import FakeLauncher, FakeTracking
from seqae.checkpoints import checkpoint
from seqae.config import TrainConfig
from seqae.model import SequentialAutoEncoder
from service.app import create_app
from service.db.store import Store
from service.settings import Settings
from tests.reports import make_report
from tests.untrained import with_random_writes

__all__ = ["build"]

_CONFIG = TrainConfig.model_validate(
    {
        "model": {"height": 16, "width": 16, "steps": 3, "attention": {"kernel_size": 8}, "coder": {"bottleneck": 4}},
        "data": {"min_scale": 0.5, "max_scale": 0.5},
    }
)


def build(settings: Settings) -> Starlette:
    """The app on fakes; two versions of a model are registered."""
    for folder in (settings.jobs_dir, settings.home / "control"):
        folder.mkdir(parents=True, exist_ok=True)
    store = Store(settings.database)
    store.migrate()
    tracking = FakeTracking()
    for number, mse in ((1, 0.2), (2, 0.1)):
        job_id = f"job_{number:012}"
        run, report = tracking.create_run(job_id, "digits", "train", {}), make_report(mse)
        tracking.register(job_id, run.run_id, "digits", _model(settings.home / str(number)), {}, report)
    return create_app(settings, FakeLauncher(), store, tracking)


def _model(path: Path) -> Path:
    torch.manual_seed(0)
    model = with_random_writes(SequentialAutoEncoder(_CONFIG.model))
    checkpoint.save(path, model, _CONFIG, iteration=1, metrics={})
    return path


def main() -> None:
    """Serves until SIGTERM."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    home, port = Path(sys.argv[1]), int(sys.argv[2])
    entry.build = build
    entry.run(Settings(home=home, port=port, champion_poll=1.0, reconcile_every=0.5))


if __name__ == "__main__":
    main()
