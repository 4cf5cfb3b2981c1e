"""The record's part about healing: incidents, what helped, health over time, what fleets did."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import sqlalchemy as sa

from paddock.decide.learn import Tried, tally
from paddock.model.health import HealthPoint
from paddock.model.incident import Incident, Outcome
from paddock.model.kpi import FleetPoint, StepTally
from paddock.record import history_queries as queries
from paddock.record.rows import Row, json_text, key_text, number

JUDGED = (Outcome.RECOVERED, Outcome.NO_BETTER, Outcome.FAILED)
"""Outcomes that say something about the action."""


class History:
    """Mixed into `SqlRecord`."""

    _dialect: str

    def _reading(self) -> AbstractContextManager[sa.Connection]:
        raise NotImplementedError  # abstract: `SqlRecord` has it

    def _writing(self) -> AbstractContextManager[sa.Connection]:
        raise NotImplementedError  # abstract: `SqlRecord` has it

    def incident(self, number: int) -> Incident | None:
        with self._reading() as connection:
            text = connection.execute(queries.get_incident(number)).scalar()
        return None if text is None else _incident(text)

    def incidents_after(
        self, *, about: str, state: str, since: float, after: int | None, limit: int
    ) -> list[tuple[int, Incident]]:
        """(number, incident), newest first; what cannot be read is left out."""
        query = queries.list_incidents(about=about, state=state, since=since, after=after, limit=limit)
        with self._reading() as connection:
            found = connection.execute(query).all()
        read = ((int(number), _incident(text)) for number, text in found)
        return [(number, incident) for number, incident in read if incident is not None]

    def last_incident(self) -> int:
        with self._reading() as connection:
            return int(connection.execute(queries.last_incident()).scalar() or 0)

    def tallies(self, now: float, *, half_life_s: float) -> Sequence[StepTally]:
        with self._reading() as connection:
            found = connection.execute(queries.list_steps(now - half_life_s * 10)).all()
        tried = (
            Tried(signature=signature, cause=cause, action=action, helped=bool(helped), took_s=took_s, at=at)
            for signature, cause, action, helped, took_s, at in found
        )
        return tally(tried, now, half_life_s=half_life_s)

    def health(self, agent: str, since: float) -> Sequence[HealthPoint]:
        with self._reading() as connection:
            found = connection.execute(queries.list_health(agent, since)).mappings().all()
        return [
            HealthPoint(
                id=row["agent"],
                at=number(row["at"]),
                span_s=number(row["span_s"]),
                low=int(number(row["low"])),
                mean=number(row["mean"]),
                high=int(number(row["high"])),
            )
            for row in found
        ]

    def fleet_points(self, since: float, *, fleet: str = "") -> Sequence[FleetPoint]:
        with self._reading() as connection:
            found = connection.execute(queries.list_fleet_points(since, fleet)).scalars().all()
        return list(_points(found))

    def coarsen(self, before: float, *, span_s: float) -> int:
        """See the port: the oldest stretch of `span_s` that is all before `before`."""
        with self._writing() as connection:
            oldest = connection.execute(queries.oldest_fine(before, span_s)).scalar()
            if oldest is None:
                return 0
            start = oldest - oldest % span_s
            if start + span_s > before:
                return 0
            connection.execute(queries.put_coarse(self._dialect, start, span_s))
            return connection.execute(queries.drop_fine(start, span_s)).rowcount

    def prune_history(self, now: float, *, kept_s: float, limit: int = 1000) -> int:
        before = now - kept_s
        deletes = (
            queries.prune_incidents(before, limit),
            queries.prune_steps(before, limit),
            queries.prune_health(before),
            queries.prune_fleet_points(before),
        )
        with self._writing() as connection:
            return sum(connection.execute(delete).rowcount for delete in deletes)


def incident_rows(incidents: Iterable[Incident]) -> list[Row]:
    """One row an incident: the last that was said of it."""
    rows = {
        incident.id: {
            "id": incident.id,
            "about": key_text(incident.about),
            "root": key_text(incident.fleet or incident.about.partition("/")[0]),
            "state": incident.state.value,
            "over": int(incident.state.over),
            "opened_at": incident.opened_at,
            "document": json_text(incident),
        }
        for incident in incidents
    }
    return [rows[number] for number in sorted(rows)]


def step_rows(incidents: Iterable[Incident]) -> list[Row]:
    """The judged steps of incidents that have ended."""
    rows: dict[tuple[int, int], Row] = {}
    for incident in incidents:
        for step in incident.steps if incident.state.over or incident.state.value == "escalated" else ():
            if step.outcome in JUDGED:
                rows[incident.id, step.number] = {
                    "incident": incident.id,
                    "number": step.number,
                    "signature": key_text(incident.signature),
                    "cause": incident.cause.value,
                    "action": step.action.value,
                    "helped": int(step.outcome is Outcome.RECOVERED),
                    "took_s": max(0.0, step.ended_at - step.started_at),
                    "at": step.ended_at,
                }
    return [rows[key] for key in sorted(rows)]


def health_rows(points: Iterable[HealthPoint]) -> list[Row]:
    rows: dict[tuple[str, float, float], Row] = {}
    for point in points:
        row = msgspec.to_builtins(point)
        row["agent"] = key_text(row.pop("id"))
        rows[row["agent"], point.span_s, point.at] = row
    return [rows[key] for key in sorted(rows)]


def fleet_rows(points: Iterable[FleetPoint]) -> list[Row]:
    rows = {
        (point.fleet, point.at): {"fleet": key_text(point.fleet), "at": point.at, "document": json_text(point)}
        for point in points
    }
    return [rows[key] for key in sorted(rows)]


def _incident(text: object) -> Incident | None:
    """As it was; None when its row is damaged."""
    try:
        return msgspec.json.decode(str(text), type=Incident)
    except (ValueError, TypeError):
        return None


def _points(documents: Iterable[Any]) -> Iterator[FleetPoint]:
    for text in documents:
        try:
            yield msgspec.json.decode(text, type=FleetPoint)
        except (ValueError, TypeError):
            continue  # a damaged row says nothing
