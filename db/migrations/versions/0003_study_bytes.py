"""The bytes of each study, so that totals need not read every instance."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and fill it from the instances."""
    op.add_column(
        "studies",
        sa.Column(
            "instance_bytes",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            server_default="0",
            nullable=False,
        ),
    )
    op.execute(
        "UPDATE studies SET instance_bytes = (SELECT COALESCE(SUM(size), 0) FROM instances"
        " WHERE instances.study_instance_uid = studies.study_instance_uid)"
    )
