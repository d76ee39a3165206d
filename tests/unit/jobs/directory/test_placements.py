"""Where the ranks of an attempt run."""

from pathlib import Path

import pytest

from jobs.directory.layout import AttemptFolder
from jobs.directory.placements import Placement, read_ranks, write_placement


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptFolder:
    return AttemptFolder(tmp_path / "1", 1)


def test_a_rank_that_starts_again_replaces_itself(attempt: AttemptFolder) -> None:
    assert read_ranks(attempt) == {}
    for rank, process in ((0, "a"), (1, "b"), (1, "c")):
        write_placement(attempt, Placement(rank=rank, process_id=process, node_id="n"))
    assert read_ranks(attempt) == {"a": 0, "c": 1}


@pytest.mark.parametrize("content", ["", "{}", '{"rank": -1, "process_id": "x", "node_id": "n"}', "[" * 9999])
def test_a_damaged_file_concerns_its_own_rank(attempt: AttemptFolder, content: str) -> None:
    write_placement(attempt, Placement(rank=0, process_id="a", node_id="n"))
    (attempt.path / "workers" / "1.json").write_text(content)
    (attempt.path / "workers" / ".2.json.part").write_text('{"rank": 2, "process_id": "b", "node_id": "n"}')
    (attempt.path / "workers" / "3.json").mkdir()
    assert read_ranks(attempt) == {"a": 0}


def test_a_file_in_place_of_the_folder_is_no_error(attempt: AttemptFolder) -> None:
    attempt.path.mkdir()
    (attempt.path / "workers").write_text("")
    assert read_ranks(attempt) == {}
