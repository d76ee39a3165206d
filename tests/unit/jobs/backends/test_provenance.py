from importlib.metadata import version

from jobs.backends.provenance import flat_params, provenance
from jobs.specs import TrainSpec, TuneSpec


def test_params_are_every_field_by_its_dotted_name(spec: TrainSpec, tune_spec: TuneSpec) -> None:
    params = flat_params(spec)
    assert params["model.attention.kernel_size"] == 8
    assert params["scaling.workers"] == 1
    assert params["model.background"] is None
    assert not any(isinstance(value, dict) for value in params.values())
    assert flat_params(tune_spec)["base.model.attention.kernel_size"] == 8


def test_the_versions_that_decide_the_numbers() -> None:
    tags = provenance()
    assert tags["seqae.version.torch"] == version("torch")
    commit = tags.get("mlflow.source.git.commit")
    # Outside of a checkout there is none.
    assert commit is None or len(commit) == 40
