"""stack.json: of older releases, of copies, of other hosts."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import StackError
from service.local.home import DaemonName, HomeLayout
from service.local.host import Presence, this_host
from service.local.ports import PortName
from service.local.processes import SessionLeader
from service.local.record import FolderId, StackRecord, load_record, recognized, save_record


def _record(layout: HomeLayout) -> StackRecord:
    return StackRecord(
        ports={PortName.API: 8400},
        leaders={DaemonName.API: SessionLeader(1, 2.0, 3, "boot")},
        key="0123456789",
        folder=FolderId.of(layout.home),
        host=this_host(),
        ray_temp=Path("/tmp/seqae-1/0123456789"),
        data_dir=Path("/data"),
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    layout = HomeLayout(tmp_path)
    record = _record(layout)
    save_record(layout, record)
    assert load_record(layout) == record
    assert layout.state.stat().st_mode & 0o077 == 0
    found = recognized(layout, record)
    assert (found.key, found.ray_temp) == ("0123456789", Path("/tmp/seqae-1/0123456789"))


def test_the_form_of_an_older_release_is_read(tmp_path: Path) -> None:
    """B2: it told processes by the time of day; and an older release can read ours."""
    layout = HomeLayout(tmp_path)
    old = {"ports": {"ray": 8402, "api": 8400}, "leaders": {"api": {"pid": 7, "started": 1764000000.5}}}
    layout.state.write_text(json.dumps(old))
    record = load_record(layout)
    assert record.leaders[DaemonName.API] == SessionLeader(7, 1764000000.5)
    assert record.presence is Presence.HERE
    assert recognized(layout, record).key == layout.own_key
    save_record(layout, _record(layout))
    assert json.loads(layout.state.read_text())["leaders"]["api"].keys() >= {"pid", "started"}


def test_a_port_that_an_older_release_kept_is_dropped(tmp_path: Path) -> None:
    """B4: `up --port 99999` was written down before it was tried."""
    layout = HomeLayout(tmp_path)
    layout.state.write_text(json.dumps({"ports": {"ray": 8402, "api": 99_999, "mlflow": 0}, "leaders": {}}))
    assert load_record(layout).ports == {PortName.RAY: 8402}


@pytest.mark.parametrize(
    "content", ['{"ports": ', "[]", "null", '{"ports": {"api": "x"}}', '{"leaders": {"api": 1}}', "\xff"]
)
def test_a_damaged_record_is_said(tmp_path: Path, content: str) -> None:
    layout = HomeLayout(tmp_path)
    layout.state.write_text(content, encoding="latin-1")
    with pytest.raises(StackError, match=r"stack\.json is damaged"):
        load_record(layout)


def test_a_record_that_is_a_folder_is_said(tmp_path: Path) -> None:
    layout = HomeLayout(tmp_path)
    layout.state.mkdir()
    with pytest.raises(StackError, match=r"stack\.json can't be read"):
        load_record(layout)


def test_a_copy_of_a_home_is_another_home(tmp_path: Path) -> None:
    """B1: `cp -r` of a live home must not act on the original's processes."""
    layout, copy = HomeLayout(tmp_path / "home"), HomeLayout(tmp_path / "copy")
    layout.home.mkdir()
    save_record(layout, _record(layout))
    shutil.copytree(layout.home, copy.home)
    record = load_record(copy)
    found = recognized(copy, record)
    assert (found.key, found.recorded_ray_temp) == (copy.own_key, None)
    assert (record.leaders, record.ports) == ({}, {})


def test_a_home_that_was_moved_is_the_same(tmp_path: Path) -> None:
    """B1: as long as its stack runs, its processes carry the old name."""
    layout, moved = HomeLayout(tmp_path / "home"), HomeLayout(tmp_path / "moved")
    layout.home.mkdir()
    save_record(layout, _record(layout))
    layout.home.rename(moved.home)
    record = load_record(moved)
    assert recognized(moved, record).key == "0123456789"
    assert record.leaders


def test_after_a_boot_nothing_runs(tmp_path: Path) -> None:
    """B3: the ports stay, since people have written them down."""
    layout = HomeLayout(tmp_path)
    record = _record(layout)
    record.host = replace(this_host(), boot_id="before")
    if not this_host().machine_id:
        pytest.skip("this machine has no id")
    assert record.presence is Presence.GONE
    recognized(layout, record)
    assert (record.leaders, record.ports) == ({}, {PortName.API: 8400})


def test_another_hosts_stack_that_was_ended_holds_nobody_up(tmp_path: Path) -> None:
    """B3: `down` leaves no leaders behind."""
    record = _record(HomeLayout(tmp_path))
    record.host = replace(this_host(), name="other", boot_id="other", machine_id="other")
    ended = record.model_copy(update={"leaders": {}})
    assert (record.presence, ended.presence) == (Presence.ELSEWHERE, Presence.HERE)
