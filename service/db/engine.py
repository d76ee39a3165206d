"""Transactions on the job database: SQLite embedded, PostgreSQL deployed, the same rules on both."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from service.errors import NewerDatabaseError, StoreUnavailableError

__all__ = ["Database", "check_revision", "upgrade"]

# Any fixed number does, as long as nothing else in the same PostgreSQL database locks by it.
_WRITE_LOCK = 0x5E9AE001
_TAKE_TURNS = text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=_WRITE_LOCK)
_PATIENCE_SECONDS = 15
"""Longest wait for another writer."""


def check_revision(revision: str | None) -> None:
    """Refuses tables that this release does not know.

    Args:
        revision: of the newest migration that made them; None: there are none yet.

    Raises:
        NewerDatabaseError: no migration of this release has that name. The text says what to do.
    """
    scripts = ScriptDirectory.from_config(_alembic())
    known = {script.revision for script in scripts.walk_revisions()}
    if revision is not None and revision not in known:
        raise NewerDatabaseError(
            f"the job database was written by a newer release: its tables are of revision {revision[:32]!r}, and this "
            f"release, seqae {version('seqae')}, knows them up to {scripts.get_current_head()}. Nothing was changed. "
            "Install the newer release again, or restore a backup that was made before the upgrade"
        )


def upgrade(connection: Connection, to: str = "head") -> None:
    """Runs the migrations that a database has not seen yet, within a transaction.

    Args:
        connection: of the transaction.
        to: name of the last one.

    Raises:
        NewerDatabaseError: a newer release made its tables; nothing was changed.
    """
    check_revision(_revision(connection))
    config = _alembic()
    config.attributes["connection"] = connection
    command.upgrade(config, to)


class Database:
    """Read and write transactions on one database.

    Writers take turns, on SQLite by BEGIN IMMEDIATE and on PostgreSQL by an advisory lock. So ids of events become
    visible in their order (a reader that has seen n misses nothing below n), and admission counts exactly.

    Args:
        url: SQLAlchemy URL, "sqlite:////path/jobs.db" or "postgresql://...".
    """

    def __init__(self, url: str) -> None:
        self.url = _with_driver(make_url(url))
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        # SQLite makes writers poll for their turn, and some starve; within one process a lock is fair enough.
        self._turn = threading.Lock()
        self._engine = _sqlite(self.url) if self.is_sqlite else _postgresql(self.url)

    def migrate(self, to: str = "head") -> None:
        """Brings the tables to the newest version. Several processes may do so at once; one does the work.

        Args:
            to: another version to stop at; for tests.

        Raises:
            NewerDatabaseError: a newer release made them; nothing was changed.
            StoreUnavailableError: the database does not answer.
        """
        with self._alone(), self._transaction(immediate=True) as connection:
            if not self.is_sqlite:
                connection.execute(_TAKE_TURNS)
            upgrade(connection, to)

    def revision(self) -> str | None:
        """Name of the newest migration that its tables have seen; None where there are none.

        Raises:
            StoreUnavailableError: the database does not answer.
        """
        with self._transaction(immediate=False) as connection:
            return _revision(connection)

    def ping(self) -> None:
        """Raises: StoreUnavailableError."""
        with self._transaction(immediate=False) as connection:
            # A file that was removed or replaced would answer to less.
            connection.execute(text("SELECT version_num FROM alembic_version"))

    def close(self) -> None:
        """Closes the connections that are idle."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading. Rows stay usable after it is closed."""
        with self._transaction(immediate=False) as connection, Session(connection, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session for writing: committed at the end, rolled back on an exception."""
        turn = self._turn if self.is_sqlite else nullcontext()
        with (
            turn,
            self._transaction(immediate=True) as connection,
            Session(connection, expire_on_commit=False) as session,
        ):
            if not self.is_sqlite:
                session.execute(_TAKE_TURNS)
            yield session
            session.flush()
            session.expunge_all()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other processes out while a new SQLite file is set up: switching to WAL does not wait for them."""
        if not self.is_sqlite or not self.url.database:
            yield
            return
        Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.url.database}.lock"):
            with closing(sqlite3.connect(self.url.database, timeout=_PATIENCE_SECONDS)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            yield

    @contextmanager
    def _transaction(self, *, immediate: bool) -> Iterator[Connection]:
        try:
            with self._engine.connect().execution_options(seqae_immediate=immediate) as connection, connection.begin():
                yield connection
        except (OperationalError, InterfaceError, PoolTimeoutError) as error:
            raise StoreUnavailableError(f"the job database does not answer: {_first_line(error)}") from error
        except DBAPIError as error:
            if error.connection_invalidated:
                raise StoreUnavailableError(f"the job database went away: {_first_line(error)}") from error
            raise


def _alembic() -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _with_driver(url: URL) -> URL:
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    return url


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": _PATIENCE_SECONDS})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        # The driver would begin transactions by itself, and only at the first write; _begin does it instead.
        connection.isolation_level = None
        # A text that is no text must not keep the other rows from being read.
        connection.text_factory = partial(str, encoding="utf-8", errors="replace")
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that begins by reading and then writes fails at once when another one wrote meanwhile.
        immediate = connection.get_execution_options().get("seqae_immediate", True)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _postgresql(url: URL) -> Engine:
    options = f"-c lock_timeout={_PATIENCE_SECONDS}s -c statement_timeout=60s -c timezone=UTC"
    return create_engine(url, pool_pre_ping=True, pool_size=10, connect_args={"connect_timeout": 5, "options": options})
