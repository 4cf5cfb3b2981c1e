"""What healing leaves: incidents, their steps, health over time, what fleets did."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "incidents",
        sa.Column("id", SEQ, primary_key=True),
        sa.Column("about", KEY, nullable=False),
        sa.Column("root", KEY, nullable=False),
        sa.Column("state", KEY, nullable=False),
        sa.Column("over", sa.SmallInteger, nullable=False),
        sa.Column("opened_at", sa.Double, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_index("incidents_open", "incidents", ["over", "id"])
    op.create_index("incidents_by_about", "incidents", ["about", "id"])
    op.create_index("incidents_by_root", "incidents", ["root", "id"])
    op.create_index("incidents_by_age", "incidents", ["opened_at"])
    op.create_table(
        "steps",
        sa.Column("incident", SEQ, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("signature", KEY, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("helped", sa.SmallInteger, nullable=False),
        sa.Column("took_s", sa.Double, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("steps_by_signature", "steps", ["signature", "action"])
    op.create_index("steps_by_age", "steps", ["at"])
    _points()


def _points() -> None:
    """What was measured over time."""
    op.create_table(
        "health",
        sa.Column("agent", KEY, primary_key=True),
        sa.Column("span_s", sa.Double, primary_key=True),
        sa.Column("at", sa.Double, primary_key=True),
        sa.Column("low", sa.SmallInteger, nullable=False),
        sa.Column("mean", sa.Double, nullable=False),
        sa.Column("high", sa.SmallInteger, nullable=False),
    )
    op.create_index("health_by_age", "health", ["at"])
    op.create_table(
        "fleet_points",
        sa.Column("fleet", KEY, primary_key=True),
        sa.Column("at", sa.Double, primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_index("fleet_points_by_age", "fleet_points", ["at"])


def downgrade() -> None:
    for table in ("fleet_points", "health", "steps", "incidents"):
        op.drop_table(table)
