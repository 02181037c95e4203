"""Tables for storage commitment: our requests, and our answers to those of peers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables, and the attempts of each delivery."""
    op.add_column(
        "deliveries", sa.Column("commitment_attempts", sa.Integer(), server_default="0", nullable=False)
    )
    op.create_table(
        "commitments",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.String(length=32), nullable=False),
        sa.Column("reported_at", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("transaction_uid"),
    )
    op.create_table(
        "commitment_reports",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("destination", sa.Text(), nullable=False),
        sa.Column("instances", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.String(length=32), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.Column("updated_at", sa.String(length=32), nullable=False),
        sa.CheckConstraint("state IN ('pending', 'sent', 'failed')", name="report_state"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "ix_commitment_reports_once", "commitment_reports", ["transaction_uid", "destination"], unique=True
    )
    op.create_index("ix_commitment_reports_due", "commitment_reports", ["state", "destination"], unique=False)
