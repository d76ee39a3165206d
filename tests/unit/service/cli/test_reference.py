from pathlib import Path

from service.cli.output import EXIT_STATUSES, ExitStatus
from service.cli.reference import reference

PAGE = Path(__file__).parents[4] / "docs" / "cli.md"


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == reference(), "run `python -m service.cli.reference > docs/cli.md`"


def test_every_exit_status_is_explained() -> None:
    """Section 3: exit statuses are documented."""
    assert EXIT_STATUSES.keys() == set(ExitStatus)
    assert [int(status) for status in ExitStatus] == [0, 1, 2, 3, 130, 141]
