from importlib.metadata import version
from typing import Any

import pytest
import yaml

from jobs.backends.provenance import changed_params, provenance, run_details
from jobs.specs import TrainSpec, TuneSpec, job_spec


def test_params_are_the_fields_that_were_changed_by_their_dotted_names(spec: TrainSpec) -> None:
    params = changed_params(spec)
    assert params["model.attention.kernel_size"] == 8
    assert params["data.train_scenes"] == 32
    assert not {"scaling.workers", "model.background", "name", "kind"} & set(params)
    assert not any(isinstance(value, dict) for value in params.values())


def test_a_search_has_the_names_of_its_trials(tune_spec: TuneSpec) -> None:
    """F7: and not those of the fields that the trials draw."""
    params = changed_params(tune_spec)
    assert params["data.train_scenes"] == 32
    assert (params["search.trials"], params["search.space.bottleneck"]) == (3, [4, 8])
    assert not {"model.attention.kernel_size", "model.coder.bottleneck"} & set(params)


def test_the_whole_config_goes_beside_them(spec: TrainSpec) -> None:
    details = run_details(spec, "ann")
    assert (details.experiment, details.owner) == ("seqae-mnist_scenes", "ann")
    assert yaml.safe_load(details.config) == spec.model_dump(mode="json")


@pytest.mark.parametrize(
    ("fields", "experiment"),
    [
        ({"kind": "figure", "figure": 6, "model": "digits@champion"}, "digits"),
        ({"kind": "evaluate", "model": "digits/3"}, "digits"),
        ({"kind": "evaluate", "model": "digits"}, "digits"),
        ({"kind": "evaluate", "model": "champion"}, None),
        ({"kind": "evaluate", "model": "job_0a1b2c3d4e5f"}, None),
        ({"kind": "evaluate", "model": "job_0a1b2c3d4e5f/attempts/1/checkpoints/40"}, None),
        ({"kind": "evaluate", "model": "12"}, None),
    ],
)
def test_a_figure_and_an_evaluation_are_among_the_runs_of_their_model(
    fields: dict[str, Any], experiment: str | None
) -> None:
    assert run_details(job_spec.validate_python({"name": "x"} | fields), "").experiment == experiment


def test_the_versions_that_decide_the_numbers() -> None:
    tags = provenance()
    assert tags["seqae.version.torch"] == version("torch")
    commit = tags.get("mlflow.source.git.commit")
    # Outside of a checkout there is none.
    assert commit is None or len(commit) == 40
