"""What completion asks for: how many instances a series should have, and the thickness of a slice."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them; what was received before has none."""
    op.add_column("series", sa.Column("expected", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("instances", sa.Column("series_related_instances", sa.Integer(), nullable=True))
    op.add_column("instances", sa.Column("slice_thickness_mm", sa.Double(), nullable=True))


def downgrade() -> None:
    """Take them out again."""
    op.drop_column("instances", "slice_thickness_mm")
    op.drop_column("instances", "series_related_instances")
    op.drop_column("series", "expected")
