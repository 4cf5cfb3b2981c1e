"""Alembic's entry: migrate on the connection, and inside the transaction, that `paddock.record.migrate` gives."""

from __future__ import annotations

from alembic import context

from paddock.record.migrate import VERSION_TABLE
from paddock.record.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # Alembic doubts SQLite's; it holds since we send BEGIN ourselves
)
with context.begin_transaction():
    context.run_migrations()
