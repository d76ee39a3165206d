"""Experiments in MLflow: one for each registered model, with a view of its runs that has the scores as columns."""

import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs.backends.mlflow_client import create_unless_exists, import_mlflow
from jobs.errors import TrackingRefused

if TYPE_CHECKING:
    import mlflow

__all__ = ["Experiments", "run_path", "search_runs", "table_path"]

logger = logging.getLogger(__name__)

_MODEL_TAG = "seqae.model"
"""Tag of the experiments that were made here: the registered model whose runs they hold."""

_VIEW = "seqae"
_VIEW_TAG = f"mlflow.sharedViewState.{_VIEW}"
_TRAINING = "workflowType=machine_learning"
"""Without it MLflow's pages open in their view of language models, which has neither runs nor charts."""

_COLUMNS = (
    *(f"metrics.`{name}`" for name in ("test/objective", "test/mse", "test/fg_ari", "val/mse", "val/fg_ari")),
    "attributes.`Models`",
    *(f"params.`{name}`" for name in ("model.coder.bottleneck", "model.steps", "schedule.epochs", "data.train_scenes")),
    "attributes.`User`",
    "attributes.`Dataset`",
)
_VIEW_STATE = {
    "orderByKey": "attributes.start_time",
    "orderByAsc": False,
    "selectedColumns": list(_COLUMNS),
    # Scores first, just beside the names: a table is wider than most windows.
    "columnOrder": ["attributes.`Created`", *_COLUMNS],
    "columnWidths": {"attributes.`Created`": 120} | {name: 100 for name in _COLUMNS if name.startswith("metrics")},
}


def run_path(experiment_id: str, run_id: str) -> str:
    """Address of a run's page, below that of the server."""
    return f"/#/experiments/{experiment_id}/runs/{run_id}?{_TRAINING}"


def table_path(experiment_id: str) -> str:
    """Address of an experiment's table of runs with the scores as columns, below that of the server."""
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={_VIEW}&{_TRAINING}"


class Experiments:
    """Finds and makes experiments.

    Ids are asked for each time, since a person may delete an experiment at any time. The methods raise MLflow's own
    errors.

    Args:
        client: of the server.
        shared: name of the experiment of runs without a registered model; older releases made all runs in it.
    """

    def __init__(self, client: "mlflow.MlflowClient", shared: str) -> None:
        self._client = client
        self._shared = shared

    def ensure(self, name: str | None) -> str:
        """Id of the experiment of a registered model, which is made when missing and restored when deleted.

        Args:
            name: of the model; None: the shared experiment.

        Raises:
            TrackingRefused: it was deleted, and can't be restored.
        """
        name = name or self._shared
        found = self._client.get_experiment_by_name(name)
        if found is None:
            create_unless_exists(lambda: self._client.create_experiment(name))
            found = self._client.get_experiment_by_name(name)
        if found.lifecycle_stage == "deleted":
            self._restore(name, found.experiment_id)
        self._describe(name, found)
        return str(found.experiment_id)

    def ids(self) -> list[str]:
        """Ids of all experiments that may have runs of ours: those that were made here, and the shared one."""
        found = {str(one.experiment_id) for one in self._search(f"tags.`{_MODEL_TAG}` LIKE '%'")}
        shared = self._client.get_experiment_by_name(self._shared)
        return sorted(found | ({str(shared.experiment_id)} if shared is not None else set()))

    def _search(self, query: str) -> list[Any]:
        found: list[Any] = []
        token = None
        while True:
            page = self._client.search_experiments(filter_string=query, max_results=1000, page_token=token)
            found.extend(page)
            token = page.token
            if not token:
                return found

    def _restore(self, name: str, experiment_id: str) -> None:
        """Brings back an experiment that a person deleted; with it come the runs in it."""
        try:
            self._client.restore_experiment(experiment_id)
        except import_mlflow().exceptions.MlflowException as error:
            # Another process may have come first.
            found = self._client.get_experiment_by_name(name)
            if found is None or found.lifecycle_stage == "deleted":
                text = f"the experiment {name!r} was deleted in MLflow and can't be restored; restore it there"
                raise TrackingRefused(text) from error
        logger.warning("the experiment %r was deleted in MLflow; it is restored, since a job needs it", name)

    def _describe(self, name: str, found: Any) -> None:
        """Sets the tags that an experiment lacks; what a person wrote stays."""
        table = table_path(found.experiment_id).removeprefix("/")
        note = f"Runs of the registered model `{name}`. [Open the table with the scores as columns]({table})"
        wanted = {
            _MODEL_TAG: name,
            _VIEW_TAG: json.dumps(_VIEW_STATE),
            "mlflow.experimentKind": "custom_model_development",
            "mlflow.note.content": note,
        }
        for key, value in wanted.items():
            if key not in found.tags:
                self._client.set_experiment_tag(found.experiment_id, key, value)


def search_runs(client: "mlflow.MlflowClient", experiment_ids: Sequence[str], query: str) -> list[Any]:
    """All runs of some experiments that answer to a query, of any number of pages. Deleted runs are left out."""
    found: list[Any] = []
    token = None
    while experiment_ids:
        page = client.search_runs(list(experiment_ids), query, max_results=1000, page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            break
    return found
