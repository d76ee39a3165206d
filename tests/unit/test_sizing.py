"""The tables on paper of docs/cluster.md."""

from pathlib import Path

import pytest

from tests.benchmarks.sizing import all_reduce_seconds, day_lines, parameters, scaling_lines, sent_bytes

DOCUMENT = Path(__file__).parents[2] / "docs/cluster.md"


def test_the_document_has_what_is_printed() -> None:
    text = DOCUMENT.read_text()
    lines = [line for line in (*scaling_lines(), *day_lines()) if line]
    assert len(lines) > 10
    assert [line for line in lines if line not in text] == []


def test_the_formulas() -> None:
    assert sent_bytes(1, 8e6) == 0
    assert sent_bytes(2, 8e6) == 8e6
    assert sent_bytes(8, 8e6) == pytest.approx(14e6)
    assert all_reduce_seconds(2, 300e9) == pytest.approx(1 + 20e-6)
    assert all_reduce_seconds(64, 25e9) == pytest.approx(2 * 63 / 64 + 12 * 30e-6)
    assert parameters() > 100_000
