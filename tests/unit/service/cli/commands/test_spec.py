import json

from jobs.specs import job_spec
from service.cli.spec_file import parse_spec
from tests.unit.service.cli.conftest import Run


def test_what_is_printed_can_be_submitted(run: Run) -> None:
    text = run("spec", "--kind", "tune").stdout
    assert job_spec.validate_python(parse_spec(text, "spec")).kind == "tune"
    schema = json.loads(run("spec", "--json").stdout)
    assert schema["properties"]["kind"]["const"] == "train"
    assert run("spec", "--kind", "x").exit_code == 2
