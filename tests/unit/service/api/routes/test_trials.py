"""A search's trials over HTTP, in folders that the test writes as a driver would."""

import time
from typing import Any

import httpx
import pytest

from jobs.backends.fakes import FakeTracking
from jobs.directory.layout import JobFolder
from jobs.directory.records import SearchReport, TrialRow, TrialState
from seqae.checkpoints import manifest
from service.db.store import Store
from service.job_state import EventType
from service.settings import Settings
from tests.reports import make_report
from tests.unit.service.api.routes.test_jobs import submit, write

SEARCH = {
    "kind": "tune",
    "name": "search",
    "base": {"name": "trial"},
    "space": {"alpha_mseot": {"low": 1, "high": 10}, "model.localizer.kind": {"kind": "choice", "values": ["small"]}},
    "trials": 5,
    "constraints": ["val/miou >= 0.5"],
}


@pytest.fixture
def job(client: httpx.Client) -> str:
    answer = client.post("/jobs", json=SEARCH)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.fixture
def folder(job: str, settings: Settings) -> JobFolder:
    return JobFolder(settings.jobs_dir / job)


def _row(trial: int, state: TrialState, objective: float, **changes: Any) -> TrialRow:
    plain = {
        "trial": trial,
        "state": state,
        "params": {"loss.alpha_mseot": 2.5 + trial, "model.localizer.kind": "small"},
        "metrics": {"val/objective": objective, "val/miou": 0.6},
        "epoch": 2.0,
        "time": 1_790_000_000.0,
    }
    return TrialRow.model_validate(plain | changes)


def test_trials_are_listed_with_what_the_search_has_found(client: httpx.Client, job: str, folder: JobFolder) -> None:
    assert client.get(f"/jobs/{job}/trials").json() == {
        "items": [],
        "next_after": None,
        "search": {
            "best_trial": None,
            "front": [],
            "objectives": {"val/objective": "minimize"},
            "trials": {"pending": 5},
            "importances": {},
            "why": [],
            "retrained": False,
        },
    }
    attempt = folder.attempt(1)
    attempt.add_trial(_row(0, TrialState.RUNNING, 0.9))
    attempt.add_trial(_row(0, TrialState.SUCCEEDED, 0.3))
    attempt.add_trial(_row(1, TrialState.STOPPED, 0.2, message="stopped by asha"))
    # The best value, but it breaks a constraint.
    attempt.add_trial(_row(2, TrialState.SUCCEEDED, 0.1, metrics={"val/objective": 0.1, "val/miou": 0.4}))
    found = client.get(f"/jobs/{job}/trials").json()
    assert [trial["number"] for trial in found["items"]] == [0, 1, 2]
    assert found["items"][1] == {
        "number": 1,
        "state": "stopped",
        "params": {"loss.alpha_mseot": 3.5, "model.localizer.kind": "small"},
        "metrics": {"val/objective": 0.2, "val/miou": 0.6},
        "standard_errors": {},
        "epoch": 2.0,
        "reason": "stopped by asha",
        "parent": None,
        "meets_constraints": True,
        "updated_at": "2026-09-21T14:13:20Z",
        "frames": [],
    }
    assert [trial["meets_constraints"] for trial in found["items"]] == [True, True, False]
    assert (found["search"]["best_trial"], found["search"]["front"]) == (1, [1])
    assert found["search"]["trials"] == {"pending": 2, "stopped": 1, "succeeded": 2}
    report = SearchReport(best_trial=1, importances={"loss.alpha_mseot": 1.0}, why=["It is."], retrained=True)
    attempt.write_search_report(report)
    ended = client.get(f"/jobs/{job}/trials").json()["search"]
    assert (ended["importances"], ended["why"], ended["retrained"]) == ({"loss.alpha_mseot": 1.0}, ["It is."], True)
    (attempt.path / "search.json").write_text("{")
    assert client.get(f"/jobs/{job}/trials").json()["search"]["why"] == []


def test_trials_come_in_pages(client: httpx.Client, job: str, folder: JobFolder) -> None:
    for trial in range(5):
        folder.attempt(1).add_trial(_row(trial, TrialState.PENDING, 1.0))
    first = client.get(f"/jobs/{job}/trials", params={"limit": 3}).json()
    assert ([trial["number"] for trial in first["items"]], first["next_after"]) == ([0, 1, 2], 2)
    last = client.get(f"/jobs/{job}/trials", params={"limit": 3, "after": 2}).json()
    assert ([trial["number"] for trial in last["items"]], last["next_after"]) == ([3, 4], None)
    for query in ({"limit": 0}, {"limit": 1001}, {"after": -2}, {"after": "x"}):
        assert client.get(f"/jobs/{job}/trials", params=query).status_code == 422


def test_one_trial_has_its_film_strips(client: httpx.Client, job: str, folder: JobFolder) -> None:
    folder.attempt(1).add_trial(_row(3, TrialState.SUCCEEDED, 0.3, parent=1))
    write(folder.trial(3), 1, 200, b"old")
    write(folder.trial(3), 2, 400, b"new")
    trial = client.get(f"/jobs/{job}/trials/3").json()
    assert (trial["number"], trial["parent"], trial["frames"]) == (3, 1, [200, 400])
    assert client.get(f"/jobs/{job}/trials/3/frames/200").content == b"old"
    latest = client.get(f"/jobs/{job}/trials/3/frames/latest")
    assert (latest.content, latest.headers["content-type"]) == (b"new", "image/png")
    for path in ("3/frames/1", "3/frames/..%2fspec.json", "2", "2/frames/latest"):
        assert client.get(f"/jobs/{job}/trials/{path}").status_code == 404
    for number in ("x", "-1", "9" * 30):
        assert client.get(f"/jobs/{job}/trials/{number}").status_code == 422


def test_a_job_that_is_no_search_has_no_trials(client: httpx.Client) -> None:
    other = submit(client)
    for path in (f"{other}/trials", f"{other}/trials/0", f"{other}/trials/0/frames/latest"):
        answer = client.get(f"/jobs/{path}")
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:seqae:problem:trial-not-found")
    assert client.get("/jobs/job_0/trials").json()["type"] == "urn:seqae:problem:job-not-found"


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({}, None),
        ({"warm_start": "job_0"}, "there is no such job here"),
        ({"base": {"name": "other", "seed": 1}}, "another base"),
        ({"base": {"name": "other", "scaling": {"cpus_per_worker": 2}}, "space": {"bottleneck": [8]}}, None),
    ],
)
def test_a_warm_start_needs_a_search_that_compares(
    client: httpx.Client, job: str, changes: dict[str, Any], detail: str | None
) -> None:
    body = SEARCH | {"warm_start": job} | changes
    answer = client.post("/jobs", json=body)
    checked = client.post("/jobs:validate", json=body).json()
    assert checked["accepted"] == (detail is None)
    if detail is None:
        assert answer.status_code == 201
        return
    (problem,) = answer.json()["errors"]
    assert (answer.status_code, problem["pointer"]) == (422, "#/warm_start")
    assert detail in problem["detail"]
    assert checked["problems"] == [problem]


def test_a_training_run_is_no_warm_start(client: httpx.Client) -> None:
    (problem,) = client.post("/jobs", json=SEARCH | {"warm_start": submit(client)}).json()["errors"]
    assert problem == {"pointer": "#/warm_start", "detail": "that job is no search"}


def test_a_page_of_a_long_search_reads_each_trials_newest_row(
    client: httpx.Client, job: str, folder: JobFolder
) -> None:
    attempt = folder.attempt(1)
    for epoch in range(5):
        for trial in range(40):
            attempt.add_trial(_row(trial, TrialState.RUNNING, 1.0 / (epoch + 1), epoch=epoch))
    with (attempt.path / "trials.jsonl").open("a") as file:
        file.write('{"trial": 3, "state": "running", "par\n{"trial": 4, "state": "dreams"}\n{"trial"')
    started = time.perf_counter()
    items = client.get(f"/jobs/{job}/trials").json()["items"]
    assert time.perf_counter() - started < 5
    assert [item["number"] for item in items] == list(range(40))
    assert {item["epoch"] for item in items} == {4.0}


BY_EYE = SEARCH | {"objective": "human", "constraints": [], "trials": 4, "comparisons": 4}


@pytest.fixture
def by_eye(client: httpx.Client, settings: Settings) -> str:
    """A search by eye with three trials that can be compared, of which 1 has no film strip, and one that trains."""
    job = str(client.post("/jobs", json=BY_EYE).json()["id"])
    folder = JobFolder(settings.jobs_dir / job)
    for trial in range(4):
        state = TrialState.RUNNING if trial == 3 else TrialState.SUCCEEDED
        folder.attempt(1).add_trial(_row(trial, state, 0.3))
        if trial != 1:
            write(folder.trial(trial), 1, 200, b"old")
            write(folder.trial(trial), 1, 400, b"new")
    return job


def test_pairs_show_the_newest_film_strips_and_no_metrics(client: httpx.Client, by_eye: str) -> None:
    page = client.get(f"/jobs/{by_eye}/pairs", params={"limit": 10}).json()
    assert (page["answered"], page["comparisons"], page["missing"]) == (0, 4, 3)
    # Of 0, 1 and 2: number 3 trains.
    assert sorted(pair["number"] for pair in page["items"]) == [0, 1, 2]
    pair = next(pair for pair in page["items"] if pair["number"] == 1)
    assert [trial["number"] for trial in pair["trials"]] == [0, 2]
    assert pair["trials"][1] == {
        "number": 2,
        "params": {"loss.alpha_mseot": 4.5, "model.localizer.kind": "small"},
        "picture": f"/jobs/{by_eye}/trials/2/frames/400",
    }
    assert client.get(pair["trials"][1]["picture"]).content == b"new"
    without = next(pair for pair in page["items"] if pair["number"] == 0)["trials"][1]
    assert (without["number"], without["picture"]) == (1, None)
    assert len(client.get(f"/jobs/{by_eye}/pairs").json()["items"]) == 1
    for limit in (0, 101, "x"):
        assert client.get(f"/jobs/{by_eye}/pairs", params={"limit": limit}).status_code == 422


def test_an_answer_counts_once_and_gives_the_next_pair(client: httpx.Client, by_eye: str, settings: Settings) -> None:
    path = f"/jobs/{by_eye}/pairs/1"
    first = client.post(path, json={"better": 2}, headers={"Seqae-Owner": "ada"})
    assert first.status_code == 200, first.text
    assert (first.json()["answered"], first.json()["missing"]) == (1, 2)
    assert first.json()["items"][0]["number"] != 1
    kept = (settings.jobs_dir / by_eye / "comparisons.jsonl").read_text()
    assert '"who":"ada"' in kept
    again = client.post(path, json={"better": 2})
    assert (again.status_code, again.json()) == (200, first.json())
    for better in (0, "equal"):
        refused = client.post(path, json={"better": better})
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:seqae:problem:conflict")
    assert (settings.jobs_dir / by_eye / "comparisons.jsonl").read_text() == kept
    trials = client.get(f"/jobs/{by_eye}/trials").json()
    scores = [trial["metrics"].get("human/score") for trial in trials["items"]]
    assert scores[2] > 0 > scores[0]
    assert (scores[1], scores[3]) == (None, None)
    assert (trials["search"]["best_trial"], trials["search"]["objectives"]) == (2, {"human/score": "maximize"})
    assert client.get(f"/jobs/{by_eye}/trials/2").json()["metrics"]["human/score"] == scores[2]


def test_equally_good_is_an_answer(client: httpx.Client, by_eye: str) -> None:
    assert client.post(f"/jobs/{by_eye}/pairs/0", json={"better": "equal"}).json()["answered"] == 1
    items = client.get(f"/jobs/{by_eye}/trials").json()["items"]
    assert [trial["metrics"].get("human/score") for trial in items] == [0, 0, None, None]


@pytest.mark.parametrize(
    ("pair", "body", "status", "pointer"),
    [
        (1, {"better": 1}, 422, "#/better"),  # of 0 and 2
        (1, {"better": "left"}, 422, None),
        (1, {"better": True}, 422, None),
        (1, {"better": None}, 422, None),
        (1, {}, 422, None),
        (1, {"better": 0, "who": "x"}, 422, None),
        (3, {"better": 3}, 409, None),  # of 0 and 3, which trains
        (6, {"better": 4}, 404, None),  # of 0 and 4, which is not there
        (99_999_999, {"better": 4}, 404, None),
        (-1, {"better": 4}, 422, None),
    ],
)
def test_other_answers_are_refused(
    client: httpx.Client, by_eye: str, pair: int, body: dict[str, Any], status: int, pointer: str | None
) -> None:
    answer = client.post(f"/jobs/{by_eye}/pairs/{pair}", json=body)
    assert answer.status_code == status, answer.text
    if pointer is not None:
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert client.get(f"/jobs/{by_eye}/pairs").json()["answered"] == 0


def test_no_answer_is_taken_beyond_the_comparisons_or_the_end(client: httpx.Client, settings: Settings) -> None:
    job = str(client.post("/jobs", json=BY_EYE | {"comparisons": 1}).json()["id"])
    for trial in range(3):
        JobFolder(settings.jobs_dir / job).attempt(1).add_trial(_row(trial, TrialState.SUCCEEDED, 0.3))
    assert client.post(f"/jobs/{job}/pairs/0", json={"better": 0}).json()["items"] == []
    assert client.post(f"/jobs/{job}/pairs/1", json={"better": 0}).status_code == 409
    assert client.post(f"/jobs/{job}/cancel").json()["state"] == "CANCELLED"
    assert client.post(f"/jobs/{job}/pairs/0", json={"better": 0}).status_code == 200
    assert client.post(f"/jobs/{job}/pairs/1", json={"better": 0}).status_code == 409
    ended = client.get(f"/jobs/{job}/pairs").json()
    assert (ended["items"], ended["missing"], ended["answered"]) == ([], 0, 1)


def test_a_search_by_metrics_has_no_pairs(client: httpx.Client, job: str) -> None:
    for other in (job, submit(client)):
        answers = [client.get(f"/jobs/{other}/pairs"), client.post(f"/jobs/{other}/pairs/0", json={"better": 0})]
        for answer in answers:
            assert (answer.status_code, answer.json()["type"]) == (404, "urn:seqae:problem:trial-not-found")
    assert client.post(f"/jobs/{job}/pairs/0", content=b"{}").status_code == 415


@pytest.fixture
def ended(client: httpx.Client, job: str, folder: JobFolder, store: Store, tracking: FakeTracking) -> str:
    """A search that has ended: trial 0 with two checkpoints, 1 with none, and 2 failed."""
    for trial in range(3):
        state = TrialState.FAILED if trial == 2 else TrialState.SUCCEEDED
        folder.attempt(1).add_trial(_row(trial, state, 0.3))
    own = folder.trial(0).attempt(1)
    for step, value in ((4, 0.2), (8, 0.9)):
        own.add_metrics(step, {"val/mse": value, "val/objective": value})
        (own.checkpoints / str(step)).mkdir(parents=True)
        (own.checkpoints / str(step) / "model.safetensors").write_text("weights")
        manifest.write(own.checkpoints / str(step), iteration=step, metrics={})
    client.post(f"/jobs/{job}/cancel")
    run = tracking.create_run(job, "search", "tune", {})
    store.update(store.job(job), mlflow_run_id=run.run_id)
    return job


def test_a_trial_becomes_the_champion_on_request(
    client: httpx.Client, ended: str, folder: JobFolder, tracking: FakeTracking, store: Store
) -> None:
    path, who = f"/jobs/{ended}/trials/0:promote", {"Seqae-Owner": "ann"}
    answer = client.post(path, json={"why": "faster"}, headers=who)
    assert answer.status_code == 200, answer.text
    model = answer.json()
    assert (model["name"], model["champion"], model["previous"]) == ("seqae-mnist_scenes", "1", None)
    (version,) = tracking.versions
    # The best checkpoint, in the trial's own run, below the search's.
    assert version.path == folder.trial(0).attempt(1).checkpoints / "4"
    assert tracking.runs[version.run_id].parent == f"run-{ended}"
    assert (version.job_id, dict(version.metrics)) == (ended, {"val/objective": 0.3, "val/miou": 0.6})
    assert model["versions"][0]["promotion"]["reason"] == f"trial 0 of {ended}, chosen by ann"
    assert (model["history"][0]["who"], model["history"][0]["why"]) == ("ann", f"trial 0 of {ended}: faster")
    assert client.post(path, headers=who).json()["champion"] == "1"
    assert len(tracking.versions) == 1
    told = [event.data for event in store.events(job_id=ended) if event.type == EventType.PROMOTION]
    assert (told[0]["version"], told[0]["who"], told[0]["reason"]) == ("1", "ann", "faster")


def test_the_searchs_own_result_is_not_registered_twice(
    client: httpx.Client, ended: str, folder: JobFolder, tracking: FakeTracking, store: Store
) -> None:
    for run, error in (("other", 0.1), (ended, 0.5)):
        made = tracking.create_run(run, run, "tune", {})
        report = make_report(error, model="seqae-mnist_scenes")
        tracking.register(run, made.run_id, "seqae-mnist_scenes", folder.path, {}, report)
    store.update(store.job(ended), model_name="seqae-mnist_scenes", model_version="2")
    for retrained, champion, versions in ((False, "2", 2), (True, "3", 3)):
        folder.attempt(1).write_search_report(SearchReport(best_trial=0, retrained=retrained))
        answer = client.post(f"/jobs/{ended}/trials/0:promote").json()
        assert (answer["champion"], len(answer["versions"])) == (champion, versions)


@pytest.mark.parametrize(
    ("trial", "status", "detail"),
    [(1, 409, "no checkpoint that is whole"), (2, 409, "is failed"), (9, 404, "no trial 9"), ("x", 422, "")],
)
def test_what_has_no_model_is_not_promoted(
    client: httpx.Client, ended: str, tracking: FakeTracking, trial: int | str, status: int, detail: str
) -> None:
    answer = client.post(f"/jobs/{ended}/trials/{trial}:promote")
    assert (answer.status_code, detail in answer.text) == (status, True)
    assert tracking.versions == []


def test_no_trial_is_promoted_before_the_end_or_without_mlflow(
    client: httpx.Client, job: str, folder: JobFolder, ended: str, tracking: FakeTracking, store: Store
) -> None:
    other = str(client.post("/jobs", json=SEARCH).json()["id"])
    JobFolder(folder.path.parent / other).attempt(1).add_trial(_row(0, TrialState.SUCCEEDED, 0.3))
    running = client.post(f"/jobs/{other}/trials/0:promote")
    assert (running.status_code, "when it has ended" in running.text) == (409, True)
    tracking.forget_runs()
    lost = client.post(f"/jobs/{ended}/trials/0:promote")
    assert (lost.status_code, lost.json()["type"]) == (409, "urn:seqae:problem:conflict")
    store.update(store.job(ended), mlflow_run_id=None)
    assert client.post(f"/jobs/{ended}/trials/0:promote").status_code == 409
    assert client.post(f"/jobs/{submit(client)}/trials/0:promote").status_code == 404
    store.update(store.job(ended), mlflow_run_id="run-1")
    tracking.unreachable = True
    assert client.post(f"/jobs/{ended}/trials/0:promote").status_code == 503
    assert tracking.versions == []
