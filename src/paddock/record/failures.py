"""What went wrong, from the databases' words into Paddock's. The only place that knows their error codes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy.exc

from paddock.model.errors import PaddockError, Unavailable
from paddock.ports.record import RecordDamaged

_SQLITE_NOW = {
    sqlite3.SQLITE_PERM: "access is denied",
    sqlite3.SQLITE_BUSY: "another program holds it locked",
    sqlite3.SQLITE_LOCKED: "another program holds it locked",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_IOERR: "the disk gave an error",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened",
    sqlite3.SQLITE_NOMEM: "out of memory",
    sqlite3.SQLITE_PROTOCOL: "another program holds it locked",
}
_SQLITE_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_POSTGRES_NOW = {
    "08": "the connection broke",
    "25006": "it is read-only",
    "28": "it refused our user or password",
    "3D": "there is no such database",
    "40": "it was busy with another change",
    "53": "it has no room (disk, memory or connections)",
    "55": "something in it is locked",
    "57": "it is stopping, starting, or ended our query",
    "58": "its host's disk gave an error",
}
_POSTGRES_DAMAGED = "XX"


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Raise Paddock's errors in place of SQLAlchemy's; `place` names the database in messages, without secrets."""
    try:
        yield
    except sqlalchemy.exc.DBAPIError as error:
        raise _meaning(error, place) from error
    except sqlalchemy.exc.TimeoutError as error:
        raise Unavailable(f"the record {place} has no free connection; try again") from error


def _meaning(error: sqlalchemy.exc.DBAPIError, place: str) -> PaddockError:
    cause = error.orig
    said = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the low byte: the primary code
        if code in _SQLITE_DAMAGED:
            return damaged_file(place, said)
        why = _SQLITE_NOW.get(code)
    else:
        state = getattr(cause, "sqlstate", None) or ""
        if state.startswith(_POSTGRES_DAMAGED):
            return RecordDamaged(f"the record {place} is damaged ({said}): restore a backup of that database")
        why = _POSTGRES_NOW.get(state) or _POSTGRES_NOW.get(state[:2])
        if why is None and (error.connection_invalidated or isinstance(error, sqlalchemy.exc.OperationalError)):
            why = "it does not answer"
    if why is not None:
        return Unavailable(f"the record {place} cannot be used now: {why} ({said})")
    if "no such table" in said or getattr(cause, "sqlstate", "") == "42P01":
        return RecordDamaged(f"the record {place} lost its tables ({said}): restart the server, which makes them anew")
    # A statement that the database finds wrong is our own bug; it must not look like something that will pass.
    return PaddockError(f"the record {place} refused a statement: {said}")


def damaged_file(path: str, said: str) -> RecordDamaged:
    """The one way out of a damaged SQLite file, said in full."""
    return RecordDamaged(
        f"the record {path} is damaged ({said}): stop Paddock and restore a backup of the file, or move it away "
        f"together with {path}-wal and {path}-shm; Paddock then rebuilds what the streams still hold"
    )
