"""How the process of the control plane is set up."""

import gc

from service.__main__ import collect_seldom


def test_garbage_is_searched_seldom_and_not_among_what_was_loaded() -> None:
    before = gc.get_threshold()
    try:
        collect_seldom()
        assert gc.get_threshold()[0] > 50 * before[0]
        assert gc.get_freeze_count() > 10_000
        assert gc.isenabled()
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
