"""How Alembic reaches the database: through the connection that `Database.migrate` hands over, in its transaction."""

from alembic import context

from service.db.models import Base


def run() -> None:
    """Raises: KeyError: run by Alembic's own command line, which has no connection to hand over."""
    connection = context.config.attributes["connection"]
    # SQLite can't alter a table in place: batch mode copies it.
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


run()
