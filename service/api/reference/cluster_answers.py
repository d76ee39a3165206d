"""Examples of answers about the cluster's machines."""

from typing import Any

from service.schemas.cluster import JoinInformation, Versions

__all__ = ["cluster_answers"]


def cluster_answers() -> dict[str, tuple[str, Any]]:
    """Title and value of each, by name."""
    information = JoinInformation(
        head_address="10.0.0.5:6379",
        versions=Versions(seqae="0.1.0", python="3.11.9", ray="2.60.0", torch="2.14.0"),
        storage="/srv/seqae",
        storage_marker="0b5c7e19d2f84a63b1c9e07f5a2d3846",
    )
    with_data = information.model_copy(update={"data_dir": "/srv/pictures"})
    return {"join": ("A cluster", information), "join_data": ("With the users' own data", with_data)}
