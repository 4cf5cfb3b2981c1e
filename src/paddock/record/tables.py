"""The tables as they are now. How a database got here is in `migrations/`; a test holds the two together."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

metadata = sa.MetaData()

KEY = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
"""Text that is sought by prefix and sorted by bytes, in the same order on both databases."""

SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""A stream's sequence. Only INTEGER, not BIGINT, makes a primary key SQLite's own rowid."""

tasks = sa.Table(
    "tasks",
    metadata,
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
    # Who told what was asked for: 0 a running note (it knows nothing of it), 1 a result, 2 the task itself.
    sa.Column("told_by", sa.SmallInteger, nullable=False),
    sa.Index("tasks_newest", "submitted_at", "id"),
    sa.Index("tasks_by_fleet", "fleet", "submitted_at", "id"),
    sa.Index("tasks_by_state", "state", "submitted_at", "id"),
    sa.Index("tasks_by_fleet_state", "fleet", "state", "submitted_at", "id"),
    sa.Index("tasks_by_agent", "agent", "submitted_at", "id"),
    sa.Index("tasks_kept", "kept_until"),
)

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("id", KEY, primary_key=True),
    sa.Column("fleet", KEY, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Index("agents_by_fleet", "fleet", "id"),
    sa.Index("agents_seen", "seen_at"),
)

events = sa.Table(
    "events",
    metadata,
    # The order in which they were recorded: a stream that is made anew counts its sequences from 1 again.
    sa.Column("id", SEQ, primary_key=True),
    sa.Column("created", KEY, nullable=False),
    sa.Column("seq", SEQ, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("kind", KEY, nullable=False),
    sa.Column("about", KEY, nullable=False),
    # `about` up to its slash: a fleet's events and those of its agents stand together, in order.
    sa.Column("root", KEY, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Index("events_once", "created", "seq", unique=True),
    sa.Index("events_by_kind", "kind", "id"),
    sa.Index("events_by_about", "about", "id"),
    sa.Index("events_by_root", "root", "id"),
    sa.Index("events_by_age", "at"),
)

cursors = sa.Table(
    "cursors",
    metadata,
    sa.Column("stream", KEY, primary_key=True),
    sa.Column("created", KEY, nullable=False),
    sa.Column("seq", SEQ, nullable=False),
)

incidents = sa.Table(
    "incidents",
    metadata,
    sa.Column("id", SEQ, primary_key=True),
    sa.Column("about", KEY, nullable=False),
    # As in `events`: a fleet's incidents and those of its agents stand together.
    sa.Column("root", KEY, nullable=False),
    sa.Column("state", KEY, nullable=False),
    sa.Column("over", sa.SmallInteger, nullable=False),
    sa.Column("opened_at", sa.Double, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Index("incidents_open", "over", "id"),
    sa.Index("incidents_by_about", "about", "id"),
    sa.Index("incidents_by_root", "root", "id"),
    sa.Index("incidents_by_age", "opened_at"),
)

steps = sa.Table(
    "steps",
    metadata,
    sa.Column("incident", SEQ, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("signature", KEY, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("helped", sa.SmallInteger, nullable=False),
    sa.Column("took_s", sa.Double, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Index("steps_by_signature", "signature", "action"),
    sa.Index("steps_by_age", "at"),
)

health = sa.Table(
    "health",
    metadata,
    sa.Column("agent", KEY, primary_key=True),
    sa.Column("span_s", sa.Double, primary_key=True),
    sa.Column("at", sa.Double, primary_key=True),
    sa.Column("low", sa.SmallInteger, nullable=False),
    sa.Column("mean", sa.Double, nullable=False),
    sa.Column("high", sa.SmallInteger, nullable=False),
    sa.Index("health_by_age", "at"),
)

fleet_points = sa.Table(
    "fleet_points",
    metadata,
    sa.Column("fleet", KEY, primary_key=True),
    sa.Column("at", sa.Double, primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
    sa.Index("fleet_points_by_age", "at"),
)
