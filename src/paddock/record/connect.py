"""From a URL to an engine that is set up the way the record needs it."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from typing import Any

import sqlalchemy as sa
import sqlalchemy.exc
from sqlalchemy.pool import StaticPool

from paddock.model.errors import DataDirError, Refused, Unavailable

WRITES = "paddock_writes"
"""Execution option of a connection that is going to write."""

BUSY_S_MAX = 10
"""How long a statement waits for another process's lock."""

_PRAGMAS = (
    f"PRAGMA busy_timeout = {BUSY_S_MAX * 1000}",  # first: the others may have to wait, too
    "PRAGMA synchronous = FULL",  # a cursor that is on disk must mean rows that are on disk
    "PRAGMA journal_size_limit = 67108864",
)

_POSTGRES_ARGS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "tcp_user_timeout": 15_000,
    "application_name": "paddock",
}
"""So that a host that vanished is noticed in seconds, not after the kernel's two hours."""

_MAY_PASS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO)


def make_engine(url: str) -> tuple[sa.Engine, str]:
    """An engine, not yet connected, and the database's name for messages (a path, or a URL without its password)."""
    try:
        parsed = sa.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        # The URL may hold a password, so the message does not repeat it.
        raise Refused("the record's URL cannot be read: use sqlite:////folder/record.db or postgresql://…") from error
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        return _sqlite(parsed)
    if parsed.drivername == "postgresql+psycopg":
        return _postgres(parsed)
    raise Refused(
        f"the record cannot be kept in {parsed.drivername!r}: use sqlite:////folder/record.db or postgresql://…"
    )


def _postgres(url: sa.URL) -> tuple[sa.Engine, str]:
    given = {name: value for name, value in _POSTGRES_ARGS.items() if name not in url.query}
    engine = sa.create_engine(url, connect_args=given, pool_pre_ping=True, hide_parameters=True)
    # Not the query part: it may hold a password as well.
    return engine, url.set(drivername="postgresql", query={}).render_as_string(hide_password=True)


def _sqlite(url: sa.URL) -> tuple[sa.Engine, str]:
    path = url.database or ":memory:"
    options: dict[str, Any] = {"hide_parameters": True}
    if path == ":memory:":
        options |= {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    else:
        path = os.path.abspath(path)
        url = url.set(database=path)
        _make_file(path)
    engine = sa.create_engine(url, **options)
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine, path


def _make_file(path: str) -> None:
    """Create the file ourselves: SQLite would make it readable for all, and could not say what is wrong."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        kind = Unavailable if error.errno in _MAY_PASS else DataDirError
        raise kind(f"the record {path} cannot be opened for writing: {error.strerror}") from error


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # Python's module would begin transactions by its own rules, and none at all for DDL; `_begin_sqlite` does it.
    connection.isolation_level = None
    # Bytes of a damaged row that are not UTF-8 must not break the list that it is in.
    connection.text_factory = _lenient
    for pragma in _PRAGMAS:
        connection.execute(pragma).close()
    _use_wal(connection)


def _use_wal(connection: sqlite3.Connection) -> None:
    """The change to WAL, once in a file's life, does not wait for locks as all else does: it is tried again."""
    pause_s = 0.05
    for _ in range(int(BUSY_S_MAX / pause_s)):
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(pause_s)
    connection.execute("PRAGMA journal_mode = WAL").close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A writer takes its lock at once: a reader that turns writer would be refused without waiting.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _lenient(text: bytes) -> str:
    return text.decode(errors="replace")
