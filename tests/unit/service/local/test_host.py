"""Whether processes of a recorded host can live."""

from dataclasses import replace

import pytest

from service.local.host import Host, Presence, presence, this_host

HERE = Host("ada", "machine-1", "boot-1", "pid:[1]")


@pytest.mark.parametrize(
    ("recorded", "found"),
    [
        (HERE, Presence.HERE),
        (replace(HERE, name="renamed"), Presence.HERE),
        (replace(HERE, boot_id="boot-0"), Presence.GONE),
        (replace(HERE, boot_id="boot-0", pid_namespace="pid:[2]"), Presence.GONE),
        (replace(HERE, pid_namespace="pid:[2]"), Presence.ELSEWHERE),
        (replace(HERE, boot_id="boot-0", machine_id="machine-2"), Presence.ELSEWHERE),
        (replace(HERE, boot_id="boot-0", name="bob"), Presence.ELSEWHERE),
        (Host("bob", "machine-2", "boot-9", "pid:[1]"), Presence.ELSEWHERE),
    ],
)
def test_only_what_is_proved_counts_as_gone(recorded: Host, found: Presence) -> None:
    """B3: another boot of the same machine has ended everything; anything else may live."""
    assert presence(recorded, HERE) is found


def test_containers_of_the_same_name_prove_nothing() -> None:
    """B3: without a machine id two hosts can't be told apart by a name."""
    here = replace(HERE, machine_id="")
    assert presence(replace(here, boot_id="boot-0"), here) is Presence.ELSEWHERE


def test_this_host_has_all_of_it() -> None:
    """B3: and stays the same."""
    host = this_host()
    assert host.name
    assert host.boot_id
    assert presence(host, this_host()) is Presence.HERE
