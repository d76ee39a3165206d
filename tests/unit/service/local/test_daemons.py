"""How MLflow, Ray and the control plane are started."""

import shlex
import subprocess
import sys
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from jobs.telemetry.log_records import LogRecordLine
from service.local.daemons import Daemon, build_daemons
from service.local.home import DaemonName, HomeLayout
from service.local.ports import PortName


def test_the_real_daemons_stay_on_this_machine_and_keep_their_secret(tmp_path: Path) -> None:
    layout = HomeLayout(tmp_path)
    layout.prepare()
    ports = {name: number for number, name in enumerate(PortName, start=1)}
    daemons = {daemon.name: daemon for daemon in build_daemons(layout, ports, tmp_path / "mine")}
    assert {port for daemon in daemons.values() for port in daemon.ports} == set(ports.values())
    assert all(daemon.url.startswith("http://127.0.0.1:") for daemon in daemons.values())
    assert layout.token.stat().st_mode & 0o777 == 0o600
    secret = layout.token.read_text()
    assert not any(secret in word for daemon in daemons.values() for word in daemon.command)
    assert daemons[DaemonName.API].environment["SEQAE_MLFLOW_URL"] == daemons[DaemonName.MLFLOW].url
    assert daemons[DaemonName.API].environment["SEQAE_RAY_URL"] == daemons[DaemonName.RAY].url
    assert daemons[DaemonName.API].environment["SEQAE_DATA_DIR"] == str(tmp_path / "mine")
    # Ray's sockets are some 70 characters below its folder, and a socket's path may have 107.
    assert len(str(layout.ray_temp)) < 107 - 70


def _daemons(home: Path) -> dict[DaemonName, Daemon]:
    layout = HomeLayout(home)
    layout.prepare()
    ports = {name: number for number, name in enumerate(PortName, start=1)}
    return {daemon.name: daemon for daemon in build_daemons(layout, ports, None)}


def test_mlflows_server_writes_its_log_as_the_others_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEQAE_LOG_FORMAT", raising=False)
    assert "--uvicorn-opts" not in _daemons(tmp_path)[DaemonName.MLFLOW].command
    monkeypatch.setenv("SEQAE_LOG_FORMAT", "json")
    daemon = _daemons(tmp_path)[DaemonName.MLFLOW]
    options = daemon.command[daemon.command.index("--uvicorn-opts") + 1]
    assert daemon.environment["MLFLOW_CONFIGURE_LOGGING"] == "false"
    name, path = shlex.split(options)
    assert name == "--log-config"
    program = (
        "import json, logging, logging.config, sys\n"
        "logging.config.dictConfig(json.load(open(sys.argv[1])))\n"
        "logging.getLogger('uvicorn.error').info('begins')\n"
        "logging.getLogger('mlflow.store').warning('%s', 'odd')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=60)
    lines = [LogRecordLine.model_validate_json(line) for line in done.stderr.splitlines()]
    assert [(line.logger, line.message) for line in lines] == [("uvicorn.error", "begins"), ("mlflow.store", "odd")]


def test_a_head_for_other_machines_listens_at_its_address_with_its_ray_alone(tmp_path: Path) -> None:
    layout = HomeLayout(tmp_path)
    layout.prepare()
    ports = {name: number for number, name in enumerate(PortName, start=1)}
    daemons = {daemon.name: daemon for daemon in build_daemons(layout, ports, None, "10.0.0.5")}
    words = daemons[DaemonName.RAY].command
    options = dict(pairwise(words))
    assert (options["--node-ip-address"], options["--dashboard-host"]) == ("10.0.0.5", "127.0.0.1")
    assert all(daemon.url.startswith("http://127.0.0.1:") for daemon in daemons.values())
    address = f"10.0.0.5:{ports[PortName.RAY_GCS]}"
    assert daemons[DaemonName.API].environment["SEQAE_HEAD_ADDRESS"] == address
    assert daemons[DaemonName.RAY].environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "1"
    alone = _daemons(tmp_path)
    assert "SEQAE_HEAD_ADDRESS" not in alone[DaemonName.API].environment
    assert alone[DaemonName.RAY].environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"


def test_no_url_holds_the_homes_path(tmp_path: Path) -> None:
    """B8: MLflow reads paths as URLs, in which ?, #, % and quotes mean something else; so it gets none of them."""
    home = tmp_path / "h \u00fc?a#b%20c&d'e\"f"
    daemons = _daemons(home)
    mlflow = daemons[DaemonName.MLFLOW]
    assert not [word for word in mlflow.command[1:] if str(tmp_path) in word]
    assert mlflow.cwd == home / "mlflow"
    assert "sqlite:///mlflow.db" in mlflow.command
    assert not [daemon for daemon in daemons.values() if any(sign in daemon.url + daemon.ready_url for sign in "?#% ")]


def test_no_daemon_goes_through_a_proxy_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B9: what the user has exempted stays exempt."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "s3.inside")
    monkeypatch.delenv("no_proxy", raising=False)
    for daemon in _daemons(tmp_path).values():
        for name in ("NO_PROXY", "no_proxy"):
            assert daemon.environment[name] == "s3.inside,127.0.0.1,localhost,::1", daemon.name


def test_the_health_check_goes_through_no_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B9: also the command line's own requests."""
    for name in ("http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    problem = replace(_daemons(tmp_path)[DaemonName.API], ready_url="http://127.0.0.1:9/").health_problem()
    assert problem is not None
    assert "refused" in problem


@pytest.mark.parametrize(("length", "given"), [(20, False), (114, True)])
def test_sockets_of_the_cluster_have_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, given: bool
) -> None:
    """B5: Python's own libraries make sockets in TMPDIR too."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/" + "x" * (length - 1))
    environment = _daemons(tmp_path)[DaemonName.RAY].environment
    assert ("TMPDIR" in environment) is given
    assert len(environment.get("TMPDIR", "")) < 40


def _answer(status: int, **body: object) -> httpx.Response:
    return httpx.Response(status, json=body)


def test_the_control_plane_is_ready_once_jobs_can_run(tmp_path: Path) -> None:
    """E4: `/readyz` is green without Ray and MLflow; `up` waits for all of it."""
    judge = _daemons(tmp_path)[DaemonName.API].judge
    away = {"ok": False, "detail": "does not answer", "required": False}
    well = {"ok": True, "detail": "answers"}
    works = {"accept_jobs": True, "run_jobs": False}
    problem = judge(_answer(200, ready=True, works=works, parts={"database": well, "cluster": away, "model": away}))
    assert problem == "cluster: does not answer"
    assert judge(_answer(200, ready=True, works={**works, "run_jobs": True}, parts={"model": away})) is None
    assert judge(_answer(503, ready=False, parts={"database": away})) == "database: does not answer"
    assert judge(_answer(200)) is None, "of another release, or something else: then its status counts"
    assert judge(_answer(200, ready=True, parts={"cluster": well, "model": away})) is None
