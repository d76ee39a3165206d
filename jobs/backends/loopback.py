"""Exempts loopback addresses from the HTTP proxies that the environment names."""

from collections.abc import Mapping

__all__ = ["LOOPBACK", "loopback_unproxied"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""What the parts of a stack on one machine call each other by."""


def loopback_unproxied(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that exempt loopback from every proxy, besides what the user has exempted.

    Libraries disagree on the case of the name (requests, httpx, gRPC, curl), so both are set, to the same value.

    Args:
        environment: of the process, with what the user has exempted so far.

    Returns:
        `NO_PROXY` and `no_proxy`, to be put over the environment.
    """
    entries = [entry.strip() for name in ("no_proxy", "NO_PROXY") for entry in environment.get(name, "").split(",")]
    # Some libraries understand "*", which exempts everything, only where it stands alone.
    exempt = "*" if "*" in entries else ",".join(dict.fromkeys(entry for entry in [*entries, *LOOPBACK] if entry))
    return {"NO_PROXY": exempt, "no_proxy": exempt}
