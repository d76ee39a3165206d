"""Progress report of a training run."""

from dataclasses import dataclass

__all__ = ["Progress", "WorkerLoad"]


@dataclass(frozen=True)
class WorkerLoad:
    """What the batches since the report before cost one worker."""

    images: int
    """Its share of a batch; a worker that has none computes one image, which does not count."""
    seconds: float
    """For that share, the waiting for other workers not counted; on the average."""
    pieces: int
    """In so many pieces its memory takes that share."""


@dataclass(frozen=True)
class Progress:
    """Progress report of a run."""

    iteration: int
    """Optimizer steps done."""
    iterations: int
    """Optimizer steps in all."""
    epoch: float
    """Passes over the training images done."""
    epochs: float
    loss: float
    """Mean of Eq. 15 since the report before, over the images of all workers, as the others are."""
    region: float
    mseot: float
    mse: float
    """Of the last canvas on the training images (Eq. 13), mean since the report before."""
    separation: float
    """Of pasted images (`seqae.copy_paste`), mean since the report before; 0 where there are none."""
    location: float
    """Likewise."""
    presence: float
    """Writes per training image that do something, mean since the report before."""
    learning_rate: float
    gradient_norm: float
    """Of the newest step, before clipping."""
    images_per_second: float
    """Over all workers, since the report before; evaluations and what the reader of reports does not counted."""
    eta_seconds: float
    checkpoint_due: bool
    """The schedule asks for a checkpoint now."""
    stopping: bool
    """A worker was told to stop; the run ends with this report, which does not end the mean of the losses."""
    workers: tuple[WorkerLoad, ...]
    """By rank."""
