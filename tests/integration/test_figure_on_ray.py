"""Figure jobs on a real cluster, with their artifacts on a real MLflow server."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.directory.records import Outcome
from jobs.specs import job_spec
from tests.services import Services

pytestmark = pytest.mark.timeout(300)


def test_a_figure_and_its_numbers_are_artifacts_of_its_run(
    services: Services, tiny: dict[str, Any], tmp_path: Path
) -> None:
    trained = services.folder("job_curve")
    trained.write_spec(job_spec.validate_python(tiny))
    for step in (10, 20, 30):
        trained.attempt(1).add_metrics(step, {"val/mse": 0.1 / step})
    job = services.job("job_figure", {"kind": "figure", "name": "error", "figure": 5, "model": "job_curve"})
    job.start()
    job.wait()
    result = job.folder.attempt(1).read_result()
    assert result is not None
    assert result.outcome is Outcome.SUCCEEDED, result.error
    assert result.metrics["last"] == pytest.approx(0.1 / 30)

    # The driver has shipped it, and the control plane ships again.
    services.tracking.ship(job.folder.path, job.run.run_id)
    client = services.tracking._client
    names = {item.path for item in client.list_artifacts(job.run.run_id)}
    assert {"figure-5.png", "figure-5.json"} <= names
    about = json.loads(Path(client.download_artifacts(job.run.run_id, "figure-5.json", str(tmp_path))).read_text())
    assert about["numbers"] == result.metrics
    with Image.open(client.download_artifacts(job.run.run_id, "figure-5.png", str(tmp_path))) as image:
        assert image.size == (700, 360)
    (shown,) = client.get_metric_history(job.run.run_id, "figure/last")
    assert shown.value == pytest.approx(0.1 / 30)
    assert services.actors() == []
