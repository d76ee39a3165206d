"""Version of a stored spec, why a job waits, and whether it is to be deleted."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    # Columns that are added leave the table as it is on SQLite, too.
    op.add_column("jobs", sa.Column("spec_version", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("waiting", DOCUMENT, nullable=True))
    op.add_column("jobs", sa.Column("delete_requested", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    for name in ("delete_requested", "waiting", "spec_version"):
        op.drop_column("jobs", name)
