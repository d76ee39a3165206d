"""Every setting of the control plane, read once by the entry point from `SEQAE_*` variables and handed on."""

import ipaddress
import re
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from jobs.storage.locations import check_location, default_node_dir
from jobs.telemetry.log_records import LogFormat
from jobs.telemetry.tracing import CONSOLE
from seqae.errors import Error
from service.scopes import Scope

__all__ = ["LauncherKind", "ReconcilerSettings", "Settings", "is_loopback"]


JwtAlgorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Algorithms with a public key alone: with a shared key, or none, whoever can check a token can make one."""


class LauncherKind(StrEnum):
    """What runs attempts."""

    RAY = "ray"
    KUBERNETES = "kubernetes"


class ReconcilerSettings(BaseModel):
    """Limits of the queue and patience of the reconciler. Durations are in seconds."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    reconcile_every: float = Field(1.0, gt=0)
    """Time between two rounds."""

    reconcile_threads: int = Field(4, ge=1, le=64)
    """Jobs looked at side by side, so that one slow call doesn't hold up the others."""

    lease_for: float = Field(15.0, gt=0)
    """A job's row belongs to one reconciler for so long; it renews the lease while it works."""

    sweep_every: float = Field(30.0, gt=0)
    """Time between two searches for leftovers: open runs of ended jobs, processes without a live attempt."""

    # --- the queue

    max_concurrent_jobs: int = Field(8, ge=1)
    """Jobs on the cluster at once."""

    max_running_per_owner: int = Field(8, ge=1)
    """Jobs of one owner on the cluster at once."""

    max_jobs_per_owner: int = Field(2_000, ge=1)
    """Jobs of one owner that have not ended; more are refused."""

    max_jobs: int = Field(20_000, ge=1)
    """Jobs of all owners that have not ended; more are refused."""

    backfill_for: float = Field(600.0, ge=0)
    """Small jobs may pass one that waits for room, until it has waited for so long."""

    preemption: bool = False
    """A job that has no room makes running jobs of lower priority leave, with a checkpoint and back into the queue."""

    scheduling_deadline: float = Field(7 * 24 * 3600.0, gt=0)
    """A job that has waited in the queue for so long fails."""

    start_deadline: float = Field(900.0, gt=0)
    """An attempt that the cluster has accepted but not started within this time is taken back and counts as lost."""

    # --- trying again

    max_losses: int = Field(50, ge=0)
    """Attempts of a job that may be lost to infrastructure before it fails. They don't count as retries."""

    max_retries: int = Field(0, ge=0)
    """Attempts that may follow an error of the job's own."""

    retry_wait: float = Field(2.0, ge=0)
    """Wait before the next attempt; doubles with each attempt that gets no further than the ones before."""

    retry_wait_max: float = Field(300.0, ge=0)
    """Longest wait before the next attempt."""

    # --- signs of life

    cluster_poll: float = Field(5.0, ge=0)
    """While the heartbeat is fresh, the cluster is asked about a job only this often."""

    heartbeat_stale: float = Field(20.0, gt=0)
    """A heartbeat that has not changed for so long is stale."""

    lost_after: float = Field(65.0, gt=0)
    """An attempt that the cluster knows nothing of is lost after so long: a driver outlives its head by 60 s."""

    stall_after: float = Field(1800.0, gt=0)
    """An attempt that lives but gets no further for so long is lost."""

    time_limit: float = Field(7 * 24 * 3600.0, gt=0)
    """Longest time from a job's first heartbeat to its end; then it is stopped and fails."""

    stop_grace: float = Field(30.0, gt=0)
    """An attempt that was asked to leave is stopped by force after so long."""

    exit_grace: float = Field(10.0, gt=0)
    """A driver that has written its result and doesn't leave is stopped after so long."""

    tracking_retry: float = Field(5.0, gt=0)
    """Wait after the tracking server did not answer, and after a step of a job that failed."""

    max_step_failures: int = Field(20, ge=1)
    """A job whose step has failed so often in a row, with an error of its own, and for `step_failing_for`, fails."""

    step_failing_for: float = Field(600.0, ge=0)
    """How long a job's step must have failed before the job does."""

    progress_event_every: float = Field(2.0, ge=0)
    """Progress becomes an event at most this often."""

    # --- what grows on the disk

    disk_sweep_every: float = Field(600.0, gt=0)
    """Time between two sweeps of what grows on the disk."""

    data_cache_bytes: int = Field(50_000_000_000, ge=0)
    """Built data sets take no more; over it the longest unused ones are removed. Those of live jobs always stay."""

    data_cache_days: float = Field(30.0, gt=0, le=36_500)
    """A built data set that no job has used for so many days is removed; it is built again when it is needed."""

    model_cache_bytes: int = Field(10_000_000_000, ge=0)
    """Models downloaded from MLflow take no more; over it the longest unused ones are removed, but for four."""

    max_film_strips: int = Field(500, ge=2)
    """A run keeps no more film strips, an even choice of them, once MLflow has them."""

    max_log_bytes: int = Field(100_000_000, ge=10_000)
    """A log that is longer loses its beginning, so that half of this is left."""

    max_events: int = Field(20_000, ge=100)
    """A job keeps no more events besides its transitions, the newest ones."""

    ended_job_days: float = Field(0.0, ge=0, le=36_500)
    """An ended job is removed after so many days, unless its model has an alias, such as champion; 0: no limit."""

    max_ended_jobs: int = Field(0, ge=0)
    """No more ended jobs are kept; those without a model go first, then the longest ended. 0: no limit."""

    max_ended_jobs_per_owner: int = Field(0, ge=0)
    """Likewise, of one owner; 0: no limit."""

    ended_job_bytes: int = Field(0, ge=0)
    """Folders of ended jobs take no more; checkpoints beside the best go first, then whole jobs. 0: no limit."""

    ended_job_bytes_per_owner: int = Field(0, ge=0)
    """Likewise, of one owner; 0: no limit."""

    deleted_events_days: float = Field(90.0, gt=0, le=36_500)
    """Events of a deleted job are kept for so many days."""

    audit_days: float = Field(365.0, gt=0, le=36_500)
    """Rows of the audit log are kept for so many days."""

    max_audit_rows: int = Field(100_000, ge=100)
    """The audit log keeps no more rows, the newest ones."""

    @property
    def longest_wait(self) -> float:
        """No job is left alone for longer, in seconds; one that is to be has been put off by a clock set back since."""
        return max(2 * self.retry_wait_max, self.cluster_poll, self.tracking_retry, self.reconcile_every, 60.0)


class Settings(ReconcilerSettings, BaseSettings):
    """How this process of the control plane runs. Durations are in seconds, sizes in bytes.

    The limits of the queue and the patience of the reconciler are inherited. Only entry points
    build it from the environment; everything else takes it as an argument.
    """

    model_config = SettingsConfigDict(env_prefix="SEQAE_", frozen=True, extra="ignore", use_attribute_docstrings=True)

    home: Path = Path(".seqae")
    """Folder of everything the stack keeps; made absolute."""

    data_dir: Path | None = None
    """Folder with data of the user's own: MNIST's files, images, COCO. Specs name paths below it."""

    data_roots: tuple[Path, ...] = ()
    """Further folders that specs may name paths in (JSON list in the environment). What lies outside of them and of
    `data_dir`, links followed, is refused."""

    host: str = "127.0.0.1"
    """Address that this process listens on."""

    port: int = Field(8400, ge=0, le=65_535)
    """Port that this process listens on; 0 takes one that is free."""

    database_url: str = ""
    """SQLAlchemy URL of the job database; empty: SQLite below `home`."""

    storage: str = ""
    """Bucket that has the files of jobs and the built data sets, where machines share no folder: s3://BUCKET/PREFIX,
    gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or file:///FOLDER for a folder that is used like a bucket. Credentials
    come from the environment of this process and of Ray's. Empty: all machines see `home`."""

    node_dir: Path | None = None
    """Folder on each machine of the cluster for its copies of what is in `storage`; empty: one below /var/tmp."""

    # --- the two services beside this one

    mlflow_url: str = "http://127.0.0.1:5000"
    """Where this process and the jobs reach the MLflow server."""

    mlflow_public_url: str = ""
    """Where a browser reaches it, for links; empty: the same."""

    experiment: str = "seqae"
    """MLflow experiment that runs are made in."""

    model_name: str = ""
    """Registered model that jobs' models become versions of where a spec has no `register_as`; empty: by the kind of
    data."""

    default_model: str = ""
    """Registered model that `/reconstruct` serves where none is named; empty: the one that was promoted last."""

    ray_url: str = "http://127.0.0.1:8265"
    """Ray's dashboard, which takes jobs."""

    ray_token_file: Path | None = None
    """File with Ray's token, mode 0600."""

    head_address: str = Field("", max_length=300)
    """Where Ray's head listens for machines that join, as host:port, for `seqae join`; empty: none can."""

    ray_timeout: float = Field(5.0, gt=0)
    """Longest wait for an answer of Ray; without a limit a dead head costs a minute a call."""

    # --- where attempts run

    launcher: LauncherKind = LauncherKind.RAY
    """What runs attempts: `ray`, the cluster at `ray_url`; or `kubernetes`, a RayJob of KubeRay for each attempt, with
    a Ray cluster of its own, which a queue such as Kueue may hold back."""

    kubernetes_template: Path | None = None
    """File with a RayCluster manifest (YAML), which each RayJob's cluster is made from; needed with `kubernetes`."""

    kubernetes_labels: dict[str, str] = {}
    """Labels of each RayJob (JSON object in the environment), such as {"kueue.x-k8s.io/queue-name": "gpus"}."""

    kubernetes_namespace: str = ""
    """Where RayJobs are made; empty: the namespace of this pod."""

    kubernetes_url: str = "https://kubernetes.default.svc"
    """Address of the API server."""

    kubernetes_credentials: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """Folder with the service account's `token`, `ca.crt` and `namespace`."""

    # --- what this process does besides answering

    reconcile: bool = True
    """Off: this process starts and watches no jobs; others do."""

    # --- logs and traces

    log_format: LogFormat = LogFormat.TEXT
    """How this process, the other parts that `seqae up` starts, drivers and workers write their logs: `text`, lines for
    people, or `json`, an object a line. With `json` each request leaves a line, too."""

    traces: str = ""
    """Where OpenTelemetry spans of this process, of drivers and of workers go: the http address of a receiver of OTLP,
    such as "http://collector:4318", or `console`; empty: nowhere. Needs the packages of `seqae[traces]`."""

    # --- webhooks

    webhook_urls: tuple[str, ...] = ()
    """Where transitions are posted to (JSON list in the environment)."""

    webhook_secret: SecretStr | None = None
    """Key of the signature (HMAC-SHA256) of each delivery."""

    webhook_networks: tuple[IPvAnyNetwork, ...] = ()
    """Networks of receivers that are not on the public internet, such as "10.1.0.0/16" (JSON list in the environment).
    Other addresses of the inside are never connected to, whatever a receiver's name leads to."""

    # --- who may ask

    tokens: bool = False
    """Every request needs a token. Always so where `host` is no loopback address, or where there is a `jwks_url`."""

    private_jobs: bool = False
    """Owners see their own jobs alone; admins see all. Off: everybody who may read sees all jobs. Counts where tokens
    are needed."""

    rate_limit: float = Field(100.0, ge=0)
    """Requests a second that one owner may make of this process, in the long run, where tokens are needed; 0: no
    limit."""

    rate_burst: int = Field(1_000, ge=1)
    """Requests that one owner may make at once, who has not asked for a while."""

    jwks_url: str = ""
    """Address of the keys (JWKS) of an identity provider: its tokens (JWT) are accepted besides those made here. https,
    or http on the loopback."""

    jwt_issuer: str = ""
    """What the claim `iss` of such a token must be; needed with `jwks_url`."""

    jwt_audience: str = ""
    """What must be in its claim `aud`; needed with `jwks_url`."""

    jwt_algorithms: tuple[JwtAlgorithm, ...] = ("RS256", "ES256")
    """Algorithms of signatures that are accepted (JSON list in the environment)."""

    jwt_owner_claim: str = Field("sub", min_length=1)
    """Claim that has the owner."""

    jwt_scopes_claim: str = Field("scope", min_length=1)
    """Claim that has the scopes: a list, or a text with blanks between them."""

    jwt_scopes: dict[str, Scope] = Field({f"seqae:{scope}": scope for scope in Scope})
    """Scope for each value of that claim (JSON object in the environment); other values allow nothing."""

    cors_origins: tuple[str, ...] = ()
    """Origins whose web pages may ask, with a token in a header (JSON list in the environment), such as
    "https://lab.example". Empty: no page of another origin may."""

    # --- the HTTP edge

    allowed_hosts: tuple[str, ...] = ()
    """Names that this service is reached by, besides `localhost`, loopback addresses and `host` (JSON list in the
    environment): "name" with any port, "name:port", "*.domain", or "*" for all. Requests to other names are refused,
    and so is a request that changes something and comes from a web page of another origin."""

    max_connections: int = Field(1_000, ge=16)
    """Open connections. One more closes one that waits for its request."""

    head_timeout: float = Field(15.0, gt=0)
    """Longest wait for the head of a request, from its first byte, or from the begin of a connection."""

    send_timeout: float = Field(60.0, gt=0)
    """A client that takes nothing of its answer for so long is cut off."""

    max_body_bytes: int = Field(20_000_000, ge=1024)
    """Largest body with an image; other bodies are limited to `max_spec_bytes`."""

    max_spec_bytes: int = Field(64_000, ge=1024)
    """Largest body without an image. Validating a body holds up every other request, hence the low limit."""

    max_image_pixels: int = Field(16_000_000, ge=1, le=500_000_000)
    """Larger images are refused by their header, before anything is decoded. Each of the two decoders may take 32 bytes
    of memory for each of these pixels, and 256 MB."""

    decode_seconds: float = Field(4.0, gt=0, le=600)
    """CPU time that decoding one image may take; then it is refused."""

    body_timeout: float = Field(60.0, gt=0)
    """Longest wait for a body to arrive, from the end of its request's head."""

    max_held_bytes: int = Field(400_000_000, ge=1_000_000)
    """Bodies of all requests in progress hold so many bytes together; larger ones than `max_spec_bytes` are refused
    beyond that."""

    min_free_bytes: int = Field(50_000_000, ge=0)
    """With less room on the disk of `home`, the process is not ready."""

    # --- reconstruction inside this process

    inference: bool = True
    """Off: this process serves no model."""

    inference_threads: int = Field(1, ge=1)
    """CPU threads that the model may use."""

    inference_batch: int = Field(16, ge=1)
    """At most so many images go through the model at once."""

    inference_linger: float = Field(0.002, ge=0)
    """How long a request waits for others to share its batch."""

    inference_queue: int = Field(64, ge=1)
    """At most so many requests wait; the next one is told to come back later."""

    inference_timeout: float = Field(60.0, gt=0)
    """Longest wait for an answer of the model, the decoding of the image included."""

    inference_models: int = Field(2, ge=1)
    """At most so many models besides the champion stay loaded, those asked for by version or job id."""

    champion_poll: float = Field(5.0, gt=0)
    """How often the registry is asked whether there is a new champion; what it said of another model is believed for so
    long."""

    lookup_threads: int = Field(4, ge=1, le=64)
    """Requests that ask the registry at the same time; others wait their turn, and never hold up those of jobs."""

    lookup_timeout: float = Field(10.0, gt=0)
    """Longest wait for the registry, and for a model that it names to be loaded."""

    @classmethod
    def from_environment(cls) -> Self:
        """The settings that the `SEQAE_*` variables make.

        Raises:
            Error: some of them can't be; one line names each of these variables, and quotes no value.
        """
        try:
            return cls()
        except ValidationError as error:
            problems = error.errors(include_input=False, include_url=False)
            raise Error("; ".join(f"{_variable(problem['loc'])}{problem['msg']}" for problem in problems)) from error
        except SettingsError as error:
            raise Error(f"a SEQAE_ variable can't be read: {error}") from error

    @model_validator(mode="after")
    def _deliveries_are_signed(self) -> Self:
        if self.webhook_urls and self.webhook_secret is None:
            raise ValueError("SEQAE_WEBHOOK_URLS needs SEQAE_WEBHOOK_SECRET, which signs the deliveries")
        return self

    @model_validator(mode="after")
    def _identity_provider_is_named(self) -> Self:
        if not self.jwks_url:
            return self
        url = urlsplit(self.jwks_url)
        host = url.hostname or ""
        if not host or not (url.scheme == "https" or (url.scheme == "http" and is_loopback(host))):
            raise ValueError("SEQAE_JWKS_URL must be an https:// address: who can change its answer can be anybody")
        if not (self.jwt_issuer and self.jwt_audience and self.jwt_algorithms):
            raise ValueError("SEQAE_JWKS_URL needs SEQAE_JWT_ISSUER, SEQAE_JWT_AUDIENCE and SEQAE_JWT_ALGORITHMS")
        return self

    @field_validator("storage")
    @classmethod
    def _is_storage(cls, url: str) -> str:
        return check_location(url) if url else ""

    @field_validator("home", mode="before")
    @classmethod
    def _named(cls, home: object) -> object:
        # An empty path would be the current folder.
        if home == "":
            raise ValueError("is empty: name a folder")
        return home

    @field_validator("traces")
    @classmethod
    def _receiver_of_spans(cls, target: str) -> str:
        url = urlsplit(target)
        if target not in ("", CONSOLE) and (url.scheme not in ("http", "https") or not url.hostname):
            raise ValueError(f"is neither an http address nor `{CONSOLE}`")
        if url.username is not None or url.password is not None:
            # Jobs get it in their environment, which Ray shows.
            raise ValueError("has a name or a password in it: give them in OTEL_EXPORTER_OTLP_HEADERS")
        return target

    @field_validator("allowed_hosts")
    @classmethod
    def _names_only(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not host or any(sign in host for sign in "/@?# "):
                raise ValueError(f"{host!r} is no host: give a name, with or without a port, and no scheme")
        return hosts

    @field_validator("cors_origins")
    @classmethod
    def _origins_only(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not re.fullmatch(r"https?://[a-z0-9.\-\[\]:]+", origin):
                raise ValueError(
                    "an entry is no origin: scheme and host, in small letters, such as https://lab.example"
                )
        return origins

    @field_validator("home", "data_dir", "node_dir", "ray_token_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        # Workers on the cluster have other working directories.
        return None if path is None else path.expanduser().absolute()

    @field_validator("data_roots")
    @classmethod
    def _absolute_roots(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(root.expanduser().absolute() for root in roots)

    @property
    def needs_tokens(self) -> bool:
        """Whether requests need a token."""
        return self.tokens or bool(self.jwks_url) or not is_loopback(self.host)

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the job database."""
        # SQLAlchemy takes the path apart by ? and turns %20 into a blank, so it is quoted.
        return self.database_url or f"sqlite:///{quote(str(self.home / 'control' / 'jobs.db'))}"

    @property
    def copies_dir(self) -> Path:
        """Folder on each machine of the cluster for its copies of what is in the storage."""
        return self.node_dir or default_node_dir(self.storage)

    @property
    def jobs_dir(self) -> Path:
        """Folder with a folder for each job."""
        return self.home / "jobs"

    @property
    def cache_dir(self) -> Path:
        """Folder of built data sets, shared by all jobs."""
        return self.home / "data"


def is_loopback(host: str) -> bool:
    """Whether a server that listens on this host can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _variable(location: tuple[int | str, ...]) -> str:
    return f"SEQAE_{str(location[0]).upper()}: " if location else ""
