"""Evaluation jobs on a real cluster: a registered model, with its scores and pictures on a real MLflow server."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.directory.records import Outcome
from seqae.checkpoints import checkpoint
from seqae.config import TrainConfig
from seqae.model import SequentialAutoEncoder
from tests.services import Services

pytestmark = pytest.mark.timeout(300)


def test_a_registered_model_is_evaluated_on_other_images(
    services: Services, tiny: dict[str, Any], tmp_path: Path
) -> None:
    config = TrainConfig.model_validate({name: tiny[name] for name in ("data", "model", "schedule")})
    model = tmp_path / "model"
    checkpoint.save(model, SequentialAutoEncoder(config.model), config, iteration=40, metrics={})
    trained = services.job("job_for_evaluation", tiny | {"register_as": "evaluated"})
    services.tracking.register("job_for_evaluation", trained.run.run_id, "evaluated", model, {}, None)

    data = tiny["data"] | {"test_scenes": 12, "min_digits": 2, "max_digits": 2}
    spec = {"kind": "evaluate", "name": "pairs", "model": "evaluated@champion", "data": data, "figures": [7]}
    job = services.job("job_evaluate", spec)
    job.start()
    job.wait()
    result = job.folder.attempt(1).read_result()
    assert result is not None, job.log()
    assert result.outcome is Outcome.SUCCEEDED, result.error
    assert 0 < result.metrics["test/mse"] <= result.metrics["test/empty_mse"] * 1.5
    assert result.checkpoint is None, "there is nothing to register"

    # The driver has shipped it, and the control plane ships again.
    services.tracking.ship(job.folder.path, job.run.run_id)
    client = services.tracking._client
    run = client.get_run(job.run.run_id)
    assert client.get_experiment(run.info.experiment_id).name == "evaluated"
    assert run.data.metrics["test/mse"] == pytest.approx(result.metrics["test/mse"])
    assert "figure-7/mse_0" in run.data.metrics
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, [tag.value for tag in used.tags]) == ("mnist_scenes", ["evaluation"])
    names = {item.path for item in client.list_artifacts(job.run.run_id)}
    assert {"evaluation.json", "figure-7.png", "images", "config.yaml"} <= names
    (strip,) = [item.path for item in client.list_artifacts(job.run.run_id, "images") if item.path.endswith(".png")]
    assert strip.startswith("images/canvas~test+step+0+")
    about = json.loads(Path(client.download_artifacts(job.run.run_id, "evaluation.json", str(tmp_path))).read_text())
    assert about["model"] == "evaluated/1"
    assert len(about["images"]["mse"]) == 12
    assert services.actors() == []


def test_a_run_starts_from_a_registered_model(services: Services, tiny: dict[str, Any], tmp_path: Path) -> None:
    config = TrainConfig.model_validate({name: tiny[name] for name in ("data", "model", "schedule")})
    model = tmp_path / "model"
    checkpoint.save(model, SequentialAutoEncoder(config.model), config, iteration=40, metrics={})
    known = services.job("job_to_start_from", tiny | {"register_as": "begun"})
    services.tracking.register("job_to_start_from", known.run.run_id, "begun", model, {}, None)

    job = services.job("job_started", tiny | {"start_from": "begun", "register_as": "begun"})
    job.start()
    job.wait()
    result = job.folder.attempt(1).read_result()
    assert result is not None, job.log()
    assert (result.outcome, result.iterations) == (Outcome.SUCCEEDED, 40), result.error
    services.tracking.ship(job.folder.path, job.run.run_id)
    run = services.tracking._client.get_run(job.run.run_id)
    assert run.data.tags["seqae.start_from"] == "begun/1", "the spec names no version"
    assert run.data.params["start_from"] == "begun"
    weights = (job.folder.start / "model.safetensors").read_bytes()
    assert weights == (model / "model.safetensors").read_bytes()
