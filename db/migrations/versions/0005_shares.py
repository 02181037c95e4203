"""What a claim goes by: the bytes of a job's inputs, the flow whose turn it is, and indexes of what is due."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

MAY_RUN = "('queued', 'running', 'waiting', 'failed', 'cancelled')"
INPUTS = {
    "sqlite": "SELECT value FROM json_each(jobs.inputs)",
    "postgresql": "SELECT json_array_elements_text(jobs.inputs::json)",
}


def upgrade() -> None:
    """Add the columns, fill them for jobs that may run again, and put the new indexes in the old one's place."""
    op.add_column(
        "jobs",
        sa.Column(
            "input_bytes",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            server_default="0",
            nullable=False,
        ),
    )
    op.add_column("jobs", sa.Column("flow", sa.Text(), server_default="", nullable=False))
    op.add_column("jobs", sa.Column("weight", sa.Float(), server_default="1", nullable=False))
    of_job = f"FROM instances WHERE sop_instance_uid IN ({INPUTS[op.get_bind().dialect.name]})"
    # A series comes from one source; where its inputs came by several, any of them does.
    op.execute(
        f"UPDATE jobs SET input_bytes = (SELECT COALESCE(SUM(size), 0) {of_job}),"  # noqa: S608 - no values in it
        f" flow = (SELECT COALESCE(MIN(calling_ae), '') {of_job}) || '\\' || COALESCE(route, '')"
        f" WHERE state IN {MAY_RUN}"
    )
    op.drop_index("ix_jobs_claim", "jobs")
    op.create_index("ix_jobs_state", "jobs", ["state", "engine"])
    ready = sa.text("state = 'queued' AND not_before IS NULL")
    op.create_index(
        "ix_jobs_ready",
        "jobs",
        ["engine", "priority", "flow", "id", "attempts", "input_bytes", "state", "not_before"],
        sqlite_where=ready,
        postgresql_where=ready,
    )
    later = sa.text("state = 'queued' AND not_before IS NOT NULL")
    op.create_index(
        "ix_jobs_later", "jobs", ["state", "not_before"], sqlite_where=later, postgresql_where=later
    )
