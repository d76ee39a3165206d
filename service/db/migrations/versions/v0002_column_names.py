"""Columns of jobs by the names of what they hold."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NEW_NAMES = {
    "tidy": "cleaned_up",
    "alive_at": "last_seen_at",
    "moved_at": "last_progress_at",
    "told": "event_cursor",
}


def upgrade() -> None:
    for old, new in _NEW_NAMES.items():
        # Alembic would copy the whole table on SQLite, and lose its AUTOINCREMENT.
        op.execute(f"ALTER TABLE jobs RENAME COLUMN {old} TO {new}")


def downgrade() -> None:
    for old, new in _NEW_NAMES.items():
        op.execute(f"ALTER TABLE jobs RENAME COLUMN {new} TO {old}")
