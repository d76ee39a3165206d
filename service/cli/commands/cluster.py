"""Verbs of a cluster of several machines: `join` and `nodes`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqae.errors import Error
from service.cli.home import find_home
from service.cli.options import HomeOption, JsonOption, NodeIpOption, UrlOption, connect
from service.cli.output import format_time, print_model, print_table

if TYPE_CHECKING:
    from service.schemas.cluster import NodeView, NodeWork

__all__ = ["join", "nodes"]


def join(
    head: Annotated[
        str,
        typer.Argument(
            metavar="HEAD",
            help="Where the head listens for machines, such as 10.0.0.5:6379; or the service's URL, to ask it.",
        ),
    ],
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            envvar="SEQAE_JOIN_TOKEN_FILE",
            metavar="FILE",
            help="Mode 0600: the head's join token file or, with a URL, Ray's token. By default that of the home.",
        ),
    ] = None,
    home: HomeOption = None,
    node_ip: NodeIpOption = None,
    name: Annotated[str | None, typer.Option("--name", help="Of this machine; by default its host name.")] = None,
    cpus: Annotated[float | None, typer.Option(min=0, help="CPUs that it gives; by default all.")] = None,
    gpus: Annotated[float | None, typer.Option(min=0, help="GPUs that it gives; by default all.")] = None,
    drain_seconds: Annotated[
        float, typer.Option(min=0, max=86_400, help="What runs here may go on so long after SIGTERM or Ctrl-C.")
    ] = 30.0,
) -> None:
    """Have this machine join the cluster of another one, until it is ended (SIGTERM or Ctrl-C drains it first).

    Versions, addresses and the storage folder are compared before anything starts.
    """
    from service.local.join_ticket import read_ticket, read_token
    from service.local.joined_node import JoinedNode, NodeSize
    from service.schemas.cluster import JoinInformation

    path = find_home(home) / "join.token" if token_file is None else token_file.expanduser()
    information: JoinInformation
    if "://" in head:
        from service.client import Client

        token = read_token(path)
        with Client(head) as client:
            information = client.join_information()
    else:
        ticket = read_ticket(path)
        if ticket.head_address not in (head, f"{head}:{ticket.head_address.rpartition(':')[2]}"):
            raise Error(f"{path} is of the head at {ticket.head_address}, not of {head[:100]}")
        information, token = ticket, ticket.ray_token
    JoinedNode(
        information,
        token,
        NodeSize(cpus, gpus),
        node_ip=node_ip,
        name=name,
        drain_seconds=drain_seconds,
        say=partial(typer.echo),
    ).run()


def nodes(home: HomeOption = None, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show the cluster's machines: what they have, what runs on them, which are idle, draining or dead."""
    with connect(home, url) as client:
        found = client.nodes()
    if as_json:
        print_model(found)
        return
    print_table(("node", "state", "address", "CPUs", "GPUs", "memory", "runs"), [_row(node) for node in found.nodes])


def _row(node: "NodeView") -> tuple[str, ...]:
    state = "idle" if node.is_idle else node.state.value
    runs = ", ".join(_describe(work) for work in node.work) or "-"
    if node.detail or node.ended_at is not None:
        since = "" if node.ended_at is None else f"since {format_time(node.ended_at)}"
        runs = "; ".join(part for part in (since, node.detail, "" if runs == "-" else runs) if part)
    return (
        f"{node.name or node.id[:8]}{' (head)' if node.is_head else ''}",
        state,
        node.address,
        f"{node.cpus_used:g}/{node.cpus:g}",
        f"{node.gpus_used:g}/{node.gpus:g}",
        f"{node.memory_used_bytes / 1e9:.1f}/{node.memory_bytes / 1e9:.1f} GB",
        runs,
    )


def _describe(work: "NodeWork") -> str:
    what = work.role.value if work.rank is None else f"rank {work.rank}"
    return f"{what} of another's job" if work.job_id is None else f"{work.job_id}-{work.attempt} {what}"
