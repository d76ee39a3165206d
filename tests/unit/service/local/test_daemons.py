"""How MLflow, Ray and the control plane are started."""

from pathlib import Path

from service.local.daemons import DaemonName, HomeLayout, PortName, build_daemons


def test_the_real_daemons_stay_on_this_machine_and_keep_their_secret(tmp_path: Path) -> None:
    layout = HomeLayout(tmp_path)
    layout.prepare()
    ports = {name: number for number, name in enumerate(PortName, start=1)}
    try:
        daemons = {daemon.name: daemon for daemon in build_daemons(layout, ports, tmp_path / "mine")}
    finally:
        layout.ray_temp.rmdir()
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
