"""PostgreSQL server that tests start, stop and kill."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg

__all__ = ["NoPostgresError", "PostgresServer", "running_postgres"]


class NoPostgresError(Exception):
    """This machine can't run a PostgreSQL server."""


def _postgres_tool(name: str) -> str | None:
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


class PostgresServer:
    """PostgreSQL server on a socket in a folder of its own, and on no port.

    Args:
        root: an empty folder with a short path, which the server's user owns.
        tools: paths of initdb and postgres.
        wrapper: what runs them as that user.
    """

    def __init__(self, root: Path, tools: dict[str, str], wrapper: list[str]) -> None:
        self._root = root
        self._tools = tools
        self._wrapper = wrapper
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://seqae@/postgres?host={root}"
        command = [*wrapper, tools["initdb"], "-D", str(root / "data"), "-U", "seqae", "-A", "trust", "--no-sync"]
        subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=120)

    def start(self) -> None:
        """Starts the server, and waits until it answers."""
        options = ["listen_addresses=", f"unix_socket_directories={self._root}", "fsync=off"]
        options += ["max_connections=60", "shared_buffers=32MB"]
        command = [*self._wrapper, self._tools["postgres"], "-D", str(self._root / "data")]
        command += [part for option in options for part in ("-c", option)]
        with (self._root / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._root, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, (self._root / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL does not start"
            time.sleep(0.05)

    def stop(self) -> None:
        """Stops the server at once: connections break, and the next start recovers, as after a crash."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=60)

    def new_database(self) -> str:
        """URL of a new, empty database."""
        name = f"test_{uuid4().hex}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url.replace("/postgres?", f"/{name}?")

    def kill(self) -> None:
        """Sends SIGKILL to the server and to all processes that serve its connections."""
        if self._process is not None:
            server = psutil.Process(self._process.pid)
            family = [server, *server.children(recursive=True)]
            for process in family:
                process.kill()
            self._process.wait(timeout=60)
            psutil.wait_procs(family, timeout=60)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Runs a server, which is gone with its folder afterwards. Raises: NoPostgresError."""
    tools = {name: path for name in ("initdb", "postgres") if (path := _postgres_tool(name)) is not None}
    if len(tools) < 2:
        raise NoPostgresError("no PostgreSQL on this machine (initdb, postgres)")
    setpriv = shutil.which("setpriv")
    # A test run that is killed takes its server with it.
    wrapper = [] if setpriv is None else [setpriv, "--pdeathsig", "QUIT"]
    # Its socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="seqae-pg-", ignore_cleanup_errors=True) as temporary:
        root = Path(temporary)
        if os.getuid() == 0:
            # It refuses to run as root.
            if setpriv is None:
                raise NoPostgresError("PostgreSQL does not run as root, and there is no setpriv")
            wrapper += ["--reuid=65534", "--regid=65534", "--clear-groups"]
            os.chown(root, 65534, 65534)
        server = PostgresServer(root, tools, wrapper)
        server.start()
        try:
            yield server
        finally:
            server.stop()
