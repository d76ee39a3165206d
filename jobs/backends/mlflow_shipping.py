"""Copies a job's folder to its run in MLflow: metrics, film strips, artifacts, its data set, the table of trials.

What is sent is a projection of the folder, so everything here may be repeated, late, or done by someone else: names of
files are functions of what they hold, and points that a run has already are left out by the server.
"""

import hashlib
import json
import logging
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.backends.mlflow_client import import_mlflow
from jobs.directory.layout import JobFolder
from jobs.directory.records import DatasetRecord, MetricRow, NoteKind, Shipped, TrialRow
from jobs.errors import FolderError
from jobs.search.settings import HUMAN_SCORE

if TYPE_CHECKING:
    import mlflow

__all__ = ["TRIALS_TABLE", "Shipper", "read_shipped"]

logger = logging.getLogger(__name__)

TRIALS_TABLE = "trials.json"
"""Artifact with the table of a search's trials, as MLflow's page shows tables."""

_TABLE_SCORES = (HUMAN_SCORE, *(f"val/{name}" for name in ("objective", "mse", "fg_ari", "count_accuracy")))

_DATASET_TAG = "seqae.dataset"
_START_TAG = "seqae.start_from"
_IMAGES_TAG = "mlflow.loggedImages"
_TABLES_TAG = "mlflow.loggedArtifacts"

_FRAME_KEYS = {"figure": "canvas/figure", "evaluate": "canvas/test"}
_FILM_STRIP = "canvas/val"
"""Name of the film strips of a training run. MLflow shows them in the section of what stands before the slash; of all
sections this one comes first."""
_PREVIEW_SIDE = 1024
"""Pixels of the longer side of the small copy that MLflow shows in its charts."""

# The server's own limits.
_MAX_METRICS = 1000
_MAX_TAG_LENGTH = 5000

_DIGEST_LENGTH = 16
"""Characters of a checksum that are shown."""


class Shipper:
    """Sends what is new in a folder to a run. Its methods raise MLflow's own errors.

    Args:
        client: of the server.
    """

    def __init__(self, client: "mlflow.MlflowClient") -> None:
        self._client = client

    def ship(self, folder: JobFolder, run: Any, kind: str) -> None:
        """Sends what is new, and records in the folder how far it came.

        Args:
            folder: of the job or trial; its lock is held.
            run: as the server has it now.
            kind: of the job.
        """
        run_id = run.info.run_id
        shipped = read_shipped(folder)
        if shipped.run_id not in (None, run_id):
            # The server had lost the run, and this is the one that was made in its place: it has nothing yet.
            shipped = Shipped()
        shipped.run_id = run_id
        self._ship_metrics(folder, run_id, shipped)
        self._ship_frames(folder, run, _FRAME_KEYS.get(kind, _FILM_STRIP), shipped)
        self._ship_artifacts(folder, run_id, shipped)
        self._ship_dataset(folder, run_id, kind, shipped)
        self._ship_start(folder, run_id, shipped)

    def ship_trials(self, folder: JobFolder, run: Any, rows: Sequence[TrialRow]) -> None:
        """Sends the table of a search's trials when it has changed, and in the end the best one's parameters.

        Args:
            folder: of the search; its lock is held.
            run: the search's, as the server has it now.
            rows: the newest of each trial.
        """
        table = _table(rows)
        digest = hashlib.sha256(table.encode()).hexdigest()
        shipped = read_shipped(folder)
        if shipped.trials != digest:
            self._client.log_text(run.info.run_id, table, TRIALS_TABLE)
            self._client.set_tag(run.info.run_id, _TABLES_TAG, json.dumps([{"path": TRIALS_TABLE, "type": "table"}]))
            shipped.trials = digest
            folder.write_shipped(shipped)
        best = _best_trial(folder)
        for row in rows:
            if row.trial == best:
                self.log_params(run, {name: str(value) for name, value in row.params.items()})

    def log_params(self, run: Any, params: dict[str, str]) -> None:
        """Sends those parameters that the run does not have: one that it has can't be changed."""
        new_param = import_mlflow().entities.Param
        missing = [new_param(name, value) for name, value in params.items() if name not in run.data.params]
        for start in range(0, len(missing), 100):
            self._client.log_batch(run.info.run_id, params=missing[start : start + 100])

    def _ship_metrics(self, folder: JobFolder, run_id: str, shipped: Shipped) -> None:
        for rows in _batches(folder.history(after=shipped.steps)):
            self._client.log_batch(run_id, metrics=_metric_entities(rows))
            for row in rows:
                shipped.steps.update(dict.fromkeys(row.metrics, row.step))
            folder.write_shipped(shipped)

    def _ship_frames(self, folder: JobFolder, run: Any, key: str, shipped: Shipped) -> None:
        run_id = run.info.run_id
        for step, path in _new_frames(folder, shipped.frames):
            with tempfile.TemporaryDirectory() as drafts:
                if _render_frame(path, Path(drafts), _frame_name(run, key, step)):
                    self._client.log_artifacts(run_id, drafts, "images")
            if _IMAGES_TAG not in run.data.tags:
                self._client.set_tag(run_id, _IMAGES_TAG, "True")
                run.data.tags[_IMAGES_TAG] = "True"
            shipped.frames = step
            folder.write_shipped(shipped)

    def _ship_artifacts(self, folder: JobFolder, run_id: str, shipped: Shipped) -> None:
        for path in _new_artifacts(folder, shipped.artifacts):
            self._client.log_artifact(run_id, str(path))
            shipped.artifacts.append(path.name)
            folder.write_shipped(shipped)

    def _ship_dataset(self, folder: JobFolder, run_id: str, kind: str, shipped: Shipped) -> None:
        if shipped.dataset is None and (source := _data_note(folder)):
            self._client.set_tag(run_id, _DATASET_TAG, source[:_MAX_TAG_LENGTH])
            shipped.dataset = source
            folder.write_shipped(shipped)
        record = _data_record(folder)
        if record is not None and shipped.data != record.checksum:
            self._client.log_inputs(run_id, [_dataset_input(record, kind)])
            shipped.data = record.checksum
            folder.write_shipped(shipped)

    def _ship_start(self, folder: JobFolder, run_id: str, shipped: Shipped) -> None:
        """Tags the run with the model that training started from: the spec may say `champion`, which moves."""
        try:
            start = folder.read_start()
        except FolderError as error:
            logger.warning("%s", error)
            return
        if start is not None and shipped.start_from != start.model:
            self._client.set_tag(run_id, _START_TAG, start.model[:_MAX_TAG_LENGTH])
            shipped.start_from = start.model
            folder.write_shipped(shipped)


def read_shipped(folder: JobFolder) -> Shipped:
    """How far a folder has been sent; not at all where the record is damaged."""
    try:
        return folder.read_shipped()
    except FolderError as error:
        # Damaged: everything is sent again, which changes nothing where it was sent before.
        logger.warning("%s; everything is sent again", error)
        return Shipped()


def _frame_name(run: Any, key: str, step: int) -> str:
    """Name of a picture, from which MLflow reads its key and the step on its slider.

    MLflow's own `log_image` makes up another name each time, so that a picture sent twice would be there twice, unless
    all pictures were listed before each.
    """
    unique = uuid.uuid5(uuid.NAMESPACE_OID, f"{run.info.run_id} {key} {step}")
    return f"{key.replace('/', '~')}+step+{step}+timestamp+{run.info.start_time + step}+{unique}"


def _render_frame(path: Path, folder: Path, name: str) -> bool:
    """Puts a picture and a small copy of it into a folder; False where it is damaged or gone."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.save(folder / f"{name}.png")
            image.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
            image.convert("RGB").save(folder / f"{name}+compressed.webp")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # The others and the metrics are not held up by it.
        logger.warning("the film strip %s is left out: %s", path, error)
        return False
    return True


def _batches(rows: Iterator[MetricRow]) -> Iterator[list[MetricRow]]:
    """Rows in lists of as many points as one call may send."""
    batch: list[MetricRow] = []
    size = 0
    for row in rows:
        if size + len(row.metrics) > _MAX_METRICS:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += len(row.metrics)
    if batch:
        yield batch


def _metric_entities(rows: Sequence[MetricRow]) -> list[Any]:
    metric = import_mlflow().entities.Metric
    return [metric(name, value, int(row.time * 1000), row.step) for row in rows for name, value in row.metrics.items()]


def _new_frames(folder: JobFolder, after: int) -> list[tuple[int, Path]]:
    found = {step: attempt.frames / f"{step}.png" for attempt in folder.attempts() for step in attempt.frame_steps()}
    return sorted((step, path) for step, path in found.items() if step > after)


def _new_artifacts(folder: JobFolder, sent: Sequence[str]) -> list[Path]:
    """Those of the newest attempt that has one of that name. Writers of artifacts put them there whole."""
    found = {path.name: path for attempt in folder.attempts() for path in attempt.artifacts.glob("[!.]*")}
    return [path for name, path in sorted(found.items()) if name not in sent and path.is_file()]


def _data_note(folder: JobFolder) -> str | None:
    notes = (note for attempt in folder.attempts() for note in attempt.notes())
    return next((note.text for note in notes if note.kind is NoteKind.DATA), None)


def _data_record(folder: JobFolder) -> DatasetRecord | None:
    """The newest attempt's; None where an older release's driver wrote none."""
    for attempt in reversed(folder.attempts()):
        try:
            record = attempt.read_data()
        except FolderError as error:
            logger.warning("%s", error)
            continue
        if record is not None:
            return record
    return None


def _dataset_input(record: DatasetRecord, kind: str) -> Any:
    entities = import_mlflow().entities
    dataset = entities.Dataset(
        name=record.name[:500],
        digest=record.checksum[:_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": record.location, "description": record.source[:_MAX_TAG_LENGTH]}),
        profile=json.dumps({name: getattr(record, name) for name in ("train", "val", "test", "test_checksum")}),
    )
    context = "evaluation" if kind == "evaluate" else "training"
    return entities.DatasetInput(dataset, [entities.InputTag("mlflow.data.context", context)])


def _table(rows: Sequence[TrialRow]) -> str:
    """Trials as MLflow's tables are stored: columns, and a list for each row.

    Params have the last part of their names: MLflow's page takes a dot for a path and shows nothing.
    """
    params = sorted({name for row in rows for name in row.params})
    scores = [name for name in _TABLE_SCORES if any(name in row.metrics for row in rows)]
    columns = ["trial", "state", *(name.rpartition(".")[2] for name in params), *scores, "epoch", "message"]
    data = [
        [
            row.trial,
            row.state.value,
            *(row.params.get(name) for name in params),
            *(row.metrics.get(name) for name in scores),
            row.epoch,
            row.message,
        ]
        for row in rows
    ]
    return json.dumps({"columns": columns, "data": data})


def _best_trial(folder: JobFolder) -> int | None:
    """Number of the trial whose model is the result of a search that has ended."""
    for attempt in reversed(folder.attempts()):
        try:
            result = attempt.read_result()
        except FolderError as error:
            logger.warning("%s", error)
            continue
        if result is not None and "best_trial" in result.metrics:
            return int(result.metrics["best_trial"])
    return None
