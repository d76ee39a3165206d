"""Record of the data set that an attempt works on: data.json, and a note for the job's events."""

from pathlib import PurePosixPath

from jobs.directory.layout import AttemptFolder
from jobs.directory.records import DatasetRecord, NoteKind
from seqae.config import DataConfig, ImagesConfig, MnistScenesConfig
from seqae.data.cache import Dataset

__all__ = ["write_data_record"]


def write_data_record(attempt: AttemptFolder, data: Dataset, config: DataConfig) -> None:
    """Writes which data an attempt works on.

    Args:
        attempt: its folder.
        data: what was loaded.
        config: what it was loaded by.
    """
    name = location = str(config.kind)
    match config:
        case ImagesConfig(path=path):
            name, location = PurePosixPath(path).name, path
        case MnistScenesConfig(digits=digits):
            location = f"{config.kind} of {digits} digits"
    attempt.write_data(
        DatasetRecord(
            name=name or config.kind,
            source=data.source,
            location=location,
            checksum=data.checksum,
            test_checksum=data.test_checksum,
            train=len(data.train.images),
            val=len(data.val.images),
            test=len(data.test.images),
        )
    )
    attempt.add_note(NoteKind.DATA, data.source)
