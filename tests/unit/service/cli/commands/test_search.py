"""Verbs of searches, against a service that is a function."""

import json

import httpx
import pytest
import yaml

from jobs.specs import TrainSpec, job_spec
from seqae.errors import Error
from service.api.reference.trial_answers import trial_answers
from service.job_state import State
from service.schemas.trials import PairPage, TrialPage, TrialView
from tests.unit.service.cli.conftest import FakeService, Run, as_json, make_job

SPEC = {
    "kind": "tune",
    "name": "s",
    "register_as": "digits",
    "base": {"name": "t"},
    "space": {"alpha_mseot": {"low": 1, "high": 99}, "bottleneck": [256]},
}
JOB = make_job(1, State.SUCCEEDED, kind="tune", spec=SPEC)
PAGE: TrialPage = trial_answers()["trials"][1]
BEST: TrialView = trial_answers()["trial"][1]


@pytest.fixture(autouse=True)
def one_search(service: FakeService) -> None:
    service.jobs = [JOB]
    service.answers[f"GET /jobs/{JOB.id}/trials"] = lambda _: as_json(PAGE.model_dump(mode="json"))
    service.answers[f"GET /jobs/{JOB.id}/trials/0"] = lambda _: as_json(BEST.model_dump(mode="json"))


def test_trials_are_a_table(run: Run) -> None:
    header, first, second, counts = run("trials", "1").stdout.splitlines()
    assert header.split("  ")[0] == "trial"
    assert "val/objective" in header
    assert "alpha_mseot" in header
    assert first.split() == ["0*", "succeeded", "4", "0.1732", "12.5", "256"]
    assert second.endswith("stopped by asha at epoch 1 with val/objective 0.4101")
    assert counts == "1 stopped, 1 succeeded"
    assert TrialPage.model_validate_json(run("trials", "1", "--json").stdout) == PAGE


def test_watching_ends_with_the_search(run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            service.jobs = [JOB]

    monkeypatch.setattr("service.cli.commands.search.time.sleep", sleep)
    service.jobs = [make_job(1, State.RUNNING, kind="tune", spec=SPEC)]
    # The same table is not printed again.
    assert run("trials", "1", "--watch").stdout.count("val/objective  ") == 1
    assert len(slept) == 3


def test_a_trials_spec_can_be_submitted(run: Run) -> None:
    spec = job_spec.validate_python(yaml.safe_load(run("trials", "1", "--spec", "0").stdout))
    assert isinstance(spec, TrainSpec)
    assert (spec.loss.alpha_mseot, spec.model.coder.bottleneck) == (12.5, 256)
    assert (spec.name, spec.register_as) == ("s trial 0", "digits")


def test_a_trial_of_no_search_has_no_spec(run: Run, service: FakeService) -> None:
    service.jobs = [make_job(1)]
    assert isinstance(run("trials", "1", "--spec", "0").exception, Error)


def test_a_search_says_what_it_found_and_why(run: Run, service: FakeService) -> None:
    told = run("search", "1").stdout
    assert "loss.alpha_mseot" in told
    assert "0.1732" in told
    assert "Trial 0 of 2 is the best" not in told
    why = run("search", "1", "--why").stdout
    assert "Trial 0 of 2 is the best: val/objective 0.1732." in why
    assert json.loads(run("search", "1", "--json").stdout)["best_trial"] == 0
    retrained = PAGE.model_copy(update={"search": PAGE.search.model_copy(update={"retrained": True, "front": (0, 1)})})
    service.answers[f"GET /jobs/{JOB.id}/trials"] = lambda _: as_json(retrained.model_dump(mode="json"))
    promotion = {"promoted": False, "reason": "not better than digits/1", "against": "digits/1", "scores": {}}
    service.jobs = [make_job(1, State.SUCCEEDED, kind="tune", spec=SPEC, promotion=promotion)]
    told = run("search", "1").stdout
    assert "front: trials 0, 1; the knee is trial 0" in told
    assert "trained once more" in told
    assert told.splitlines()[-1] == "not promoted: not better than digits/1"


def test_a_search_without_a_model_yet_says_so(run: Run, service: FakeService) -> None:
    begun: TrialPage = trial_answers()["trials_none"][1]
    service.answers[f"GET /jobs/{JOB.id}/trials"] = lambda _: httpx.Response(200, json=begun.model_dump(mode="json"))
    assert run("search", "1", "--why").stdout.splitlines() == ["8 pending", "no trial has ended with a model yet"]


PAIRS: PairPage = trial_answers()["pairs"][1]


def test_pairs_are_listed_with_their_pictures_and_the_page(run: Run, service: FakeService) -> None:
    service.answers[f"GET /jobs/{JOB.id}/pairs"] = lambda _: as_json(PAIRS.model_dump(mode="json"))
    header, pair, page, counts = run("compare", "1").stdout.splitlines()
    assert header.split()[:3] == ["pair", "one", "other"]
    assert pair.split()[:3] == ["24", "3", "7"]
    assert pair.endswith("/trials/7/frames/400")
    assert page.endswith(f"/compare#{JOB.id}")
    assert counts == "5 of 24 compared; the search waits for 2 more"
    assert PairPage.model_validate_json(run("compare", "1", "--json").stdout) == PAIRS


@pytest.mark.parametrize(("options", "body"), [(("--better", "7"), {"better": 7}), (("--equal",), {"better": "equal"})])
def test_a_pair_is_answered(run: Run, service: FakeService, options: tuple[str, ...], body: dict[str, object]) -> None:
    none: PairPage = trial_answers()["pairs_none"][1]
    seen: list[object] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        return as_json(none.model_dump(mode="json"))

    service.answers[f"POST /jobs/{JOB.id}/pairs/24"] = answer
    service.answers[f"GET /jobs/{JOB.id}/pairs"] = lambda _: as_json(none.model_dump(mode="json"))
    assert run("compare", "1", "--pair", "24", *options).stdout == "24 of 24 compared\n"
    assert seen == [body]


@pytest.mark.parametrize(
    "options", [("--pair", "24"), ("--better", "7"), ("--equal",), ("--pair", "24", "--better", "7", "--equal")]
)
def test_half_an_answer_is_refused_before_anything_is_sent(run: Run, options: tuple[str, ...]) -> None:
    assert "an answer has --pair" in str(run("compare", "1", *options).exception)
