"""Bring a database to this version's tables, or say why that cannot be."""

from __future__ import annotations

import threading

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from paddock.model.errors import DataDirError
from paddock.record.tables import metadata

VERSION_TABLE = "paddock_version"
"""Not Alembic's own `alembic_version`, so that a database can be shared with another program that uses it."""

_LOCK_KEY = 0x0DADD0C
_ONE_AT_A_TIME = threading.Lock()
"""Alembic keeps the running migration in module globals."""


def config(connection: sa.Connection | None = None) -> Config:
    """Alembic's configuration, without any alembic.ini."""
    made = Config()
    made.set_main_option("script_location", "paddock.record:migrations")
    made.attributes["connection"] = connection
    return made


def upgrade(connection: sa.Connection, place: str, revision: str = "head") -> None:
    """Migrate within the caller's transaction. `place` is for messages."""
    with _ONE_AT_A_TIME:
        if connection.dialect.name == "postgresql":
            # Two servers that start at once: the second waits here and then finds nothing to do.
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
        known = {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
        found = _revisions(connection)
        if newer := sorted(set(found) - known):
            raise DataDirError(
                f"the record {place} was written by a newer version of Paddock (its tables are at {newer[0]!r}, which "
                f"this version does not know): start that version again, or restore a backup from before the update"
            )
        if not found:
            _refuse_foreign_tables(connection, place)
        command.upgrade(config(connection), revision)


def _revisions(connection: sa.Connection) -> tuple[str, ...]:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_heads()


def _refuse_foreign_tables(connection: sa.Connection, place: str) -> None:
    taken = sorted(set(sa.inspect(connection).get_table_names()) & set(metadata.tables))
    if taken:
        raise DataDirError(
            f"the record {place} holds tables that Paddock did not make ({', '.join(taken)}): "
            f"give Paddock a database or a schema of its own"
        )
