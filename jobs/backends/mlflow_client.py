"""MLflow's client, imported on first use, and its errors as those of `jobs.errors`."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jobs.errors import NoRun, TrackingRefused, TrackingUnavailable

if TYPE_CHECKING:
    import mlflow

__all__ = ["JOB_TAG", "create_unless_exists", "import_mlflow", "mapped_errors", "new_client", "none_if_unknown"]

JOB_TAG = "seqae.job_id"
"""Tag of runs and of model versions: the job that made them."""

_IMPORTING = threading.Lock()

_REFUSALS = frozenset(
    {"ALREADY_EXISTS", "BAD_REQUEST", "INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "RESOURCE_CONFLICT"}
)
"""Error codes of a server that works, and does not take what it was sent. A server that asks for a login or does not
know its own address works for nobody, so that is an outage."""

_HTTP_REFUSALS = frozenset({400, 404, 409, 413, 422})
"""Likewise, statuses of the part of the server that stores files."""


def import_mlflow() -> Any:
    """MLflow, which takes seconds to import, by the first thread that needs it while the others wait.

    Two threads that import parts of it at once see each other's half-made modules, and then it can't be imported again.
    """
    with _IMPORTING:
        import mlflow
        import mlflow.entities
        import mlflow.exceptions

        return mlflow


def new_client(url: str) -> "mlflow.MlflowClient":
    """A client whose calls take seconds at most, not minutes.

    Args:
        url: of the server.
    """
    # MLflow takes these from the environment only; its defaults would hold a caller for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    return import_mlflow().MlflowClient(url, url)


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Turns errors of MLflow and of the connection to it into those of `jobs.errors`.

    Raises:
        NoRun: the server does not know the run, or whatever else was asked for.
        TrackingRefused: the server works, and does not take what it was sent.
        TrackingUnavailable: anything else went wrong.
    """
    import requests

    try:
        yield
    except (import_mlflow().exceptions.MlflowException, requests.RequestException) as error:
        text = f"the tracking server: {error}"
        code = getattr(error, "error_code", None)
        if code == "RESOURCE_DOES_NOT_EXIST":
            raise NoRun(text) from error
        if code in _REFUSALS or _http_status(error) in _HTTP_REFUSALS:
            raise TrackingRefused(text) from error
        raise TrackingUnavailable(text) from error


def _http_status(error: Exception) -> int | None:
    """Status of the answer that an error of `requests` is about; MLflow's own errors have a code instead."""
    return getattr(getattr(error, "response", None), "status_code", None)


def none_if_unknown(get: Callable[[], Any]) -> Any:
    """What a call returns, or None where the server does not know what is asked for."""
    try:
        return get()
    except import_mlflow().exceptions.MlflowException as error:
        # An unknown alias is reported as an invalid value.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def create_unless_exists(create: Callable[[], Any]) -> None:
    """Makes a call that creates something; that it exists already is no error."""
    try:
        create()
    except import_mlflow().exceptions.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
