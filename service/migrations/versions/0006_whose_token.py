"""Which user's token that of the last login is."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("login", sa.Column("whose", sa.Text(), nullable=True))
