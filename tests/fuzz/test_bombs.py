"""Sixteen pictures that are made to be hard, at once."""

from pathlib import Path

from tests.fuzz.bombs import BOMBS, attack
from tests.fuzz.server import running_server


def test_bombs_take_bounded_memory_and_hold_up_nobody(tmp_path: Path) -> None:
    """D2, D3: they took 6.8 GB, and everybody else waited for 51 seconds."""
    with running_server(tmp_path) as server:
        for name, bomb in BOMBS.items():
            found = attack(server, bomb)
            assert found.holds, (name, found)
            assert set(found.statuses) <= {200, 422, 503}, name
        assert not server.tracebacks()
