import pytest

from seqae.optimization.batches import split


@pytest.mark.parametrize(
    ("count", "parts", "pairs", "expected"),
    [
        (25, 1, True, [25]),
        (25, 2, True, [13, 12]),
        (25, 3, True, [9, 8, 8]),
        (26, 4, True, [6, 6, 6, 8]),
        (5, 3, True, [0, 3, 2]),
        (1, 2, True, [0, 1]),
        (0, 2, True, [0, 0]),
        (25, 3, False, [8, 8, 9]),
        (2, 3, False, [0, 1, 1]),
    ],
)
def test_rows_are_cut_between_pairs(count: int, parts: int, pairs: bool, expected: list[int]) -> None:
    found = list(split(range(10, 10 + count), parts, pairs=pairs))
    assert [len(part) for part in found] == expected
    assert [row for part in found for row in part] == list(range(10, 10 + count))
