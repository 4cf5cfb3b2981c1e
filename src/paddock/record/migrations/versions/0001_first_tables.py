"""The first tables: tasks, agents, events, cursors."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", KEY, primary_key=True),
        sa.Column("fleet", KEY, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("priority", sa.BigInteger, nullable=False),
        sa.Column("to_agent", sa.Text, nullable=False),
        sa.Column("state", KEY, nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.Column("agent", KEY, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("args", sa.Text, nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("submitted_at", sa.Double, nullable=False),
        sa.Column("submitted_by", sa.Text, nullable=False),
        sa.Column("not_before", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("kept_s", sa.Double, nullable=False),
        sa.Column("kept_until", sa.Double),
        sa.Column("told_by", sa.SmallInteger, nullable=False),
    )
    op.create_index("tasks_newest", "tasks", ["submitted_at", "id"])
    op.create_index("tasks_by_fleet", "tasks", ["fleet", "submitted_at", "id"])
    op.create_index("tasks_by_state", "tasks", ["state", "submitted_at", "id"])
    op.create_index("tasks_by_fleet_state", "tasks", ["fleet", "state", "submitted_at", "id"])
    op.create_index("tasks_by_agent", "tasks", ["agent", "submitted_at", "id"])
    op.create_index("tasks_kept", "tasks", ["kept_until"])
    _facts()


def _facts() -> None:
    """What is known beside the tasks."""
    op.create_table(
        "agents",
        sa.Column("id", KEY, primary_key=True),
        sa.Column("fleet", KEY, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
    )
    op.create_index("agents_by_fleet", "agents", ["fleet", "id"])
    op.create_index("agents_seen", "agents", ["seen_at"])
    op.create_table(
        "events",
        sa.Column("id", SEQ, primary_key=True),
        sa.Column("created", KEY, nullable=False),
        sa.Column("seq", SEQ, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", KEY, nullable=False),
        sa.Column("about", KEY, nullable=False),
        sa.Column("root", KEY, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
    )
    op.create_index("events_once", "events", ["created", "seq"], unique=True)
    op.create_index("events_by_kind", "events", ["kind", "id"])
    op.create_index("events_by_about", "events", ["about", "id"])
    op.create_index("events_by_root", "events", ["root", "id"])
    op.create_index("events_by_age", "events", ["at"])
    op.create_table(
        "cursors",
        sa.Column("stream", KEY, primary_key=True),
        sa.Column("created", KEY, nullable=False),
        sa.Column("seq", SEQ, nullable=False),
    )


def downgrade() -> None:
    for table in ("cursors", "events", "agents", "tasks"):
        op.drop_table(table)
