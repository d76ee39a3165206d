from pathlib import Path

import numpy as np
import pytest

from jobs.directory.layout import AttemptFolder
from jobs.training.data_record import write_data_record
from seqae.config import DataConfig, ImagesConfig, MnistScenesConfig, SpritesConfig
from seqae.data.cache import Dataset
from seqae.data.scenes import Scenes


@pytest.mark.parametrize(
    ("config", "name", "location"),
    [
        (MnistScenesConfig(digits="mnist"), "mnist_scenes", "mnist_scenes of mnist digits"),
        (SpritesConfig(), "sprites", "sprites"),
        (ImagesConfig(path="coco/train2017"), "train2017", "coco/train2017"),
        (ImagesConfig(path="/"), "images", "/"),
    ],
)
def test_each_kind_of_data_has_a_name_and_a_location(
    config: DataConfig, name: str, location: str, tmp_path: Path
) -> None:
    scenes = Scenes(images=np.zeros((2, 1, 8, 8), np.uint8))
    attempt = AttemptFolder(tmp_path, 1)
    write_data_record(attempt, Dataset(scenes, scenes, scenes, "a source", "sum", "test sum"), config)
    record = attempt.read_data()
    assert record is not None
    assert (record.name, record.location, record.source, record.train) == (name, location, "a source", 2)
