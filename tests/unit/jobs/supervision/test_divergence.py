import pytest

from jobs.directory.records import MetricRow
from jobs.supervision.divergence import last_step_before_rise


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], 0),
        ([1.0], 10),
        ([1.0, 0.5, 0.4, 0.6], 40),
        ([1.0, 0.5, 0.4, 0.9, 7.0], 30),
        ([1.0, 0.5, 0.9, 0.4, 0.7, 0.9, 70.0, 1e9], 50),
    ],
)
def test_the_rise_begins_where_the_loss_stays_above_twice_its_lowest(losses: list[float], expected: int) -> None:
    rows = [MetricRow(time=0, step=10 * at, metrics={"train/loss": loss}) for at, loss in enumerate(losses, start=1)]
    rows.append(MetricRow(time=0, step=1000, metrics={"val/mse": 1.0}))
    assert last_step_before_rise(rows) == expected
