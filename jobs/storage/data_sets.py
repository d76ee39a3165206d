"""Built data sets in an object storage: uploaded by the machine that built them, fetched once by each of the others."""

import logging
import os
import shutil
from pathlib import Path

from jobs.errors import StorageRefused, StorageUnavailable
from jobs.storage.job_objects import DATA_PREFIX
from jobs.storage.locations import STORAGE_VARIABLE, open_storage
from jobs.storage.objects import ObjectStore, is_safe_key
from seqae.config import DataConfig, ModelConfig
from seqae.data import cache
from seqae.data.cache import Dataset, Report

__all__ = ["StoredDataSets", "load_data"]

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"


class StoredDataSets:
    """Data sets in a storage, by the names of their folders, which are functions of what decides their bytes.

    What goes wrong is logged, and the data set is built here: that takes longer, and is all.

    Args:
        store: the storage.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def fetch(self, folder: Path) -> None:
        """Copies a data set into its folder, where the storage has it. The caller checks its checksums.

        Args:
            folder: the data set's, whose last part is its name; what is there is replaced.
        """
        draft = folder.with_name(f"{folder.name}.building-download")
        try:
            prefix = f"{DATA_PREFIX}/{folder.name}"
            names = [info.key.removeprefix(f"{prefix}/") for info in self._store.list(prefix)]
            if _MANIFEST not in names:
                return
            shutil.rmtree(draft, ignore_errors=True)
            for name in names:
                self._store.download(f"{prefix}/{name}", draft / name)
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
            logger.info("fetched data set %s", folder.name)
        except (StorageUnavailable, StorageRefused, OSError) as error:
            logger.warning("data set %s is built here: %s", folder.name, error)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def store(self, folder: Path) -> None:
        """Uploads a data set, the manifest last; two machines that built it upload the same bytes.

        Args:
            folder: the data set's; it does not change any more.
        """
        names = sorted(path.name for path in folder.iterdir() if path.is_file() and is_safe_key(path.name))
        try:
            for name in sorted(names, key=lambda name: name == _MANIFEST):
                self._store.put(f"{DATA_PREFIX}/{folder.name}/{name}", folder / name)
        except (StorageUnavailable, StorageRefused, OSError) as error:
            logger.warning(
                "data set %s is not in the storage: other machines build it themselves: %s", folder.name, error
            )


def load_data(
    data: DataConfig,
    model: ModelConfig,
    cache_dir: Path,
    data_dir: Path | None = None,
    progress: Report | None = None,
) -> Dataset:
    """As `seqae.data.cache.load_data`, with the data sets of the storage that this process's environment names.

    Args:
        data: which images.
        model: gives height, width and channels.
        cache_dir: folder for caches, of this machine.
        data_dir: where MNIST and image folders are looked for.
        progress: called while building, with (split, done, all).

    Raises:
        DataError: as there.
        StorageRefused: the address of the storage can't be understood.
    """
    url = os.environ.get(STORAGE_VARIABLE)
    shared = StoredDataSets(open_storage(url)) if url else None
    return cache.load_data(data, model, cache_dir, data_dir, progress, shared)
