"""The fakes keep the promises of the protocols, and do what a test tells them."""

from pathlib import Path

import pytest

from jobs.backends.fakes import FakeLauncher, FakeTracking
from jobs.errors import LauncherUnavailable, NoModel, NoRun, SubmissionRefused, TrackingUnavailable
from jobs.interfaces import Launcher, ProcessState, RunStatus, Submission, Tracking
from tests.reports import make_report

SUBMISSION = Submission("job_a", 1, "train", Path("/jobs/job_a"))


def test_they_are_what_the_protocols_ask_for() -> None:
    launcher: Launcher = FakeLauncher()
    tracking: Tracking = FakeTracking()
    assert launcher.capacity().cpus == 2
    assert tracking.open_runs() == []


def test_a_submission_lives_as_the_test_says() -> None:
    launcher = FakeLauncher()
    assert launcher.state("job_a-1") is None
    launcher.submit(SUBMISSION)
    launcher.submit(SUBMISSION)
    assert launcher.submitted == ["job_a-1"]
    assert launcher.state("job_a-1") is ProcessState.PENDING
    launcher.run("job_a-1")
    launcher.print("job_a-1", "hello")
    assert launcher.live() == {"job_a-1"}
    assert launcher.logs("job_a-1") == "hello"
    launcher.finish("job_a-1")
    launcher.stop("job_a-1")
    assert launcher.state("job_a-1") is ProcessState.SUCCEEDED
    assert launcher.live() == set()
    launcher.vanish("job_a-1")
    assert launcher.state("job_a-1") is None


def test_stop_ends_what_lives_and_ignores_the_rest() -> None:
    launcher = FakeLauncher()
    launcher.submit(SUBMISSION)
    launcher.stop("job_a-1")
    launcher.stop("job_b-1")
    assert launcher.state("job_a-1") is ProcessState.STOPPED
    assert launcher.stopped == ["job_a-1", "job_b-1"]


def test_a_cluster_may_be_away_or_replaced() -> None:
    launcher = FakeLauncher()
    launcher.submit(SUBMISSION)
    before = launcher.cluster_id()
    launcher.unreachable = True
    with pytest.raises(LauncherUnavailable):
        launcher.state("job_a-1")
    launcher.unreachable = False
    launcher.replace_cluster()
    assert launcher.cluster_id() != before
    assert launcher.state("job_a-1") is None


def test_an_answer_may_be_lost_or_a_refusal() -> None:
    launcher = FakeLauncher()
    launcher.loses_answers = True
    with pytest.raises(LauncherUnavailable):
        launcher.submit(SUBMISSION)
    assert launcher.state("job_a-1") is ProcessState.PENDING
    launcher.refusal = "no such interpreter"
    with pytest.raises(SubmissionRefused, match="interpreter"):
        launcher.submit(Submission("job_b", 1, "train", Path("/jobs/job_b")))


def test_a_script_that_names_the_wrong_job_is_a_mistake() -> None:
    with pytest.raises(KeyError, match="job_z-1"):
        FakeLauncher().run("job_z-1")


def test_a_run_is_made_once_and_closed_once() -> None:
    tracking = FakeTracking()
    run = tracking.create_run("job_a", "name", "tune", {"seed": 0})
    assert tracking.create_run("job_a", "name", "tune", {"seed": 0}) == run
    trial = tracking.create_trial_run(run.run_id, 0, {})
    assert [open_.job_id for open_ in tracking.open_runs()] == ["job_a"]
    tracking.close_run(run.run_id, RunStatus.KILLED)
    tracking.close_run(run.run_id, RunStatus.FINISHED)
    assert tracking.runs[run.run_id].status is RunStatus.KILLED
    assert tracking.runs[trial.run_id].status is RunStatus.KILLED
    assert tracking.open_runs() == []


def test_the_champion_is_the_best_on_the_same_scenes() -> None:
    tracking = FakeTracking()
    with pytest.raises(NoModel):
        tracking.resolve("champion")

    def register(job: str, error: float, scenes: str) -> bool:
        run, report = tracking.create_run(job, job, "train", {}), make_report(error, test_checksum=scenes)
        return tracking.register(job, run.run_id, "m", Path("/c"), {}, report).version.is_champion

    assert register("job_a", 0.5, "s1")
    assert not register("job_b", 0.6, "s1")
    assert not register("job_c", 0.1, "s2")
    assert register("job_d", 0.4, "s1")
    assert not register("job_a", 0.5, "s1")
    assert tracking.resolve("champion").job_id == "job_d"
    assert tracking.resolve("2").job_id == tracking.resolve("job_b").job_id == "job_b"
    assert len(tracking.versions) == 4
    [model] = tracking.models()
    assert [version.aliases for version in model.versions] == [("champion",), ("challenger",), (), ("previous",)]
    tracking.rollback("m", "ann", "why not")
    assert (tracking.resolve("m").job_id, tracking.resolve("m@previous").job_id) == ("job_a", "job_d")
    tracking.promote("m", "2", "ann", "")
    assert tracking.resolve("champion").job_id == tracking.resolve("m/2").job_id == "job_b"
    with pytest.raises(NoModel):
        tracking.promote("m", "7", "", "")
    with pytest.raises(NoModel):
        tracking.rollback("other", "", "")


def test_a_server_may_be_away_or_have_lost_its_runs() -> None:
    tracking = FakeTracking()
    run = tracking.create_run("job_a", "name", "train", {})
    tracking.unreachable = True
    with pytest.raises(TrackingUnavailable):
        tracking.close_run(run.run_id, RunStatus.FINISHED)
    tracking.unreachable = False
    tracking.forget_runs()
    with pytest.raises(NoRun):
        tracking.ship(Path("/jobs/job_a"), run.run_id)
