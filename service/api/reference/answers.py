"""Examples of requests and answers, by name, made of the wire models themselves; a test validates each."""

from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

from pydantic_core import to_jsonable_python

from jobs.specs import job_spec
from service.api.reference.access_answers import access_examples
from service.api.reference.cluster_answers import cluster_answers
from service.api.reference.trial_answers import trial_answers
from service.job_state import Desired, State
from service.schemas.disk import (
    DiskPart,
    DiskView,
    JobDisk,
    OwnerDisk,
    RetentionLimits,
    RetentionRemoval,
    RetentionView,
)
from service.schemas.health import Health, PartStatus, Readiness, Works
from service.schemas.jobs import (
    AttemptView,
    ErrorView,
    FrameList,
    JobView,
    ModelView,
    Page,
    PriorityChange,
    ProblemView,
    ProgressView,
    PromotionView,
    Validation,
)
from service.schemas.models import (
    Box,
    ModelRef,
    ModelStatus,
    MoveRequest,
    MoveView,
    PixelStep,
    ReconstructionView,
    RegisteredModelView,
    StepView,
    VersionView,
)

__all__ = ["examples"]

_AT = datetime(2026, 11, 25, 9, 30, tzinfo=UTC)
_ID = "job_4f7k2m9q1x3z"
_METRICS = {"test/mse": 0.0021, "test/fg_ari": 0.96, "test/count_accuracy": 0.91, "test/objective": 0.11}
_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
_GIF = "R0lGODlhAQABAIAAAAAAAP///ywAAAAAAQABAAACAUwAOw=="
_REASON = "better than seqae-mnist_scenes/2 by more than the standard error of the difference between images"


def examples() -> dict[str, dict[str, Any]]:
    """OpenAPI example objects, for the document's `components/examples`."""
    found = {
        **_jobs(),
        **_other_answers_of_jobs(),
        **_models(),
        **_reconstructions(),
        **_service(),
        **access_examples(),
        **trial_answers(),
        **cluster_answers(),
    }
    return {
        name: {"summary": summary, "value": to_jsonable_python(value, by_alias=True)}
        for name, (summary, value) in found.items()
    }


_Examples = dict[str, tuple[str, Any]]


def _job(state: State, **changes: Any) -> JobView:
    queued = JobView(
        id=_ID,
        name="digits",
        kind="train",
        state=state,
        desired=Desired.RUN,
        owner="ada",
        attempt=0,
        retries=0,
        losses=0,
        priority=0,
        retry_of=None,
        created_at=_AT,
        started_at=None,
        finished_at=None,
        progress=None,
        error=None,
        metrics=None,
        mlflow_url=None,
        model=None,
        spec=job_spec.validate_python({"name": "digits", "schedule": {"epochs": 5}, "scaling": {"workers": 2}}),
    )
    return queued.model_copy(update=changes)


def _jobs() -> _Examples:
    progress = ProgressView(
        phase="training",
        iteration=600,
        iterations=2000,
        epoch=1.5,
        epochs=5,
        loss=0.031,
        val_mse=0.0064,
        images_per_second=310.0,
        eta_seconds=113.0,
        workers=2,
    )
    running = {
        "attempt": 1,
        "started_at": _AT + timedelta(seconds=9),
        "mlflow_url": "http://127.0.0.1:5000/#/experiments/1/runs/0a1b",
    }
    ended = running | {"finished_at": _AT + timedelta(minutes=3)}
    promotion = PromotionView(
        promoted=True,
        reason=_REASON,
        against="seqae-mnist_scenes/2",
        scores={"challenger": _METRICS, "champion": _METRICS | {"test/objective": 0.19}},
    )
    error = ErrorView.model_validate({"class": "diverged", "message": "the loss is not finite at iteration 310"})
    return {
        "job_queued": ("Waits for its turn", _job(State.QUEUED)),
        "job_running": ("Trains", _job(State.RUNNING, progress=progress, **running)),
        "job_succeeded": (
            "Has succeeded, and its model is served",
            _job(
                State.SUCCEEDED,
                progress=progress.model_copy(update={"iteration": 2000, "epoch": 5.0, "eta_seconds": 0.0}),
                metrics=_METRICS,
                model=ModelView(name="seqae-mnist_scenes", version="3"),
                promotion=promotion,
                **ended,
            ),
        ),
        "job_failed": ("Has failed", _job(State.FAILED, error=error, **ended)),
        "job_cancelled": ("Has been cancelled", _job(State.CANCELLED, desired=Desired.CANCEL, **ended)),
        "job_pausing": (
            "Is asked to write a checkpoint and to leave",
            _job(State.PAUSING, desired=Desired.PAUSE, progress=progress, **running),
        ),
    }


def _other_answers_of_jobs() -> _Examples:
    queued = _job(State.QUEUED)
    return _validations() | {
        "page": ("A page, with a cursor for the next one", Page(items=(queued,), next_cursor="am9iczo0MQ")),
        "last_page": ("The last page", Page(items=(queued,), next_cursor=None)),
        "empty_page": ("No job", Page(items=(), next_cursor=None)),
        "priority_high": ("Before the others", PriorityChange(priority=100)),
        "priority_usual": ("As jobs usually have it", PriorityChange(priority=0)),
        "priority_low": ("When nothing else waits", PriorityChange(priority=-1000)),
        "attempts_one": ("It succeeded at once", (_attempt(1, "succeeded", None),)),
        "attempts_lost": (
            "The first attempt was lost with its machine",
            (_attempt(1, "lost", "the cluster does not know it any more"), _attempt(2, "succeeded", None)),
        ),
        "attempts_none": ("It still waits", ()),
        "frames": ("One for each evaluation", FrameList(steps=(200, 400, 600))),
        "frames_one": ("The first", FrameList(steps=(200,))),
        "frames_none": ("It has not been evaluated yet", FrameList(steps=())),
        "metrics_jobs": (
            "Jobs by state",
            '# HELP seqae_jobs Jobs by state\n# TYPE seqae_jobs gauge\nseqae_jobs{state="RUNNING"} 2.0\n',
        ),
        "metrics_queue": (
            "The longest wait in the queue",
            "# HELP seqae_oldest_queued_seconds Longest wait in the queue now\n"
            "# TYPE seqae_oldest_queued_seconds gauge\nseqae_oldest_queued_seconds 41.5\n",
        ),
        "metrics_no_database": (
            "The database does not answer",
            "# HELP seqae_database_up Whether the job database answers\n"
            "# TYPE seqae_database_up gauge\nseqae_database_up 0.0\n",
        ),
        "log": ("The last lines", "iteration 600 of 2000, epoch 1.5: loss 0.031, 310 images/s\nval/mse 0.0064\n"),
        "events": (
            "A change of state",
            f'id: 7\nevent: transition\ndata: {{"id":7,"job_id":"{_ID}","at":"{_AT.isoformat()}","type":"transition",'
            '"data":{"from":"STARTING","to":"RUNNING"}}\n\n',
        ),
        "events_end": ("The last message: the job has ended", 'event: end\ndata: {"state": "SUCCEEDED"}\n\n'),
    }


def _attempt(number: int, outcome: str, lost: str | None) -> AttemptView:
    return AttemptView(
        number=number,
        created_at=_AT + timedelta(minutes=2 * number),
        started_at=_AT + timedelta(minutes=2 * number, seconds=9),
        ended_at=_AT + timedelta(minutes=2 * number + 1),
        outcome=outcome,
        error=None if lost is None else ErrorView.model_validate({"class": "infrastructure", "message": lost}),
    )


def _validations() -> _Examples:
    accepted = Validation(
        accepted=True,
        problems=(),
        warnings=(),
        spec=job_spec.validate_python({"name": "digits", "schedule": {"epochs": 5}, "scaling": {"workers": 2}}),
        workers=2,
        cpus=2,
        gpus=0,
        iterations=2000,
        seconds=160.0,
        memory_bytes=1_400_000_000,
    )
    problem = ProblemView(pointer="#/scaling/workers", detail="needs 2 CPUs for 2 workers; the cluster has 1")
    return {
        "accepted": ("It would run", accepted),
        "refused": (
            "The cluster is too small for it",
            accepted.model_copy(update={"accepted": False, "problems": (problem,), "seconds": None}),
        ),
        "cluster_away": (
            "Nobody knows now",
            accepted.model_copy(update={"warnings": ("the cluster does not answer",), "seconds": None}),
        ),
    }


def _models() -> _Examples:
    digits = _registered("seqae-mnist_scenes", 3, _REASON)
    coco = _registered("seqae-images-train2017", 1, "the first version of this model")
    new = RegisteredModelView(
        name="seqae-images-cells", champion=None, challenger=None, previous=None, versions=(), history=()
    )
    served = ModelRef(name="seqae-mnist_scenes", version="3", run_id="0a1b2c3d4e5f", job_id=_ID, metrics=_METRICS)
    status = ModelStatus(
        champion=served, previous=None, loaded=(), detail="serves seqae-mnist_scenes/3", models=(digits, coco)
    )
    nothing = {"champion": None, "models": (), "detail": "there is no model yet"}
    return {
        "model_digits": ("A model with a history", digits),
        "model_coco": ("Its first version", coco),
        "model_new": ("Its versions were deleted in MLflow", new),
        "models": ("Two registered models", status),
        "models_none": ("A new installation", status.model_copy(update=nothing)),
        "models_away": (
            "MLflow does not answer; what is loaded is served",
            status.model_copy(update={"models": (), "detail": "the registry does not answer"}),
        ),
        "why_better": ("A reason", MoveRequest(why="counts better, though its error is a little higher")),
        "why_worse": ("A reason", MoveRequest(why="merges touching digits")),
        "why_test": ("For a while", MoveRequest(why="a test until Friday")),
        "why_none": ("No reason", MoveRequest()),
    }


def _registered(name: str, number: int, why: str) -> RegisteredModelView:
    promotion = PromotionView(promoted=True, reason=why, against=None, scores={"challenger": _METRICS})
    made = VersionView(
        version=str(number),
        run_id="0a1b2c3d4e5f",
        job_id=_ID,
        metrics=_METRICS,
        aliases=("champion",),
        created_at=_AT + timedelta(minutes=3),
        promotion=promotion,
    )
    return RegisteredModelView(
        name=name,
        champion=made.version,
        challenger=None,
        previous=str(number - 1) if number > 1 else None,
        versions=(made,),
        history=(MoveView(version=made.version, who="", why=why, at=_AT + timedelta(minutes=3)),),
    )


def _reconstructions() -> _Examples:
    box = Box(left=8.5, top=20.5, right=36.5, bottom=48.5)
    place = PixelStep(x=22.0, y=34.0, stride=1.12, sigma=0.6, window=box)
    step = StepView(**place.model_dump(), gamma=1.0, error=0.004, in_model=place, active=True, pixels=104)
    view = ReconstructionView(
        model=ModelRef(name="seqae-mnist_scenes", version="3", run_id="0a1b2c3d4e5f", job_id=_ID, metrics=_METRICS),
        width=64,
        height=64,
        input=_PNG,
        frames=(_PNG, _PNG),
        steps=(step,),
        error=(0.05, 0.004),
        owners=_PNG,
    )
    return {
        "reconstruction": ("One step; the images are shortened to one pixel", view),
        "image_png": ("A PNG of one pixel", {"image": _PNG}),
        "image_gif": ("A GIF of one pixel", {"image": _GIF}),
        "image_data_url": ("As browsers give a file", {"image": f"data:image/png;base64,{_PNG}"}),
    }


_OVER = "over the limit: 500 jobs of its owner"


def _service() -> _Examples:
    disk = DiskView(
        home="/home/ada/.seqae",
        total_bytes=250_000_000_000,
        free_bytes=71_000_000_000,
        parts=(DiskPart(kind="jobs", bytes=81_000_000, files=120, newest=_AT),),
        owners=(OwnerDisk(owner="ada", jobs=1, bytes=81_000_000),),
        jobs=(
            JobDisk(
                id=_ID,
                name="digits",
                owner="ada",
                state=State.SUCCEEDED,
                bytes=81_000_000,
                checkpoint_bytes=79_000_000,
                film_strip_bytes=1_900_000,
                log_bytes=100_000,
            ),
        ),
        measured_at=_AT,
    )
    limits = RetentionLimits(days=0.0, jobs=0, jobs_per_owner=500, bytes=0, bytes_per_owner=0)
    retention = RetentionView(
        limits=limits,
        removals=(RetentionRemoval(job=_ID, owner="ada", removed="job", bytes=0, why=_OVER),),
        jobs=1,
        bytes=0,
        reports=(),
    )
    works = PartStatus(ok=True, detail="answers")
    served = PartStatus(ok=True, detail="serves seqae-mnist_scenes/3", required=False)
    parts = {
        "database": works,
        "disk": PartStatus(ok=True, detail="81.0 GB are free"),
        "cluster": PartStatus(ok=True, detail="1 machine, 2 CPUs, 0 GPUs", required=False),
        "mlflow": PartStatus(ok=True, detail="answers", required=False),
    }
    all_of_it = Works(accept_jobs=True, run_jobs=True, reconstruct=True)
    jobs_alone = Works(accept_jobs=True, run_jobs=True)
    none = PartStatus(ok=False, detail="there is no model yet", required=False)
    lost = PartStatus(ok=False, detail="does not answer")
    return {
        "disk": ("A stack that has been used", disk),
        "disk_new": ("A new one", disk.model_copy(update={"parts": (), "owners": (), "jobs": ()})),
        "retention": ("One job of too many", retention),
        "retention_bytes": (
            "Too many bytes: only checkpoints go",
            retention.model_copy(
                update={
                    "limits": limits.model_copy(update={"jobs_per_owner": 0, "bytes": 10**12}),
                    "removals": (
                        RetentionRemoval(
                            job=_ID,
                            owner="ada",
                            removed="checkpoints",
                            bytes=52_000_000,
                            why="over the limit: 1000000000000 bytes of all jobs",
                        ),
                    ),
                    "jobs": 0,
                    "bytes": 52_000_000,
                }
            ),
        ),
        "retention_none": (
            "No limit is set",
            retention.model_copy(
                update={"limits": limits.model_copy(update={"jobs_per_owner": 0}), "removals": (), "jobs": 0}
            ),
        ),
        "alive": ("It does", Health(version=version("seqae"))),
        "ready": ("All parts work", Readiness(ready=True, works=all_of_it, parts=parts | {"model": served})),
        "no_model": ("A new installation", Readiness(ready=True, works=jobs_alone, parts=parts | {"model": none})),
        "not_ready": (
            "The database is away",
            Readiness(ready=False, works=Works(reconstruct=True), parts=parts | {"database": lost, "model": served}),
        ),
    }
