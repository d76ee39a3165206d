"""Home folder that an older release made, unpacked, and what that release said of it. See fixtures/legacy/README.md."""

import json
import tarfile
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from jobs.interfaces import ProcessState

__all__ = ["LegacyHome", "LegacyModel", "unpack"]

_ARCHIVE = Path(__file__).parent / "fixtures" / "legacy" / "home.tar.xz"


class LegacyModel(BaseModel):
    """Registered model."""

    version: str
    job_id: str
    metrics: dict[str, float]


class LegacyHome(BaseModel):
    """What the older release said: expected.json."""

    home: Path
    """Where it was unpacked."""
    now: datetime
    """Time at which it stopped."""
    jobs: list[dict[str, Any]]
    """JSON of every job, newest first."""
    attempts: dict[str, list[dict[str, Any]]]
    """JSON of every attempt, by job."""
    events: list[dict[str, Any]]
    """JSON of every event, oldest first."""
    undelivered: list[int]
    """Events whose webhook deliveries were still due, in order."""
    processes: dict[str, ProcessState]
    """Submissions that the cluster knew."""
    models: dict[str, LegacyModel]
    """Registered models, by selector."""
    open_runs: list[str]
    """Jobs whose MLflow runs were open."""

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.home / 'jobs.db'}"

    @property
    def jobs_dir(self) -> Path:
        return self.home / "jobs"

    def id_of(self, name: str) -> str:
        """Id of the job of a name; names are unique here."""
        (found,) = (str(job["id"]) for job in self.jobs if job["name"] == name)
        return found

    def run_of(self, name: str) -> str:
        """Id of a job's MLflow run."""
        (url,) = (str(job["mlflow_url"]) for job in self.jobs if job["name"] == name)
        return url.rpartition("/")[2]


def unpack(folder: Path) -> LegacyHome:
    """Unpacks the home folder into an empty folder."""
    with tarfile.open(_ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    said = json.loads((folder / "expected.json").read_bytes())
    return LegacyHome.model_validate({"home": folder, **said})
