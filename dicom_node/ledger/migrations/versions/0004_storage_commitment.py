"""Storage commitment: what a destination confirmed of each delivery and instance, and every request made for it."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

WHEN = sa.DateTime(timezone=True)
STATE = sa.String(length=16)


def upgrade() -> None:
    """Add it; nobody is asked about what was delivered before."""
    op.add_column("deliveries", sa.Column("commitment", STATE, nullable=True))
    op.add_column("deliveries", sa.Column("commitment_asked", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("deliveries", sa.Column("commitment_tries", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("deliveries", sa.Column("commitment_next_at", WHEN, nullable=True))
    op.add_column("deliveries", sa.Column("commitment_code", sa.String(length=64), nullable=True))
    op.add_column("deliveries", sa.Column("commitment_reason", sa.Text(), nullable=True))
    op.create_index("ix_deliveries_commitment", "deliveries", ["commitment"], unique=False)
    op.add_column("delivery_instances", sa.Column("committed_at", WHEN, nullable=True))
    op.add_column("delivery_instances", sa.Column("failure_reason", sa.Integer(), nullable=True))
    op.create_table(
        "commitment_transactions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("delivery_id", sa.Integer(), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("asked_at", WHEN, nullable=False),
        sa.Column("accepted_at", WHEN, nullable=True),
        sa.Column("reported_at", WHEN, nullable=True),
        sa.Column("report", sa.String(length=128), nullable=True),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["delivery_id"], ["deliveries.id"], name="fk_commitment_transactions_delivery_id"),
        sa.PrimaryKeyConstraint("id", name="pk_commitment_transactions"),
        sa.UniqueConstraint("transaction_uid", name="uq_commitment_transactions_transaction_uid"),
    )
    op.create_index("ix_commitment_transactions_delivery_id", "commitment_transactions", ["delivery_id"], unique=False)


def downgrade() -> None:
    """Take it out again."""
    op.drop_index("ix_commitment_transactions_delivery_id", table_name="commitment_transactions")
    op.drop_table("commitment_transactions")
    op.drop_column("delivery_instances", "failure_reason")
    op.drop_column("delivery_instances", "committed_at")
    op.drop_index("ix_deliveries_commitment", table_name="deliveries")
    for column in ("reason", "code", "next_at", "tries", "asked"):
        op.drop_column("deliveries", f"commitment_{column}")
    op.drop_column("deliveries", "commitment")
