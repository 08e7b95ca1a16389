"""Packages are found by their number and by their order's."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index("packages_number", "packages", ["number"], unique=False)
    op.create_index("packages_order_number", "packages", ["order_number"], unique=False)
