"""The record in SQL: `SqlRecord`, the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import base64
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa

from paddock.model.agent import AgentStatus
from paddock.model.errors import Refused
from paddock.model.task import TaskView
from paddock.ports.record import Batch, Page, RecordGone
from paddock.record import history_queries, migrate, queries, rows
from paddock.record.connect import WRITES, make_engine
from paddock.record.failures import translated
from paddock.record.history import History, fleet_rows, health_rows, incident_rows, step_rows

PAGE_ITEMS_MAX = 1_000
"""A larger `limit` is taken as this."""

PAGE_BYTES_MAX = 8_000_000
"""A page ends early, with its cursor, when its results have become this large; it has one item at the least."""


_TaskPlace = tuple[float, str]
_EventPlace = tuple[Annotated[int, msgspec.Meta(ge=0, le=rows.INTEGER_MAX)]]


class SqlRecord(History):
    """What happened, in SQL; implements `paddock.ports.record.Record`. Safe to use from several threads."""

    def __init__(self, engine: sa.Engine, place: str) -> None:
        self._engine = engine
        self._writer = engine.execution_options(**{WRITES: True})
        self._dialect = engine.dialect.name
        self._place = place
        self._texts: dict[Callable[[str], Any], tuple[str, Callable[[rows.Row], Any] | None]] = {}
        """Query → its SQL and, where that is by position, the values of a row in order."""
        self._file = _file_identity(engine, place)

    @classmethod
    def open(cls, url: str) -> SqlRecord:
        """Connect, and bring the tables to this version. `url`: `sqlite:////folder/record.db`, `postgresql://…`.

        `DataDirError`: damaged, or from a newer version. `Unavailable`: no answer, read-only, no room. `Refused`:
        not such a URL."""
        engine, place = make_engine(url)
        try:
            record = cls(engine, place)
            with record._writing() as connection:
                migrate.upgrade(connection, place)
        except BaseException:
            engine.dispose()
            raise
        return record

    def apply(self, batch: Batch) -> None:
        """All of the batch, or, with an error, nothing of it."""
        writes: list[tuple[Any, Sequence[rows.Row]]] = [
            (queries.put_queued, rows.queued_rows(batch.queued)),
            (queries.put_running, rows.running_rows(batch.running)),
            (queries.put_result, rows.result_rows(batch.results)),
            (queries.put_agent, rows.agent_rows(batch.agents, batch.at)),
            (queries.put_event, rows.event_rows(batch.events)),
            (history_queries.put_incident, incident_rows(batch.incidents)),
            (history_queries.put_step, step_rows(batch.incidents)),
            (history_queries.put_health, health_rows(batch.health)),
            (history_queries.put_fleet_point, fleet_rows(batch.fleets)),
            (queries.put_cursor, rows.cursor_rows(batch.cursors, batch.created)),
        ]
        if not any(values for _, values in writes):
            return
        with self._writing() as connection:
            for query, values in writes:
                if values:
                    self._many(connection, query, values)

    def _many(self, connection: sa.Connection, query: Callable[[str], Any], values: Sequence[rows.Row]) -> None:
        """As `connection.execute`, without its work for each row: rows are what the driver takes, all of one shape."""
        if query not in self._texts:
            compiled = query(self._dialect).compile(dialect=connection.dialect, column_keys=list(values[0]))
            names = compiled.positiontup
            self._texts[query] = str(compiled), operator.itemgetter(*names) if names else None
        text, in_order = self._texts[query]
        connection.exec_driver_sql(text, list(map(in_order, values)) if in_order else list(values))

    def cursor(self, stream: str, created: str = "") -> int:
        with self._reading() as connection:
            return int(connection.execute(queries.get_cursor(stream, created)).scalar() or 0)

    def task(self, task_id: str) -> TaskView | None:
        with self._reading() as connection:
            row = connection.execute(queries.get_task(task_id)).mappings().first()
        return None if row is None else rows.task_view(row)

    def tasks(self, *, fleet: str = "", state: str = "", agent: str = "", after: str = "", limit: int = 100) -> Page:
        """TaskViews, newest first. `agent` (`fleet/name`): whose hands they are in, or who ended them."""
        place = _read_cursor("t", after, _TaskPlace) if after else None
        limit = min(max(limit, 1), PAGE_ITEMS_MAX)
        return self._task_page(
            "t", queries.list_tasks(fleet=fleet, state=state, agent=agent, after=place, limit=limit + 1), limit
        )

    def unfinished(self, state: str, before: float, *, after: str = "", limit: int = 100) -> Page:
        place = _read_cursor("u", after, _TaskPlace) if after else None
        limit = min(max(limit, 1), PAGE_ITEMS_MAX)
        return self._task_page(
            "u", queries.list_unfinished(state=state, before=before, after=place, limit=limit + 1), limit
        )

    def _task_page(self, kind: str, query: sa.Select[Any], limit: int) -> Page:
        items: list[TaskView] = []
        size_bytes = 0
        with self._reading() as connection:
            # Row by row: a thousand results of the largest size would not fit into memory.
            found = connection.execution_options(stream_results=True, max_row_buffer=50).execute(query)
            for row in found.mappings():
                if len(items) == limit or size_bytes > PAGE_BYTES_MAX:
                    found.close()
                    last = items[-1]
                    return Page(items=items, next=_write_cursor(kind, last.submitted_at, last.id))
                size_bytes += len(str(row["args"])) + len(str(row["result"]))
                items.append(rows.task_view(row))
        return Page(items=items)

    def counts(self) -> Mapping[tuple[str, str], int]:
        with self._reading() as connection:
            return {
                (str(fleet), str(state)): count for fleet, state, count in connection.execute(queries.count_tasks())
            }

    def agents(self, *, fleet: str = "") -> Sequence[AgentStatus]:
        """The last known status of every agent, in the order of ids: the past of what is gone from the fabric."""
        with self._reading() as connection:
            found = connection.execute(queries.list_agents(fleet=fleet)).scalars().all()
        return [status for status in map(rows.agent_status, found) if status is not None]

    def events(self, *, about: str = "", kind: str = "", after: str = "", limit: int = 100) -> Page:
        place = _read_cursor("e", after, _EventPlace)[0] if after else None
        limit = min(max(limit, 1), PAGE_ITEMS_MAX)
        with self._reading() as connection:
            query = queries.list_events(about=about, kind=kind, after=place, limit=limit + 1)
            found = connection.execute(query).mappings().all()
        items = [rows.stored_event(row) for row in found[:limit]]
        return Page(items=items, next=_write_cursor("e", found[limit - 1]["id"]) if len(found) > limit else None)

    def incidents(
        self, *, about: str = "", state: str = "", since: float = 0.0, after: str = "", limit: int = 100
    ) -> Page:
        place = _read_cursor("i", after, _EventPlace)[0] if after else None
        limit = min(max(limit, 1), PAGE_ITEMS_MAX)
        found = self.incidents_after(about=about, state=state, since=since, after=place, limit=limit + 1)
        items = [incident for _, incident in found[:limit]]
        return Page(items=items, next=_write_cursor("i", found[limit - 1][0]) if len(found) > limit else None)

    def forget(self, now: float, *, limit: int = 1000) -> int:
        with self._writing() as connection:
            return connection.execute(queries.forget_tasks(now, limit)).rowcount

    def prune(self, now: float, *, events_kept_s: float, agents_kept_s: float, limit: int = 1000) -> int:
        with self._writing() as connection:
            events = connection.execute(queries.prune_events(now - events_kept_s, limit)).rowcount
            return events + connection.execute(queries.prune_agents(now - agents_kept_s, limit)).rowcount

    def check(self) -> str:
        if self._dialect != "sqlite":
            return ""  # PostgreSQL has no such question; its pages have checksums of their own
        with self._reading() as connection:
            said = [str(line) for line in connection.exec_driver_sql("PRAGMA quick_check(5)").scalars()]
        return "" if said == ["ok"] else "; ".join(said)[:500]

    def ping(self) -> None:
        self._check_file()
        with self._reading() as connection:
            connection.execute(queries.ping()).close()

    def _check_file(self) -> None:
        """SQLite would go on writing into a file that nobody can find any more."""
        if self._file is not None and _file_identity(self._engine, self._place) != self._file:
            raise RecordGone(f"the record {self._place} was moved, deleted or replaced: restart the server")

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with translated(self._place), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        self._check_file()
        with translated(self._place), self._writer.begin() as connection:
            yield connection


def _file_identity(engine: sa.Engine, place: str) -> tuple[int, int] | None:
    """Device and inode of the SQLite file; (0, 0) when it is gone, None when there is none."""
    if engine.dialect.name != "sqlite" or place == ":memory:":
        return None
    try:
        status = os.stat(place)
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def _write_cursor(kind: str, *values: float | str) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode([kind, list(values)])).decode().rstrip("=")


def _read_cursor(kind: str, text: str, form: Any) -> Any:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        found_kind, values = msgspec.json.decode(raw, type=tuple[str, Any])
        if found_kind != kind:
            raise ValueError(f"made for {found_kind!r}")
        return msgspec.convert(values, form)
    except ValueError as error:
        raise Refused(f"the page cursor {text[:80]!r} is not one that this list gave out: start without one") from error
