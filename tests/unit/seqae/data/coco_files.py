"""Small COCO files."""

import json
from pathlib import Path
from typing import Any

__all__ = ["box", "instances"]


def instances(path: Path, annotations: list[dict[str, Any]]) -> Path:
    """A COCO JSON about one image, `a.png` of 80 x 60."""
    images = [{"id": 7, "file_name": "a.png", "width": 80, "height": 60}]
    full = [{"id": at, "image_id": 7, "iscrowd": 0, **entry} for at, entry in enumerate(annotations)]
    path.write_text(json.dumps({"images": images, "annotations": full}))
    return path


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]
