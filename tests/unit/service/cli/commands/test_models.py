"""Verbs of models, against a service that is a function."""

import json
from functools import partial
from pathlib import Path

import httpx
import pytest

from seqae.errors import Error
from service.job_state import State
from service.schemas.models import ModelRef, ModelStatus, MoveView, RegisteredModelView, VersionView
from tests.unit.service.cli.conftest import AT, FakeService, Run, as_json, make_job, succeeded

PROMOTION = succeeded(1, promoted=True).promotion


def _version(number: int, *aliases: str, job_id: str | None = "job_1") -> VersionView:
    metrics = {"test/mse": 0.004, "test/fg_ari": 0.95}
    return VersionView(
        version=str(number),
        run_id="r",
        job_id=job_id,
        metrics=metrics,
        aliases=aliases,
        created_at=AT,
        promotion=PROMOTION if job_id else None,
    )


def _model(*moves: MoveView, champion: str | None = "2") -> RegisteredModelView:
    versions = (_version(3, "challenger"), _version(2, "champion"), _version(1, "previous", job_id=None))
    return RegisteredModelView(
        name="seqae-mnist_scenes",
        champion=champion,
        challenger="3",
        previous="1",
        versions=versions,
        history=moves,
    )


def _same(answer: httpx.Response, _: httpx.Request) -> httpx.Response:
    return httpx.Response(answer.status_code, content=answer.content)


BY_HAND = MoveView(version="2", who="ann", why="looks better", at=AT)
BY_RULE = MoveView(version="2", who="", why="0.1 better", at=AT)


def _status(*models: RegisteredModelView) -> ModelStatus:
    served = ModelRef(name="seqae-mnist_scenes", version="2", run_id="r", job_id="j", metrics={})
    return ModelStatus(champion=served, previous=None, loaded=(), detail="serves", models=models)


def test_models_are_listed_with_why_they_are_served(run: Run, service: FakeService) -> None:
    """F1: nothing said why."""
    why = {"ann: looks better": _model(BY_HAND, BY_RULE), "0.1 better than seqae/1": _model(BY_RULE)}
    why |= {"no version was promoted": _model(champion=None)}
    for reason, model in why.items():
        answer = as_json(_status(model))
        service.answers["GET /models"] = partial(_same, answer)
        titles, row, served = run("models").stdout.splitlines()
        assert titles.split()[:3] == ["model", "champion", "challenger"]
        assert row.endswith(reason)
    assert served == "served where no model is named: seqae-mnist_scenes/2; serves"
    assert json.loads(run("models", "--json").stdout)["models"][0]["champion"] is None


def test_without_a_model_it_says_how_to_get_one(run: Run, service: FakeService) -> None:
    nothing = ModelStatus(champion=None, previous=None, loaded=(), detail="no model yet")
    service.answers["GET /models"] = lambda _: as_json(nothing)
    assert "seqae submit" in run("models").stdout


def test_the_versions_of_one_model(run: Run, service: FakeService) -> None:
    service.answers["GET /models/seqae-mnist_scenes"] = lambda _: as_json(_model(BY_HAND))
    lines = run("models", "seqae-mnist_scenes").stdout.splitlines()
    assert [line.split()[1] for line in lines[1:4]] == ["challenger", "champion", "previous"]
    assert "not made here" in lines[3]
    assert lines[4].endswith("seqae-mnist_scenes/2 made champion by ann: looks better")
    assert json.loads(run("models", "seqae-mnist_scenes", "--json").stdout)["previous"] == "1"


@pytest.mark.parametrize("verb", ["promote", "rollback"])
def test_the_champion_is_moved_with_who_and_why(
    verb: str, run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F11."""
    monkeypatch.setattr("getpass.getuser", lambda: "bob")
    name = "seqae-mnist_scenes"
    path = f"/models/{name}/versions/2:promote" if verb == "promote" else f"/models/{name}:rollback"
    service.answers[f"POST {path}"] = lambda _: as_json(_model())
    target = f"{name}/2" if verb == "promote" else name
    done = run(verb, target, "--why", "it looks better")
    assert done.stdout == "seqae-mnist_scenes/2 is the champion; before it was 1\n"
    assert json.loads(service.requests[-1].content) == {"why": "it looks better"}
    assert service.requests[-1].headers["seqae-owner"] == "bob"
    assert json.loads(run(verb, target, "--owner", "ann", "--json").stdout)["champion"] == "2"
    assert service.requests[-1].headers["seqae-owner"] == "ann"


def test_a_trial_of_a_search_is_promoted(run: Run, service: FakeService) -> None:
    service.jobs = [make_job(1, State.SUCCEEDED, kind="tune")]
    service.answers[f"POST /jobs/{service.jobs[0].id}/trials/7:promote"] = lambda _: as_json(_model())
    done = run("promote", "1", "--trial", "7", "--why", "fewer seconds", "--owner", "ann")
    assert done.stdout == "seqae-mnist_scenes/2 is the champion; before it was 1\n"
    assert json.loads(service.requests[-1].content) == {"why": "fewer seconds"}
    assert service.requests[-1].headers["seqae-owner"] == "ann"


@pytest.mark.parametrize("text", ["seqae", "seqae/", "/3", "seqae/x", "seqae/-1", "seqae/²"])
def test_what_is_no_version_is_told(text: str, run: Run, service: FakeService) -> None:
    error = run("promote", text).exception
    assert isinstance(error, Error)
    assert "NAME/VERSION" in str(error)
    assert service.asked == []


def test_a_picture_is_rebuilt_by_the_model_that_is_named(run: Run, service: FakeService, tmp_path: Path) -> None:
    service.jobs = [make_job(1)]
    service.answers["POST /reconstruct"] = lambda request: httpx.Response(
        200, content=request.headers["accept"], headers={"Seqae-Warnings": '["much was cropped"]'}
    )
    image, out = tmp_path / "a.png", tmp_path / "new" / "b.gif"
    image.write_bytes(b"picture")
    done = run("reconstruct", str(image), "-o", str(out), "--model", "seqae/3")
    assert (done.stdout, done.stderr) == (f"{out}\n", "note: much was cropped\n")
    assert out.read_text() == "image/gif"
    assert dict(service.requests[-1].url.params) == {"model": "seqae/3"}
    run("reconstruct", str(image), "-o", str(out), "--invert", "auto")
    assert dict(service.requests[-1].url.params) == {"model": "champion", "invert": "auto"}
    plain = run("reconstruct", str(image), "-o", str(out), "--model", "latest", "--json").stdout
    assert json.loads(plain) == {"file": str(out), "model": make_job(1).id, "warnings": ["much was cropped"]}
    service.answers["POST /reconstruct"] = lambda _: httpx.Response(200, headers={"Seqae-Warnings": "no list"})
    assert run("reconstruct", str(image), "-o", str(out)).stderr == ""


def test_a_model_is_evaluated_by_a_job(run: Run, service: FakeService, tmp_path: Path) -> None:
    service.jobs = [make_job(1)]
    service.answers["POST /jobs"] = lambda _: as_json(make_job(2), 201)
    data = tmp_path / "data.yaml"
    data.write_text("kind: images\npath: coco")
    options = ("--scenes", "9", "--figure", "6", "--figure", "sample", "--data", str(data))
    assert run("evaluate", "seqae/3", *options).stdout == f"{make_job(2).id}\n"
    assert json.loads(service.requests[-1].content) == {
        "kind": "evaluate",
        "name": "evaluation",
        "model": "seqae/3",
        "data": {"kind": "images", "path": "coco"},
        "scenes": 9,
        "figures": [6, "sample"],
    }
    data.write_text("name: whole\ndata: {kind: images, path: other}")
    run("evaluate", "job_1", "--name", "x", "--data", str(data))
    sent = json.loads(service.requests[-1].content)
    assert (sent["model"], sent["name"], sent["data"]["path"]) == (make_job(1).id, "x", "other")


@pytest.mark.parametrize(
    ("agrees", "status", "verdict"),
    [(1.0, 0, "as logged: iterations 8 to 11"), (0.0, 1, "NOT as logged: iterations 8")],
)
def test_the_exit_status_says_whether_a_run_is_reproduced(
    agrees: float, status: int, verdict: str, run: Run, service: FakeService
) -> None:
    service.jobs = [make_job(1)]
    metrics = {"verify/agrees": agrees, "verify/largest_deviation": 2e-7, "verify/start": 8.0, "verify/last": 11.0}
    done = make_job(2, State.SUCCEEDED, kind="verify", metrics=metrics)
    service.answers["POST /jobs"] = lambda _: as_json(done, 201)
    service.answers[f"GET /jobs/{done.id}"] = lambda _: as_json(done)
    result = run("verify", "latest", "--from", "8", "--reports", "3")
    assert result.exit_code == status
    assert verdict in result.stdout
    sent = next(json.loads(request.content) for request in service.requests if request.method == "POST")
    assert sent == {
        "kind": "verify",
        "name": f"verify {make_job(1).id}",
        "job": make_job(1).id,
        "reports": 3,
        "tolerance": 0.01,
        "start": 8,
    }
