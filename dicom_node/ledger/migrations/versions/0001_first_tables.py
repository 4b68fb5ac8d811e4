"""The first tables: studies, series, instances, associations, jobs, deliveries, events."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# The types are spelled out here: a migration keeps its meaning when the classes change later.
WHEN = sa.DateTime(timezone=True)
STATE = sa.String(length=16)
STUDY_STATE = sa.String(length=16)
DELIVERY_STATE = sa.String(length=16)


def upgrade() -> None:
    """Make every table of the first version."""
    _make_intake()
    _make_output()


def _make_intake() -> None:
    op.create_table(
        "associations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("called_ae", sa.String(length=16), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("opened_at", WHEN, nullable=False),
        sa.Column("closed_at", WHEN, nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_associations"),
        sa.UniqueConstraint("key", name="uq_associations_key"),
    )
    op.create_index("ix_associations_outcome", "associations", ["outcome"], unique=False)
    op.create_table(
        "set_aside",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("file_name", sa.String(length=128), nullable=False),
        sa.Column("at", WHEN, nullable=False),
        sa.Column("association_key", sa.String(length=64), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_set_aside"),
        sa.UniqueConstraint("file_name", name="uq_set_aside_file_name"),
    )
    op.create_index("ix_set_aside_series_instance_uid", "set_aside", ["series_instance_uid"], unique=False)
    op.create_table(
        "studies",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("state", STUDY_STATE, nullable=False),
        sa.Column("opened_at", WHEN, nullable=False),
        sa.Column("last_arrival_at", WHEN, nullable=False),
        sa.Column("decided_at", WHEN, nullable=True),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("chosen_series_uid", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_studies"),
        sa.UniqueConstraint("study_instance_uid", name="uq_studies_study_instance_uid"),
    )
    op.create_table(
        "series",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("folder", sa.String(length=64), nullable=False),
        sa.Column("modality", sa.String(length=16), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("first_arrival_at", WHEN, nullable=False),
        sa.Column("last_arrival_at", WHEN, nullable=False),
        sa.Column("changed_at", WHEN, nullable=False),
        sa.Column("signs", sa.JSON(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("verdict_code", sa.String(length=64), nullable=True),
        sa.Column("verdict_reason", sa.Text(), nullable=True),
        sa.Column("job_key", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_series_study_id"),
        sa.PrimaryKeyConstraint("id", name="pk_series"),
        sa.UniqueConstraint("study_id", "series_instance_uid", name="uq_series_study_id_series_instance_uid"),
    )
    op.create_index("ix_series_series_instance_uid", "series", ["series_instance_uid"], unique=False)
    op.create_index("ix_series_state", "series", ["state"], unique=False)
    op.create_index("ix_series_study_id", "series", ["study_id"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", WHEN, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("series_id", sa.Integer(), nullable=True),
        sa.Column("job_key", sa.String(length=64), nullable=True),
        sa.Column("before", sa.String(length=16), nullable=True),
        sa.Column("after", sa.String(length=16), nullable=True),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_events_series_id"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_job_key", "events", ["job_key"], unique=False)
    op.create_index("ix_events_kind", "events", ["kind"], unique=False)
    op.create_index("ix_events_series_id", "events", ["series_id"], unique=False)
    op.create_table(
        "instances",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("series_id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("file_name", sa.String(length=64), nullable=False),
        sa.Column("content_sha256", sa.String(length=64), nullable=False),
        sa.Column("received_at", WHEN, nullable=False),
        sa.Column("association_key", sa.String(length=64), nullable=False),
        sa.Column("offset_mm", sa.Double(), nullable=True),
        sa.Column("images_in_acquisition", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_instances_series_id"),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
        sa.UniqueConstraint("series_id", "sop_instance_uid", name="uq_instances_series_id_sop_instance_uid"),
    )
    op.create_index("ix_instances_series_id", "instances", ["series_id"], unique=False)


def _make_output() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("series_id", sa.Integer(), nullable=False),
        sa.Column("state", STATE, nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("created_at", WHEN, nullable=False),
        sa.Column("input_digest", sa.String(length=64), nullable=False),
        sa.Column("sources", sa.JSON(), nullable=False),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("supersedes", sa.String(length=64), nullable=True),
        sa.Column("superseded_series_uid", sa.String(length=64), nullable=True),
        sa.Column("bundle", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("result_series_uid", sa.String(length=64), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("derive_attempts", sa.Integer(), nullable=False),
        sa.Column("next_try_at", WHEN, nullable=True),
        sa.Column("lease_until", WHEN, nullable=True),
        sa.Column("first_arrival_at", WHEN, nullable=False),
        sa.Column("last_arrival_at", WHEN, nullable=False),
        sa.Column("queued_at", WHEN, nullable=False),
        sa.Column("started_at", WHEN, nullable=True),
        sa.Column("synthesized_at", WHEN, nullable=True),
        sa.Column("derived_at", WHEN, nullable=True),
        sa.Column("delivered_at", WHEN, nullable=True),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name="fk_jobs_series_id"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
        sa.UniqueConstraint("key", name="uq_jobs_key"),
    )
    op.create_index("ix_jobs_input_digest", "jobs", ["input_digest"], unique=False)
    op.create_index("ix_jobs_result_series_uid", "jobs", ["result_series_uid"], unique=False)
    op.create_index("ix_jobs_series_id", "jobs", ["series_id"], unique=False)
    op.create_index("ix_jobs_state", "jobs", ["state"], unique=False)
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("state", DELIVERY_STATE, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_try_at", WHEN, nullable=True),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("delivered_at", WHEN, nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_deliveries_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.UniqueConstraint("job_id", "destination", name="uq_deliveries_job_id_destination"),
    )
    op.create_index("ix_deliveries_destination", "deliveries", ["destination"], unique=False)
    op.create_index("ix_deliveries_job_id", "deliveries", ["job_id"], unique=False)
    op.create_index("ix_deliveries_state", "deliveries", ["state"], unique=False)
    op.create_table(
        "delivery_instances",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("delivery_id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("stored", sa.Boolean(), nullable=False),
        sa.Column("sent_at", WHEN, nullable=True),
        sa.ForeignKeyConstraint(["delivery_id"], ["deliveries.id"], name="fk_delivery_instances_delivery_id"),
        sa.PrimaryKeyConstraint("id", name="pk_delivery_instances"),
        sa.UniqueConstraint(
            "delivery_id", "sop_instance_uid", name="uq_delivery_instances_delivery_id_sop_instance_uid"
        ),
    )
    op.create_index("ix_delivery_instances_delivery_id", "delivery_instances", ["delivery_id"], unique=False)


def downgrade() -> None:
    """Remove every table."""
    op.drop_index("ix_delivery_instances_delivery_id", table_name="delivery_instances")
    op.drop_table("delivery_instances")
    op.drop_index("ix_deliveries_state", table_name="deliveries")
    op.drop_index("ix_deliveries_job_id", table_name="deliveries")
    op.drop_index("ix_deliveries_destination", table_name="deliveries")
    op.drop_table("deliveries")
    op.drop_index("ix_jobs_state", table_name="jobs")
    op.drop_index("ix_jobs_series_id", table_name="jobs")
    op.drop_index("ix_jobs_result_series_uid", table_name="jobs")
    op.drop_index("ix_jobs_input_digest", table_name="jobs")
    op.drop_table("jobs")
    op.drop_index("ix_instances_series_id", table_name="instances")
    op.drop_table("instances")
    op.drop_index("ix_events_series_id", table_name="events")
    op.drop_index("ix_events_kind", table_name="events")
    op.drop_index("ix_events_job_key", table_name="events")
    op.drop_table("events")
    op.drop_index("ix_series_study_id", table_name="series")
    op.drop_index("ix_series_state", table_name="series")
    op.drop_index("ix_series_series_instance_uid", table_name="series")
    op.drop_table("series")
    op.drop_table("studies")
    op.drop_index("ix_set_aside_series_instance_uid", table_name="set_aside")
    op.drop_table("set_aside")
    op.drop_index("ix_associations_outcome", table_name="associations")
    op.drop_table("associations")
