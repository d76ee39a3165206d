"""How patient and how generous the control plane is with jobs."""

from pydantic import BaseModel, Field

__all__ = ["ReconcilerSettings"]


class ReconcilerSettings(BaseModel, frozen=True):
    """Limits of the queue and patience of the reconciler. Durations are in seconds."""

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
    """Wait after the tracking server did not answer."""

    progress_event_every: float = Field(2.0, ge=0)
    """Progress becomes an event at most this often."""
