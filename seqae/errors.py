"""Exceptions of the library, one tree. `service.errors` maps each class to an HTTP status once; nothing else does."""


class Error(Exception):
    """Root of every error that seqae raises on purpose. Its text is fit to show to a user."""


class DataError(Error):
    """A data source is missing, damaged or empty. The text names the file or folder."""


class FigureError(DataError):
    """A figure can't be made from this model or this record of training: it lacks what the figure shows."""


class SamplingError(DataError):
    """Scenes can't be sampled from this model: its code has no distribution, or it writes nothing on these images."""


class ImageError(Error):
    """An image given for reconstruction can't be used: not an image, truncated, or too large."""


class CheckpointError(Error):
    """A checkpoint can't be used: a file is missing or truncated, a hash is wrong, the format is of another version."""


class NewerCheckpointError(CheckpointError):
    """A newer release wrote the checkpoint: it is not damaged, and that release can use it."""


class DivergedError(Error):
    """Training produced a loss that is not finite. The text names the iteration."""
