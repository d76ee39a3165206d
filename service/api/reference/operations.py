"""Table of the API's operations: id, title, and the examples of its answers.

An id is what generated clients name a method by, so it is written down here and stays when a function is renamed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["OPERATIONS", "PARAMETERS", "TAGS", "Operation"]


@dataclass(frozen=True)
class Operation:
    """One operation of the API, as the reference shows it."""

    id: str
    """Operation id."""
    title: str
    """What it does, in a few words: the line that the list of operations shows."""
    answers: tuple[str, ...] = ()
    """Names of examples of its first answer in JSON that is a success: see `service.api.reference.answers`."""
    requests: tuple[str, ...] = ()
    """Names of examples of its body, where the route itself names none."""


_JOB = ("job_queued", "job_running", "job_succeeded")
_MODEL = ("model_digits", "model_coco", "model_new")

OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "POST /jobs": Operation("submit_job", "Submit a job", ("job_queued",)),
        "POST /jobs:validate": Operation(
            "validate_spec", "Check a spec, without submitting it", ("accepted", "refused", "cluster_away")
        ),
        "GET /jobs": Operation("list_jobs", "List jobs", ("page", "last_page", "empty_page")),
        "GET /jobs/{job_id}": Operation("get_job", "Show a job", (*_JOB, "job_failed")),
        "PATCH /jobs/{job_id}": Operation(
            "change_priority",
            "Change a job's place in the queue",
            ("job_queued",),
            ("priority_high", "priority_usual", "priority_low"),
        ),
        "DELETE /jobs/{job_id}": Operation("delete_job", "Delete an ended job and its files"),
        "GET /jobs/{job_id}/attempts": Operation(
            "list_attempts", "List a job's attempts", ("attempts_one", "attempts_lost", "attempts_none")
        ),
        "POST /jobs/{job_id}/cancel": Operation("cancel_job", "Cancel a job", ("job_cancelled",)),
        "POST /jobs/{job_id}/pause": Operation("pause_job", "Pause a job", ("job_pausing",)),
        "POST /jobs/{job_id}/resume": Operation("resume_job", "Resume a paused job", ("job_queued",)),
        "POST /jobs/{job_id}/retry": Operation("retry_job", "Try a job again", ("job_queued",)),
        "GET /jobs/{job_id}/logs": Operation("get_logs", "Read what a job printed", ("log",)),
        "GET /jobs/{job_id}/frames": Operation(
            "list_frames", "List the film strips of a job", ("frames", "frames_one", "frames_none")
        ),
        "GET /jobs/{job_id}/frames/{step}": Operation("get_frame", "Get a film strip"),
        "GET /jobs/{job_id}/trials": Operation("list_trials", "List a search's trials", ("trials", "trials_none")),
        "GET /jobs/{job_id}/trials/{number}": Operation("get_trial", "Show a trial", ("trial", "trial_stopped")),
        "GET /jobs/{job_id}/trials/{number}/frames/{step}": Operation("get_trial_frame", "Get a trial's film strip"),
        "POST /jobs/{job_id}/trials/{number}:promote": Operation(
            "promote_trial",
            "Make a trial's model the champion",
            ("model_digits",),
            ("why_better", "why_test", "why_none"),
        ),
        "GET /jobs/{job_id}/pairs": Operation("list_pairs", "List pairs of trials to compare", ("pairs", "pairs_none")),
        "POST /jobs/{job_id}/pairs/{pair}": Operation(
            "answer_pair",
            "Say which of two trials is better",
            ("pairs",),
            ("better_first", "better_second", "better_equal"),
        ),
        "GET /jobs/{job_id}/events": Operation("stream_events", "Follow a job's events", ("events", "events_end")),
        "POST /reconstruct": Operation(
            "reconstruct_image",
            "Reconstruct an image with a model",
            ("reconstruction",),
            ("image_png", "image_gif", "image_data_url"),
        ),
        "GET /models": Operation("list_models", "List the registered models", ("models", "models_none", "models_away")),
        "GET /models/{name}": Operation("get_model", "Show a registered model", _MODEL),
        "POST /models/{name}/versions/{version}:promote": Operation(
            "promote_version", "Make a version the champion", ("model_digits",), ("why_better", "why_test", "why_none")
        ),
        "POST /models/{name}:rollback": Operation(
            "roll_back_model",
            "Make the champion before the champion again",
            ("model_digits",),
            ("why_worse", "why_test", "why_none"),
        ),
        "POST /models:rollback": Operation(
            "roll_back_default_model", "Go back to the champion before, of the model served by default", ("models",)
        ),
        "GET /disk": Operation("show_disk", "Show what is kept on the disk", ("disk", "disk_new")),
        "GET /retention": Operation(
            "show_retention",
            "Show which ended jobs are over a limit",
            ("retention", "retention_bytes", "retention_none"),
        ),
        "POST /retention:apply": Operation(
            "apply_retention",
            "Remove ended jobs that are over a limit",
            ("retention", "retention_bytes", "retention_none"),
        ),
        "GET /nodes": Operation("list_nodes", "List the cluster's machines", ("nodes", "nodes_alone")),
        "GET /cluster/join": Operation(
            "get_join_information", "Show what a machine needs to join the cluster", ("join", "join_data")
        ),
        "GET /metrics": Operation(
            "get_metrics",
            "Read the metrics, in Prometheus' format",
            ("metrics_jobs", "metrics_queue", "metrics_no_database"),
        ),
        "POST /tokens": Operation(
            "create_token", "Make an access token", ("token_new",), ("token_user", "token_reader", "token_admin")
        ),
        "GET /tokens": Operation("list_tokens", "List the access tokens", ("tokens", "tokens_none")),
        "DELETE /tokens/{token_id}": Operation("revoke_token", "Revoke an access token", ("token_revoked",)),
        "GET /session": Operation("get_session", "Show who asks", ("session", "session_open")),
        "POST /session": Operation(
            "begin_session",
            "Have the browser keep a token",
            ("session",),
            ("session_token", "session_admin", "session_web"),
        ),
        "DELETE /session": Operation("end_session", "Have the browser forget the token"),
        "GET /audit": Operation("show_audit", "Show who changed what", ("audit", "audit_none")),
        "GET /healthz": Operation("get_liveness", "Ask whether the process lives", ("alive",)),
        "GET /readyz": Operation("get_readiness", "Ask whether the service can do its work", ("ready", "no_model")),
    }
)
"""By method and path. A test sees to it that every route has its row."""

PARAMETERS: Mapping[str, tuple[str, object]] = MappingProxyType(
    {
        "job_id": ("id of the job, as `POST /jobs` answered", "job_4f7k2m9q1x3z"),
        "token_id": ("id of the token, one of `GET /tokens`", "tok_1f0c3a5b7d9e"),
        "owner": ("only jobs that this owner submitted", "ada"),
        "limit": ("jobs on a page, 1 to 200", 50),
        "number": ("number of the trial, counted from 0", 3),
        "after": ("`next_after` of the page before", -1),
        "step": ("iteration of the film strip, one of `GET /jobs/{job_id}/frames`, or `latest`", "latest"),
    }
)
"""By name of a parameter: its text, where the route has none, and an example."""

TAGS: Mapping[str, str] = MappingProxyType(
    {
        "jobs": "Training, searches, figures and evaluations: submit them, follow them, change them.",
        "models": "Registered models: which version is served and why, and reconstruction of images with them.",
        "access": "Access tokens, and who changed what.",
        "service": "What the service keeps.",
        "health": "For load balancers and people who look after the service.",
    }
)
"""What each group of operations is about."""
