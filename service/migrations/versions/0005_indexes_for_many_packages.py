"""Indexes for lists and counts over many packages and deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    # In the order in which transactions lock them: building an index keeps writers away from its table.
    op.create_index("deliveries_counted", "deliveries", ["fate", "seen", "last_seen_at"], unique=False)
    op.create_index("packages_listed", "packages", ["state", "package_id"], unique=False)
    op.create_index(
        "packages_reason",
        "packages",
        ["reason", "package_id"],
        unique=False,
        postgresql_where=sa.text("reason IS NOT NULL"),
        sqlite_where=sa.text("reason IS NOT NULL"),
    )
