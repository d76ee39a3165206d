"""How each file of a job folder is kept in a storage."""

import pytest

from jobs.storage.job_objects import FileKind, Part, kind_of, parse_part, part_key


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("spec.json", FileKind.WHOLE),
        ("control.json", FileKind.CONTROL),
        ("claim.json", FileKind.CONTROL),
        ("shipped.lock", FileKind.LOCAL),
        ("optuna.journal", FileKind.APPENDED),
        ("attempts/1/metrics.jsonl", FileKind.APPENDED),
        ("trials/3/attempts/1/metrics.jsonl", FileKind.APPENDED),
        ("attempts/1/progress.json", FileKind.WHOLE),
        ("attempts/1/result.json", FileKind.RESULT),
        ("attempts/1/checkpoints/12/manifest.json", FileKind.CHECKPOINT),
        ("attempts/1/checkpoints/.12.77.tmp/manifest.json", FileKind.LOCAL),
        ("trials/3/seeds/1/attempts/1/checkpoints/12/model.safetensors", FileKind.CHECKPOINT),
        ("attempts/1/train/workers-0-1/x", FileKind.LOCAL),
        ("attempts/1/artifacts/train/x", FileKind.WHOLE),
        ("attempts/1/.progress.json.x", FileKind.LOCAL),
    ],
)
def test_kinds(path: str, kind: FileKind) -> None:
    assert kind_of(path) is kind


def test_parts_sort_by_their_first_byte() -> None:
    keys = [part_key("attempts/1/driver.log", start) for start in (0, 262_144, 2_621_440, 300_000_000_000)]
    assert keys == sorted(keys)
    assert parse_part(keys[1]) == Part("attempts/1/driver.log", 262_144)


@pytest.mark.parametrize(
    "name", ["attempts/1/driver.log", "x.parts/1", "spec.json.parts/000000000000", "driver.log.parts/00000000000x"]
)
def test_other_objects_are_no_parts(name: str) -> None:
    assert parse_part(name) is None
