"""The first schema. Rows are described beside the tables in `service.database`."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("attempt_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("package_id", sa.BigInteger(), nullable=False),
        sa.Column("episode", sa.BigInteger(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("transition_id", sa.BigInteger(), nullable=True),
        sa.Column("slug", sa.Text(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("deadline_at", sa.BigInteger(), nullable=False),
        sa.Column("answered_at", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("concluded", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("http_status", sa.BigInteger(), nullable=True),
        sa.Column("words", sa.Text(), nullable=True),
        sa.Column("read_backs", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("resolution", sa.Text(), nullable=True),
        sa.Column("resolved_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("attempt_id"),
    )
    op.create_index("attempts_package", "attempts", ["package_id", "episode"], unique=False)
    op.create_table(
        "brakes",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("paused_at", sa.BigInteger(), nullable=True),
        sa.Column("breaker_opened_at", sa.BigInteger(), nullable=True),
        sa.Column("breaker_cause", sa.Text(), nullable=True),
        sa.Column("breaker_operation", sa.Text(), nullable=True),
        sa.Column("probe_at", sa.BigInteger(), nullable=True),
        sa.Column("probe_package_id", sa.BigInteger(), nullable=True),
        sa.Column("hold_off_until", sa.BigInteger(), nullable=True),
        sa.Column("forbidden", sa.JSON(), server_default="[]", nullable=False),
        sa.Column("next_slot_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "deliveries",
        sa.Column("delivery_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event_uuid", sa.Text(), nullable=True),
        sa.Column("event_type", sa.Text(), nullable=True),
        sa.Column("package_id", sa.BigInteger(), nullable=True),
        sa.Column("state_class", sa.Text(), nullable=True),
        sa.Column("state_value", sa.Text(), nullable=True),
        sa.Column("fate", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("secret_index", sa.BigInteger(), nullable=True),
        sa.Column("seen", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("delivery_id"),
        sa.UniqueConstraint("event_uuid"),
    )
    op.create_index("deliveries_package", "deliveries", ["package_id", "received_at"], unique=False)
    op.create_table(
        "deployment",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("oms_base_url", sa.Text(), nullable=False),
        sa.Column("migrated_at", sa.BigInteger(), nullable=False),
        sa.Column("probed_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "learned_shipped",
        sa.Column("package_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state_value", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("package_id"),
    )
    op.create_table(
        "packages",
        sa.Column("package_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("hint_seq", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("hinted", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("leased_until", sa.BigInteger(), nullable=True),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("first_hint", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("held", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=True),
        sa.Column("episode", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("packed_since", sa.BigInteger(), nullable=True),
        sa.Column("left_packed_at", sa.BigInteger(), nullable=True),
        sa.Column("repacked_at", sa.BigInteger(), nullable=True),
        sa.Column("entry_log_id", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("modified_at", sa.BigInteger(), nullable=True),
        sa.Column("left_modified_at", sa.BigInteger(), nullable=True),
        sa.Column("looking_since", sa.BigInteger(), nullable=True),
        sa.Column("last_look_at", sa.BigInteger(), nullable=True),
        sa.Column("looks", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failed_reads", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("read_problem", sa.Text(), nullable=True),
        sa.Column("refusals", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("command_not_before", sa.BigInteger(), nullable=True),
        sa.Column("state_class", sa.Text(), nullable=True),
        sa.Column("state_value", sa.Text(), nullable=True),
        sa.Column("number", sa.Text(), nullable=True),
        sa.Column("order_number", sa.Text(), nullable=True),
        sa.Column("facts", sa.JSON(), server_default="{}", nullable=False),
        sa.Column("checks", sa.JSON(), server_default="[]", nullable=False),
        sa.PrimaryKeyConstraint("package_id"),
    )
    op.create_index(
        "packages_due",
        "packages",
        ["hinted", "due_at"],
        unique=False,
        postgresql_where=sa.text("due_at IS NOT NULL"),
        sqlite_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index("packages_state", "packages", ["state", "reason", "package_id"], unique=False)
    op.create_table(
        "quarantine",
        sa.Column("delivery_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("delivery_id"),
    )
    op.create_table(
        "timeline",
        sa.Column("entry_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("package_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("entry_id"),
    )
    op.create_index("timeline_package", "timeline", ["package_id", "at"], unique=False)
    op.create_table(
        "workers",
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("worker"),
    )
