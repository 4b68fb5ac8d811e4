"""What a job makes: a synthetic series, or a note about a refusal."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it; every job of before made a synthetic series."""
    op.add_column("jobs", sa.Column("kind", sa.String(length=16), nullable=False, server_default="RESULT"))


def downgrade() -> None:
    """Take it out again."""
    op.drop_column("jobs", "kind")
