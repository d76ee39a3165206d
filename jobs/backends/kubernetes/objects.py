"""Objects of the API server as far as they are read, and the credentials of a pod's service account."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field

from jobs.errors import LauncherUnavailable
from jobs.interfaces import ProcessState

__all__ = ["SUBMISSION_LABEL", "KubernetesCredentials", "KubernetesObject", "ObjectList", "Problem"]

SUBMISSION_LABEL = "seqae/submission"
"""Label with the submission's id; an object without it is none of ours."""

_TERMINAL = {
    "SUCCEEDED": ProcessState.SUCCEEDED,
    "FAILED": ProcessState.FAILED,
    "STOPPED": ProcessState.STOPPED,
}


@dataclass(frozen=True)
class KubernetesCredentials:
    """How the API server is reached: as a pod's service account, unless told otherwise."""

    url: str = "https://kubernetes.default.svc"
    folder: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """Has `token`, `ca.crt` and `namespace`. The token is read at each call: it is replaced every hour."""
    namespace: str = ""
    """Where RayJobs are made; empty: the pod's own."""

    @property
    def authority(self) -> Path:
        """Certificate by which the API server is known."""
        return self.folder / "ca.crt"

    def headers(self) -> dict[str, str]:
        """The authorization of a request. Raises: LauncherUnavailable: the token can't be read."""
        return {"Authorization": f"Bearer {self._read('token')}"}

    def own_namespace(self) -> str:
        """The namespace that RayJobs are made in. Raises: LauncherUnavailable: it can't be read."""
        return self.namespace or self._read("namespace")

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise LauncherUnavailable(f"the service account's {name} can't be read: {type(error).__name__}") from error


class Metadata(BaseModel):
    """Name, labels and the like of an object; of a list, where it goes on."""

    name: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    deleted_at: str | None = Field(None, alias="deletionTimestamp")
    more: str = Field("", alias="continue")


class Status(BaseModel):
    """Status of a RayJob or of a pod."""

    job: str = Field("", alias="jobStatus")
    deployment: str = Field("", alias="jobDeploymentStatus")
    reason: str = ""
    message: str = ""
    phase: str = ""
    address: str = Field("", alias="podIP")


class KubernetesObject(BaseModel):
    """A RayJob, a pod or a namespace."""

    metadata: Metadata = Metadata()
    status: Status = Status()

    @property
    def submission(self) -> str | None:
        """The submission that it is of; None: it is none of ours."""
        return self.metadata.labels.get(SUBMISSION_LABEL)

    @property
    def state(self) -> ProcessState:
        """State of a RayJob. One that a queue holds back, or that this release has no word for, is pending."""
        if self.status.deployment == "Failed":
            return ProcessState.FAILED
        usual = ProcessState.RUNNING if self.status.job == "RUNNING" else ProcessState.PENDING
        return _TERMINAL.get(self.status.job, usual)


class ObjectList(BaseModel):
    """A page of objects."""

    metadata: Metadata = Metadata()
    items: list[KubernetesObject]


class Problem(BaseModel):
    """What the API server answers in place of what was asked for."""

    message: str = ""
