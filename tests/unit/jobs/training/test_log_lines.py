import logging
import re
from collections.abc import Iterator

import pytest

from jobs.training.log_lines import describe_metrics, log_to_standard_error


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The logger of this package as a process of Ray finds it, put back afterwards."""
    logger = logging.getLogger("jobs")
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers = []
    yield logger
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def test_lines_have_a_time_with_its_zone_and_come_once(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """F3: Ray's root logger would print them again, and a process that is used again would set up a second handler."""
    log_to_standard_error()
    log_to_standard_error()
    logging.getLogger("jobs.training.metrics_writer").info("iteration 1")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} INFO jobs\.training\.metrics_writer: iteration 1", lines[0]
    )


def test_an_evaluation_has_its_main_numbers_in_order() -> None:
    metrics = {"val/objective": 0.5, "val/mse_step_1": 0.3, "val/fg_ari": 0.9, "val/mse": 0.2}
    assert describe_metrics(7, metrics) == "iteration 7  val/mse 0.20000  val/fg_ari 0.90000  val/objective 0.50000"
